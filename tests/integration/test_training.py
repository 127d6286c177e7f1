"""Training from end to end: overfitting, several processes, kills, and metrics that hold after reloading."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from train_worker import main as train

from sam3_hf import ConceptSegmentationPipeline, Sam3Detector, Sam3Model, Sam3Processor, convert
from sam3_hf.bundled import bundled_model
from sam3_hf.data import ConceptExample
from sam3_hf.evaluation import ConceptMetrics, ConceptPrediction, evaluate_model, target_of_label
from sam3_hf.modeling.layers import multiplies_fast
from sam3_hf.ops.masks import rle_decode
from sam3_hf.training import ConceptCollator, ConceptDataset, ConceptSampler, load_coco
from sam3_hf.training.arguments import Sam3TrainingArguments
from sam3_hf.training.concept_table import ConceptExamples
from sam3_hf.training.lora import add_lora, load_lora, merge_lora
from sam3_hf.training.trainer import Sam3Trainer
from training_toys import COLORS, Rectangles, collate, toy_config, toy_model

transformers.utils.logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent
SIDE = 84
PICTURES = 6
COMPARED = ("cgF1", "pmF1", "IL_MCC", "mask_AP")
PLAIN_RATES: dict[str, Any] = {
    "vision_lr_scale": 1.0, "text_lr_scale": 1.0, "layer_decay": 1.0, "learning_rate": 2e-3, "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
}  # fmt: skip


def _overfit(
    model: Any, folder: Path, data: Rectangles, steps: int, batch_size: int = 5, **changes: Any
) -> Sam3Trainer:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": batch_size,
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
    }  # fmt: skip
    trainer = Sam3Trainer(
        model,
        Sam3TrainingArguments(**settings | PLAIN_RATES | changes),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collate,
        processing_class=Sam3Processor(size=data.drawn[0][0].shape[0]),
    )
    trainer.train()
    return trainer


def _through_pipeline(model: Any, data: Rectangles) -> dict[str, float]:
    """The figures of a model, or of what a directory holds, asked through the pipeline."""
    pipe = ConceptSegmentationPipeline(model, processor=data.processor, threshold=0.01, mask_format="rle")
    metrics = ConceptMetrics()
    for number, (picture, _) in enumerate(data.drawn):
        found = pipe(Image.fromarray(picture), text=list(COLORS))
        for label in data[number]["labels"]:
            target = target_of_label(label, label["image_id"], label["phrase"], label["size"])
            own = [one for one in found if one["label"] == label["phrase"]]
            boxes = [[one["box"][corner] for corner in ("xmin", "ymin", "xmax", "ymax")] for one in own]
            prediction = ConceptPrediction(
                image_id=label["image_id"],
                phrase=label["phrase"],
                size=label["size"],
                scores=torch.tensor([one["score"] for one in own]).numpy(),
                boxes=torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4).numpy(),
                masks=[one["mask"] for one in own],
            )
            metrics.add([(prediction, target)])
    return metrics.compute()


def _assert_equal(printed: Mapping[str, float], measured: Mapping[str, float]) -> None:
    """Trainer's figures and those measured, within 0.1 of 100."""
    for name in COMPARED:
        assert 100 * measured[name] == pytest.approx(100 * printed[f"eval_{name}"], abs=0.1), name
    assert printed["eval_mask_AP"] > 0.2  # else the comparison would say little


