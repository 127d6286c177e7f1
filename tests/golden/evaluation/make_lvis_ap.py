"""Writes lvis_ap.json.gz: random small LVIS data sets with what LVIS's own evaluator says of random results.

Needs PyPI packages `lvis` (0.5.3 when this was last run; it wants opencv) and pycocotools, not this package:

    python tests/golden/evaluation/make_lvis_ap.py
"""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

np.float = float  # type: ignore[attr-defined]  # lvis 0.5.3 is older than numpy's removal of this name
from lvis import LVIS, LVISEval, LVISResults  # noqa: E402
from pycocotools import mask as mask_utils  # noqa: E402

TARGET = Path(__file__).with_name("lvis_ap.json.gz")
SIZE = (60, 80)
NUM_CASES, NUM_IMAGES = 8, 20
FREQUENCIES = ("r", "r", "c", "c", "f", "f")
NAMES = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large",
         "APr": "AP_rare", "APc": "AP_common", "APf": "AP_frequent"}  # fmt: skip


def shape(rng: np.random.Generator, near: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """A box xyxy and its filled mask as an entry; near another box, if given."""
    if near is None:
        corner = rng.integers(0, [SIZE[1] - 6, SIZE[0] - 6])
        near = np.concatenate([corner, corner + rng.integers(3, 50, 2)])
    box = np.clip(near + rng.integers(-2, 3, 4), 0, [SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    box[2:] = np.maximum(box[2:], box[:2] + 1)
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[box[1] : box[3], box[0] : box[2]] = 1
    rle = mask_utils.encode(mask)
    x0, y0, x1, y1 = (float(value) for value in box)
    segmentation = {"size": list(SIZE), "counts": rle["counts"].decode()}
    return box, {"segmentation": segmentation, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(mask.sum())}


def case(seed: int) -> dict[str, Any]:
    """Pictures with some categories searched for, some not, some incompletely; answers for all of them."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image in range(1, NUM_IMAGES + 1):
        state = rng.choice(["there", "absent", "incomplete", "unknown"], len(FREQUENCIES), p=[0.35, 0.25, 0.15, 0.25])
        for category, known in enumerate(state, start=1):
            place = {"image_id": image, "category_id": category}
            for _ in range(rng.integers(1, 4) if known in ("there", "incomplete") else 0):
                box, entry = shape(rng)
                annotations.append({"id": len(annotations) + 1, **place, **entry})
                if rng.random() < 0.8:
                    results.append({**place, **shape(rng, box)[1], "score": round(float(rng.random()), 6)})
            for _ in range(rng.integers(0, 2)):
                results.append({**place, **shape(rng)[1], "score": round(float(rng.random()) * 0.8, 6)})
        numbers = {name: [i + 1 for i, one in enumerate(state) if one == name] for name in ("absent", "incomplete")}
        images.append(
            {"id": image, "height": SIZE[0], "width": SIZE[1], "neg_category_ids": numbers["absent"],
             "not_exhaustive_category_ids": numbers["incomplete"], "coco_url": ""}
        )  # fmt: skip
    categories = [{"id": i, "name": f"thing {i}", "frequency": f} for i, f in enumerate(FREQUENCIES, start=1)]
    for one in results:
        one.pop("area")
    return {"annotations": {"images": images, "annotations": annotations, "categories": categories}, "results": results}


def expected(one: dict[str, Any], iou_type: str, folder: Path) -> dict[str, float]:
    """LVIS's own figures."""
    path = folder / "annotations.json"
    path.write_text(json.dumps(one["annotations"]))
    dataset = LVIS(str(path))
    results = json.loads(json.dumps(one["results"]))
    for result in results:
        result.pop("bbox" if iou_type == "segm" else "segmentation")
    evaluation = LVISEval(dataset, LVISResults(dataset, results), iou_type)
    evaluation.run()
    return {ours: float(evaluation.results[theirs]) for theirs, ours in NAMES.items()}


def main() -> None:
    """Writes the file."""
    import tempfile

    logging.disable(logging.INFO)
    cases = [case(seed) for seed in range(NUM_CASES)]
    with tempfile.TemporaryDirectory() as folder:
        for one in cases:
            one["expected"] = {kind: expected(one, kind, Path(folder)) for kind in ("segm", "bbox")}
    TARGET.write_bytes(gzip.compress(json.dumps(cases, separators=(",", ":")).encode(), mtime=0))
    print(f"{len(cases)} cases, {TARGET.stat().st_size} bytes; first: {cases[0]['expected']['segm']}")


if __name__ == "__main__":
    main()
