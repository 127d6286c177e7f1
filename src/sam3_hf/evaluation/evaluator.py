"""`ConceptMetrics`: batches in, all figures out, over one process or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed

from ..processing.postprocess import post_process_instance_segmentation, post_process_object_detection
from .coco_ap import coco_ap
from .concept_f1 import PairScore, concept_f1, score_pairs
from .counting import count_errors, count_objects
from .predictions import ConceptPrediction, ConceptTarget, PairKey, target_of_label

__all__ = ["ConceptMetrics", "predictions_of_outputs"]

SUMMARY = ("cgF1", "pmF1", "IL_MCC", "IL_FPR", "IL_precision", "IL_recall", "IL_F1", "precision", "recall", "F1")


@dataclass(frozen=True)
class _Record:
    """One judged pair. `mask_score` is None where only boxes are known; masks are dropped where AP is not wanted."""

    target: ConceptTarget
    prediction: ConceptPrediction | None
    mask_score: PairScore | None
    box_score: PairScore
    num_objects: int

    @property
    def is_counted(self) -> bool:
        """Whether the counting recipe applies: the phrase is there, all objects are known, and so is the count."""
        exhaustive = self.target.is_exhaustive and not self.target.is_crowd.any()
        return exhaustive and self.num_objects > 0


@dataclass
class _State:
    records: dict[PairKey, _Record] = field(default_factory=dict)
    num_repeated: int = 0
    num_unnamed: int = 0


class ConceptMetrics:
    """Accumulates picture-phrase pairs and computes concept F1, COCO AP and counting errors over all of them.

    ```python
    metrics = ConceptMetrics()
    for batch in loader:
        labels = batch.pop("labels")
        metrics.update(model(**batch), labels)
    metrics.gather()                       # several processes
    print(metrics.compute()["cgF1"])
    ```

    A pair is known by the label's `image_id` and `phrase`; one that comes again (samplers fill up the last batch by
    repeating) is counted once. Pairs without an `image_id` are all taken as different.

    Args:
        threshold: least score of an answer, for concept F1 and plain counts.
        average_precision: also COCO AP (needs pycocotools); keeps the run-length codes of all answers until `reset`.
        min_score, max_detections: answers kept for AP: those above this score, at most that many of a pair.
        per_phrase_ap: AP as the mean over phrases; else of all objects pooled (see `coco_ap`).
    """

    def __init__(
        self,
        threshold: float = 0.5,
        *,
        average_precision: bool = True,
        min_score: float = 0.01,
        max_detections: int = 100,
        per_phrase_ap: bool = True,
    ) -> None:
        if not 0 <= min_score < threshold < 1:
            raise ValueError(
                f"min_score is {min_score}, threshold {threshold}; expected 0 <= min_score < threshold < 1."
            )
        self.threshold = threshold
        self.average_precision = average_precision
        self.min_score = min_score
        self.max_detections = max_detections
        self.per_phrase_ap = per_phrase_ap
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._state = _State()

    def __len__(self) -> int:
        return len(self._state.records)

    @property
    def num_repeated(self) -> int:
        """How many pairs came more than once and were left out."""
        return self._state.num_repeated

    def update(self, outputs: Any, labels: Sequence[Mapping[str, Any]]) -> None:
        """Adds one batch: the model's outputs and, for each of their rows, its label.

        Masks are compared at the resolution of the label's masks, to which the logits are resized; give labels at the
        pictures' own size to measure what a user gets.
        """
        height, width = outputs.pred_masks.shape[-2:]
        targets = [
            target_of_label(label, *self._name(label), fallback_size=(int(height), int(width))) for label in labels
        ]
        predictions = predictions_of_outputs(outputs, targets, self.least_score, self.max_detections)
        self.add(list(zip(predictions, targets, strict=True)))

    def add(self, pairs: Sequence[tuple[ConceptPrediction, ConceptTarget]]) -> None:
        """Adds predictions that are records already, each with its target."""
        fresh: dict[PairKey, tuple[ConceptPrediction, ConceptTarget]] = {}
        for prediction, target in pairs:
            if prediction.key != target.key:
                raise ValueError(f"a prediction of {prediction.key} was given with a target of {target.key}.")
            if target.key in self._state.records or target.key in fresh:
                self._state.num_repeated += 1
            else:
                fresh[target.key] = (prediction, target)
        with_masks = {key: pair for key, pair in fresh.items() if _has_masks(*pair)}
        by_masks = dict(zip(with_masks, score_pairs(list(with_masks.values()), self.threshold, "segm"), strict=True))
        by_boxes = score_pairs(list(fresh.values()), self.threshold, "bbox")
        for (key, (prediction, target)), box_score in zip(fresh.items(), by_boxes, strict=True):
            lean = not self.average_precision
            self._state.records[key] = _Record(
                target=_without_masks(target) if lean else target,
                prediction=_without_masks(prediction) if lean else prediction,
                mask_score=by_masks.get(key),
                box_score=box_score,
                num_objects=target.num_objects,
            )

    def predictions(self) -> list[ConceptPrediction]:
        """All predictions, in the order of their keys; without masks if `average_precision` is off."""
        return [record.prediction for record in self._sorted() if record.prediction is not None]

    def targets(self) -> list[ConceptTarget]:
        """The targets of `predictions()`."""
        return [record.target for record in self._sorted()]

    def merge(self, other: "ConceptMetrics") -> None:
        """Adds what another one has seen; pairs that both have are counted once."""
        self._take(other._state)

    def gather(self) -> None:
        """Makes every process of `torch.distributed` know what all have seen; does nothing in a single process."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, self._state)
        self.reset()
        for state in states:
            self._take(state)

    def compute(self, detailed: bool = False) -> dict[str, float]:
        """All figures by name, in 0..1 (`cgF1` and `IL_MCC` in -1..1, undefined AP -1, `count_MAE` in objects).

        `cgF1`, `pmF1`, `IL_MCC`, `IL_FPR`, ... compare masks and leave out pairs that are not exhaustively annotated;
        `box_cgF1`, `box_pmF1`, `box_F1` compare boxes. Where no object has a mask, only the latter are there.
        `mask_AP...`, `box_AP...`: see `coco_ap`. `count_MAE`, `count_accuracy`: the counting recipe, over present
        phrases; `plain_count_...`: answers at or above the threshold. `num_pairs`, `num_positive_pairs`: how many were
        judged. `detailed` adds all that the reference's evaluator prints, such as `cgF1@0.75`.
        """
        records = self._sorted()
        judged = [record for record in records if record.target.is_exhaustive]
        if not judged:
            raise ValueError(f"{len(records)} pairs seen, none of them exhaustively annotated; nothing to evaluate.")
        masked = [record for record in judged if record.mask_score is not None]
        figures: dict[str, float] = {}
        if any(record.num_objects for record in masked) or len(masked) == len(judged):
            figures |= _summary([record.mask_score for record in masked if record.mask_score], "", detailed)
        boxes = _summary([record.box_score for record in judged], "box_", detailed)
        figures |= boxes if detailed else {key: boxes[key] for key in ("box_cgF1", "box_pmF1", "box_F1")}
        if self.average_precision:
            figures |= self._average_precision(records)
        figures |= _counting([record for record in judged if record.is_counted])
        positive = sum(record.num_objects > 0 for record in judged)
        return figures | {"num_pairs": float(len(judged)), "num_positive_pairs": float(positive)}

    def _average_precision(self, records: Sequence[_Record]) -> dict[str, float]:
        # AP knows crowd regions, so it can use pairs that are incomplete only because of one.
        usable = [r for r in records if r.target.is_exhaustive or r.target.is_crowd.any()]
        figures: dict[str, float] = {}
        for iou_type in ("segm", "bbox"):
            chosen = [r for r in usable if iou_type == "bbox" or r.mask_score is not None]
            if iou_type == "bbox" or any(len(r.target.is_crowd) for r in chosen):
                predictions = [r.prediction for r in chosen if r.prediction is not None]
                figures |= coco_ap(predictions, [r.target for r in chosen], iou_type, self.per_phrase_ap)
        return figures

    def _sorted(self) -> list[_Record]:
        """The records in an order that does not depend on processes or batches: AP breaks ties by it."""
        records = self._state.records
        return [records[key] for key in sorted(records, key=lambda key: (str(key[0]), key[1]))]

    def _take(self, state: _State) -> None:
        for key, record in state.records.items():
            if key in self._state.records:
                self._state.num_repeated += 1
            else:
                self._state.records[key] = record
        self._state.num_repeated += state.num_repeated
        self._state.num_unnamed += state.num_unnamed

    def _name(self, label: Mapping[str, Any]) -> tuple[str | int, str]:
        """`image_id` and phrase of a label; a name of its own for one without."""
        image_id = label.get("image_id")
        if isinstance(image_id, torch.Tensor | np.generic):
            image_id = int(image_id.item())
        if image_id is None:
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            image_id = f"process {rank}, row {self._state.num_unnamed}"
            self._state.num_unnamed += 1
        return image_id, str(label.get("phrase", ""))

    @property
    def least_score(self) -> float:
        """Answers above this score are needed."""
        return self.min_score if self.average_precision else float(np.nextafter(np.float32(self.threshold), 0))


