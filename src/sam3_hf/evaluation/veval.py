"""All figures of SA-Co/VEval under the names of the reference's evaluator (`sam3/eval/saco_veval_eval.py`).

`{name}_{mask|bbox}_...`, where `name` is "video" unless said:

    mAP_50_95                                  class mAP of YouTube-VIS
    phrase_ap_{50_95|50|75}                    AP of all objects pooled, each video-phrase pair for itself
    all_phrase_{HOTA|DetA|AssA|...}            pHOTA and its parts
    challenging_phrase_{HOTA|...}              the same over pairs tagged "tracking_challenging_pair", where tags are
    demo_{cgf1_micro|positive_micro_f1|ilmcc}_{50_95|50|75}      video concept F1, where `video_np_pairs` are given
    {teta|loc_a|assoc_a|cls_a|loc_re|...}      TETA, masks alone, in percent with five digits

"demo" is the use that the paper measures: one threshold, no ranking.  `demo_cgf1_50_95`, `_50` and `_75` stand beside
the long names.
"""

import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from .concept_f1 import IOU_THRESHOLDS, PairScore, concept_f1
from .hota import HOTA_NAMES, combine_hota, pair_hota
from .teta import TETA_NAMES, teta
from .video_ap import VideoAP
from .video_f1 import score_video_pair
from .video_format import Data, VideoTargets, load_video_predictions, load_video_targets, video_pairs
from .video_tracks import Track, VideoPair, track_overlap

__all__ = ["score_veval", "veval_results"]

_KINDS = {"bbox": "bbox", "segm": "mask"}
_CHALLENGING = "tracking_challenging_pair"
_F1_NAMES = {"cgf1_micro": "cgF1", "cgf1": "cgF1", "positive_micro_f1": "positive_micro_F1"}
_LEVELS = {"50_95": "", "50": "@0.5", "75": "@0.75"}
_TETA_KEYS = ("teta", "loc_a", "assoc_a", "cls_a", "loc_re", "loc_pr", "assoc_re", "assoc_pr", "cls_re", "cls_pr")


def score_veval(
    predictions: Sequence[Mapping[str, Any]] | Data,
    annotations: Data,
    *,
    dataset_name: str = "video",
    threshold: float = 0.5,
    progress: bool = False,
) -> dict[str, float]:
    """All figures by the reference's names, see above; in 0..1 but for TETA's percent, AP -1 where nothing is there.

    Args:
        predictions: results of any model, see `load_video_predictions`, which says what it refuses. A pair without any
            is one where nothing was found.
        annotations: VEval or YouTube-VIS JSON, as dict or path.
        dataset_name: first part of the names.
        threshold: least score of a track, for all but the AP figures.
        progress: whether to show a bar.

    Figures of masks are left out where predictions or annotations have boxes alone. Raises ImportError, naming the
    extra to install, where TrackEval or pycocotools is missing.
    """
    figures: dict[str, float] = veval_results(
        predictions, annotations, dataset_name=dataset_name, threshold=threshold, progress=progress
    )["dataset_results"]
    return figures


def veval_results(
    predictions: Sequence[Mapping[str, Any]] | Data,
    annotations: Data,
    *,
    dataset_name: str = "video",
    threshold: float = 0.5,
    progress: bool = False,
) -> dict[str, Any]:
    """What the reference writes: `dataset_results` as of `score_veval`, and `video_np_results`, a list of one dict for
    each video-phrase pair: `video_id`, `category_id`, `mask_F1_50_95`, `mask_TP_50`, ..., `mask_HOTA`, ....

    Arguments are those of `score_veval`.
    """
    targets = load_video_targets(annotations)
    tracks = load_video_predictions(predictions, targets, threshold)
    has_masks = all(track.masks is not None for track in (*tracks, *targets.tracks))
    figures: dict[str, float] = {}
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for iou_type in ("bbox", "segm") if has_masks else ("bbox",):
        bar = tqdm(
            list(video_pairs(tracks, targets)),
            desc=f"pairs, {_KINDS[iou_type]}",
            disable=not (progress and sys.stderr.isatty()),
        )
        figures |= _figures_of_pairs(bar, targets, iou_type, threshold, f"{dataset_name}_{_KINDS[iou_type]}", rows)
    if has_masks:
        percent = teta(_videos(tracks, targets), list(targets.categories), threshold)
        figures |= {
            # The reference reads its figures back from a printed table of five digits.
            f"{dataset_name}_mask_{key}": float(f"{100 * percent[name]:1.5g}")
            for key, name in zip(_TETA_KEYS, TETA_NAMES, strict=True)
        }
    listed = [{"video_id": video, "category_id": category, **row} for (video, category), row in rows.items()]
    return {"dataset_results": figures, "video_np_results": listed}


