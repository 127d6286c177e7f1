"""Remake video_metrics/cases.json.gz: random cases with what the reference's evaluators of videos say of them.

usage: PEERS/python tests/golden/make_video_metrics.py DAVIS2017_EVALUATION

Needs the packages `sam3` 0.1.4, pycocotools, opencv-python and scikit-image, not this one, and for J&F a checkout of
github.com/davisvideochallenge/davis2017-evaluation (ac7c43f when this was last run).

A case of "veval" is `{"name", "annotations", "predictions", "expected"}`, the last as `VEvalEvaluator.run_eval` gives
it (None for a figure that is not a number); one of "davis" is `{"name", "size", "found", "there", "expected"}` with
run-length codes of each frame and the statistics of J and F.
"""

import contextlib
import copy
import gzip
import io
import json
import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

TARGET = Path(__file__).parent / "video_metrics" / "cases.json.gz"
NUM_VEVAL, NUM_DAVIS = 90, 40
SCORES = (0.5, 0.499999, 0.500001, 0.75, 0.75, 0.9, 1.0, 0.3, 0.0)
SIZE = (18, 24)


class SerialPool:
    """Stands in for multiprocessing.Pool: the evaluators start eight processes a case."""

    def __init__(self, *arguments: Any) -> None: ...

    def __enter__(self) -> "SerialPool":
        return self

    def __exit__(self, *arguments: Any) -> None: ...

    def map(self, function: Any, values: Any) -> list[Any]:
        return [function(value) for value in values]


def encode(mask: np.ndarray) -> dict[str, Any]:
    code = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def walk(rng: np.random.Generator, num_frames: int) -> list[np.ndarray | None]:
    """An object that moves in steps, may be away for a while, and is sometimes an empty mask."""
    height, width = SIZE
    side = rng.integers(3, 10, 2)
    start, step = rng.integers(0, [height, width]), rng.integers(-2, 3, 2)
    is_round = rng.random() < 0.4
    y, x = np.mgrid[:height, :width]
    masks: list[np.ndarray | None] = []
    for frame in range(num_frames):
        top, left = start + frame * step
        mask = (y >= top) & (y < top + side[0]) & (x >= left) & (x < left + side[1])
        if is_round:
            mask &= ((y - top - side[0] / 2) / side[0]) ** 2 + ((x - left - side[1] / 2) / side[1]) ** 2 < 0.2
        masks.append(mask)
    if rng.random() < 0.5:
        away = sorted(rng.integers(0, num_frames + 1, 2))
        for frame in range(*away):
            masks[frame] = None if rng.random() < 0.8 else np.zeros(SIZE, bool)
    return masks


def disturbed(rng: np.random.Generator, masks: list[np.ndarray | None]) -> list[np.ndarray | None]:
    """What a model might make of an object: shifted, cut, missed on some frames."""
    strength = rng.choice([0, 0, 1, 2, 3])
    result: list[np.ndarray | None] = []
    for mask in masks:
        chance = rng.random()
        if mask is None:
            result.append(None if chance < 0.9 else np.zeros(SIZE, bool))
        elif chance < 0.05 * strength:
            result.append(None)
        else:
            moved = np.roll(mask, rng.integers(-strength, strength + 1, 2), (0, 1))
            result.append(moved & (rng.random(SIZE) > 0.04 * strength) if chance > 0.5 else moved)
    return result


def columns(masks: list[np.ndarray | None], is_truth: bool, rng: np.random.Generator) -> dict[str, list[Any]]:
    """`segmentations`, `bboxes`, `areas` of a track."""
    codes = [None if mask is None else encode(mask) for mask in masks]
    boxes: list[Any] = [None if code is None else [float(v) for v in mask_utils.toBbox(code)] for code in codes]
    if not is_truth and rng.random() < 0.3:  # boxes that are not whole numbers, and zeros in the place of None
        boxes = [[0.0] * 4 if box is None else [v and v + 0.37 * rng.random() for v in box] for box in boxes]
    areas = [None if code is None else int(mask_utils.area(code)) for code in codes]
    return {"segmentations": codes, "bboxes": boxes, "areas": areas}


