"""`ImageSession`: one user's picture and all that was asked about it. The model runs only for what is new.

What the user asked is one immutable `Prompts`; everything shown follows from it, so that undoing is going back to the
one before. Answers and corrected masks are kept by what they answer.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..ops.masks import mask_iou, masks_to_boxes
from .engine import Answer, Candidate, Engine, Features
from .prompts import Box, Click, ExampleBox, Prompts, Question, box_inside, check_point

__all__ = ["FoundObject", "ImageSession"]

MAX_BOXES, MAX_CLICKS = 32, 32
MAX_STEPS = 20  # that can be undone
MAX_ANSWERS = 48  # that are kept: one may take 16 MB at released size
_SAME_OBJECT = 0.5  # mask IoU from which what a new answer shows is an object that was shown before


@dataclass(frozen=True, eq=False)
class FoundObject:
    """An object as it is shown.

    Attributes:
        number: its own for as long as the picture stays; its colour follows from it.
        label: its phrase, "visual" where boxes alone were given.
        score: 0..1.
        box: xyxy in pixels.
        mask: (height, width) bool.
        is_refined: whether clicks have corrected it.
    """

    number: int
    label: str
    score: float
    box: Box
    mask: np.ndarray
    is_refined: bool = False

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())


class ImageSession:
    """One picture, encoded once.

    Args:
        engine: the model that answers.
        image: RGB.
        features: of the picture, where they are known already.
    """

    def __init__(self, engine: Engine, image: Image.Image, features: Features | None = None) -> None:
        self.engine, self.image = engine, image
        self.prompts = Prompts()
        self._features = features
        self._past: list[Prompts] = []
        self._answers: dict[Question, Answer] = {}
        self._refined: dict[tuple[int, tuple[Click, ...]], Tensor] = {}
        self._numbers: dict[tuple[Question, int], int] = {}
        self._shown: dict[int, tuple[str, Candidate]] = {}  # the objects that have a number
        self._next_number = 1
        self._lock = threading.RLock()

    # ---- the picture ----

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.height, self.image.width

    @property
    def is_encoded(self) -> bool:
        """Whether the next question can be answered without the vision tower."""
        return self._features is not None

    def encode(self) -> Features:
        """The picture's features, made when they are first needed."""
        with self._lock:
            if self._features is None:
                self._features = self.engine.encode(self.image)
            return self._features

    def forget_features(self) -> None:
        """Frees the features, by far the largest part; they are made again when they are needed."""
        self._features = None

    def use(self, engine: Engine) -> None:
        """Goes on with another model: the picture, phrases and boxes stay, what the old model said goes."""
        if engine is self.engine:
            return
        with self._lock:
            self.engine, self._features = engine, None
            self.prompts, self._past = replace(self.prompts, clicks={}), []
            for known in (self._answers, self._refined, self._numbers, self._shown):
                known.clear()

    def twin(self) -> "ImageSession":
        """A session on the same picture and features that starts without prompts."""
        return ImageSession(self.engine, self.image, self._features)

    def share_answers(self, other: "ImageSession") -> None:
        """Takes over what another session on the same picture and model was told, so that it is not asked again."""
        self._answers |= other._answers

    # ---- asking ----

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._past)

    def undo(self) -> bool:
        """Takes the last step back (phrases, a box, a click) and says whether there was one.

        The model runs only where so much was asked since that its answer is not kept any more.
        """
        with self._lock:
            if not self._past:
                return False
            self._answer(self._past[-1])
            self.prompts = self._past.pop()
            self._forget_unreachable()
            return True

    def find(self, phrases: Sequence[str]) -> None:
        """Looks for phrases, in place of those before; boxes and corrections stay.

        Raises:
            ValueError: neither phrases nor boxes.
        """
        if not phrases and not self.prompts.boxes:
            raise ValueError(
                'Nothing to find yet: type a phrase such as "red circle", or draw a box around an example.'
            )
        boxes = tuple(box for box in self.prompts.boxes if box.phrase is None or box.phrase in phrases)
        self._go(replace(self.prompts, phrases=tuple(dict.fromkeys(phrases)), boxes=boxes))

    def add_box(
        self,
        box: Sequence[float],
        is_positive: bool = True,
        phrase: str | None = None,
        phrases: Sequence[str] | None = None,
    ) -> None:
        """Adds an example box (xyxy in pixels; what lies outside the picture is cut off).

        Args:
            box: any two corners.
            is_positive: whether it shows what is meant.
            phrase: the one that it counts for; None: all.
            phrases: looked for from now on, in the same step; None: those before.

        Raises:
            ValueError: no area inside the picture, a phrase that is not asked, or too many boxes.
        """
        asked = self.prompts.phrases if phrases is None else tuple(dict.fromkeys(phrases))
        if phrase is not None and phrase not in asked:
            raise ValueError(
                f"{phrase!r} is not among the phrases {list(asked)}; expected one of them, or None for all."
            )
        if len(self.prompts.boxes) >= MAX_BOXES:
            raise ValueError(f"There are {MAX_BOXES} boxes already, which is the most; undo one or clear them.")
        example = ExampleBox(box_inside(box, self.size), is_positive, phrase)
        others = tuple(one for one in self.prompts.boxes if one != example and one.phrase in (None, *asked))
        self._go(replace(self.prompts, phrases=asked, boxes=(*others, example)))

    def clear_boxes(self) -> None:
        """Takes all example boxes away."""
        if self.prompts.boxes:
            self._go(replace(self.prompts, boxes=()))

    def refine(self, number: int, x: float, y: float, is_positive: bool = True) -> None:
        """Corrects one object by a click: the point belongs to it, or does not. No other object changes.

        Raises:
            ValueError: no such object, a point outside the picture, too many clicks, or a model without tracker.
        """
        self.engine.check_tracker()
        if number not in self._shown:
            raise ValueError(f"There is no object {number}; choose one of those that are shown.")
        check_point(x, y, self.size)
        before = self.prompts.clicks.get(number, ())
        if len(before) >= MAX_CLICKS:
            raise ValueError(f"Object {number} has {MAX_CLICKS} clicks already, which is the most; undo some.")
        clicks = (*before, Click(x, y, is_positive))
        self._go(replace(self.prompts, clicks={**self.prompts.clicks, number: clicks}))

    def _go(self, prompts: Prompts) -> None:
        """Takes a step if the model can answer it; where it cannot, everything stays as it was."""
        with self._lock:
            if prompts == self.prompts:
                self._answer(prompts)
                return
            self._answer(prompts)
            self._past = [*self._past, self.prompts][-MAX_STEPS:]
            self.prompts = prompts
            self._forget_unreachable()

    def _answer(self, prompts: Prompts) -> None:
        """Runs the model for questions and clicks that are new."""
        new = [question for question in prompts.questions() if question not in self._answers]
        if new:
            features = self.encode()
            for question, answer in zip(new, self.engine.ask_all(features, new), strict=True):
                self._answers[question] = answer
        for number, clicks in prompts.clicks.items():
            if (number, clicks) not in self._refined:
                points, labels = [(one.x, one.y) for one in clicks], [int(one.is_positive) for one in clicks]
                before = self._shown[number][1].logits
                self._refined[number, clicks] = self.engine.point(self.encode(), points, labels, before)

    def _forget_unreachable(self) -> None:
        """Drops what no step back leads to, and the oldest answers where there are many."""
        steps = [*self._past, self.prompts]
        questions = list(dict.fromkeys(question for step in reversed(steps) for question in step.questions()))
        kept = set(questions[:MAX_ANSWERS])
        self._answers = {question: answer for question, answer in self._answers.items() if question in kept}
        self._numbers = {key: number for key, number in self._numbers.items() if key[0] in kept}
        clicks = {one for step in steps for one in step.clicks.items()}
        self._refined = {key: mask for key, mask in self._refined.items() if key in clicks}
        alive = {*self._numbers.values(), *(number for number, _ in clicks)}
        self._shown = {number: one for number, one in self._shown.items() if number in alive}

    # ---- what is shown ----

    def answers(self) -> list[Answer]:
        """The model's answers to what is asked now, in the order of the phrases."""
        return [self._answers[question] for question in self.prompts.questions()]

    def objects(self, threshold: float) -> list[FoundObject]:
        """The objects that score more than `threshold`, by phrase, best first. The model does not run.

        An object keeps its number when the threshold moves, and when a new answer shows it again.
        """
        with self._lock:
            shown: list[FoundObject] = []
            for question in self.prompts.questions():
                label = question[0] or "visual"
                candidates = self._answers[question].above(threshold)
                self._number(question, label, candidates)
                for index, candidate in enumerate(candidates):
                    shown.append(self._found(self._numbers[question, index], label, candidate))
            return shown

    def _number(self, question: Question, label: str, candidates: Sequence[Candidate]) -> None:
        """Gives numbers to candidates that have none: that of the object they cover, or a new one."""
        new = [index for index in range(len(candidates)) if (question, index) not in self._numbers]
        if not new:
            return
        taken = {self._numbers[question, index] for index in range(len(candidates)) if index not in new}
        known = {number: one for number, (name, one) in self._shown.items() if name == label and number not in taken}
        overlaps = _overlaps([candidates[index] for index in new], list(known.values()))
        numbers = list(known)
        for row, index in enumerate(new):
            best = int(overlaps[row].argmax()) if numbers else -1
            if best >= 0 and overlaps[row, best] >= _SAME_OBJECT:
                number = numbers[best]
                overlaps[:, best] = 0.0
            else:
                number, self._next_number = self._next_number, self._next_number + 1
                self._shown[number] = (label, candidates[index])
            self._numbers[question, index] = number

    def _found(self, number: int, label: str, candidate: Candidate) -> FoundObject:
        clicks = self.prompts.clicks.get(number)
        if not clicks:
            return FoundObject(number, label, candidate.score, candidate.box, self._full(candidate.logits))
        mask = self._full(self._refined[number, clicks])
        x0, y0, x1, y1 = masks_to_boxes(torch.from_numpy(mask)[None])[0].tolist()
        return FoundObject(number, label, candidate.score, (x0, y0, x1, y1), mask, is_refined=True)

    def _full(self, logits: Tensor) -> np.ndarray:
        """A mask of the picture's size: logits are resized, then compared with 0, as everywhere in this package."""
        full = torch.nn.functional.interpolate(
            logits[None, None].float(), self.size, mode="bilinear", align_corners=False
        )
        return (full[0, 0] > 0).numpy()


def _overlaps(first: Sequence[Candidate], second: Sequence[Candidate]) -> Tensor:
    """Mask IoUs (len(first), len(second))."""
    if not first or not second:
        return torch.zeros(len(first), len(second))
    return mask_iou(*(torch.stack([one.logits > 0 for one in group]) for group in (first, second)))
