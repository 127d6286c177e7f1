"""Training: gradients do not depend on how a batch is divided, resuming changes nothing, a kill loses nothing."""

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from sam3_hf import Sam3Detector, Sam3Model, Sam3Processor, tiny_config
from sam3_hf.data import SceneDataset
from sam3_hf.training import arguments as arguments_module
from sam3_hf.training.arguments import Sam3TrainingArguments, checkpointing_name
from sam3_hf.training.collator import ConceptCollator, ConceptDataset
from sam3_hf.training.ema import EmaCallback, ExponentialMovingAverage
from sam3_hf.training.metrics import EvaluateConcepts
from sam3_hf.training.mining import MineNegatives
from sam3_hf.training.recipes import freeze, parameter_groups
from sam3_hf.training.sampling import AllPhrases, ConceptSampler, MinedNegatives
from sam3_hf.training.trainer import Sam3Trainer
from training_toys import Rectangles, collate, toy_model

transformers.utils.logging.disable_progress_bar()


def _arguments(folder: Path, **changes: Any) -> Sam3TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": 4, "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "learning_rate": 1e-3,
    }  # fmt: skip
    return Sam3TrainingArguments(**settings | changes)


def _trainer(folder: Path, model: Any = None, count: int = 8, **changes: Any) -> Sam3Trainer:
    data = Rectangles(count)
    return Sam3Trainer(
        toy_model() if model is None else model,
        _arguments(folder, **changes),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collate,
    )


