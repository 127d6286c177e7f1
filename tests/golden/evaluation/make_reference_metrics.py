"""Writes reference_metrics.json.gz: random and hand-made cases with what the reference's evaluator says of them.

Needs the reference (PyPI package `sam3`, 0.1.4 when this was last run) and pycocotools, not this package:

    python tests/golden/evaluation/make_reference_metrics.py

A case is `{"name", "iou_type", "annotators": [dataset, ...], "results": [...], "expected": {metric: value}}` in the
COCO format of SA-Co: an `images` entry is one picture-phrase pair, further datasets are further annotators.
"""

import contextlib
import gzip
import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from sam3.eval.cgf1_eval import CGF1Evaluator

TARGET = Path(__file__).with_name("reference_metrics.json.gz")
NUM_RANDOM = 150
SCORES = (0.5, 0.499999, 0.500001, 0.75, 1.0, 0.0, 0.3)


def shape(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A random mask: an ellipse, a rectangle, noise, a few specks, nothing, or everything."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    kind = rng.choice(
        ["ellipse", "rectangle", "noise", "specks", "empty", "full"], p=[0.4, 0.4, 0.05, 0.05, 0.07, 0.03]
    )
    cy, cx = rng.integers(0, height), rng.integers(0, width)
    ry, rx = rng.integers(1, max(2, height // 2)), rng.integers(1, max(2, width // 2))
    if kind == "ellipse":
        return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    if kind == "rectangle":
        return (y >= cy - ry) & (y < cy + ry) & (x >= cx - rx) & (x < cx + rx)
    if kind == "noise":
        return rng.random(size) < 0.5
    if kind == "specks":
        return rng.random(size) < 0.03
    return np.full(size, kind == "full")


def disturbed(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask itself, moved, or with a part cut off."""
    kind = rng.integers(0, 4)
    if kind == 0:
        return mask
    if kind == 1:
        return np.roll(mask, rng.integers(-3, 4, size=2), axis=(0, 1))
    cut = mask.copy()
    lines = cut if kind == 2 else cut.T
    lines[: rng.integers(0, len(lines))] = False
    return cut


def code(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length code."""
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def entry(mask: np.ndarray, image_id: int, box: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """An annotation or a result; the box is the mask's unless given."""
    rle = code(mask)
    bbox = [float(v) for v in mask_utils.toBbox(rle)] if box is None else box
    return {"image_id": image_id, "category_id": 1, "segmentation": rle, "bbox": bbox, **more}


def dataset(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """A dataset of pairs {"size", "objects": [entry, ...], "exhaustive"}."""
    images = [
        {
            "id": number,
            "text_input": f"thing {number}",
            "height": pair["size"][0],
            "width": pair["size"][1],
            "is_instance_exhaustive": pair.get("exhaustive", True),
        }
        for number, pair in enumerate(pairs, start=1)
    ]
    annotations = [
        {**one, "id": number, "area": float(mask_utils.area(one["segmentation"])), "iscrowd": one.get("iscrowd", 0)}
        for number, one in enumerate((one for pair in pairs for one in pair["objects"]), start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}


def jittered(box: list[float], rng: np.random.Generator, is_box: bool) -> list[float]:
    """A box with corners between pixels, where boxes are compared."""
    return [round(float(v) + float(rng.integers(0, 5)) / 4, 2) for v in box] if is_box else [float(v) for v in box]


def random_case(seed: int) -> dict[str, Any]:
    """Some pairs with up to five objects, answers near and far from them, one to three annotators."""
    rng = np.random.default_rng(seed)
    is_box = seed % 4 == 3
    num_annotators = 3 if seed % 3 == 2 else 1
    annotators: list[list[dict[str, Any]]] = [[] for _ in range(num_annotators)]
    results = []
    for image_id in range(1, int(rng.integers(6, 16))):
        size = (int(rng.integers(4, 33)), int(rng.integers(4, 33)))
        there = [shape(rng, size) for _ in range(rng.integers(0, 6) * rng.integers(0, 2))]
        for number, pairs in enumerate(annotators):
            own = there if number == 0 else [disturbed(one, rng) for one in there if rng.random() < 0.8]
            if number and rng.random() < 0.1:
                own = []
            objects = [entry(one, image_id, iscrowd=int(rng.random() < 0.1)) for one in own]
            for one in objects:
                one["bbox"] = jittered(one["bbox"], rng, is_box)
            pairs.append({"size": size, "objects": objects, "exhaustive": bool(rng.random() < 0.95)})
        answers = [disturbed(one, rng) for one in there for _ in range(rng.integers(0, 3))]
        answers += [shape(rng, size) for _ in range(rng.integers(0, 3) * rng.integers(0, 2))]
        for one in answers:
            score = float(rng.choice(SCORES)) if rng.random() < 0.3 else round(float(rng.random()) ** 0.5, 4)
            answer = entry(one, image_id, score=score)
            answer["bbox"] = jittered(answer["bbox"], rng, is_box)
            results.append(answer)
    return {
        "name": f"random {seed}",
        "iou_type": "bbox" if is_box else "segm",
        "annotators": [dataset(pairs) for pairs in annotators],
        "results": results,
    }


def bar(begin: int, end: int, size: tuple[int, int] = (4, 40)) -> np.ndarray:
    """A mask of the columns `begin` to `end`: IoUs of such masks are simple fractions."""
    mask = np.zeros(size, dtype=bool)
    mask[:, begin:end] = True
    return mask


def hand_made_cases() -> list[dict[str, Any]]:
    """What evaluators get wrong."""
    empty = np.zeros((4, 40), dtype=bool)
    objects = [bar(0, 10), bar(20, 30)]
    # name: pairs of (objects, crowd flags, answers with scores)
    stories: dict[str, list[tuple[list[Any], list[int], list[tuple[np.ndarray, float]]]]] = {
        "no predictions": [(objects, [0, 0], []), ([], [], [])],
        "all negative, nothing found": [([], [], []), ([], [], [])],
        "all negative, something found": [([], [], [(bar(0, 5), 0.9)]), ([], [], [])],
        "absent phrase with a prediction": [(objects, [0, 0], [(objects[0], 0.9)]), ([], [], [(bar(0, 5), 0.9)])],
        "perfect": [(objects, [0, 0], [(one, 0.9) for one in objects]), ([], [], [])],
        "perfect without negatives": [(objects, [0, 0], [(one, 0.9) for one in objects])],
        "exactly wrong": [(objects, [0, 0], []), ([], [], [(bar(0, 5), 0.9)])],
        "duplicates": [(objects, [0, 0], [(one, 0.9) for one in objects * 3]), ([], [], [])],
        "scores at the threshold": [(objects, [0, 0], [(objects[0], 0.5), (objects[1], 0.49999999)]), ([], [], [])],
        "below the threshold": [(objects, [0, 0], [(one, 0.2) for one in objects]), ([], [], [(bar(0, 5), 0.4)])],
        # IoUs of 1/2, 11/20, 3/5, ... 19/20: each meets a threshold exactly
        "exact thresholds": [([bar(0, 20)], [0], [(bar(0, width), 0.9)]) for width in range(10, 21)] + [([], [], [])],
        # both answers fit both objects equally well; sums of IoUs are equal for several matchings
        "ties": [
            ([bar(0, 10), bar(5, 15)], [0, 0], [(bar(0, 10), 0.9), (bar(5, 15), 0.9), (bar(2, 12), 0.9)]),
            ([bar(0, 10), bar(0, 10)], [0, 0], [(bar(0, 10), 0.9), (bar(0, 5), 0.9)]),
            ([bar(0, 10), bar(10, 20)], [0, 0], [(bar(5, 15), 0.9), (bar(5, 15), 0.9)]),
            ([bar(0, 12), bar(0, 16)], [0, 0], [(bar(0, 12), 0.9), (bar(0, 16), 0.9), (bar(0, 9), 0.9)]),
            ([], [], []),
        ],
        "empty masks": [([empty], [0], [(empty, 0.9)]), ([empty], [0], []), ([], [], [(empty, 0.9)]), ([], [], [])],
        "crowd covered": [(objects, [0, 1], [(one, 0.9) for one in objects]), ([], [], [])],
        "crowd alone": [(objects, [1, 1], [(objects[0], 0.9)]), (objects, [1, 1], []), (objects, [0, 0], [])],
        "whole picture": [([bar(0, 40)], [0], [(bar(0, 40), 0.9), (bar(0, 39), 0.9)]), ([], [], [])],
    }
    cases = []
    for name, story in stories.items():
        pairs, results = [], []
        for image_id, (there, crowd, answers) in enumerate(story, start=1):
            marked = [entry(one, image_id, iscrowd=flag) for one, flag in zip(there, crowd, strict=True)]
            pairs.append({"size": (4, 40), "objects": marked})
            results += [entry(one, image_id, score=score) for one, score in answers]
        for iou_type in ("segm", "bbox"):
            annotators = [dataset(pairs)]
            cases.append({"name": name, "iou_type": iou_type, "annotators": annotators, "results": results})
    return [*cases, *annotator_cases()]


def annotator_cases() -> list[dict[str, Any]]:
    """Three people who disagree: on what is there, and on whether anything is."""
    a, b, c = bar(0, 10), bar(20, 30), bar(0, 8)
    # pairs of (objects of each annotator, answers)
    stories = {
        "the best annotator wins": [([[a], [c], [a, b]], [a]), ([[a, b], [a], []], [a, b]), ([[], [], []], [])],
        "one annotator sees nothing": [([[a], [], [b]], []), ([[], [a], [b]], []), ([[a], [], []], [a])],
        "nothing found": [([[a], [a], [a]], []), ([[a], [a], []], []), ([[], [], []], [a])],
        "equal scores": [([[a], [a, a], [b]], [b]), ([[a, b], [b], [a]], [c]), ([[c], [a], [c]], [c, a])],
    }
    cases = []
    for name, story in stories.items():
        annotators = [
            dataset(
                [
                    {"size": (4, 40), "objects": [entry(one, image_id) for one in there[number]]}
                    for image_id, (there, _) in enumerate(story, start=1)
                ]
            )
            for number in range(3)
        ]
        results = [
            entry(one, image_id, score=0.9) for image_id, (_, answers) in enumerate(story, start=1) for one in answers
        ]
        cases.append({"name": name, "iou_type": "segm", "annotators": annotators, "results": results})
    return cases


def expected(case: dict[str, Any]) -> dict[str, float]:
    """What the reference's evaluator returns, without the prefix of its names."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        paths = []
        for number, annotations in enumerate(case["annotators"]):
            paths.append(str(Path(folder) / f"annotator_{number}.json"))
            Path(paths[-1]).write_text(json.dumps(annotations))
        results = Path(folder) / "results.json"
        results.write_text(json.dumps(case["results"]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 0 / 0 where no pair is positive
            figures = CGF1Evaluator(paths, iou_type=case["iou_type"]).evaluate(str(results))
    prefix = f"cgF1_eval_{case['iou_type']}_"
    return {name.removeprefix(prefix): float(value) for name, value in figures.items()}


def main() -> None:
    """Writes the file."""
    cases = [*hand_made_cases(), *(random_case(seed) for seed in range(NUM_RANDOM))]
    for case in cases:
        case["expected"] = expected(case)
    text = json.dumps(cases, separators=(",", ":"))
    TARGET.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(cases)} cases, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
