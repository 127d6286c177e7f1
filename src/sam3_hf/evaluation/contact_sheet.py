"""A sheet of cases: what is there and what was found, side by side, for looking at the best and the worst pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..visualization import draw_instances
from .annotations import AnnotatedPairs
from .pictures import PictureSource, read_picture
from .predictions import ConceptPrediction, ConceptTarget
from .results import Results
from .scoring import Scores

__all__ = ["Case", "draw_cases", "select_cases"]

_SIDE = 240  # of one panel, in pixels
_TEXT = 34
_GAP = 8
_GREY = (150, 150, 150)


@dataclass(frozen=True)
class Case:
    """One pair to look at. `image` is source and name of its file; None: masks are drawn on grey."""

    title: str
    target: ConceptTarget
    prediction: ConceptPrediction
    image: tuple[PictureSource, str] | None


def select_cases(
    scores: Scores, annotated: AnnotatedPairs, results: Results, images: PictureSource | None, number: int = 6
) -> list[Case]:
    """The `number` best and `number` worst pairs (fewer where there are fewer), the best first.

    Best are those found whole, with most objects; worst those with the lowest local F1, with most errors. Pairs without
    objects and without answers are no cases.
    """
    threshold = scores.settings["threshold"]

    def size(case: tuple[int, float, int]) -> int:
        return annotated.pairs[case[0]].targets[0].num_objects

    cases = [case for case in scores.cases if size(case) or case[2]]
    best = sorted((case for case in cases if size(case)), key=lambda case: (-round(case[1], 1), -size(case), case[0]))
    worst = sorted(cases, key=lambda case: (case[1], -case[2], case[0]))
    half = max(1, min(number, len(cases) // 2))
    chosen = [("best", case) for case in best[:half]]
    chosen += [("worst", case) for case in worst[:half] if case not in best[:half]]
    found = []
    for kind, (index, f1, _) in chosen:
        pair, prediction = annotated.pairs[index], results.prediction(index)
        known = images is not None and (
            (images / pair.file_name).is_file() if isinstance(images, Path) else pair.file_name in images
        )
        image = (images, pair.file_name) if images is not None and known else None
        title = f"{kind}: {pair.key[1] or pair.key[0]!r}, F1 {f1:.2f}"
        found.append(Case(title, pair.targets[0], _kept(prediction, threshold), image))
    return found


def draw_cases(cases: Sequence[Case], columns: int = 3) -> Image.Image:
    """The sheet: of each case the annotation (left) and the answers with their scores (right)."""
    columns = min(columns, len(cases))
    rows = -(-len(cases) // columns)
    width, height = 2 * _SIDE + 3 * _GAP, _SIDE + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for number, case in enumerate(cases):
        left, top = number % columns * width + _GAP, number // columns * height
        draw.text((left, top + 2), f"{case.title[:60]}", fill="black", font=font)
        draw.text(
            (left, top + 17), f"{case.target.num_objects} there | {len(case.prediction)} found", fill=_GREY, font=font
        )
        picture = _picture(case)
        for panel, result in enumerate((_there(case.target), _found(case.prediction))):
            drawn = draw_instances(picture, result, labels=False)
            sheet.paste(_fitted(drawn), (left + panel * (_SIDE + _GAP), top + _TEXT))
    return sheet


def _kept(prediction: ConceptPrediction, threshold: float) -> ConceptPrediction:
    kept = prediction.kept(threshold)
    masks = None if prediction.masks is None else [prediction.masks[index] for index in kept]
    return ConceptPrediction(
        prediction.image_id, prediction.phrase, prediction.size, prediction.scores[kept], prediction.boxes[kept], masks
    )


def _picture(case: Case) -> np.ndarray:
    """The picture as uint8 (height, width, 3) at the annotation's size, or grey."""
    if case.image is not None:
        pixels = read_picture(*case.image).permute(1, 2, 0).contiguous().numpy()
        if pixels.shape[:2] == tuple(case.target.size):
            return pixels
    return np.full((*case.target.size, 3), _GREY, dtype=np.uint8)


def _there(target: ConceptTarget) -> dict[str, object]:
    return {"masks": target.masks} if target.masks else {"boxes": target.boxes.tolist()}


def _found(prediction: ConceptPrediction) -> dict[str, object]:
    shapes = {"masks": prediction.masks} if prediction.masks else {"boxes": prediction.boxes.tolist()}
    return {**shapes, "scores": prediction.scores.tolist()}


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture within a white square panel."""
    scale = _SIDE / max(picture.size)
    small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    panel = Image.new("RGB", (_SIDE, _SIDE), (235, 235, 235))
    panel.paste(small, ((_SIDE - small.width) // 2, (_SIDE - small.height) // 2))
    return panel
