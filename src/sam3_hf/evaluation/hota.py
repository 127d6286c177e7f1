"""Phrase HOTA (pHOTA): are the objects found on each frame, and do they keep their numbers?

    HOTA = mean over alpha of sqrt(DetA * AssA),    alpha = 0.05, 0.10, ..., 0.95

On each frame tracks are matched one to one with objects; matches of IoU >= alpha are true.  DetA is their share of all
detections and objects; AssA is, averaged over them, the share of frames on which the two tracks belong together (Luiten
et al., https://doi.org/10.1007/s11263-020-01375-2).  Each video-phrase pair is a video of its own, and counts are
pooled over all of them (arXiv 2511.16719, section F.5).  The arithmetic is TrackEval's.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .video_tracks import TrackOverlap, VideoPair, track_overlap

__all__ = ["HOTA_NAMES", "combine_hota", "hota", "pair_hota"]

HOTA_NAMES = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA", "OWTA")

Fields = Mapping[str, Any]


def hota(pairs: Iterable[VideoPair], threshold: float = 0.5, iou_type: str = "segm") -> dict[str, float]:
    """`HOTA_NAMES` over all pairs, each in 0..1 and the mean over alpha.

    Tracks that score more than `threshold` count (not those that score exactly that: the reference's rule, here alone),
    on frames where they have pixels. A target that is None on a frame is not there; an empty mask is, and is missed.
    Raises ImportError, naming the extra to install, where TrackEval is missing.
    """
    results = []
    for pair in pairs:
        overlap = track_overlap(pair.predictions, pair.targets, pair.num_frames, iou_type)
        results.append(pair_hota(pair, overlap, threshold))
    return combine_hota(results)


def pair_hota(pair: VideoPair, overlap: TrackOverlap, threshold: float = 0.5) -> dict[str, Any]:
    """TrackEval's fields of one pair: `HOTA_NAMES` and counts, each (19,) over alpha."""
    counts = np.stack([one.is_seen for one in pair.predictions]) if pair.predictions else np.zeros((0, 0), dtype=bool)
    counts &= np.array([[one.score > threshold] for one in pair.predictions], dtype=bool).reshape(-1, 1)
    found, there, similarities = [], [], []
    for frame, one in enumerate(overlap.frames):
        kept = counts[one.rows, frame] if len(counts) else np.zeros(0, dtype=bool)
        found.append(one.rows[kept])
        there.append(one.columns)
        similarities.append(one.ious[kept].T)
    there, num_there = _numbered(there)
    found, num_found = _numbered(found)
    fields: dict[str, Any] = _metric().eval_sequence(
        {
            "gt_ids": there,
            "tracker_ids": found,
            "similarity_scores": similarities,
            "num_gt_ids": num_there,
            "num_tracker_ids": num_found,
            "num_gt_dets": sum(map(len, there)),
            "num_tracker_dets": sum(map(len, found)),
        }
    )
    return fields


def combine_hota(results: Iterable[Fields]) -> dict[str, float]:
    """`HOTA_NAMES` of several pairs, their counts pooled, each the mean over alpha."""
    by_number = dict(enumerate(results))
    if not by_number:
        raise ValueError("no video-phrase pair to evaluate; HOTA needs at least one.")
    combined = _metric().combine_sequences(by_number)
    return {name: float(np.mean(combined[name])) for name in HOTA_NAMES}


def _numbered(frames: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Ids of each frame renamed to 0, 1, ..., and how many there are: TrackEval takes no others."""
    ids = np.unique(np.concatenate(frames)) if frames else np.zeros(0, dtype=np.int64)
    return [np.searchsorted(ids, frame) for frame in frames], len(ids)


def _metric() -> Any:
    try:
        from trackeval.metrics import HOTA
    except ImportError as error:
        raise ImportError("HOTA is computed by TrackEval: pip install 'sam3-hf[evaluate]'") from error
    return HOTA()
