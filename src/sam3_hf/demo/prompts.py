"""What users ask, as plain immutable data: phrases, example boxes, clicks; of a picture and of a video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["Box", "Click", "ExampleBox", "Prompts", "Question", "VideoPrompts", "box_inside", "check_point"]

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ExampleBox:
    """A box that shows what is meant, or with `is_positive=False` what is not.

    Attributes:
        box: xyxy in pixels of the picture.
        is_positive: whether it shows what is meant.
        phrase: the phrase that it belongs to; None: every phrase.
    """

    box: Box
    is_positive: bool = True
    phrase: str | None = None


@dataclass(frozen=True)
class Click:
    """A point of the picture, xy in pixels, that belongs to an object or not."""

    x: float
    y: float
    is_positive: bool = True


Question = tuple[str | None, tuple[ExampleBox, ...]]


@dataclass(frozen=True)
class Prompts:
    """What a user asked of a picture: phrases, example boxes, and by their numbers clicks that correct objects."""

    phrases: tuple[str, ...] = ()
    boxes: tuple[ExampleBox, ...] = ()
    clicks: Mapping[int, tuple[Click, ...]] = field(default_factory=dict)

    def questions(self) -> list[Question]:
        """What the model has to answer: each phrase with its boxes, or all boxes where there is no phrase."""
        if not self.phrases:
            return [(None, self.boxes)] if self.boxes else []
        return [
            (phrase, tuple(replace(box, phrase=None) for box in self.boxes if box.phrase in (None, phrase)))
            for phrase in self.phrases
        ]


@dataclass(frozen=True)
class VideoPrompts:
    """What to follow in a video; false where there is nothing.

    Attributes:
        phrases: looked for on every frame.
        boxes: by frame, example boxes of the phrases that they name, or of no phrase where there is none.
        clicks: by object number and frame, points on or off an object that the user points out.
        corrections: likewise, of objects that a phrase has found in the run before.
    """

    phrases: tuple[str, ...] = ()
    boxes: Mapping[int, tuple[ExampleBox, ...]] = field(default_factory=dict)
    clicks: Mapping[int, Mapping[int, tuple[Click, ...]]] = field(default_factory=dict)
    corrections: Mapping[int, Mapping[int, tuple[Click, ...]]] = field(default_factory=dict)

    def shown(self, phrase: str | None) -> dict[int, tuple[ExampleBox, ...]]:
        """By frame, the example boxes that count for a phrase."""
        mine = {
            frame: tuple(box for box in boxes if phrase is None or box.phrase in (None, phrase))
            for frame, boxes in self.boxes.items()
        }
        return {frame: boxes for frame, boxes in mine.items() if boxes}

    def __bool__(self) -> bool:
        return bool(self.phrases or self.boxes or self.clicks)


def box_inside(box: Sequence[float], size: tuple[int, int]) -> Box:
    """The part of a box (any two corners, xyxy in pixels) that lies inside a picture of `size` (height, width).

    Raises:
        ValueError: not four numbers, or no pixel of the picture is in it.
    """
    height, width = size
    if len(box) != 4:
        raise ValueError(f"A box has {len(box)} numbers; expected four: left, top, right, bottom.")
    x0, x1 = sorted(min(max(float(value), 0.0), float(width)) for value in (box[0], box[2]))
    y0, y1 = sorted(min(max(float(value), 0.0), float(height)) for value in (box[1], box[3]))
    if not (x1 - x0 >= 1 and y1 - y0 >= 1):
        shown = ", ".join(f"{float(value):.0f}" for value in box)
        raise ValueError(
            f"The box {shown} covers no pixel of the picture, which is {width} x {height}; expected left, top, right, "
            "bottom in pixels."
        )
    return x0, y0, x1, y1


def check_point(x: float, y: float, size: tuple[int, int]) -> None:
    """Raises ValueError where a point lies outside a picture of `size` (height, width)."""
    height, width = size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"The point ({x:.0f}, {y:.0f}) lies outside the picture, which is {width} x {height}.")
