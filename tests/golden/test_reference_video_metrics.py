"""Figures of videos equal the reference's evaluators on every stored case (made by make_video_metrics.py)."""

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3_hf.evaluation import j_and_f, veval_results
from sam3_hf.evaluation.j_and_f import boundary_f, region_j
from sam3_hf.ops.masks import rle_decode

TOLERANCE = 1e-6
CASES = json.loads(gzip.decompress((Path(__file__).parent / "video_metrics" / "cases.json.gz").read_bytes()))
PARTS = [CASES["veval"][start : start + 15] for start in range(0, len(CASES["veval"]), 15)]


@pytest.mark.parametrize("cases", PARTS, ids=lambda cases: f"{cases[0]['name']} to {cases[-1]['name']}")
def test_veval_equals_the_reference(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of phrases that were not asked
            figures = veval_results(case["predictions"], case["annotations"])
        # A number is missing where the reference divides by zero.
        expected = {key: value for key, value in case["expected"]["dataset_results"].items() if value is not None}
        assert {key: figures["dataset_results"][key] for key in expected} == pytest.approx(
            expected, abs=TOLERANCE, rel=0
        ), case["name"]
        assert by_pair(figures["video_np_results"]) == pytest.approx(
            by_pair(case["expected"]["video_np_results"]), abs=TOLERANCE, rel=0
        ), case["name"]


def by_pair(rows: list[dict[str, Any]]) -> dict[tuple[int, int, str], float]:
    return {
        (row["video_id"], row["category_id"], key): value
        for row in rows
        for key, value in row.items()
        if not key.endswith("_id")
    }


@pytest.mark.parametrize("case", CASES["davis"], ids=lambda case: case["name"])
def test_j_and_f_equal_the_official_ones(case: dict[str, Any]) -> None:
    masks = [[rle_decode(code).numpy() for code in case[side]] for side in ("found", "there")]
    region = [region_j(*pair) for pair in zip(*masks, strict=True)]
    contour = [boundary_f(*pair) for pair in zip(*masks, strict=True)]
    assert region == pytest.approx(case["expected"]["J"], abs=TOLERANCE, rel=0)
    assert contour == pytest.approx(case["expected"]["F"], abs=TOLERANCE, rel=0)
    figures = j_and_f(case["found"], case["there"], skip_ends=False)
    expected = {key: value for key, value in case["expected"].items() if "-" in key}
    assert {key: figures[key] for key in expected} == pytest.approx(expected, abs=TOLERANCE, rel=0)
    assert figures["J&F-Mean"] == pytest.approx((expected["J-Mean"] + expected["F-Mean"]) / 2)


def test_the_cases_are_not_trivial() -> None:
    figures = [case["expected"]["dataset_results"] for case in CASES["veval"]]
    for name in ("video_mask_demo_cgf1_micro_50_95", "video_mask_all_phrase_HOTA", "video_bbox_mAP_50_95"):
        assert sum(0.02 < one[name] < 0.9 for one in figures) > 30, name
    assert sum(2 < one["video_mask_teta"] < 90 for one in figures) > 60
    assert sum("video_mask_challenging_phrase_HOTA" in one for one in figures) > 10
    predictions = [one for case in CASES["veval"] for one in case["predictions"]]
    assert sum(one["score"] == 0.5 for one in predictions) > 20
    assert sum(0 in one["areas"] for one in predictions) > 20
    recalls = [case["expected"]["F-Recall"] for case in CASES["davis"]]
    assert np.std(recalls) > 0.2
