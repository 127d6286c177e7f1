"""LVIS's average precision equals LVIS's own evaluator on stored cases (made by evaluation/make_lvis_ap.py)."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sam3_hf.evaluation.annotations import load_annotations
from sam3_hf.evaluation.results import load_results
from sam3_hf.evaluation.scoring import ScoreSettings, score_results

CASES = json.loads(gzip.decompress((Path(__file__).parent / "evaluation" / "lvis_ap.json.gz").read_bytes()))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_equals_lvis(case: dict[str, Any]) -> None:
    annotated = load_annotations(case["annotations"])
    assert annotated.kind == "lvis"
    figures = score_results(annotated, load_results(case["results"], annotated), ScoreSettings(bootstrap=0)).metrics
    for kind, prefix in (("segm", "mask"), ("bbox", "box")):
        ours = {name: figures[f"{prefix}_{name}"] for name in case["expected"][kind]}
        assert ours == pytest.approx(case["expected"][kind], abs=1e-6, rel=0)
    assert 0.05 < figures["mask_AP"] < 0.95