def veval_case(rng: np.random.Generator, name: str) -> dict[str, Any]:
    height, width = SIZE
    categories = [
        {"id": int(n), "name": f"phrase {n}"} for n in rng.permutation([3, 5, 8, 13, 21])[: rng.integers(1, 6)]
    ]
    videos, annotations, predictions, asked = [], [], [], []
    tagged = rng.random() < 0.3
    for video in range(1, rng.integers(2, 5)):
        num_frames = int(rng.integers(1, 14))
        files = [f"clip{video}/{frame:05d}.jpg" for frame in range(num_frames)]
        info = {"id": video, "video_name": f"clip{video}", "file_names": files, "height": height, "width": width}
        videos.append(info | {"length": num_frames})
        for category in (one["id"] for one in categories):
            objects = [walk(rng, num_frames) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
            objects = [one for one in objects if any(mask is not None and mask.any() for mask in one)]
            asked.append({"video_id": video, "category_id": category, "num_masklets": len(objects)})
            place = {"video_id": video, "category_id": category, "height": height, "width": width}
            is_challenging = rng.random() < 0.6
            for masks in objects:
                truth = place | columns(masks, True, rng) | {"iscrowd": int(rng.random() < 0.05)}
                if tagged:
                    truth["tags"] = ["tracking_challenging_pair"] if is_challenging else []
                annotations.append(truth)
            found = [disturbed(rng, masks) for masks in objects if rng.random() < 0.85]
            found += [walk(rng, num_frames) for _ in range(rng.choice([0, 0, 0, 1, 2]))]
            if len(found) > 1 and rng.random() < 0.5:  # two tracks change their numbers half way
                at = int(rng.integers(0, num_frames + 1))
                found[0], found[1] = found[0][:at] + found[1][at:], found[1][:at] + found[0][at:]
            if found and rng.random() < 0.3:  # one object, found as two, one after the other
                at = int(rng.integers(0, num_frames + 1))
                found += [found[0][:at] + [None] * (num_frames - at), [None] * at + found.pop(0)[at:]]
            for masks in found:
                score = float(rng.choice(SCORES)) if rng.random() < 0.6 else float(rng.random())
                # the name of another phrase now and then, of one that was not asked too
                named = category if rng.random() < 0.85 else int(rng.choice([one["id"] for one in categories]))
                predictions.append(
                    {"video_id": video, "category_id": named, "score": score} | columns(masks, False, rng)
                )
    order = rng.permutation(len(annotations))
    annotations = [annotations[i] | {"id": n} for n, i in enumerate(order, int(rng.integers(0, 2)))]
    asked = [pair | {"id": n} for n, pair in enumerate(asked) if rng.random() < 0.95]
    data = {"videos": videos, "categories": categories, "annotations": annotations, "video_np_pairs": asked}
    return {"name": name, "annotations": data, "predictions": predictions}


def is_possible(case: dict[str, Any]) -> bool:
    """Whether the reference can evaluate it: it fails without annotations, tags of use, or any track that counts."""
    tags = [one["tags"] for one in case["annotations"]["annotations"] if "tags" in one]
    good = [one for one in case["predictions"] if one["score"] > 0.5 and any(one["areas"])]
    return bool(case["annotations"]["annotations"]) and bool(good) and (not tags or any(tags))


def evaluated(case: dict[str, Any]) -> dict[str, Any]:
    from sam3.eval.saco_veval_eval import VEvalEvaluator

    with tempfile.TemporaryDirectory() as folder:
        truth, found = Path(folder) / "truth.json", Path(folder) / "found.json"
        truth.write_text(json.dumps(case["annotations"]))
        found.write_text(json.dumps(case["predictions"]))
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with contextlib.chdir(folder), quiet[0], quiet[1]:  # it writes a log file called "None" where it is run
            result = VEvalEvaluator(str(truth), str(Path(folder) / "result.json")).run_eval(str(found))
    plain = {key: float(value) for key, value in result["dataset_results"].items()}
    plain = {key: None if math.isnan(value) else value for key, value in plain.items()}
    return {"dataset_results": plain, "video_np_results": result["video_np_results"]}


def veval_cases() -> list[dict[str, Any]]:
    import sam3.eval.hota_eval_toolkit.trackeval.eval as hota_eval
    import sam3.eval.saco_veval_evaluators as evaluators
    import sam3.eval.teta_eval_toolkit.eval as teta_eval

    hota_eval.Pool = teta_eval.Pool = SerialPool
    evaluators.int = lambda value: np.asarray(value).item()  # numpy 2.4 takes no array of one number for a number
    cases: list[dict[str, Any]] = []
    seed = 0
    while len(cases) < NUM_VEVAL:
        case = veval_case(np.random.default_rng(seed), f"random {seed}")
        seed += 1
        if is_possible(case):
            cases.append(case | {"expected": evaluated(copy.deepcopy(case))})
    return cases


def davis_cases() -> list[dict[str, Any]]:
    from davis2017.metrics import db_eval_boundary, db_eval_iou
    from davis2017.utils import db_statistics

    cases = []
    for seed in range(NUM_DAVIS):
        rng = np.random.default_rng(seed)
        size = tuple(int(side) for side in rng.integers(20, 160, 2))
        num_frames = int(rng.integers(1, 30))
        there, found = shapes(rng, size, num_frames), shapes(rng, size, num_frames)
        if rng.random() < 0.8:
            found = [np.roll(one, rng.integers(-3, 4, 2), (0, 1)) ^ (rng.random(size) > 0.999) for one in there]
        for masks in (there, found):
            if rng.random() < 0.4:
                masks[int(rng.integers(0, num_frames))][:] = False
        region = np.asarray(db_eval_iou(np.stack(there), np.stack(found)), dtype=float)
        contour = db_eval_boundary(np.stack(there), np.stack(found))
        expected: dict[str, Any] = {"J": region.tolist(), "F": contour.tolist()}
        for key, values in (("J", region), ("F", contour)):
            statistics = [float(value) for value in db_statistics(values)]
            expected |= dict(zip((f"{key}-Mean", f"{key}-Recall", f"{key}-Decay"), statistics, strict=True))
        codes = {"found": [encode(one) for one in found], "there": [encode(one) for one in there]}
        cases.append({"name": f"random {seed}", "size": list(size), **codes, "expected": expected})
    return cases


def shapes(rng: np.random.Generator, size: tuple[int, int], num_frames: int) -> list[np.ndarray]:
    """A moving ellipse, often cut off by the border."""
    y, x = np.mgrid[: size[0], : size[1]]
    centre, step = rng.uniform(0, size), rng.uniform(-2, 2, 2)
    radius = rng.uniform(0.05, 0.5, 2) * size
    path = (centre + frame * step for frame in range(num_frames))
    return [((y - cy) / radius[0]) ** 2 + ((x - cx) / radius[1]) ** 2 <= 1 for cy, cx in path]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.path.insert(0, sys.argv[1])
    warnings.filterwarnings("ignore")
    cases = {"veval": veval_cases(), "davis": davis_cases()}
    TARGET.parent.mkdir(exist_ok=True)
    with gzip.GzipFile(TARGET, "wb", mtime=0) as file:
        file.write(json.dumps(cases, allow_nan=False).encode())
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
