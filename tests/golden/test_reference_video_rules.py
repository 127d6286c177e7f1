"""The rules of the video session equal facebookresearch/sam3's, case for case (stored by make_video_rules.py)."""

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam3_hf.ops.components import fill_holes_and_remove_specks
from sam3_hf.video import rules as video

HERE = Path(__file__).parent
EXPECTED = json.loads(gzip.decompress((HERE / "video_rules" / "expected.json.gz").read_bytes()))


@pytest.fixture(scope="module", autouse=True)
def cases() -> Iterator[Any]:
    """The module that draws the inputs; one thread, as more only wait for one another on masks this small."""
    sys.path.insert(0, str(HERE))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        import video_rules_cases

        yield video_rules_cases
    finally:
        torch.set_num_threads(threads)
        sys.path.remove(str(HERE))


def both(cases: Any, name: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Inputs and stored answer of each case."""
    assert len(EXPECTED[name]) == cases.NUM_CASES[name]
    for seed, expected in enumerate(EXPECTED[name]):
        yield getattr(cases, name)(seed), expected


def test_detections(cases: Any) -> None:
    for case, expected in both(cases, "detections"):
        rules = video.VideoRules(nms_iou=case["nms_iou"])
        kept = video.keep_detections(torch.from_numpy(case["masks"]), torch.from_numpy(case["scores"]), rules)
        assert kept.tolist() == expected


def associated(answer: video.Association) -> dict[str, Any]:
    """An association as it is stored: lists, in the order in which it was made."""
    return {
        "new": list(answer.new),
        "unmatched": list(answer.unmatched),
        "empty": list(answer.empty),
        "matches": [[detection, list(ids)] for detection, ids in answer.matches.items()],
        "recondition": [list(pair) for pair in answer.recondition.items()],
    }


def test_associations(cases: Any) -> None:
    for case, expected in both(cases, "associations"):
        tensors = {name: torch.from_numpy(case[name]) for name in case if name != "track_ids"}
        answer = video.associate(**tensors, track_ids=case["track_ids"], rules=video.VideoRules())
        assert associated(answer) == expected


def test_limits(cases: Any) -> None:
    for case, expected in both(cases, "limits"):
        rules = video.VideoRules(max_objects=case["max_objects"])
        kept, dropped = video.limit_new(case["new"].tolist(), torch.from_numpy(case["scores"]), case["num_live"], rules)
        assert list(kept) == expected
        assert dropped == len(case["new"]) - len(expected)


def test_occlusions(cases: Any) -> None:
    for case, expected in both(cases, "occlusions"):
        suppressed, state = video.suppress_overlaps(
            torch.from_numpy(case["masks"]) > 0,
            case["ids"],
            video.LifeState(last_occluded=case["last_occluded"]),
            case["removed"],
            case["frame"],
            video.VideoRules(overlap_iou=case["overlap_iou"]),
            case["reverse"],
        )
        assert suppressed.nonzero().flatten().tolist() == expected["suppressed"]
        assert state.to_dict()["last_occluded"] == expected["last_occluded"]


def test_fills(cases: Any) -> None:
    for case, expected in both(cases, "fills"):
        result = fill_holes_and_remove_specks(torch.from_numpy(case["logits"]), case["max_area"])
        wanted = torch.from_numpy(case["logits"].copy())
        wanted.view(-1)[torch.tensor(expected["filled"], dtype=torch.int64)] = 0.1
        wanted.view(-1)[torch.tensor(expected["removed"], dtype=torch.int64)] = -0.1
        assert torch.equal(result, wanted)


def test_shrinks(cases: Any) -> None:
    for case, expected in both(cases, "shrinks"):
        logits = torch.from_numpy(case["logits"])
        wanted = logits.clone()
        wanted[expected] = logits[expected].clamp(max=-10)
        assert torch.equal(video.suppress_shrunken(logits), wanted)


def test_shows(cases: Any) -> None:
    for case, expected in both(cases, "shows"):
        shown = video.resolve_overlaps(torch.from_numpy(case["masks"]), torch.from_numpy(case["scores"]))
        assert np.packbits(shown.numpy()).tobytes().hex() == expected


class Sequence:
    """The rules in the order in which a session applies them on a frame."""

    def __init__(self, rules: video.VideoRules) -> None:
        self.rules = rules
        self.state = video.LifeState()
        self.next_id = 0

    def step(
        self,
        frame: int,
        reverse: bool,
        detection_masks: np.ndarray,
        detection_scores: np.ndarray,
        track_masks: np.ndarray,
        track_ids: list[int],
    ) -> dict[str, Any]:
        masks, scores, tracked = map(torch.from_numpy, (detection_masks, detection_scores, track_masks))
        association = video.associate(masks, scores, tracked, track_ids, self.rules)
        new, dropped = video.limit_new(association.new, scores, len(track_ids), self.rules)
        new_ids = [self.next_id + place for place in range(len(new))]
        self.next_id += len(new)
        state, removed, hidden = video.advance(self.state, frame, association, new_ids, self.rules, reverse)
        suppressed, self.state = video.suppress_overlaps(
            tracked > 0, track_ids, state, removed, frame, self.rules, reverse
        )
        stored = self.state.to_dict()
        return {
            "born": [[track, detection] for track, detection in zip(new_ids, new, strict=True)],
            "dropped": dropped,
            "removed": sorted(removed),
            "hidden": sorted(hidden),
            "suppressed": [track for track, yields in zip(track_ids, suppressed.tolist(), strict=True) if yields],
            **{name: stored[name] for name in ("first_frame", "keep_alive", "unmatched", "last_occluded")},
        }


def test_sequences(cases: Any) -> None:
    assert len(EXPECTED["sequences"]) == cases.NUM_SEQUENCES
    for seed, expected in enumerate(EXPECTED["sequences"]):
        rules = video.VideoRules(**cases.sequence_rules(seed))
        answers = cases.play(seed, Sequence(rules).step)
        assert [cases.shortened(answer, index) for index, answer in enumerate(answers)] == expected, f"sequence {seed}"


def test_the_cases_are_not_trivial(cases: Any) -> None:
    decided = Counter(key for sequence in EXPECTED["sequences"] for frame in sequence for key in frame)
    assert min(decided[key] for key in cases.DECISIONS) > 50
    found = Counter(key for answer in EXPECTED["associations"] for key in answer if answer[key])
    assert min(found.values()) > 150
    assert sum(len(answer["matches"]) > 1 for answer in EXPECTED["associations"]) > 200
    assert sum(bool(answer["suppressed"]) for answer in EXPECTED["occlusions"]) > 50
    assert sum(bool(answer["filled"]) and bool(answer["removed"]) for answer in EXPECTED["fills"]) > 50
    assert sum(len(answer) > 0 for answer in EXPECTED["shrinks"]) > 50