def predictions_of_outputs(
    outputs: Any,
    targets: Sequence[ConceptTarget],
    min_score: float = 0.01,
    max_detections: int = 100,
    nms_threshold: float | None = None,
) -> list[ConceptPrediction]:
    """What the model found for each row, best first, at the size of that row's target.

    Answers that score above `min_score`, at most `max_detections`. Masks are left out where the target has boxes alone.
    `nms_threshold` drops those whose mask overlaps a better one's by more than this IoU.
    """
    if len(targets) != len(outputs.pred_logits):
        raise ValueError(
            f"{len(targets)} labels for {len(outputs.pred_logits)} rows of outputs; expected one for each."
        )
    counts = count_objects(outputs)
    predictions = []
    for row, target in enumerate(targets):
        one = _row(outputs, row)
        if target.masks is None:
            found: dict[str, Any] = post_process_object_detection(one, min_score, [target.size], top_k=max_detections)[
                0
            ]
        else:
            found = post_process_instance_segmentation(
                one,
                min_score,
                target_sizes=[target.size],
                nms_threshold=nms_threshold,
                top_k=max_detections,
                mask_format="rle",
            )[0]
        predictions.append(
            ConceptPrediction(
                image_id=target.image_id,
                phrase=target.phrase,
                size=target.size,
                scores=found["scores"].detach().cpu().numpy(),
                boxes=found["boxes"].detach().cpu().numpy(),
                masks=found.get("masks"),
                count=counts[row],
            )
        )
    return predictions


