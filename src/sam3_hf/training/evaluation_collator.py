"""Batches for evaluation while training, whose figures are those that the pipeline gives with the saved model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..evaluation import ConceptMetrics, ConceptTarget, predictions_of_outputs
from ..ops.masks import rle_encode
from .collator import ConceptCollator, ConceptSample
from .pictures import Picture
from .sampling import ConceptRow

__all__ = ["EvaluationCollator", "add_to_metrics"]

_TARGET = "target"


class EvaluationCollator(ConceptCollator):
    """A `ConceptCollator` whose labels also hold a "target": what is right at the picture's own resolution.

    The loss uses masks of the model's size; masks at the size of a large picture would fill the memory.
    """

    def _labels(self, sample: ConceptSample) -> list[dict[str, Any]]:
        codes = _codes(sample.picture)
        labels = super()._labels(sample)
        return [
            label | {_TARGET: _target(sample.picture, row, codes)}
            for label, row in zip(labels, sample.rows, strict=True)
        ]


def add_to_metrics(metrics: ConceptMetrics, outputs: Any, labels: list[Mapping[str, Any]]) -> None:
    """Adds a batch's answers, compared at the resolution of the pictures where the labels say what is right there."""
    if not all(_TARGET in label for label in labels):
        metrics.update(outputs, labels)
        return
    targets = [label[_TARGET] for label in labels]
    predictions = predictions_of_outputs(outputs, targets, metrics.least_score, metrics.max_detections)
    metrics.add(list(zip(predictions, targets, strict=True)))


def _codes(picture: Picture) -> list[dict[str, Any]] | None:
    """Run-length codes of all objects, made one by one."""
    if picture.regions is None:
        return None
    codes = []
    for region in picture.regions:
        canvas = np.zeros(picture.size, dtype=bool)
        region.paint(canvas)
        codes += rle_encode(torch.from_numpy(canvas)[None])
    return codes


def _target(picture: Picture, row: ConceptRow, codes: list[dict[str, Any]] | None) -> ConceptTarget:
    wanted = [*row.objects, *row.crowd]
    return ConceptTarget(
        image_id=picture.image_id,
        phrase=row.concept,
        size=picture.size,
        boxes=picture.boxes[wanted].reshape(-1, 4),
        masks=None if codes is None else [codes[i] for i in wanted],
        is_crowd=np.arange(len(wanted)) >= len(row.objects),
        is_exhaustive=not row.crowd,
    )
