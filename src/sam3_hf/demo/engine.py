"""`Engine`: an opened model that answers the three questions of the demo, one at a time, from stored features."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..modeling import Sam3Model
from ..modeling.outputs import Sam3VisionEncoderOutput
from ..ops.nms import mask_nms
from ..pipelines import ConceptSegmentationPipeline
from ..processing import Sam3Processor
from ..processing.postprocess import object_scores
from ..video import VideoRules
from .following import Step, follow_video
from .prompts import Box, ExampleBox, Question, VideoPrompts

__all__ = ["SCORE_FLOOR", "Answer", "Candidate", "Engine", "Features", "Wrapper"]

SCORE_FLOOR = 0.05  # the lowest threshold that users can choose: what scores less is not kept
_PHRASES_AT_ONCE = 4  # the raw masks of one row take 66 MB at released size

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Something that may be shown: its score 0..1, box xyxy in pixels and mask logits (4·grid, 4·grid) float16."""

    score: float
    box: Box
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Answer:
    """All that a model says about one phrase in one picture, whatever the threshold.

    Attributes:
        phrase: as it was asked; None: boxes alone.
        presence: 0..1, is it in the picture at all?
        candidates: those that score at least `SCORE_FLOOR`, best first, duplicates removed.
    """

    phrase: str | None
    presence: float
    candidates: tuple[Candidate, ...]

    def above(self, threshold: float) -> tuple[Candidate, ...]:
        """The candidates that score more than `threshold`; they are the first ones."""
        return tuple(one for one in self.candidates if one.score > threshold)


@dataclass(frozen=True, eq=False)
class Features:
    """What a model knows of a picture once it has looked at it.

    Attributes:
        size: (height, width) of the picture.
        vision: for phrases and boxes.
        maps: for clicks; None where the model has no tracker.
    """

    size: tuple[int, int]
    vision: Sam3VisionEncoderOutput
    maps: tuple[Tensor, ...] | None


