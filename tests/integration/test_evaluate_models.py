"""`sam3-hf evaluate` with models: prompts, several processes, kills, pictures that cannot be read, tables of peers."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from evaluation_toys import PAIRS, SIZE, saco, save_pictures
from sam3_hf import Sam3Model, Sam3Processor, tiny_config
from sam3_hf.cli import main
from sam3_hf.data.examples import ConceptExample
from sam3_hf.evaluation import ConceptMetrics, evaluate_model
from sam3_hf.evaluation.annotations import load_annotations
from sam3_hf.training import ConceptExamples, load_saco, to_dataset
from tiny_detectors import save_owlv2

transformers.utils.logging.disable_progress_bar()

REPOSITORY = Path(__file__).resolve().parents[2]
MANY = [(f"{number}.png", phrase, [(number, 0, 10 + number, 10)] if phrase == "dial" else [])
        for number in range(6) for phrase in ("dial", "knob")]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose scores are not all below the least that is kept."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    Sam3Model(tiny_config()).save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Annotations and pictures."""
    (tmp_path / "truth.json").write_text(json.dumps(saco(MANY)))
    return tmp_path / "truth.json", save_pictures(tmp_path / "images", sorted({name for name, _, _ in MANY}))


def words(data: tuple[Path, Path], output: Path, *more: str) -> list[str]:
    common = ["--dataset", str(data[0]), "--images", str(data[1]), "--output", str(output), "--bootstrap", "0"]
    return ["evaluate", *common, "--device", "cpu", *more]


