"""Random inputs for the rules of the video session, the same for the reference (make_video_rules.py) and for the test.

All come from `np.random.RandomState`, whose numbers numpy has frozen, so that only seeds and answers are stored.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

NUM_CASES = {
    "detections": 600,
    "associations": 2400,
    "limits": 300,
    "occlusions": 600,
    "fills": 300,
    "shrinks": 400,
    "shows": 400,
}
NUM_SEQUENCES, NUM_FRAMES = 200, 32
DECISIONS = ("born", "dropped", "removed", "hidden", "suppressed")
NUMBERS = ("first_frame", "keep_alive", "unmatched", "last_occluded")
SCORES = (0.5, 0.7, 0.8, 0.4999, 0.5001, 0.6999, 0.7001, 0.9, 0.3, 0.95)
# (common pixels, pixels of the larger mask): intersection over union is on every threshold, and just beside it.
NESTED = (
    (1, 10),
    (2, 20),
    (3, 20),
    (5, 10),
    (10, 20),
    (9, 20),
    (7, 10),
    (14, 20),
    (8, 10),
    (16, 20),
    (15, 20),
    (1, 20),
)


def random_mask(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """A bool mask: mostly a rectangle, else noise, nothing, or everything."""
    mask = np.zeros((height, width), dtype=bool)
    kind = rng.choice(["rectangle", "noise", "empty", "full"], p=[0.7, 0.15, 0.1, 0.05])
    if kind == "rectangle":
        y, x = rng.randint(0, height), rng.randint(0, width)
        mask[y : y + rng.randint(1, height + 1), x : x + rng.randint(1, width + 1)] = True
    elif kind == "noise":
        mask = rng.random_sample((height, width)) < rng.choice([0.1, 0.5, 0.9])
    return mask | (kind == "full")


def logits_of(rng: np.random.RandomState, masks: np.ndarray) -> np.ndarray:
    """Float32 logits that are above 0 in the masks, 0 at some pixels outside."""
    size = rng.random_sample(masks.shape) * 4 + 0.01
    outside = np.where(rng.random_sample(masks.shape) < 0.1, 0, -size)
    return np.where(masks, size, outside).astype(np.float32)


def random_masks(rng: np.random.RandomState, count: int, height: int, width: int) -> np.ndarray:
    """Bool masks, of which some are equal or nested, so that overlaps lie on the thresholds."""
    masks = np.zeros((count, height, width), dtype=bool)
    for index in range(count):
        masks[index] = random_mask(rng, height, width)
        if index and rng.random_sample() < 0.3:
            masks[index] = masks[rng.randint(index)]
        if index and rng.random_sample() < 0.4:
            inner, outer = NESTED[rng.randint(len(NESTED))]
            pixels = rng.permutation(height * width)[:outer]
            for place, number in ((index, inner), (rng.randint(index), outer)):
                masks[place] = False
                masks[place].ravel()[pixels[:number]] = True
    return masks


def random_scores(rng: np.random.RandomState, count: int) -> np.ndarray:
    """Float32 scores, many of them on a threshold or beside it, some equal."""
    return np.where(rng.random_sample(count) < 0.7, rng.choice(SCORES, count), rng.random_sample(count)).astype("f4")


def detections(seed: int) -> dict[str, Any]:
    """What a detector gives: logits, scores."""
    rng = np.random.RandomState(seed)
    count = rng.randint(0, 12)
    masks = logits_of(rng, random_masks(rng, count, 12, 12))
    return {"masks": masks, "scores": random_scores(rng, count), "nms_iou": float(rng.choice([0.1, 0.1, 0.5, 0.8]))}


def associations(seed: int) -> dict[str, Any]:
    """Detections and tracks; the first ones of either are made together, so that they overlap."""
    rng = np.random.RandomState(10_000 + seed)
    num_detections, num_tracks = rng.randint(0, 6, size=2)
    sizes = {
        "same": [(12, 12)] * 2,
        "coarse": [(8, 8), (12, 12)],
        "fine": [(12, 12), (8, 8)],
        "turned": [(8, 12), (12, 8)],
    }
    kind = rng.choice(list(sizes), p=[0.7, 0.1, 0.1, 0.1])
    if kind == "same":
        masks = random_masks(rng, num_detections + num_tracks, 12, 12)
        masks = masks[rng.permutation(len(masks))]
        detected, tracked = masks[:num_detections], masks[num_detections:]
    else:
        big = random_masks(rng, num_detections + num_tracks, 24, 24)
        picked = [big[:, :: 24 // height, :: 24 // width] for height, width in sizes[kind]]
        detected, tracked = picked[0][:num_detections], picked[1][-num_tracks:] if num_tracks else picked[1][:0]
    return {
        "detection_masks": logits_of(rng, detected),
        "detection_scores": random_scores(rng, num_detections),
        "track_masks": logits_of(rng, tracked),
        "track_ids": rng.choice(40, num_tracks, replace=False).tolist(),
    }


def limits(seed: int) -> dict[str, Any]:
    """New detections, how many there may be, and how many there are."""
    rng = np.random.RandomState(20_000 + seed)
    scores = random_scores(rng, rng.randint(1, 12))
    new = np.flatnonzero(rng.random_sample(len(scores)) < 0.6)
    max_objects = rng.randint(1, 8)
    return {"new": new, "scores": scores, "max_objects": max_objects, "num_live": rng.randint(0, max_objects + 1)}


def occlusions(seed: int) -> dict[str, Any]:
    """Masks of tracks, when each was last occluded (some have no entry), and which are being removed."""
    rng = np.random.RandomState(30_000 + seed)
    count = rng.randint(0, 7)
    ids = rng.choice(40, count, replace=False).tolist()
    return {
        "masks": logits_of(rng, random_masks(rng, count, 12, 12)),
        "ids": ids,
        "last_occluded": {i: int(rng.choice([-1, -1, 3, 5, 9, 12])) for i in ids if rng.random_sample() < 0.8},
        "removed": [i for i in ids if rng.random_sample() < 0.2],
        "frame": int(rng.randint(13, 20)),
        "overlap_iou": float(rng.choice([0.7, 0.7, 0.5])),
        "reverse": bool(rng.random_sample() < 0.4),
    }


def fills(seed: int) -> dict[str, Any]:
    """Logits with holes and specks, at even and odd sizes."""
    rng = np.random.RandomState(40_000 + seed)
    shape = (rng.randint(0, 4), *(int(side) for side in rng.randint(1, 24, size=2)))
    share = rng.choice([0.05, 0.2, 0.4, 0.5, 0.6, 0.8, 0.95], shape[0])
    masks = rng.random_sample(shape) < share[:, None, None]
    return {"logits": logits_of(rng, masks), "max_area": int(rng.choice([16, 16, 16, 1, 3, 0]))}


def shrinks(seed: int) -> dict[str, Any]:
    """Logits that compete for pixels, many of them equal."""
    rng = np.random.RandomState(50_000 + seed)
    logits = logits_of(rng, random_masks(rng, rng.randint(1, 6), 10, 10))
    return {"logits": np.round(logits * 2) / 2 if rng.random_sample() < 0.5 else logits}


def shows(seed: int) -> dict[str, Any]:
    """Masks to show and their scores, some equal, some not above 0."""
    rng = np.random.RandomState(60_000 + seed)
    count = rng.randint(1, 6)
    scores = random_scores(rng, count)
    low = rng.random_sample(count) < 0.1
    return {
        "masks": random_masks(rng, count, 8, 8),
        "scores": np.where(low, rng.choice([0, -1e4]), scores).astype("f4"),
    }


def sequence_rules(seed: int) -> dict[str, Any]:
    """Rules for one sequence, by the names of `VideoRules`."""
    rng = np.random.RandomState(70_000 + seed)
    delay = int(rng.choice([0, 4, 8, 15]))
    return {
        "hot_start_delay": delay,
        "hot_start_unmatched": int(rng.randint(0, delay + 1)),
        "hot_start_duplicate": int(rng.randint(0, delay + 1)),
        "suppress_only_in_hot_start": bool(rng.random_sample() < 0.4),
        "keep_alive_start": int(rng.randint(0, 4)),
        "keep_alive_max": int(rng.randint(4, 8)),
        "keep_alive_min": int(rng.randint(-4, 1)),
        "count_empty_as_missed": bool(rng.random_sample() < 0.5),
        "overlap_iou": float(rng.choice([0.7, 0.7, 0.5, 0.0])),
        "max_objects": int(rng.randint(2, 8)) if rng.random_sample() < 0.3 else None,
    }


def sequence_order(seed: int) -> list[tuple[int, bool]]:
    """Frames in the order they are gone through, each with whether this is backwards."""
    rng = np.random.RandomState(80_000 + seed)
    kind = rng.choice(["forward", "backward", "forth and back", "back and forth"], p=[0.4, 0.2, 0.3, 0.1])
    first = int(rng.randint(0, 50))
    half = NUM_FRAMES // 2
    up = [(first + step, False) for step in range(NUM_FRAMES)]
    down = [(first + NUM_FRAMES - step, True) for step in range(NUM_FRAMES)]
    if kind == "forth and back":
        return up[:half] + [(frame, True) for frame, _ in reversed(up[:half])]
    if kind == "back and forth":
        return down[:half] + [(frame, False) for frame, _ in reversed(down[:half])]
    return up if kind == "forward" else down


def play(seed: int, step: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """What `step` answers on each frame of a sequence in which tracks lose, find, share and change their objects.

    Objects stand in tiles of a 12x12 picture. `step(frame, reverse, detection_masks, detection_scores, track_masks,
    track_ids)` answers with `born`, pairs of a new id and its detection, `removed`, and anything else.
    """
    rng = np.random.RandomState(90_000 + seed)
    tiles = np.zeros((4, 12, 12), dtype=bool)
    for place, (y, x) in enumerate([(0, 0), (0, 6), (6, 0), (6, 6)]):
        tiles[place, y : y + 5, x : x + rng.randint(3, 6)] = True
    steadiness, presence = rng.choice([0.3, 0.6, 0.9], 2)
    tile_of: dict[int, int] = {}
    answers = []
    for frame, reverse in sequence_order(seed):
        seen = [place for place in rng.permutation(4) if rng.random_sample() < presence]
        detected = np.zeros((len(seen), 12, 12), dtype=bool)
        for index, place in enumerate(seen):
            detected[index] = tiles[place]
        tracked = np.zeros((len(tile_of), 12, 12), dtype=bool)
        for index, (track, place) in enumerate(tile_of.items()):
            strays, widens = rng.random_sample(2) < (0.04, 0.15)
            tile_of[track] = rng.randint(4) if strays else place
            both = tiles[tile_of[track]] | (tiles[rng.randint(4)] & widens)
            tracked[index] = both & _thinned(rng, steadiness)
        scores = rng.permutation([0.6, 0.7, 0.75, 0.9]).astype(np.float32)[: len(seen)]
        answer = step(frame, reverse, logits_of(rng, detected), scores, logits_of(rng, tracked), list(tile_of))
        tile_of |= {track: seen[detection] for track, detection in answer["born"]}
        tile_of = {track: place for track, place in tile_of.items() if track not in answer["removed"]}
        answers.append(answer)
    return answers


def shortened(answer: dict[str, Any], index: int) -> dict[str, Any]:
    """What is stored of the answer on a frame: all decisions, and on every eighth frame the numbers behind them."""
    wanted = {key: answer[key] for key in DECISIONS if answer[key]}
    return wanted | ({key: answer[key] for key in NUMBERS} if index % 8 == 7 else {})


def _thinned(rng: np.random.RandomState, steadiness: float) -> np.ndarray:
    """A bool picture: all, a part (matched but not confirmed), or nothing."""
    if rng.random_sample() < steadiness:
        return np.ones((12, 12), dtype=bool)
    return rng.random_sample((12, 12)) < rng.choice([0.0, 0.3, 0.45, 0.7])