def _figures_of_pairs(
    pairs: Iterable[VideoPair],
    targets: VideoTargets,
    iou_type: str,
    threshold: float,
    prefix: str,
    rows: dict[tuple[int, int], dict[str, Any]],
) -> dict[str, float]:
    """AP, HOTA and concept F1 of one kind; adds what each pair says for itself to `rows`."""
    precision, scores, tracking = VideoAP(), [], {}
    for pair in pairs:
        overlap = track_overlap(pair.predictions, pair.targets, pair.num_frames, iou_type)
        precision.add(pair, overlap)
        score = score_video_pair(pair, overlap, threshold)
        scores.append(score)
        row = rows.setdefault(pair.key, {})
        row |= _counts(score, _KINDS[iou_type])
        if pair.targets or any(track.score > threshold for track in pair.predictions):
            fields = pair_hota(pair, overlap, threshold)
            tracking[pair.key] = fields
            row |= {f"{_KINDS[iou_type]}_{name}": float(fields[name].mean()) for name in HOTA_NAMES}
    ranked = precision.compute()
    figures = {f"{prefix}_mAP_50_95": precision.compute(per_phrase=True)["AP"]}
    figures |= {f"{prefix}_phrase_ap_{level}": ranked[f"AP{level}".removesuffix("50_95")] for level in _LEVELS}
    figures |= _tracking(tracking.values(), f"{prefix}_all_phrase_")
    if challenging := _challenging(targets):
        figures |= _tracking([tracking[key] for key in challenging], f"{prefix}_challenging_phrase_")
    if targets.asked is not None and scores:
        figures |= _concept_figures(scores, f"{prefix}_demo_")
    return figures


def _tracking(results: Collection[Mapping[str, Any]], prefix: str) -> dict[str, float]:
    combined = combine_hota(results) if results else dict.fromkeys(HOTA_NAMES, 0.0)
    return {prefix + name: value for name, value in combined.items()}


def _challenging(targets: VideoTargets) -> list[tuple[int, int]]:
    """Pairs with the tag, where every annotation says which tags it has."""
    if any(track.tags is None for track in targets.tracks):
        return []
    tagged = [(one.video_id, one.category_id) for one in targets.tracks if _CHALLENGING in (one.tags or ())]
    return list(dict.fromkeys(tagged))


def _concept_figures(scores: Sequence[PairScore], prefix: str) -> dict[str, float]:
    values = concept_f1(scores)
    figures: dict[str, float] = {}
    for level, suffix in _LEVELS.items():
        figures |= {f"{prefix}{key}_{level}": values[name + suffix] for key, name in _F1_NAMES.items()}
        # The reference divides cgF1 by F1 at single thresholds: the same number, or 0 / 0 where no object is found.
        figures[f"{prefix}ilmcc_{level}"] = values["IL_MCC"]
    return figures


def _counts(score: PairScore, kind: str) -> dict[str, float]:
    """True and false positives, misses and F1 of one pair; F1 is 1 where nothing is there and nothing was found."""
    found, total = score.true_positives, score.num_predictions + score.num_targets
    columns = {
        "TP": found,
        "FP": score.num_predictions - found,
        "FN": score.num_targets - found,
        "F1": 2 * found / total if total else found + 1.0,
    }
    row = {f"{kind}_{name}_50_95": float(values.mean()) for name, values in columns.items()}
    for level in (0.5, 0.75):
        at = [math.isclose(level, one) for one in IOU_THRESHOLDS].index(True)
        row |= {f"{kind}_{name}_{level * 100:.0f}": float(values[at]) for name, values in columns.items()}
    return row


def _videos(tracks: Sequence[Track], targets: VideoTargets) -> Iterable[tuple[list[Track], list[Track], int]]:
    """Of each video its tracks, its objects and its number of frames."""
    found: dict[int, list[Track]] = {video: [] for video in targets.videos}
    there: dict[int, list[Track]] = {video: [] for video in targets.videos}
    for table, all_tracks in ((found, tracks), (there, targets.tracks)):
        for track in all_tracks:
            table[track.video_id].append(track)
    return [(found[video], there[video], info.num_frames) for video, info in targets.videos.items()]
