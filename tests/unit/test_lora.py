"""LoRA: adapters learn, are saved alone, come back the same, and merge into a plain model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from sam3_hf import Sam3Detector, Sam3Model
from sam3_hf.training.arguments import Sam3TrainingArguments
from sam3_hf.training.lora import LORA_PARTS, add_lora, load_lora, lora_targets, merge_lora
from sam3_hf.training.trainer import Sam3Trainer
from training_toys import Rectangles, collate, toy_config, toy_model

pytest.importorskip("peft")
transformers.utils.logging.disable_progress_bar()


def _train(model: Any, folder: Path, **changes: Any) -> Sam3Trainer:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no",
    }  # fmt: skip
    trainer = Sam3Trainer(
        model, Sam3TrainingArguments(**settings | changes), train_dataset=Rectangles(8), data_collator=collate
    )
    trainer.train()
    return trainer


def _masks(model: Any) -> Tensor:
    data = Rectangles(2)
    batch = collate([data[0], data[1]])
    del batch["labels"]
    with torch.no_grad():
        return model.eval()(**batch).pred_masks


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a base model."""
    toy_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_each_part_has_layers_and_none_whose_adapter_would_not_be_seen() -> None:
    linear = [name for name, module in toy_model().named_modules() if isinstance(module, torch.nn.Linear)]
    for part in LORA_PARTS:
        assert any(re.fullmatch(lora_targets([part]), name) for name in linear), part
    chosen = [name for name in linear if re.fullmatch(lora_targets(), name)]
    assert len(chosen) > 100
    assert not any(re.search(r"box_head|presence_head|rpb_embed|ref_point_head", name) for name in chosen)


def test_only_adapters_learn_and_they_are_saved_alone(base: Path, tmp_path: Path) -> None:
    adapted = add_lora(Sam3Detector.from_pretrained(base), rank=4)
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    trainer = _train(adapted, tmp_path / "run")
    moved = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name for name in moved)
    trainer.save_model(str(tmp_path / "adapters"))
    names = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names
    assert "model.safetensors" not in names
    saved = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved)


def test_adapters_come_back_and_merge(base: Path, tmp_path: Path) -> None:
    adapted = add_lora(Sam3Detector.from_pretrained(base), rank=4, fully=["presence_head"])
    _train(adapted, tmp_path / "run", ema_decay=0.5)
    adapted.save_pretrained(tmp_path / "adapters")
    wanted = _masks(adapted)
    assert not torch.allclose(wanted, _masks(Sam3Detector.from_pretrained(base)), atol=0.1)
    again = load_lora(Sam3Detector.from_pretrained(base), tmp_path / "adapters")
    assert torch.equal(_masks(again), wanted)
    merged = merge_lora(again)
    assert type(merged) is Sam3Detector
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(_masks(Sam3Detector.from_pretrained(tmp_path / "merged")), wanted, atol=1e-4, rtol=1e-5)


def test_adapters_of_the_detector_fit_the_whole_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Sam3Model(toy_config())
    whole.save_pretrained(tmp_path / "base")
    adapted = add_lora(Sam3Detector.from_pretrained(tmp_path / "base"), rank=4)
    _train(adapted, tmp_path / "run")
    adapted.save_pretrained(tmp_path / "adapters")
    again = load_lora(Sam3Model.from_pretrained(tmp_path / "base"), tmp_path / "adapters")
    assert torch.equal(_masks(again), _masks(adapted))


def test_resuming_adapters_gives_the_same_curve(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "ema_decay": 0.9}
    whole = _train(add_lora(Sam3Detector.from_pretrained(base), rank=4), tmp_path / "run", **settings)
    model = add_lora(Sam3Detector.from_pretrained(base), rank=4)
    resumed = Sam3Trainer(model, whole.args, train_dataset=Rectangles(8), data_collator=collate)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    curves = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (resumed, whole)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_adapters_that_do_not_fit_are_refused(base: Path, tmp_path: Path) -> None:
    add_lora(Sam3Detector.from_pretrained(base), rank=4).save_pretrained(tmp_path / "adapters")
    torch.manual_seed(0)
    config = toy_config().detector_config
    config.vision_config.backbone_config.num_hidden_layers = 3
    with pytest.raises(ValueError, match="base model that they were trained on"):
        load_lora(Sam3Detector(config), tmp_path / "adapters")
    with pytest.raises(ValueError, match="no LoRA adapters"):
        load_lora(toy_model(), base)
    with pytest.raises(ValueError, match="vision, text, exemplars"):
        add_lora(toy_model(), parts=["backbone"])
    with pytest.raises(TypeError, match="PeftModel"):
        merge_lora(toy_model())
