"""Concept F1 equals the reference's evaluator on every stored case (made by evaluation/make_reference_metrics.py)."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sam3_hf.evaluation import evaluate_concepts, load_predictions, load_targets
from sam3_hf.evaluation.annotations import load_annotations
from sam3_hf.evaluation.results import load_results
from sam3_hf.evaluation.scoring import ScoreSettings, score_results

TOLERANCE = 1e-6
CASES = json.loads(gzip.decompress((Path(__file__).parent / "evaluation" / "reference_metrics.json.gz").read_bytes()))


def figures(case: dict[str, Any]) -> dict[str, float]:
    annotators = [load_targets(annotations) for annotations in case["annotators"]]
    predictions = load_predictions(case["results"], annotators[0])
    return evaluate_concepts(predictions, list(zip(*annotators, strict=True)), iou_type=case["iou_type"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}, {case['iou_type']}")
def test_equals_the_reference(case: dict[str, Any]) -> None:
    assert figures(case) == pytest.approx(case["expected"], abs=TOLERANCE, rel=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}, {case['iou_type']}")
def test_files_are_scored_as_by_the_reference(case: dict[str, Any]) -> None:
    annotated = load_annotations(case["annotators"])
    settings = ScoreSettings(bootstrap=0, average_precision=False)
    found = score_results(annotated, load_results(case["results"], annotated), settings).metrics
    ours = {name: found[f"cgF1_eval_{case['iou_type']}_{name}"] for name in case["expected"]}
    assert ours == pytest.approx(case["expected"], abs=TOLERANCE, rel=0)


def test_the_cases_are_not_trivial() -> None:
    expected = [case["expected"] for case in CASES]
    assert len(CASES) > 150
    assert sum(0 < one["cgF1"] < 0.9 for one in expected) > 50
    assert {case["iou_type"] for case in CASES} == {"segm", "bbox"}
    assert any(len(case["annotators"]) == 3 for case in CASES)
    assert any(one["positive_macro_F1"] == -1 for one in expected)