def _curve(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _gradients(folder: Path, batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
    """Gradients of the first step, before they are clipped and used."""
    found: dict[str, torch.Tensor] = {}

    class Keep(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            found.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    trainer = _trainer(
        folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        max_grad_norm=0,
    )
    trainer.add_callback(Keep())
    trainer.train()
    return found


# ---- loss ----


def test_gradients_do_not_depend_on_how_a_batch_is_divided(tmp_path: Path) -> None:
    at_once, *divided = (_gradients(tmp_path, *shape) for shape in ((4, 1), (2, 2), (1, 4)))
    assert len(at_once) > 100
    norm = torch.cat([gradient.flatten() for gradient in at_once.values()]).norm()
    for other in divided:
        assert other.keys() == at_once.keys()
        difference = torch.cat([(other[name] - gradient).flatten() for name, gradient in at_once.items()])
        assert difference.norm() <= 2e-6 * norm
        for name, gradient in at_once.items():
            assert (other[name] - gradient).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), name


def test_every_term_is_logged_and_they_sum_up_to_the_loss(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=2, logging_steps=2)
    trainer.train()
    first = trainer.state.log_history[0]
    terms = {name: value for name, value in first.items() if name.startswith("loss_")}
    assert {"loss_bbox", "loss_mask", "loss_presence", "loss_ce_aux", "loss_dice_o2m"} <= terms.keys()
    assert sum(terms.values()) == pytest.approx(first["loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_training_before_it_is_saved(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, save_strategy="steps", save_steps=1, logging_steps=100)
    trainer.model.register_forward_hook(lambda module, given, output: output.loss.data.fill_(float("nan")) and None)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        trainer.train()
    assert list(tmp_path.glob("checkpoint-*")) == []


def test_a_batch_without_labels_is_refused(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    trainer.data_collator = lambda items: {k: v for k, v in collate(items).items() if k != "labels"}
    with pytest.raises(ValueError, match="no labels"):
        trainer.train()


@pytest.mark.parametrize("kind", [Sam3Detector, Sam3Model])
def test_the_plain_trainer_trains(tmp_path: Path, kind: type) -> None:
    torch.manual_seed(0)
    config = tiny_config(56)
    model = kind(config.detector_config if kind is Sam3Detector else config)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=8, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1,
        report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no", remove_unused_columns=False,
        label_names=["labels"],
    )  # fmt: skip
    data = Rectangles(8)
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, data_collator=collate)
    trainer.train()
    curve = _curve(trainer)
    assert curve[-1] < 0.9 * curve[0]
    assert trainer.evaluate()["eval_loss"] > 0


# ---- recipes ----


def test_rates_by_part_and_layer() -> None:
    model = toy_model()
    groups = parameter_groups(model, 1.0, 0.1, vision_lr_scale=0.5, text_lr_scale=0.1, layer_decay=0.9)
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {
        "detr_decoder.layers.0.mlp.fc1.weight": (1.0, 0.1),
        "detr_decoder.layers.0.mlp.fc1.bias": (1.0, 0.0),
        "detr_decoder.query_embed.weight": (1.0, 0.0),
        "detr_decoder.output_layer_norm.weight": (1.0, 0.0),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight": (0.1, 0.1),
        "text_encoder.text_model.embeddings.token_embedding.weight": (0.1, 0.0),
        "text_projection.weight": (0.1, 0.1),
        "vision_encoder.neck.fpn_layers.0.proj1.weight": (0.5, 0.1),
        "vision_encoder.backbone.layers.3.mlp.fc1.weight": (0.5 * 0.9, 0.1),
        "vision_encoder.backbone.layers.0.mlp.fc1.weight": (0.5 * 0.9**4, 0.1),
        "vision_encoder.backbone.embeddings.position_embeddings": (0.5 * 0.9**5, 0.0),
    }
    for name, wanted in expected.items():
        assert rate[id(model.get_parameter(name))] == pytest.approx(wanted), name
    assert len(rate) == sum(1 for _ in model.parameters()) == sum(len(group["params"]) for group in groups)
    assert groups[0]["name"].startswith("rest")


def test_the_whole_model_has_the_same_rates() -> None:
    model = Sam3Model(tiny_config(56))
    rate = {id(p): group["lr"] for group in parameter_groups(model, 1.0) for p in group["params"]}
    tower = model.detector_model.vision_encoder.backbone
    assert rate[id(tower.layers[0].mlp.fc1.weight)] == pytest.approx(0.5 * 0.9**4)
    assert rate[id(model.tracker_model.mask_decoder.iou_token.weight)] == 1.0


FROZEN = {
    "none": (),
    "vision": ("vision_encoder.backbone.",),
    "text": ("text_encoder.",),
    "towers": ("vision_encoder.backbone.", "text_encoder."),
}


@pytest.mark.parametrize(("what", "frozen"), FROZEN.items())
def test_frozen_towers_stay_as_they_are(tmp_path: Path, what: str, frozen: tuple[str, ...]) -> None:
    trainer = _trainer(tmp_path, freeze=what, max_steps=2)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert not any(name.startswith(frozen or "\0") for name in moved)
    for part in ("vision_encoder.backbone.", "text_encoder.", "vision_encoder.neck.", "detr_decoder."):
        assert any(name.startswith(part) for name in moved) == (part not in frozen)


def test_frozen_towers_do_not_drop_paths(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, freeze="vision", max_steps=1)
    trainer.train()
    assert not trainer.model.vision_encoder.backbone.training
    assert trainer.model.detr_decoder.training


def test_freezing_says_what_it_can_freeze() -> None:
    with pytest.raises(ValueError, match="none, vision, text, towers"):
        freeze(toy_model(), "backbone")
    with pytest.raises(ValueError, match="Sam3Detector"):
        freeze(torch.nn.Linear(2, 2), "vision")
    model = toy_model().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(model, 1.0)


@pytest.mark.parametrize(
    "wrong", [{"freeze": "all"}, {"ema_decay": 1.5}, {"layer_decay": 0.0}, {"vision_lr_scale": -1.0}]
)
def test_wrong_arguments_are_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        _arguments(tmp_path, **wrong)


@pytest.mark.filterwarnings("ignore:bf16 on a CPU")
def test_checkpointing_and_bfloat16_give_nearly_the_same_curve(tmp_path: Path) -> None:
    plain = _trainer(tmp_path)
    plain.train()
    saving = _trainer(tmp_path, **{checkpointing_name(): True})
    saving.train()
    assert _curve(saving) == pytest.approx(_curve(plain), rel=1e-5)
    half = _trainer(tmp_path, bf16=True)
    half.train()
    assert _curve(half) == pytest.approx(_curve(plain), rel=0.05)


# ---- average weights ----


def test_average_of_weights() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data[:] = 0.0
    ema = ExponentialMovingAverage(model, 0.5)
    model.weight.data[:] = 1.0
    ema.update(model)  # d = min(0.5, 2/11)
    assert ema.average["weight"].item() == pytest.approx(9 / 11)
    with ema.applied(model):
        assert model.weight.item() == pytest.approx(9 / 11)
    assert model.weight.item() == 1.0


def test_the_average_is_what_is_evaluated_saved_and_left_in_the_model(tmp_path: Path) -> None:
    plain = _trainer(tmp_path / "plain", max_steps=3, save_strategy="steps", save_steps=3)
    plain.train()
    trainer = _trainer(tmp_path / "ema", max_steps=3, save_strategy="steps", save_steps=3, ema_decay=0.9)
    trainer.train()
    name = "detr_decoder.query_embed.weight"
    raw = load_file(tmp_path / "plain" / "checkpoint-3" / "model.safetensors")[name]
    average = load_file(tmp_path / "ema" / "checkpoint-3" / "model.safetensors")[name]
    assert torch.equal(load_file(tmp_path / "ema" / "checkpoint-3" / "training_weights.safetensors")[name], raw)
    assert not torch.equal(average, raw)
    assert torch.equal(trainer.model.get_parameter(name), average)


def test_ema_callback_serves_the_plain_trainer(tmp_path: Path) -> None:
    average = _trainer(tmp_path, max_steps=3, ema_decay=0.9)
    average.train()
    arguments = _arguments(tmp_path, max_steps=3)
    callback = _trainer(tmp_path, max_steps=3)
    callback.args = arguments
    callback.add_callback(EmaCallback(0.9))
    callback.train()
    for mine, theirs in zip(callback.model.parameters(), average.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("fast", [False, True])
def test_bfloat16_that_a_cpu_only_emulates_is_warned_of(tmp_path: Path, fast: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(arguments_module, "multiplies_fast", lambda dtype: fast)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _arguments(tmp_path, bf16=True)
    assert any("leave bf16 off" in str(warning.message) for warning in caught) is not fast


# ---- checkpoints ----


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_resumed_run_has_the_same_curve(tmp_path: Path, stop: int, ema_decay: float | None) -> None:
    # 4 steps an epoch: stops inside the first epoch, at its end, and inside the second
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2, "max_steps": 8, "save_strategy": "steps", "save_steps": 1,
        "save_total_limit": None, "ema_decay": ema_decay,
    }  # fmt: skip
    whole = _trainer(tmp_path / "whole", **settings)
    whole.train()
    resumed = _trainer(tmp_path / "whole", toy_model(seed=7), **settings | {"output_dir": str(tmp_path / "resumed")})
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert _curve(resumed)[stop:] == pytest.approx(_curve(whole)[stop:], rel=1e-6)
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert resumed.train_dataset.epochs[0] == stop // 4


@pytest.mark.parametrize("max_steps", [3, 4])  # inside an epoch of four steps, and at its end
def test_a_run_resumed_after_its_last_step_takes_no_other(tmp_path: Path, max_steps: int) -> None:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2, "max_steps": max_steps, "save_strategy": "epoch", "eval_strategy": "epoch",
    }  # fmt: skip
    whole = _trainer(tmp_path, **settings)
    whole.eval_dataset = whole.train_dataset
    whole.train()
    saved = (tmp_path / f"checkpoint-{max_steps}").stat().st_mtime_ns
    resumed = _trainer(tmp_path, toy_model(seed=7), **settings)
    resumed.eval_dataset = resumed.train_dataset
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == max_steps
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{max_steps}"]
    assert (tmp_path / f"checkpoint-{max_steps}").stat().st_mtime_ns == saved
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("step", ["_save_optimizer_and_scheduler", "_save_rng_state", "save_model"])
def test_an_interrupted_save_leaves_the_last_checkpoint(tmp_path: Path, step: str, monkeypatch: Any) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    trainer = _trainer(tmp_path, **settings)
    original = getattr(trainer, step)

    def break_off(*args: Any, **kwargs: Any) -> None:
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        original(*args, **kwargs)

    monkeypatch.setattr(trainer, step, break_off)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    again = _trainer(tmp_path, **settings)
    again.train(resume_from_checkpoint=True)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-4"]
    Sam3Detector.from_pretrained(tmp_path / "checkpoint-4")


def test_the_best_checkpoint_is_kept_and_loaded(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_total_limit": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True,
        "ema_decay": 0.9,
    }  # fmt: skip
    trainer = _trainer(tmp_path, **settings)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path and best.is_dir()
    weights = load_file(best / "model.safetensors")
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, weights[name])


# ---- evaluation and mining ----


def test_the_plain_trainer_evaluates_concepts_with_a_callback(tmp_path: Path) -> None:
    scenes = SceneDataset(2, split="val", image_size=64, max_objects=2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="best",
        eval_strategy="steps", eval_steps=1, metric_for_best_model="eval_cgF1", remove_unused_columns=False,
        label_names=["labels"],
    )  # fmt: skip
    data = Rectangles(2)
    trainer = Trainer(toy_model(), arguments, train_dataset=data, eval_dataset=data, data_collator=collate)
    trainer.add_callback(EvaluateConcepts(scenes, data.processor, max_absent=2))
    trainer.train()
    assert {"eval_loss", "eval_cgF1", "eval_IL_MCC"} <= trainer.evaluate().keys()
    assert (tmp_path / "checkpoint-1").is_dir()


def test_mined_negatives_are_resumed(tmp_path: Path) -> None:
    scenes = SceneDataset(3, image_size=64, max_objects=2)
    processor = Sam3Processor(size=56)

    def trainer(folder: Path) -> Sam3Trainer:
        store = MinedNegatives(folder / "mined.json")
        data = ConceptDataset(scenes, ConceptSampler(positives=1, mined=store))
        arguments = _arguments(
            folder, per_device_train_batch_size=1, max_steps=6, save_strategy="steps", save_steps=1, save_total_limit=9
        )
        mining = MineNegatives(store, scenes, processor, threshold=0.001, max_phrases=3)
        return Sam3Trainer(
            toy_model(), arguments, train_dataset=data, data_collator=ConceptCollator(processor), callbacks=[mining]
        )

    whole = trainer(tmp_path / "whole")
    whole.train()
    assert sum(len(phrases) for phrases in whole.train_dataset.sampler.mined.phrases.values()) > 0
    for stop in (3, 4):  # at the end of an epoch, and inside one
        resumed = trainer(tmp_path / f"resumed-{stop}")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
        assert _curve(resumed)[stop:] == pytest.approx(_curve(whole)[stop:], rel=1e-5)


def test_evaluation_is_at_the_resolution_of_the_pictures(tmp_path: Path) -> None:
    processor = Sam3Processor(size=56)
    data = ConceptDataset(SceneDataset(2, split="val", image_size=96, max_objects=3), AllPhrases(2))
    trainer = Sam3Trainer(
        toy_model(), _arguments(tmp_path), eval_dataset=data, data_collator=ConceptCollator(processor)
    )
    [batch] = trainer.get_eval_dataloader()
    assert {label["target"].size for label in batch["labels"]} == {(96, 96)}
    assert batch["labels"][0]["masks"].shape[1:] == (16, 16)
    assert trainer.evaluate()["eval_num_pairs"] == len(batch["labels"])
