"""Time and memory of scoring picture-phrase pairs, next to pycocotools' own mask IoU on the same masks.

usage: python benchmarks/evaluation_speed.py [--pairs 100000] [--masks 5] [--side 512]

Every pair has MASKS objects and MASKS answers: ellipses near one another, as run-length codes. Three measurements, each
in a process of its own: `iou` calls pycocotools.mask.iou once for each pair; `score` matches the same records and
computes cgF1 (`evaluate_concepts`); `file` is all that `sam3-hf evaluate` does on JSON files but the report: reading,
checking, masks and boxes, 19 thresholds, counting, 1000 bootstrap samples. Making the masks is not measured. Memory is
the peak of the process; `growth_gb` what scoring added to the records in memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DISTINCT = 400  # different pairs; they come again and again, which no measured code can notice


def ellipses(rng: np.random.Generator, side: int, number: int) -> np.ndarray:
    """Centre and half axes (number, 4) of ellipses that reach a fifth of the picture at most."""
    return np.concatenate([rng.uniform(0, side, (number, 2)), rng.uniform(side / 50, side / 5, (number, 2))], axis=1)


def drawn(shapes: np.ndarray, side: int) -> list[dict[str, Any]]:
    from pycocotools import mask as mask_utils

    y, x = np.mgrid[:side, :side]
    masks = [((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1 for cx, cy, rx, ry in shapes]
    codes = mask_utils.encode(np.asfortranarray(np.stack(masks, axis=2).astype(np.uint8)))
    return [{"size": [side, side], "counts": code["counts"].decode()} for code in codes]


def make_files(folder: Path, pairs: int, masks: int, side: int) -> None:
    """annotations.json and results.json, as SA-Co has them."""
    from pycocotools import mask as mask_utils

    rng = np.random.default_rng(0)
    made = []
    for _ in range(min(DISTINCT, pairs)):
        there = ellipses(rng, side, masks)
        near = there + rng.normal(0, side / 60, there.shape)
        near[:, 2:] = np.maximum(near[:, 2:], side / 60)
        sides = []
        for codes in (drawn(there, side), drawn(near, side)):
            boxes = mask_utils.toBbox([{**code, "counts": code["counts"].encode()} for code in codes]).tolist()
            sides.append([{"category_id": 1, "segmentation": c, "bbox": b} for c, b in zip(codes, boxes, strict=True)])
        made.append((*sides, rng.random(masks).round(4).tolist()))
    images, annotations, results = [], [], []
    for number in range(pairs):
        there, found, scores = made[number % len(made)]
        place = {"image_id": number + 1}
        images.append(
            {"id": number + 1, "text_input": "thing", "height": side, "width": side, "is_instance_exhaustive": 1}
        )
        annotations += [{"id": len(annotations) + at, **place, **one} for at, one in enumerate(there, start=1)]
        results += [{**place, **one, "score": score} for one, score in zip(found, scores, strict=True)]
    categories = [{"id": 1, "name": "object"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))


def measure_iou(folder: Path) -> dict[str, float]:
    from pycocotools import mask as mask_utils

    truth = json.loads((folder / "annotations.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    pairs: list[tuple[list[Any], list[Any]]] = [([], []) for _ in truth["images"]]
    for side, entries in enumerate((results, truth["annotations"])):
        for one in entries:
            code = one["segmentation"]
            pairs[one["image_id"] - 1][side].append({"size": code["size"], "counts": code["counts"].encode()})
    start = time.process_time()
    total = 0.0
    for found, there in pairs:
        total += float(mask_utils.iou(found, there, [0] * len(there)).sum())
    return {"seconds": time.process_time() - start, "sum_of_ious": total}


def measure_score(folder: Path) -> dict[str, float]:
    from sam3_hf.evaluation import evaluate_concepts, load_predictions, load_targets

    targets = load_targets(folder / "annotations.json")
    predictions = load_predictions(folder / "results.json", targets)
    before, start = peak_gb(), time.process_time()
    figures = evaluate_concepts(predictions, targets)
    seconds = time.process_time() - start
    return {"seconds": seconds, "growth_gb": peak_gb() - before, "cgF1": figures["positive_micro_F1"]}


def measure_file(folder: Path) -> dict[str, float]:
    from sam3_hf.evaluation.annotations import load_annotations
    from sam3_hf.evaluation.results import load_results
    from sam3_hf.evaluation.scoring import score_results

    start = time.process_time()
    annotated = load_annotations(folder / "annotations.json")
    results = load_results(folder / "results.json", annotated)
    read, before = time.process_time(), peak_gb()
    figures = score_results(annotated, results).metrics
    done = time.process_time()
    return {
        "seconds": done - start,
        "reading": read - start,
        "scoring": done - read,
        "growth_gb": peak_gb() - before,
        "cgF1": figures["positive_micro_F1"],
    }


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--masks", type=int, default=5)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--inside", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    measures = {"iou": measure_iou, "score": measure_score, "file": measure_file}
    if options.inside:
        what, folder = options.inside
        print(json.dumps(measures[what](Path(folder)) | {"peak_gb": peak_gb()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), options.pairs, options.masks, options.side)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e9
        print(
            f"{options.pairs} pairs, {options.masks} masks each, {options.side} px, {size:.2f} GB of JSON", flush=True
        )
        seconds: dict[str, float] = {}
        for what in measures:
            command = [sys.executable, __file__, "--inside", what, folder]
            figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            seconds[what] = figures["seconds"]
            line = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            print(f"{what}: {line}, {seconds[what] / seconds['iou']:.2f} x iou", flush=True)


if __name__ == "__main__":
    main()
