"""Remake video_rules/expected.json.gz: what the reference's own rules answer to the cases of video_rules_cases.py.

usage: PEERS/python tests/golden/make_video_rules.py   (needs the packages `sam3` 0.1.4, torch, scikit-image; no GPU)

The rules are those of Sam3VideoBase with the released values; a sequence runs its whole planning of a frame, of which
only the tracker's memory and new prompts are left out.
"""

import gzip
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "reference")]

from on_cpu import OnCpu  # noqa: E402

with OnCpu():
    from sam3.model.sam3_tracker_utils import fill_holes_in_mask_scores
    from sam3.model.sam3_tracking_predictor import Sam3TrackerPredictor
    from sam3.model.sam3_video_base import Sam3VideoBase
    from sam3.perflib import nms

import video_rules_cases as cases  # noqa: E402

RELEASED = dict(
    score_threshold_detection=0.5,
    assoc_iou_thresh=0.1,
    det_nms_thresh=0.1,
    new_det_thresh=0.7,
    hotstart_delay=15,
    hotstart_unmatch_thresh=8,
    hotstart_dup_thresh=8,
    suppress_unmatched_only_within_hotstart=True,
    min_trk_keep_alive=-1,
    max_trk_keep_alive=30,
    init_trk_keep_alive=30,
    suppress_overlapping_based_on_recent_occlusion_threshold=0.7,
    fill_hole_area=16,
    recondition_every_nth_frame=16,
    decrease_trk_keep_alive_for_empty_masklets=False,
)
NAMES = {
    "hot_start_delay": "hotstart_delay",
    "hot_start_unmatched": "hotstart_unmatch_thresh",
    "hot_start_duplicate": "hotstart_dup_thresh",
    "suppress_only_in_hot_start": "suppress_unmatched_only_within_hotstart",
    "keep_alive_start": "init_trk_keep_alive",
    "keep_alive_max": "max_trk_keep_alive",
    "keep_alive_min": "min_trk_keep_alive",
    "count_empty_as_missed": "decrease_trk_keep_alive_for_empty_masklets",
    "overlap_iou": "suppress_overlapping_based_on_recent_occlusion_threshold",
    "max_objects": "max_num_objects",
}


def reference(**rules: Any) -> Sam3VideoBase:
    """The reference's session with no networks in it."""
    given = {NAMES[name]: -1 if value is None else value for name, value in rules.items()}
    return Sam3VideoBase(detector=None, tracker=None, **{**RELEASED, **given})


def ranks(scores: np.ndarray) -> np.ndarray:
    """Scores in the same order, without equal ones: the lower index is the better one, as a stable sort has it."""
    order = np.argsort(-scores, kind="stable")
    ranked = np.empty(len(scores), dtype=np.float32)
    ranked[order] = np.arange(len(scores), 0, -1)
    return ranked


def detections(masks: np.ndarray, scores: np.ndarray, nms_iou: float) -> list[int]:
    """The reference's `nms_masks`, with ties resolved as on CUDA, where the sort is stable."""
    on_cpu = nms.generic_nms_cpu
    nms.generic_nms = lambda ious, probs, threshold: on_cpu(ious, torch.from_numpy(ranks(probs.numpy())), threshold)
    keep = nms.nms_masks(torch.from_numpy(scores), torch.from_numpy(masks), 0.5, nms_iou)
    return torch.nonzero(keep).flatten().tolist()


def associations(
    detection_masks: np.ndarray, detection_scores: np.ndarray, track_masks: np.ndarray, track_ids: list[int]
) -> dict[str, Any]:
    new, unmatched, matches, recondition, empty = reference()._associate_det_trk(
        torch.from_numpy(detection_masks),
        detection_scores,
        torch.from_numpy(track_masks),
        np.array(track_ids, dtype=np.int64),
    )
    return {
        "new": new.tolist(),
        "unmatched": unmatched.tolist(),
        "empty": empty.tolist(),
        "matches": [[d, ids.tolist()] for d, ids in matches.items() if len(ids)],
        "recondition": [[int(track), int(d)] for track, d in recondition.items()],
    }


def limits(new: np.ndarray, scores: np.ndarray, max_objects: int, num_live: int) -> list[int]:
    room = min(len(new), max_objects - num_live)
    return reference()._drop_new_det_with_obj_limit(new, ranks(scores), room).tolist()


def occlusions(
    masks: np.ndarray,
    ids: list[int],
    last_occluded: dict[int, int],
    removed: list[int],
    frame: int,
    overlap_iou: float,
    reverse: bool,
) -> dict[str, Any]:
    before = {
        "obj_ids_all_gpu": np.array(ids),
        "obj_id_to_last_occluded": {i: torch.tensor([f]) for i, f in last_occluded.items()},
    }
    after: dict[str, Any] = {"obj_id_to_last_occluded": {}}
    given = torch.from_numpy(masks)
    result = reference(overlap_iou=overlap_iou)._suppress_overlapping_based_on_recent_occlusion(
        frame, given.clone(), before, after, set(removed), reverse
    )
    suppressed = (result != given).flatten(1).any(1) if len(ids) else torch.zeros(0)
    assert (result[suppressed.bool()] == -10).all()
    occluded = after["obj_id_to_last_occluded"]
    return {
        "suppressed": suppressed.nonzero().flatten().tolist(),
        "last_occluded": sorted([int(i), int(f)] for i, f in occluded.items() if i not in removed),
    }


