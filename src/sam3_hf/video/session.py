"""`VideoSession`: all that is known of one video while it is followed. It holds state and checks prompts."""

import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..files import written_whole
from .frames import FrameSource
from .memory_bank import FrameMemory, MemoryBank
from .outputs import Sam3VideoOutput
from .rules import LifeState, forget
from .settings import VideoRules

__all__ = ["Concept", "ObjectPrompt", "TrackedObject", "VideoSession"]

_VERSION = 2  # of saved sessions


@dataclass
class ObjectPrompt:
    """What a user showed of one object on one frame; either points (a box is two of them) or a mask.

    Attributes:
        points: (count, 2) xy in model pixels.
        labels: (count,) 1 on the object, 0 off it, 2 and 3 corners of a box.
        mask: (height, width) bool.
        is_applied: whether the object's memory has it.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    is_applied: bool = False


@dataclass
class Concept:
    """A phrase (or exemplars alone) whose objects are looked for on every frame.

    Attributes:
        phrase: as it was given; "visual" for exemplars alone.
        input_ids: (1, length) its tokens.
        attention_mask: (1, length).
        exemplars: by frame, boxes (count, 4) cxcywh in 0..1 and labels (count,) 1 or 0; they count on their frame.
        life: what the rules remember of its objects.
        text: (1, length, channels) encoded tokens, made when first needed.
    """

    phrase: str
    input_ids: Tensor
    attention_mask: Tensor
    exemplars: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    life: LifeState = field(default_factory=LifeState)
    text: Tensor | None = None


@dataclass
class TrackedObject:
    """One object.

    Attributes:
        object_id: its number, for as long as the session lasts.
        concept: index of the concept that found it; None: a user pointed it out.
        score: of the detection that started it or found it again, 0..1; 1 where a user had a hand in it.
        bank: what is remembered of it.
        prompts: by frame.
        seen: last frame on which its mask was not empty.
        mask: (4·grid, 4·grid) logits on the frame that was tracked last, and that frame.
    """

    object_id: int
    concept: int | None = None
    score: float = 1.0
    bank: MemoryBank = field(default_factory=MemoryBank)
    prompts: dict[int, ObjectPrompt] = field(default_factory=dict)
    seen: int | None = None
    mask: tuple[int, Tensor] | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is anything to recognise it by."""
        return bool(self.bank.fixed)


