"""`sam3-hf train`: a YAML file and flags become a run, and mistakes are named."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from sam3_hf import ConceptSegmentationPipeline, Sam3Model, Sam3Processor
from sam3_hf.training.cli_train import add_train_command
from training_toys import toy_config

transformers.utils.logging.disable_progress_bar()


def _main(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_train_command(parser.add_subparsers())
    arguments = parser.parse_args(["train", *words])
    return arguments.run(arguments)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a base model."""
    Sam3Model(toy_config()).save_pretrained(tmp_path / "base")
    Sam3Processor(size=56).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def _config(tmp_path: Path, base: Path, **changes: Any) -> str:
    settings: dict[str, Any] = {
        "model": str(base),
        "output": str(tmp_path / "run"),
        "train": {"scenes": 6, "image_size": 64, "max_objects": 3},
        "val": {"scenes": 3, "split": "val", "image_size": 64, "max_objects": 3},
        "sampler": {"positives": 2},
        "training": {
            "max_steps": 2, "per_device_train_batch_size": 3, "learning_rate": "1e-3", "use_cpu": True,
            "disable_tqdm": True, "report_to": "none",
        },
    }  # fmt: skip
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps(settings | changes))  # JSON is YAML
    return str(path)


def test_a_file_and_flags_train_a_model_that_the_pipeline_opens(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(_config(tmp_path, base), "--steps", "3", "--ema-decay", "0.9", "--set", "seed=7") == 0
    printed = capsys.readouterr().out
    assert "eval_cgF1" in printed and f"wrote {tmp_path / 'run'}" in printed
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["max_steps"] == 3
    assert ConceptSegmentationPipeline(str(tmp_path / "run")).processor.image_size == 56


def test_adapters_are_saved_and_merged(tmp_path: Path, base: Path) -> None:
    path = _config(tmp_path, base, recipe="lora", val=None)
    assert _main(path, "--lora-rank", "2", "--merge", "--mine") == 0
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "run" / "mined_negatives.json").is_file()
    assert type(Sam3Model.from_pretrained(tmp_path / "run" / "merged")) is Sam3Model


def test_a_run_is_resumed(tmp_path: Path, base: Path) -> None:
    path = _config(tmp_path, base, val=None)
    assert _main(path, "--resume") == 0  # there is nothing to resume yet
    assert _main(path, "--resume", "--steps", "4") == 0
    assert (tmp_path / "run" / "checkpoint-4").is_dir()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown setting": ({"modle": "x"}, "did you mean 'model'"),
    "unknown argument": ({"training": {"learning_rat": 1e-4}}, "did you mean 'learning_rate'"),
    "unknown sampler": ({"sampler": {"positive": 1}}, "did you mean 'positives'"),
    "no model": ({"model": ""}, "no model"),
    "no pictures": ({"train": None}, "no training pictures"),
    "missing pictures": ({"train": "nowhere.json"}, "no file or folder nowhere.json"),
    "two sources in one": ({"train": {"scenes": 2, "coco": "x"}}, "exactly one of"),
    "unknown recipe": ({"recipe": "fast"}, "full, frozen_towers, lora"),
    "missing model": ({"model": "/nowhere"}, "/nowhere"),
    "lora without recipe": ({"lora": {"rank": 2}}, "recipe 'lora'"),
    "bad freeze": ({"training": {"freeze": "all"}}, "freeze must be one of"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_named(
    tmp_path: Path, base: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(_config(tmp_path, base, **changes)) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("sam3-hf: error: ") and error.count("\n") == 1


def test_broken_yaml_and_flags_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("model: [")
    assert _main(str(path)) == 2
    assert "not valid YAML" in capsys.readouterr().err
    assert _main("--set", "seed") == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert _main(str(tmp_path / "none.yaml")) == 2
    assert "there is no configuration" in capsys.readouterr().err