def fills(logits: np.ndarray, max_area: int) -> dict[str, list[int]]:
    given = torch.from_numpy(logits)[:, None]
    result = fill_holes_in_mask_scores(given, max_area) if len(given) else given
    assert result.dtype == torch.float32
    filled, removed = (result != given) & (result == 0.1), (result != given) & (result == -0.1)
    assert torch.equal(result, torch.where(filled, 0.1, torch.where(removed, -0.1, given)))
    return {
        name: where.flatten().nonzero().flatten().tolist() for name, where in (("filled", filled), ("removed", removed))
    }


def predictor() -> Sam3TrackerPredictor:
    """A predictor whose parts were never made: its rules need none of them."""
    made = Sam3TrackerPredictor.__new__(Sam3TrackerPredictor)
    torch.nn.Module.__init__(made)
    return made


def shrinks(logits: np.ndarray) -> list[int]:
    given = torch.from_numpy(logits)[:, None]
    result = predictor()._suppress_object_pw_area_shrinkage(given)
    suppressed = (result <= -10).flatten(1).all(1)
    assert torch.equal(result, torch.where(suppressed[:, None, None, None], given.clamp(max=-10), given))
    return suppressed.nonzero().flatten().tolist()


def shows(masks: np.ndarray, scores: np.ndarray) -> str:
    shown = torch.from_numpy(masks)
    if len(shown) > 1:  # as in Sam3VideoInference._postprocess_output
        constrain = predictor()._apply_object_wise_non_overlapping_constraints
        shown = constrain(shown[:, None], torch.from_numpy(scores)[:, None], background_value=0)[:, 0] > 0
    return np.packbits(shown.numpy()).tobytes().hex()


class Sequence:
    """The reference's planning, frame after frame."""

    def __init__(self, rules: dict[str, Any]) -> None:
        self.session = reference(**rules)
        self.session._tracker_update_memories = lambda *args, **kwargs: None
        self.session._recondition_masklets = lambda *args, **kwargs: None
        self.metadata = self.session._initialize_metadata()

    def step(
        self,
        frame: int,
        reverse: bool,
        detection_masks: np.ndarray,
        detection_scores: np.ndarray,
        track_masks: np.ndarray,
        track_ids: list[int],
    ) -> dict[str, Any]:
        assert self.metadata["obj_ids_all_gpu"].tolist() == track_ids
        # A frame that is gone through again keeps what was hidden on it before: that is the caller's, not the rules'.
        self.metadata["rank0_metadata"]["suppressed_obj_ids"].clear()
        tracked = torch.from_numpy(track_masks)
        plan, self.metadata = self.session.run_tracker_update_planning_phase(
            frame_idx=frame,
            num_frames=200,
            reverse=reverse,
            det_out={
                "mask": torch.from_numpy(detection_masks),
                "scores": torch.from_numpy(detection_scores),
                "bbox": torch.zeros(len(detection_scores), 4),
            },
            tracker_low_res_masks_global=tracked,  # changed in place where suppressed
            tracker_obj_scores_global=torch.zeros(len(track_ids)),
            tracker_metadata_prev=self.metadata,
            tracker_states_local=[],
        )
        removed = sorted(int(track) for track in plan["obj_ids_newly_removed"])
        kept = self.metadata["rank0_metadata"]
        live = set(self.metadata["obj_ids_all_gpu"].tolist())
        return {
            "born": [[int(i), int(d)] for i, d in zip(plan["new_det_obj_ids"], plan["new_det_fa_inds"], strict=True)],
            "dropped": int(plan["num_obj_dropped_due_to_limit"]),
            "removed": removed,
            "hidden": sorted(int(i) for i in kept["suppressed_obj_ids"][frame] if i not in removed),
            "suppressed": [i for i, mask in zip(track_ids, tracked, strict=True) if (mask == -10).all()],
            "first_frame": numbers(kept["obj_first_frame_idx"], live),
            "keep_alive": numbers(kept["trk_keep_alive"], live),
            "unmatched": numbers({i: len(frames) for i, frames in kept["unmatched_frame_inds"].items()}, live),
            "last_occluded": numbers(self.metadata["obj_id_to_last_occluded"], live),
        }


def numbers(values: dict[int, Any], live: set[int]) -> list[list[int]]:
    return sorted([int(track), int(value)] for track, value in values.items() if track in live)


def sequence(seed: int) -> list[dict[str, Any]]:
    answers = cases.play(seed, Sequence(cases.sequence_rules(seed)).step)
    return [cases.shortened(answer, index) for index, answer in enumerate(answers)]


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # each frame that is at its limit warns
    asked: list[Callable[..., Any]] = [detections, associations, limits, occlusions, fills, shrinks, shows]
    stored: dict[str, Any] = {}
    with torch.inference_mode():
        for ask in asked:
            name = ask.__name__
            stored[name] = [ask(**getattr(cases, name)(seed)) for seed in range(cases.NUM_CASES[name])]
        stored["sequences"] = [sequence(seed) for seed in range(cases.NUM_SEQUENCES)]
    target = HERE / "video_rules" / "expected.json.gz"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(gzip.compress(json.dumps(stored, separators=(",", ":")).encode(), mtime=0))
    print(f"{target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