class VideoSession:
    """One video, its prompts, its objects. Made by `Sam3Processor.init_video_session`.

    Args:
        frames: the video; None: frames come one by one.
        image_size: side of the square that the model sees.
        rules: thresholds and delays; None: those of the configuration of the model that first follows the video.
        device: where the model runs.
        storage_device: where memories are kept ("cpu" saves accelerator memory; None: `device`).
        memory_dtype: of stored memories; bfloat16 as in the reference.
        objects_at_once: objects that go through the tracker together; None: all.
        forget_after: an object that is unseen for so many frames is dropped; None: never, as in the reference.
        image_mean, image_std: of the processor, for pixels in 0..1.
    """

    def __init__(
        self,
        frames: FrameSource | None,
        image_size: int,
        rules: VideoRules | None = None,
        device: torch.device | str = "cpu",
        storage_device: torch.device | str | None = None,
        memory_dtype: torch.dtype = torch.bfloat16,
        objects_at_once: int | None = None,
        forget_after: int | None = 900,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        self.frames, self.image_size = frames, image_size
        self.image_mean, self.image_std = image_mean, image_std
        self._rules = rules
        self.device = torch.device(device)
        self.storage_device = self.device if storage_device is None else torch.device(storage_device)
        self.memory_dtype, self.objects_at_once, self.forget_after = memory_dtype, objects_at_once, forget_after
        for name in ("objects_at_once", "forget_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1, or None for no limit.")
        self.video_size: tuple[int, int] | None = None if frames is None else frames.size
        self.concepts: list[Concept] = []
        self.objects: dict[int, TrackedObject] = {}
        self.removed: set[int] = set()  # by hot start, still in results that wait
        self.waiting: list[Sam3VideoOutput] = []  # results held back by the hot start, oldest first
        self.next_id = 0
        self.last_frame: int | None = None
        self.reverse = False
        self.num_dropped = 0  # new objects for which there was no room
        self.cache: tuple[int, Any] | None = None  # what the vision tower said of the last frame

    @property
    def rules(self) -> VideoRules:
        """Thresholds and delays: those given, or those of the model that follows the video, until then the released."""
        return VideoRules() if self._rules is None else self._rules

    @rules.setter
    def rules(self, rules: VideoRules) -> None:
        self._rules = rules

    def settle_rules(self, config: Any) -> None:
        """Takes the rules of a model's configuration, where it has any and none were given."""
        if self._rules is None and hasattr(config, "score_threshold_detection"):
            self._rules = VideoRules.from_config(config)

    # ---- what transformers' sessions have ----

    @property
    def video_height(self) -> int | None:
        """Height of the video in pixels, where it is known."""
        return None if self.video_size is None else self.video_size[0]

    @property
    def video_width(self) -> int | None:
        """Width of the video in pixels, where it is known."""
        return None if self.video_size is None else self.video_size[1]

    @property
    def num_frames(self) -> int | None:
        """Frames of the video, where it is known."""
        return None if self.frames is None else self.frames.num_frames

    @property
    def obj_ids(self) -> list[int]:
        """Numbers of the objects, oldest first."""
        return list(self.objects)

    @property
    def prompts(self) -> dict[int, str]:
        """Phrases by their numbers."""
        return {index: concept.phrase for index, concept in enumerate(self.concepts)}

    def get_obj_num(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def reset_inference_session(self) -> None:
        """Forgets prompts, objects and results; the video stays."""
        self.concepts.clear()
        self.objects.clear()
        self.rewind()

    def reset_tracking_data(self) -> None:
        """Forgets objects and results; prompts and the video stay, and `propagate` begins anew."""
        self.rewind()

    # ---- prompts ----

    def add_concept(self, concept: Concept) -> int:
        """The number of the concept; the same phrase keeps the one it has."""
        for index, known in enumerate(self.concepts):
            if known.phrase == concept.phrase:
                known.exemplars |= concept.exemplars
                return index
        self.concepts.append(concept)
        return len(self.concepts) - 1

    def add_prompt(self, object_id: int, frame: int, prompt: ObjectPrompt, keep_points: bool = False) -> None:
        """Stores a prompt of an object, which is made where it is new; it takes effect when its frame is tracked.

        Args:
            object_id: at least 0.
            frame: number of the frame.
            prompt: what is shown.
            keep_points: add the points to those that the object already has on that frame.
        """
        self.check_frame(frame)
        if object_id < 0:
            raise ValueError(f"object id {object_id}; expected 0 or more.")
        found = self.objects.setdefault(object_id, TrackedObject(object_id))
        before = found.prompts.get(frame)
        if keep_points and before is not None and before.points is not None and prompt.points is not None:
            assert prompt.labels is not None and before.labels is not None  # points have labels
            if bool((prompt.labels == 2).any()):
                raise ValueError("a box cannot be added to earlier points; give it first, or with clear_old_inputs.")
            prompt = replace(
                prompt,
                points=torch.cat((before.points, prompt.points)),
                labels=torch.cat((before.labels, prompt.labels)),
            )
        found.prompts[frame] = prompt
        found.score = 1.0
        if found.concept is not None:  # what a user touched is no longer on trial
            concept = self.concepts[found.concept]
            concept.life = forget(concept.life, [object_id])

    def remove_object(self, object_id: int) -> None:
        """Forgets an object; the others stay as they are. A detection may find it again, under a new number.

        Raises:
            KeyError: there is no such object.
        """
        if object_id not in self.objects:
            raise KeyError(f"no object {object_id}; there are {self.obj_ids}.")
        found = self.objects.pop(object_id)
        if found.concept is not None:
            concept = self.concepts[found.concept]
            concept.life = forget(concept.life, [object_id])

    def check_frame(self, frame: int) -> None:
        """Raises ValueError where the video has no such frame, or a stream has gone past it."""
        if frame < 0 or (self.num_frames is not None and frame >= self.num_frames):
            count = "an unknown number of" if self.num_frames is None else str(self.num_frames)
            raise ValueError(f"frame {frame} is not there; the video has {count} frames, counted from 0.")
        is_stream = self.frames is None or not self.frames.is_seekable
        if is_stream and self.last_frame is not None and frame < self.last_frame:
            raise ValueError(
                f"frame {frame} of a stream is gone, the last one is {self.last_frame}; prompt while a frame is "
                "current, or open the video from a file."
            )

    # ---- state ----

    def new_id(self) -> int:
        """The next number for an object that a detection starts; numbers that users gave are left out."""
        # An object of a concept that has the number already was started by a detection before the video was rewound.
        while self.next_id in self.objects and self.objects[self.next_id].concept is None:
            self.next_id += 1
        self.next_id += 1
        return self.next_id - 1

    def rewind(self) -> None:
        """Back to before the first frame: what detections found goes, prompts stay and will be applied again."""
        self.objects = {number: found for number, found in self.objects.items() if found.prompts}
        for found in self.objects.values():
            found.bank, found.seen, found.mask = MemoryBank(), None, None
            for prompt in found.prompts.values():
                prompt.is_applied = False
        for concept in self.concepts:
            concept.life = LifeState()
        self.removed, self.waiting, self.cache = set(), [], None
        self.next_id, self.last_frame, self.reverse, self.num_dropped = 0, None, False, 0

    def turn(self, reverse: bool) -> None:
        """Follows the video in the other direction from here."""
        self.reverse = reverse
        for found in self.objects.values():
            found.bank.turn()

    # ---- files ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes prompts, objects and memories to one file, whole or not at all; the video itself is not in it."""
        state = {
            "waiting": [output.to_plain() for output in self.waiting],
            "removed": sorted(self.removed),
            "version": _VERSION,
            "image_size": self.image_size,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "rules": asdict(self.rules),
            "objects_at_once": self.objects_at_once,
            "forget_after": self.forget_after,
            "video_size": self.video_size,
            "next_id": self.next_id,
            "last_frame": self.last_frame,
            "reverse": self.reverse,
            "num_dropped": self.num_dropped,
            "concepts": [
                {
                    "phrase": concept.phrase,
                    "input_ids": concept.input_ids.cpu(),
                    "attention_mask": concept.attention_mask.cpu(),
                    "exemplars": {f: (b.cpu(), labels.cpu()) for f, (b, labels) in concept.exemplars.items()},
                    "life": concept.life.to_dict(),
                }
                for concept in self.concepts
            ],
            "objects": [
                {
                    "object_id": found.object_id,
                    "concept": found.concept,
                    "score": found.score,
                    "seen": found.seen,
                    "mask": None if found.mask is None else (found.mask[0], found.mask[1].cpu()),
                    "prompts": {frame: vars(prompt) for frame, prompt in found.prompts.items()},
                    "fixed": {frame: _plain(memory) for frame, memory in found.bank.fixed.items()},
                    "recent": [(frame, _plain(memory)) for frame, memory in found.bank.recent],
                }
                for found in self.objects.values()
            ],
        }
        with written_whole(path) as partial:
            torch.save(state, partial)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        frames: FrameSource | None = None,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> "VideoSession":
        """The session that `save` wrote, to go on with.

        Args:
            path: the file.
            frames: the same video, opened again; None for a stream.
            device: where the model runs.
            kwargs: `storage_device`, `objects_at_once`, ... as for a new session, in place of what was saved.

        Raises:
            ValueError: not a saved session, or one of another version, or of a video of another size.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is not a saved session, or a damaged one.") from error
        if not isinstance(state, dict) or state.get("version") != _VERSION:
            raise ValueError(f"{path} is not a session of this version; save it again with this package.")
        stored_options = ("image_mean", "image_std", "objects_at_once", "forget_after")
        kwargs = {name: state[name] for name in stored_options} | kwargs
        session = cls(frames, state["image_size"], VideoRules(**state["rules"]), device, **kwargs)
        size = None if state["video_size"] is None else tuple(state["video_size"])
        if session.video_size is not None and size is not None and session.video_size != size:
            raise ValueError(
                f"{path} belongs to a video of {size} (height, width), but the one given is {session.video_size}."
            )
        session.video_size = session.video_size or size
        for name in ("next_id", "last_frame", "reverse", "num_dropped"):
            setattr(session, name, state[name])
        session.waiting = [Sam3VideoOutput.from_plain(stored) for stored in state["waiting"]]
        session.removed = set(state["removed"])
        for stored in state["concepts"]:
            session.concepts.append(Concept(**(stored | {"life": LifeState.from_dict(stored["life"])})))
        for stored in state["objects"]:
            place = session.storage_device
            fixed = {frame: _memory(memory, place) for frame, memory in stored.pop("fixed").items()}
            recent = [(frame, _memory(memory, place)) for frame, memory in stored.pop("recent")]
            prompts = {frame: ObjectPrompt(**prompt) for frame, prompt in stored.pop("prompts").items()}
            found = TrackedObject(**stored, bank=MemoryBank(fixed, recent))
            found.prompts = prompts
            session.objects[found.object_id] = found
        return session


def _plain(memory: FrameMemory) -> tuple[Tensor | None, Tensor, float]:
    """The memory in main memory, as a plain tuple that `torch.load` may read."""
    features = None if memory.features is None else memory.features.cpu()
    return features, memory.pointer.cpu(), memory.quality


def _memory(stored: Sequence[Any], device: torch.device) -> FrameMemory:
    features, pointer, quality = stored
    return FrameMemory(None if features is None else features.to(device), pointer.to(device), quality)