@dataclass(frozen=True)
class _Row:
    """One row of a model's outputs."""

    pred_logits: torch.Tensor
    pred_boxes: torch.Tensor
    pred_masks: torch.Tensor
    presence_logits: torch.Tensor | None


def _row(outputs: Any, row: int) -> _Row:
    presence = getattr(outputs, "presence_logits", None)
    at = slice(row, row + 1)
    return _Row(
        outputs.pred_logits[at],
        outputs.pred_boxes[at],
        outputs.pred_masks[at],
        None if presence is None else presence[at],
    )


def _has_masks(prediction: ConceptPrediction, target: ConceptTarget) -> bool:
    return (target.masks is not None or not len(target.is_crowd)) and prediction.masks is not None


def _without_masks(record: Any) -> Any:
    if record.masks is None:
        return record
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return type(record)(**(values | {"masks": None}))


def _summary(scores: Sequence[PairScore], prefix: str, detailed: bool) -> dict[str, float]:
    figures = concept_f1(scores)
    figures["pmF1"] = figures["positive_micro_F1"]
    names = [*SUMMARY, *(name for name in figures if detailed and name not in SUMMARY)]
    return {prefix + name: figures[name] for name in names}


def _counting(records: Sequence[_Record]) -> dict[str, float]:
    if not records:
        return {}
    there = [record.num_objects for record in records]
    plain = count_errors([record.box_score.num_predictions for record in records], there)
    figures = {f"plain_{name}": value for name, value in plain.items()}
    known = [(r.prediction.count, r.num_objects) for r in records if r.prediction and r.prediction.count is not None]
    if known:
        figures |= count_errors([count for count, _ in known], [number for _, number in known])
    return figures
