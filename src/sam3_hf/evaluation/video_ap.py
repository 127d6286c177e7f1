"""Average precision of tracks, as YouTube-VIS has it: COCO's, with volume IoU in the place of IoU.

pycocotools ranks, matches and averages; it is given the overlaps.  An annotation with the id 0 is never found: that is
pycocotools' sign for "nothing", and the reference's numbers have it in them.
"""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .coco_ap import _pycocotools
from .video_tracks import TrackOverlap, VideoPair, track_overlap

__all__ = ["VideoAP", "video_ap"]

_MAX_TRACKS = 100  # of one pair, the best
_NO_AREA, _ANY_AREA = 1, [[0, 1e10]]  # tracks are not sorted by size
_SHOWN = {"AP": None, "AP50": 0.5, "AP75": 0.75}

Place = tuple[int, int]


def video_ap(pairs: Iterable[VideoPair], iou_type: str = "segm", per_phrase: bool = False) -> dict[str, float]:
    """`AP` (mean over IoU 0.50, 0.55, ..., 0.95), `AP50` and `AP75`, in 0..1, or -1 where there is no object at all.

    `per_phrase=False` is the reference's phrase AP: each video-phrase pair is a video of its own, and all objects are
    of one class. `per_phrase=True` is class mAP: the mean over the phrases that have objects. All scores count.

    Raises ImportError, naming the extra to install, where pycocotools is missing.
    """
    collected = VideoAP()
    for pair in pairs:
        collected.add(pair, track_overlap(pair.predictions, pair.targets, pair.num_frames, iou_type))
    return collected.compute(per_phrase)


@dataclass(frozen=True)
class _Pair:
    key: Place
    scores: list[float]
    targets: list[dict[str, int]]
    ious: np.ndarray


@dataclass
class VideoAP:
    """Collects pairs one by one; keeps scores and overlaps, no masks."""

    _pairs: list[_Pair] = field(default_factory=list)

    def add(self, pair: VideoPair, overlap: TrackOverlap) -> None:
        """Adds one video-phrase pair."""
        scores = [track.score for track in pair.predictions]
        numbers = [{} if track.number is None else {"id": track.number} for track in pair.targets]
        targets = [{"iscrowd": int(one.is_crowd), **number} for one, number in zip(pair.targets, numbers, strict=True)]
        if scores or targets:
            self._pairs.append(_Pair(pair.key, scores, targets, overlap.volume_ious))

    def compute(self, per_phrase: bool = False) -> dict[str, float]:
        """`AP`, `AP50`, `AP75`, see `video_ap`."""
        pairs = sorted(self._pairs, key=lambda pair: pair.key)  # equal scores are ranked in this order
        places = [pair.key if per_phrase else (index, 1) for index, pair in enumerate(pairs, 1)]
        precision = _precision(pairs, places)
        figures = {}
        for name, at in _SHOWN.items():
            values = precision if at is None else precision[np.isclose(np.linspace(0.5, 0.95, 10), at)]
            defined = values[values > -1]
            figures[name] = float(defined.mean()) if defined.size else -1.0
        return figures


def _precision(pairs: list[_Pair], places: list[Place]) -> np.ndarray:
    """COCO's precision (thresholds, recalls, categories), -1 where undefined."""
    coco_class, eval_class = _pycocotools()

    known = dict(zip(places, pairs, strict=True))

    class TrackEval(eval_class):  # type: ignore[misc,valid-type]
        """COCO's evaluation of overlaps that are known already."""

        def computeIoU(self, image: int, category: int) -> Any:
            """(tracks, objects), the best tracks first."""
            pair = known.get((image, category))
            if pair is None or not pair.ious.size:
                return []
            best = np.argsort([-score for score in pair.scores], kind="mergesort")[:_MAX_TRACKS]
            return pair.ious[best]

    def tracks(values: list[tuple[Place, dict[str, Any]]]) -> Any:
        dataset = coco_class()
        dataset.dataset = {
            "images": [{"id": image} for image in sorted({image for image, _ in places})],
            "categories": [{"id": category} for category in sorted({category for _, category in places})],
            "annotations": [
                {"id": number, "image_id": image, "category_id": category, "area": _NO_AREA, **value}
                for number, ((image, category), value) in enumerate(values, 1)
            ],
        }
        dataset.createIndex()
        return dataset

    both = list(zip(places, pairs, strict=True))
    # pycocotools reports its progress on standard output
    with contextlib.redirect_stdout(io.StringIO()):
        truth = tracks([(place, target) for place, pair in both for target in pair.targets])
        found = tracks([(place, {"score": score, "iscrowd": 0}) for place, pair in both for score in pair.scores])
        evaluation = TrackEval(truth, found, "bbox")
        evaluation.params.maxDets = [_MAX_TRACKS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = _ANY_AREA, ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][:, :, :, 0, 0])
