"""Video concept F1: cgF1 of whole tracks.  A video-phrase pair is what a picture-phrase pair is in `concept_f1`.

    cgF1 = pmF1 * IL_MCC        (arXiv 2511.16719, section F.5)

with volume IoU: the pixels that two tracks share on all frames, over all pixels of either.  So an object that changes
its number half way is at best two halves.  IL_MCC asks of each video-phrase pair whether anything was found.
"""

from collections.abc import Iterable

import numpy as np
from scipy.optimize import linear_sum_assignment

from .concept_f1 import IOU_THRESHOLDS, PairScore, concept_f1
from .video_tracks import TrackOverlap, VideoPair, track_overlap

__all__ = ["score_video_pair", "video_f1"]


def video_f1(pairs: Iterable[VideoPair], threshold: float = 0.5, iou_type: str = "segm") -> dict[str, float]:
    """`concept_f1` of tracks, with its names: `cgF1`, `positive_micro_F1`, `IL_MCC`, ..., "cgF1@0.5", "cgF1@0.75", ....

    `pairs` are all video-phrase pairs that were looked at, those without an object among them: they are what IL_MCC is
    about. Tracks that score at least `threshold` count; crowd targets are left out.
    """
    scores = []
    for pair in pairs:
        overlap = track_overlap(pair.predictions, pair.targets, pair.num_frames, iou_type)
        scores.append(score_video_pair(pair, overlap, threshold))
    return concept_f1(scores)


def score_video_pair(pair: VideoPair, overlap: TrackOverlap, threshold: float = 0.5) -> PairScore:
    """What concept F1 needs to know of one pair: tracks are matched one to one so that the sum of IoUs is largest."""
    kept = [index for index, track in enumerate(pair.predictions) if track.score >= threshold]
    real = [index for index, track in enumerate(pair.targets) if not track.is_crowd]
    ious = overlap.volume_ious[np.ix_(kept, real)]
    matched = ious[linear_sum_assignment(-ious)]
    true_positives = (matched[None] >= IOU_THRESHOLDS[:, None]).sum(1)
    key = (pair.video_id, str(pair.category_id))
    return PairScore(key, len(kept), len(real), true_positives)