def _two_processes(output: Path, **settings: Any) -> dict[str, Any]:
    """The log of train_worker.py, run by two processes."""
    output.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launch += ["--master_addr=127.0.0.1", f"--master_port={port}"]
    command = [*launch, str(HERE / "train_worker.py"), str(output), json.dumps(settings)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((output / "log.json").read_text())


def _environment() -> dict[str, str]:
    path = os.pathsep.join(part for part in (str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _curve(log: Mapping[str, Any]) -> list[float]:
    return [entry["loss"] for entry in log["history"] if "loss" in entry]


@pytest.fixture(scope="module")
def data() -> Rectangles:
    """A few pictures to learn by heart."""
    return Rectangles(PICTURES, SIDE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Rectangles) -> tuple[Path, dict[str, float]]:
    """A trained model's directory and what `Trainer` printed of it."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    trainer = _overfit(Sam3Model(toy_config(SIDE)), folder, data, steps=240, batch_size=3, ema_decay=0.95)
    printed = trainer.evaluate()
    trainer.save_model(str(folder))
    return folder, printed


# ---- what is learnt, and that it is still there after reloading ----


def test_a_few_pictures_are_overfitted_and_the_saved_model_is_as_good(
    trained: tuple[Path, dict[str, float]], data: Rectangles
) -> None:
    folder, printed = trained
    assert printed["eval_mask_AP"] > 0.8
    _assert_equal(printed, _through_pipeline(str(folder), data))


@pytest.mark.slow
def test_twenty_pictures_are_overfitted(tmp_path: Path) -> None:
    data = Rectangles(20, 112)
    trainer = _overfit(toy_model(112), tmp_path, data, steps=400, batch_size=5)
    printed = trainer.evaluate()
    trainer.save_model(str(tmp_path))
    assert printed["eval_mask_AP"] > 0.9
    _assert_equal(printed, _through_pipeline(str(tmp_path), data))


def test_adapters_are_as_good_apart_and_merged(
    trained: tuple[Path, dict[str, float]], data: Rectangles, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    folder, before = trained
    adapted = add_lora(Sam3Detector.from_pretrained(folder), rank=4)
    trainer = _overfit(adapted, tmp_path, data, steps=3, batch_size=3)
    printed = trainer.evaluate()
    assert printed["eval_loss"] != before["eval_loss"]
    trainer.save_model(str(tmp_path / "adapters"))
    apart = load_lora(Sam3Detector.from_pretrained(folder), tmp_path / "adapters")
    _assert_equal(printed, _through_pipeline(apart.get_base_model(), data))
    merge_lora(apart).save_pretrained(tmp_path / "merged")
    _assert_equal(printed, _through_pipeline(str(tmp_path / "merged"), data))


def test_the_original_layout_and_back_is_as_good(
    trained: tuple[Path, dict[str, float]], data: Rectangles, tmp_path: Path
) -> None:
    folder, printed = trained
    convert(folder, tmp_path / "sam3.pt", to="original")
    convert(tmp_path / "sam3.pt", tmp_path / "back", config=folder / "config.json")
    _assert_equal(printed, _through_pipeline(str(tmp_path / "back"), data))


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_what_several_processes_trained_is_as_good(
    trained: tuple[Path, dict[str, float]], data: Rectangles, tmp_path: Path, fsdp: bool
) -> None:
    settings = {"base": str(trained[0]), "count": PICTURES, "side": SIDE, "max_steps": 2, "fsdp": fsdp}
    log = _two_processes(tmp_path, **settings, per_device_train_batch_size=2, ema_decay=0.5, learning_rate=1e-4)
    _assert_equal(log["metrics"], _through_pipeline(str(tmp_path / "final"), data))


# ---- several processes ----


KINDS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp2": {"fsdp": True, "state_dict_type": "FULL_STATE_DICT"},
    "fsdp2_sharded": {"fsdp": True, "state_dict_type": "SHARDED_STATE_DICT"},
}


@pytest.mark.parametrize(
    "kind", ["ddp", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("fsdp2", "fsdp2_sharded"))]
)
def test_two_processes_give_the_curve_of_one(tmp_path: Path, kind: str) -> None:
    settings: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 5, "ema_decay": 0.9}
    (tmp_path / "one").mkdir()
    train(tmp_path / "one", {"per_device_train_batch_size": 4, **settings})
    one = json.loads((tmp_path / "one" / "log.json").read_text())
    settings |= KINDS[kind]
    two = _two_processes(tmp_path / "two", per_device_train_batch_size=2, **settings)
    assert _curve(two) == pytest.approx(_curve(one), rel=1e-4)
    for name in ("eval_box_AP", "eval_cgF1", "eval_count_MAE"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=1e-4)
    # stopped in the third epoch, where only the right epoch number gives the right pictures
    resume = {"resume": str(tmp_path / "two" / "checkpoint-5"), **settings}
    again = _two_processes(tmp_path / "again", per_device_train_batch_size=2, **resume)
    assert _curve(again)[5:] == pytest.approx(_curve(two)[5:], rel=1e-5)
    mine, theirs = (Sam3Detector.from_pretrained(tmp_path / run / "final") for run in ("again", "two"))
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_interactive_rounds_and_a_last_batch_that_is_too_small(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "interactive_rounds": 2}
    log = _two_processes(tmp_path / "run", count=7, per_device_train_batch_size=2, **settings)
    assert log["metrics"]["eval_num_pairs"] == 7 * len(COLORS)


# ---- kills ----


def test_a_killed_run_goes_on_from_a_whole_checkpoint(tmp_path: Path) -> None:
    settings = {"max_steps": 400, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    command = [sys.executable, str(HERE / "train_worker.py"), str(tmp_path), json.dumps(settings)]
    for pause in (0.0, 0.05, 0.11):
        process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = set(tmp_path.glob("checkpoint-*"))
        while not set(tmp_path.glob("checkpoint-*")) - seen:
            assert process.poll() is None, "training ended before it could be killed"
            time.sleep(0.02)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        checkpoints = sorted(tmp_path.glob("checkpoint-*"))
        assert checkpoints
        for checkpoint in checkpoints[-1:]:
            Sam3Detector.from_pretrained(checkpoint)
            names = {path.name for path in checkpoint.iterdir()}
            assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
            torch.load(checkpoint / "optimizer.pt", weights_only=True)


# ---- real pictures ----


def _at_the_models_size(example: ConceptExample, phrase: str, side: int) -> ConceptExample:
    """The example as a square of `side` pixels with the one object of a phrase, and two phrases that are absent."""
    number = example.concepts[phrase][0]
    picture = Image.open(example.image).convert("RGB").resize((side, side))
    mask = Image.fromarray(np.asarray(rle_decode(example.masks[number])).astype(np.uint8) * 255)
    drawn = np.asarray(mask.resize((side, side))) > 127
    columns, rows = np.flatnonzero(drawn.any(0)), np.flatnonzero(drawn.any(1))
    box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=np.float32)
    vocabulary = (phrase, *example.absent()[:2])
    return ConceptExample(example.image_id, picture, (side, side), box, [drawn], {phrase: (0,)}, vocabulary)


def _large_objects(folder: Path, count: int, side: int) -> list[ConceptExample]:
    """The first pictures of COCO with a phrase of a single object, on 6 % of the picture or more."""
    chosen = []
    for example in ConceptExamples(load_coco(folder / "coco" / "train.json")):
        height, width = example.size
        areas = {
            phrase: float(rle_decode(example.masks[objects[0]]).sum()) / (height * width)
            for phrase, objects in example.concepts.items()
            if len(objects) == 1
        }
        phrase = max(areas, key=lambda name: areas[name], default=None)
        if phrase is not None and areas[phrase] >= 0.06:
            chosen.append(_at_the_models_size(example, phrase, side))
        if len(chosen) == count:
            break
    return chosen


@pytest.mark.slow
def test_twenty_real_pictures_are_overfitted_from_the_bundled_model(shared_data: Path, tmp_path: Path) -> None:
    processor = Sam3Processor(size=224)  # a quarter of the model's own 448
    examples = _large_objects(shared_data, 20, processor.image_size)
    sampler = ConceptSampler(positives=1, random_negatives=1, hard_negatives=0, visual_query=0.0, added_boxes=0.0)
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path), "max_steps": 300, "per_device_train_batch_size": 5, "report_to": "none",
        "use_cpu": True, "save_strategy": "no", "bf16": multiplies_fast(torch.bfloat16),
    }  # fmt: skip
    trainer = Sam3Trainer(
        Sam3Model.from_pretrained(bundled_model(), image_size=224).detector_model,
        Sam3TrainingArguments(**settings | PLAIN_RATES | {"learning_rate": 6e-4}),
        train_dataset=ConceptDataset(examples, sampler),
        data_collator=ConceptCollator(processor),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model(str(tmp_path))
    figures = evaluate_model(Sam3Detector.from_pretrained(tmp_path), processor, examples, progress=False)
    assert figures["mask_AP"] > 0.9, figures