def process(command: list[str], **more: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def same(folder: Path, other: Path) -> None:
    """Equal answers in equal order; rows that run together in other numbers differ in the last digits."""
    ours, theirs = (read(one / "predictions.json") for one in (folder, other))
    assert [one["image_id"] for one in ours] == [one["image_id"] for one in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5) and a["bbox"] == pytest.approx(b["bbox"], abs=1e-2)
    ours, theirs = (read(one / "metrics.json") for one in (folder, other))
    figures = {name: value for name, value in theirs.items() if isinstance(value, float)}
    assert {name: ours[name] for name in figures} == pytest.approx(figures, abs=1e-6)


def test_figures_are_those_of_evaluate_model(data: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    assert main(words(data, tmp_path / "out", "--model", str(model), "--threshold", "0.02", "--ap")) == 0
    found = read(tmp_path / "out" / "metrics.json")
    opened = Sam3Model.from_pretrained(model).eval()
    examples = []
    for name in sorted({name for name, _, _ in MANY}):
        pairs = [pair for pair in load_annotations(data[0]) if pair.file_name == name]
        dial = pairs[0].targets[0]
        concepts: dict[str, tuple[int, ...]] = {"dial": (0,), "knob": ()}
        examples.append(ConceptExample(name, data[1] / name, SIZE, dial.boxes, dial.masks, concepts))
    metrics = ConceptMetrics(0.02, average_precision=True)
    processor = Sam3Processor(size=opened.config.image_size)
    expected = evaluate_model(opened, processor, examples, metrics=metrics, detailed=True, progress=False)
    for name in ("cgF1", "pmF1", "IL_MCC", "IL_FPR", "box_cgF1", "count_MAE", "plain_count_MAE", "num_pairs"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    predictions = read(tmp_path / "out" / "predictions.json")
    assert len(predictions) > 12 and {one["image_id"] for one in predictions} <= set(range(1, 13))
    assert predictions[0].keys() == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert found["settings"]["counting"] == "presence left out" and found["evaluated"]["prompts"] == "text"
    assert not list((tmp_path / "out").glob("journal*"))
    rescored = ["--annotations", str(data[0]), "--output", str(tmp_path / "again"), "--threshold", "0.02"]
    predictions_file = str(tmp_path / "out" / "predictions.json")
    assert main(["evaluate", "--predictions", predictions_file, *rescored, "--bootstrap", "0"]) == 0
    again = read(tmp_path / "again" / "metrics.json")
    assert all(again[name] == found[name] for name in ("cgF1", "IL_MCC", "box_cgF1", "precision@0.75"))


@pytest.mark.parametrize("prompts", ["exemplar", "both", "interactive:1"])
def test_prompts(prompts: str, data: tuple[Path, Path], model: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(words(data, tmp_path / "out", "--model", str(model), "--prompts", prompts)) == 0
    found = read(tmp_path / "out" / "metrics.json")
    assert found["num_pairs"] == (6 if prompts == "exemplar" else 12)
    told = "6 pairs have no object to show as an exemplar: left out" in capsys.readouterr().err
    assert told == (prompts == "exemplar")


def test_the_bundled_model_is_the_default_and_says_so(data: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    data[0].write_text(json.dumps(saco(PAIRS[:1])))
    save_pictures(data[1], ["a.png"])
    assert main(words(data, tmp_path / "out")) == 0
    assert "no model given: using the bundled sam3-hf-tiny" in capsys.readouterr().err


def test_pictures_that_cannot_be_read(data: tuple[Path, Path], model: Path, tmp_path: Path, capsys: Any) -> None:
    (data[1] / "1.png").write_bytes(b"not a picture")
    (data[1] / "2.png").unlink()
    save_pictures(data[1], ["3.png"], (10, 10))
    command = words(data, tmp_path / "out", "--model", str(model))
    assert main(command) == 2
    assert "1 pictures without a file" in capsys.readouterr().err
    assert main([*command, "--lenient"]) == 1
    error = capsys.readouterr().err
    assert (
        "1.png" in error and "2.png" in error and "3.png is 10 x 10 (height x width) and annotated as 24 x 30" in error
    )
    found = read(tmp_path / "out" / "metrics.json")
    assert found["num_pairs"] == 6 and found["problems"]["left out: could not be read"] == 3
    save_pictures(data[1], ["2.png"])
    assert main([*command, "--overwrite"]) == 2
    assert "1.png" in capsys.readouterr().err


def test_a_killed_run_goes_on(data: tuple[Path, Path], model: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(words(data, tmp_path / "whole", "--model", str(model))) == 0
    command = words(data, tmp_path / "killed", "--model", str(model))
    killed = process(["-c", _SLOW, *command])
    journal = tmp_path / "killed" / "journal-00000.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline and killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    done = journal.read_bytes()
    assert 4 <= done.count(b"\n") < 13 and not (tmp_path / "killed" / "predictions.json").exists()
    journal.write_bytes(done + b'{"pair":11,"res')  # a line that the kill has torn
    assert main([*command, "--prompts", "both"]) == 2
    assert "another spec; give the same arguments" in capsys.readouterr().err
    asked = _count_questions(command)
    assert asked == 12 - (done.count(b"\n") - 1)  # nothing that was known is asked again
    same(tmp_path / "killed", tmp_path / "whole")


_SLOW = """
import sys, time
from sam3_hf.evaluation.journal import PredictionJournal
append = PredictionJournal.append
def slowly(self, *args, **kwargs):
    append(self, *args, **kwargs)
    time.sleep(0.3)
PredictionJournal.append = slowly
from sam3_hf.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _count_questions(command: list[str]) -> int:
    """Runs the command and returns how many pairs it has asked."""
    from sam3_hf.evaluation.journal import PredictionJournal

    asked = []
    append = PredictionJournal.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PredictionJournal, "append", lambda self, index, **more: (asked.append(index), append(self, index, **more))
        )
        assert main(command) == 0
    assert len(set(asked)) == len(asked)
    return len(asked)


def test_two_processes_answer_as_one(data: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    assert main(words(data, tmp_path / "one", "--model", str(model))) == 0
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    command = words(data, tmp_path / "two", "--model", str(model))
    both = process([*launch, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "sam3_hf", *command])
    output, _ = both.communicate(timeout=240)
    assert both.returncode == 0, output
    assert output.count(f"wrote {tmp_path / 'two'}") == 1
    same(tmp_path / "two", tmp_path / "one")


def test_a_table_of_peers(data: tuple[Path, Path], model: Path, tmp_path: Path, capsys: Any) -> None:
    owl = save_owlv2(tmp_path / "owl")
    peers = tmp_path / "peers.yaml"
    peers.write_text(
        f"models:\n  - {{model: {model}, name: SAM 3}}\n  - {{model: {owl}, name: OWLv2, threshold: 0.3}}\n"
    )
    command = words(data, tmp_path / "out", "--peers", str(peers))
    assert main(command) == 0
    table = (tmp_path / "out" / "peers.md").read_text()
    assert "| SAM_3 | 0.5 |" in table and "| OWLv2 | 0.3 | - | - | - |" in table
    figures = read(tmp_path / "out" / "metrics.json")
    assert "cgF1" in figures["SAM_3"] and "cgF1" not in figures["OWLv2"] and "box_cgF1" in figures["OWLv2"]
    assert read(tmp_path / "out" / "OWLv2" / "metrics.json")["settings"]["threshold"] == 0.3
    (tmp_path / "out" / "metrics.json").unlink()  # killed after the models, before the table
    before = (tmp_path / "out" / "SAM_3" / "metrics.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "out" / "SAM_3" / "metrics.json").stat().st_mtime_ns == before
    assert read(tmp_path / "out" / "metrics.json")["OWLv2"]["box_cgF1"] == figures["OWLv2"]["box_cgF1"]
    capsys.readouterr()
    for text, message in (
        ("models: []", "has no list 'models'"),
        ("models: [{name: x}]", "expected settings with 'model'"),
        ("models: [{model: x, thresholds: 1}]", "unknown settings ['thresholds']"),
        ("models: [{model: x, threshold: high}]", "threshold is 'high'; expected float"),
        ("models: [{model: x}, {model: x}]", "twice"),
        ("models: [", "not valid YAML"),
    ):
        peers.write_text(text)
        assert main([*command, "--overwrite"]) == 2
        assert message in capsys.readouterr().err


def test_a_data_set_is_evaluated_as_its_files_are(
    data: tuple[Path, Path], model: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(words(data, tmp_path / "files", "--model", str(model))) == 0
    load_saco(data[0], data[1]).save_to_disk(tmp_path / "paths")
    examples = ConceptExamples(load_saco(data[0], data[1]))
    inside = [replace(one, image=np.array(Image.open(one.image))) for one in examples]  # type: ignore[arg-type]
    to_dataset(inside).save_to_disk(tmp_path / "bytes")
    expected = read(tmp_path / "files" / "metrics.json")
    for kind in ("paths", "bytes"):
        command = ["evaluate", "--dataset", str(tmp_path / kind), "--output", str(tmp_path / f"{kind} scored")]
        assert main([*command, "--bootstrap", "0", "--device", "cpu", "--model", str(model)]) == 0
        found = read(tmp_path / f"{kind} scored" / "metrics.json")
        for name in ("cgF1", "IL_MCC", "box_cgF1", "count_MAE", "plain_count_MAE", "num_pairs"):
            assert found[name] == pytest.approx(expected[name], abs=1e-6)
        assert (tmp_path / f"{kind} scored" / "cases.png").is_file()
    capsys.readouterr()
    assert main([*command, "--split", "test", "--overwrite"]) == 2
    assert "has the splits ['']; name one of them with --split" in capsys.readouterr().err


def test_detectors_take_words_alone(data: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    owl = save_owlv2(tmp_path / "owl")
    assert main(words(data, tmp_path / "out", "--model", str(owl), "--prompts", "exemplar")) == 2
    assert "takes --prompts text, not 'exemplar'" in capsys.readouterr().err
