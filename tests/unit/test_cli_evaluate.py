"""`sam3-hf evaluate` on files: what it writes and prints, and how it names mistakes."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation_toys import ANSWERS, PAIRS, entry, saco, save_pictures
from sam3_hf.cli import main
from sam3_hf.evaluation import evaluate_concepts, load_predictions, load_targets, score_veval

PLOTS = {"precision_recall.png", "calibration.png", "cgf1_over_threshold.png", "domains.png"}
FILES = {"metrics.json", "per_phrase.csv", "report.md", "report.html", "cases.png"}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Annotations of two domains, and predictions."""
    data = saco(PAIRS)
    for image in data["images"]:
        image["source"] = {"a.png": "food", "b.png": "sports"}[image["file_name"]]
    (tmp_path / "truth.json").write_text(json.dumps(data))
    (tmp_path / "found.json").write_text(json.dumps(ANSWERS))
    return tmp_path / "found.json", tmp_path / "truth.json"


def run(files: tuple[Path, Path], output: Path, *more: str) -> int:
    return main(
        ["evaluate", "--predictions", str(files[0]), "--annotations", str(files[1]), "--output", str(output), *more]
    )


def test_files_and_figures(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = save_pictures(tmp_path / "images", ["a.png", "b.png"])
    assert run(files, tmp_path / "out", "--images", str(images), "--bootstrap", "50", "--ap") == 0
    printed = capsys.readouterr()
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | PLOTS
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    targets = load_targets(files[1])
    expected = evaluate_concepts(load_predictions(files[0], targets), targets)
    assert {name: metrics[name] for name in expected} == expected
    boxes = evaluate_concepts(load_predictions(files[0], targets), targets, iou_type="bbox")
    assert {name: metrics[f"box_{name}"] for name in boxes} == boxes
    low, high = metrics["confidence_intervals"]["cgF1"]
    assert low <= metrics["cgF1"] <= high
    assert metrics["per_domain"].keys() == {"food", "sports"} and "mask_AP50" in metrics
    assert metrics["problems"] == {"pairs without an entry, taken as nothing found": 1}
    assert metrics["evaluated"] == {"predictions": "found.json", "annotations": ["truth.json"]}
    assert f"cgF1                     {metrics['cgF1']:10.4f}" in printed.out
    assert "1 pairs without an entry, taken as nothing found (2 'knob')" in printed.err
    rows = list(csv.DictReader((tmp_path / "out" / "per_phrase.csv").read_text().splitlines()))
    assert [row["phrase"] for row in rows] == ["bus", "dial", "knob"] and rows[1]["num_pairs"] == "2"
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert f"{metrics['cgF1']:.4f}" in text and "sports" in text and all(plot in text for plot in PLOTS)


def test_pictures_are_drawn(files: tuple[Path, Path], tmp_path: Path) -> None:
    images = save_pictures(tmp_path / "images", ["a.png", "b.png"])
    assert run(files, tmp_path / "with", "--images", str(images), "--bootstrap", "0") == 0
    assert run(files, tmp_path / "without", "--bootstrap", "0") == 0
    for name in PLOTS | {"cases.png"}:
        with Image.open(tmp_path / "with" / name) as drawn:
            assert min(drawn.size) > 200 and np.ptp(np.asarray(drawn.convert("L"))) > 100
    sheets = [np.asarray(Image.open(tmp_path / name / "cases.png")) for name in ("with", "without")]
    assert sheets[0].shape == sheets[1].shape and not np.array_equal(*sheets)  # noise there, grey here


def test_without_matplotlib_only_plots_are_missing(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files, tmp_path / "with", "--bootstrap", "20") == 0
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(files, tmp_path / "without", "--bootstrap", "20") == 0
    assert {path.name for path in (tmp_path / "without").iterdir()} == FILES
    with_it, without = ((tmp_path / name / "metrics.json").read_text() for name in ("with", "without"))
    assert with_it == without
    assert "not drawn: Precision and recall, Calibration of score against IoU" in capsys.readouterr().err
    report = (tmp_path / "without" / "report.md").read_text()
    assert "Not drawn, because matplotlib is missing" in report and "precision_recall.png" not in report


def test_several_annotators(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = saco([("a.png", "dial", [(0, 0, 10, 10)]), *PAIRS[1:3], ("b.png", "bus", [(0, 0, 5, 5)])])
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert run(files, tmp_path / "one", "--bootstrap", "0") == 0
    words = ["--annotations", str(files[1]), str(tmp_path / "other.json"), "--output", str(tmp_path / "two")]
    assert main(["evaluate", "--predictions", str(files[0]), *words, "--bootstrap", "0"]) == 0
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert two["cgF1"] > one["cgF1"] and one["human_agreement"] == {}
    assert two["human_agreement"].keys() == {"oracle", "random_pair"}
    assert "## Agreement of annotators" in (tmp_path / "two" / "report.md").read_text()


def test_faults_are_errors_or_counted(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files[0].write_text(json.dumps([*ANSWERS, entry(77, (0, 0, 1, 1), score=float("nan"))]))
    assert run(files, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("sam3-hf evaluate: error: ") and error.count("\n") == 1
    assert "1 entries with an unknown image_id (entry 4: 77)" in error and not (tmp_path / "out").exists()
    assert run(files, tmp_path / "out", "--lenient", "--bootstrap", "0") == 0
    assert "1 entries with an unknown image_id (entry 4: 77) (left out)" in capsys.readouterr().err
    problems = json.loads((tmp_path / "out" / "metrics.json").read_text())["problems"]
    assert problems["entries with an unknown image_id"] == 1


def test_nothing_is_replaced_without_being_told(files: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    assert run(files, tmp_path / "out", "--bootstrap", "0") == 0
    before = (tmp_path / "out" / "metrics.json").read_text()
    assert run(files, tmp_path / "out", "--threshold", "0.7", "--bootstrap", "0") == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "metrics.json").read_text() == before
    assert run(files, tmp_path / "out", "--threshold", "0.75", "--bootstrap", "0", "--overwrite") == 0
    assert (tmp_path / "out" / "metrics.json").read_text() != before


MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing given": ([], "give either --predictions with --annotations, or --dataset"),
    "no annotations": (["--predictions", "p.json"], "go together"),
    "both ways": (["--predictions", "p", "--annotations", "a", "--dataset", "d"], "give either"),
    "no images": (["--dataset", "d.json"], "JSON files need --images"),
    "a model with a file": (["--predictions", "p", "--annotations", "a", "--model", "m"], "leave out --model"),
    "one sample": (["--predictions", "p", "--annotations", "a", "--bootstrap", "1"], "--bootstrap takes 0"),
    "threshold": (["--predictions", "p", "--annotations", "a", "--threshold", "1"], "threshold is 1.0"),
    "missing file": (["--predictions", "p", "--annotations", "a"], "there is no annotation file 'a'"),
    "unknown prompts": (
        ["--dataset", "d.json", "--images", "i", "--prompts", "words"],
        "expected text, exemplar, both or",
    ),
    "two models": (
        ["--dataset", "d.json", "--images", "i", "--model", "m", "--peers", "p"],
        "either --model or --peers",
    ),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--output", "out", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_broken_json_is_named(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files[0].write_text("[{")
    assert run(files, tmp_path / "out") == 2
    assert f"the prediction file '{files[0]}' is not JSON" in capsys.readouterr().err


def test_annotated_videos_are_scored_under_the_official_names(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    square = {"size": [4, 4], "counts": [5, 2, 2, 2, 5]}
    annotations = {
        "videos": [{"id": 1, "video_name": "clip", "height": 4, "width": 4, "length": 2}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 7, "segmentations": [square, None]}],
        "video_np_pairs": [{"video_id": 1, "category_id": 7}, {"video_id": 1, "category_id": 9}],
    }
    found = [{"video_id": 1, "category_id": 7, "score": 0.9, "segmentations": [square, None]}]
    files[0].write_text(json.dumps(found))
    files[1].write_text(json.dumps(annotations))
    assert run(files, tmp_path / "out") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics == score_veval(found, annotations)
    assert metrics["video_mask_demo_cgf1_50_95"] > 0.99 and metrics["video_mask_all_phrase_HOTA"] > 0.99
    assert len(json.loads((tmp_path / "out" / "per_pair.json").read_text())["video_np_results"]) == 2
    assert "video_mask_demo_cgf1_50_95" in capsys.readouterr().out
    assert run(files, tmp_path / "lenient", "--lenient") == 2
    assert "--lenient and --definition are for pictures" in capsys.readouterr().err