class Engine:
    """A model and its processor.

    Args:
        name: directory or hub repository, as users call it.
        device: cpu, cuda, ...; None: an accelerator if there is one.
        nms_threshold: a candidate whose mask overlaps a better one of its phrase by more than this IoU goes.
        wrapper: goes about everything that runs the model, such as `spaces.GPU` where the accelerator is only lent for
            a call; results are then kept in main memory.
    """

    def __init__(
        self,
        name: str,
        device: str | None = None,
        nms_threshold: float = 0.7,
        wrapper: Wrapper | None = None,
    ) -> None:
        pipe = ConceptSegmentationPipeline(model=name, device=device)
        self.name = name
        self.model: Any = pipe.model
        self.processor: Sam3Processor = pipe.processor
        self.device: torch.device = pipe.device
        self.nms_threshold = nms_threshold
        self.wrapper = wrapper
        self._lock = threading.RLock()  # requests of several users come at once; the model answers one at a time
        around: Wrapper = (lambda function: function) if wrapper is None else wrapper
        self._run_encode, self._run_ask = around(self._encode), around(self._ask)
        self._run_point, self._run_follow = around(self._point), around(self._follow)

    @property
    def has_tracker(self) -> bool:
        """Whether it can take clicks and follow videos."""
        return isinstance(self.model, Sam3Model)

    def check_tracker(self) -> None:
        """Raises ValueError where the model can take no clicks and follow no videos."""
        if not self.has_tracker:
            raise ValueError(
                f"{self.name} has no tracker: it finds phrases in pictures, but clicks and videos need a whole model, "
                "such as the bundled one or facebook/sam3. Choose another model at the top of the page."
            )

    def encode(self, image: Image.Image) -> Features:
        """Features of an RGB picture: the one pass through the vision tower."""
        with self._lock:
            return self._run_encode(image)

    def ask(self, features: Features, phrase: str | None, boxes: Sequence[ExampleBox] = ()) -> Answer:
        """The answer to one phrase, boxes or both; see `ask_all`."""
        return self.ask_all(features, [(phrase, tuple(boxes))])[0]

    def ask_all(self, features: Features, questions: Sequence[Question]) -> list[Answer]:
        """The answers to several questions (phrase or None, example boxes) about one picture, without encoding it.

        Raises:
            ValueError: a question without phrase and box, or a box outside the picture.
        """
        answers: list[Answer] = []
        with self._lock:
            for start in range(0, len(questions), _PHRASES_AT_ONCE):
                answers += self._run_ask(features, questions[start : start + _PHRASES_AT_ONCE])
        return answers

    def point(
        self, features: Features, points: Sequence[tuple[float, float]], labels: Sequence[int], before: Tensor
    ) -> Tensor:
        """Mask logits (4·grid, 4·grid) float16 of the one object that clicks correct.

        Args:
            features: of the picture.
            points: xy in pixels of the picture.
            labels: 1 on the object, 0 off it.
            before: the object's mask logits before the clicks.
        """
        self.check_tracker()
        with self._lock:
            return self._run_point(features, points, labels, before)

    def follow(
        self, path: Path, prompts: VideoPrompts, rules: VideoRules, stop_file: Path, max_frames: int | None = None
    ) -> Iterator[Step]:
        """Yields a `Step` for each frame of a video; see `follow_video`. Between frames others may use the model."""
        self.check_tracker()
        yield from self._run_follow(path, prompts, rules, stop_file, max_frames)

    def _follow(
        self, path: Path, prompts: VideoPrompts, rules: VideoRules, stop_file: Path, max_frames: int | None
    ) -> Iterator[Step]:
        steps = follow_video(self.model, self.processor, self.device, path, prompts, rules, stop_file, max_frames)
        while True:
            with self._lock:
                step = next(steps, None)
            if step is None:
                return
            yield step

    @torch.inference_mode()
    def _encode(self, image: Image.Image) -> Features:
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        vision = self.model.get_vision_features(pixels.to(self.device, self.model.dtype))
        maps = self.model.get_image_embeddings(vision_embeds=vision) if self.has_tracker else None
        features = Features((image.height, image.width), vision, maps)
        return features if self.wrapper is None else _moved(features, "cpu")

    @torch.inference_mode()
    def _ask(self, features: Features, questions: Sequence[Question]) -> list[Answer]:
        features = _moved(features, self.device)
        phrases = [phrase for phrase, _ in questions]
        shown = [boxes for _, boxes in questions]
        some = any(shown)
        inputs = self.processor(
            text=phrases,
            input_boxes=[[list(one.box) for one in boxes] or None for boxes in shown] if some else None,
            input_boxes_labels=[[int(one.is_positive) for one in boxes] or None for boxes in shown] if some else None,
            original_sizes=[features.size],
            prompt_kind="exemplars" if some else None,
            device=self.device,
        )
        inputs.pop("original_sizes")
        inputs["image_ids"] = torch.zeros(len(questions), dtype=torch.long, device=self.device)
        outputs = self.model(vision_embeds=features.vision, **inputs)
        presence = outputs.presence_logits.float().sigmoid().flatten().tolist()
        return [
            Answer(phrase, presence[row], self._candidates(outputs, row, features.size))
            for row, phrase in enumerate(phrases)
        ]

    def _candidates(self, outputs: Any, row: int, size: tuple[int, int]) -> tuple[Candidate, ...]:
        """Suppression takes the best first, so what it keeps above a threshold does not depend on what lies below."""
        scores = object_scores(outputs)[row]
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > SCORE_FLOOR]
        masks = outputs.pred_masks[row][order]
        kept = mask_nms(masks.float() > 0, scores[order], self.nms_threshold)
        scale = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
        boxes = outputs.pred_boxes[row][order][kept].float().cpu() * scale
        logits = masks[kept].to("cpu", torch.float16)
        # clones: a view would keep the masks of all queries alive
        return tuple(
            Candidate(score, (box[0], box[1], box[2], box[3]), mask.clone())
            for score, box, mask in zip(scores[order][kept].tolist(), boxes.tolist(), logits, strict=True)
        )

    @torch.inference_mode()
    def _point(
        self, features: Features, points: Sequence[tuple[float, float]], labels: Sequence[int], before: Tensor
    ) -> Tensor:
        features = _moved(features, self.device)
        clicks = self.processor(
            input_points=[[[list(point) for point in points]]],
            input_labels=[[list(labels)]],
            original_sizes=[features.size],
            device=self.device,
        )
        found = self.model.segment_objects(
            image_embeddings=features.maps,
            input_points=clicks["input_points"],
            input_labels=clicks["input_labels"],
            input_masks=before[None, None].to(self.device, self.model.dtype),
            multimask_output=False,
        )
        return found.pred_masks[0, 0, 0].to("cpu", torch.float16)


def _moved(features: Features, device: torch.device | str) -> Features:
    """The same features on another device; nothing is copied where they are there already."""
    vision = features.vision
    assert vision.last_hidden_state is not None and vision.fpn_hidden_states is not None
    if vision.last_hidden_state.device == torch.device(device):
        return features
    moved = Sam3VisionEncoderOutput(
        last_hidden_state=vision.last_hidden_state.to(device),
        fpn_hidden_states=tuple(one.to(device) for one in vision.fpn_hidden_states),
    )
    maps = None if features.maps is None else tuple(one.to(device) for one in features.maps)
    return Features(features.size, moved, maps)
