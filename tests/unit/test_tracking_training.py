"""Training of the tracker on clips: it learns, bad clips are refused, pictures become clips."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from sam3_hf import Sam3Model, tiny_config
from sam3_hf.data import concept_clip, concept_scene
from sam3_hf.training.arguments import Sam3TrainingArguments
from sam3_hf.training.bundled_data import ClipMixture
from sam3_hf.training.tracking import ClipCollator, ClipDataset, moving_picture
from sam3_hf.training.trainer import Sam3Trainer
from sam3_hf.video.clip_loss import PROMPTS, clip_loss


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    item = ClipDataset(num_frames=4, image_size=112)[3]
    return item["pixel_values"], item["clip_masks"]


def _model() -> Sam3Model:
    torch.manual_seed(0)
    model = Sam3Model(tiny_config(112)).train()
    model.requires_grad_(False)
    for part in (model.tracker_neck, model.tracker_model):
        part.requires_grad_(True)
    return model


def test_the_tracker_learns_a_clip(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = _model()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(30):
        loss, terms = clip_loss(model, *clip, corrections=0.0)
        assert loss.item() == pytest.approx(float(sum(terms.values())), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_prompt_and_correction_gives_gradients_to_the_memory(
    prompt: str, clip: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model = _model()
    loss, _ = clip_loss(model, *clip, prompt=prompt, corrections=1.0)
    loss.backward()
    tracker = model.tracker_model
    for parameter in (tracker.memory_encoder.projection.weight, tracker.memory_temporal_positional_encoding):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    assert model.detector_model.vision_encoder.backbone.embeddings.position_embeddings.grad is None


def test_bad_clips(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (pixels, masks) = _model(), clip
    with pytest.raises(ValueError, match="prompt"):
        clip_loss(model, pixels, masks, prompt="word")
    with pytest.raises(ValueError, match="2 or more"):
        clip_loss(model, pixels[:1], masks[:1])
    with pytest.raises(ValueError, match="first frame"):
        clip_loss(model, pixels, torch.zeros_like(masks))
    with pytest.raises(IndexError):
        ClipDataset(length=2)[2]


def test_a_picture_becomes_a_clip() -> None:
    scene = concept_scene(4, "train", image_size=112)
    clip = moving_picture(scene, 5, np.random.default_rng(0), side=96)
    assert clip.frames.shape == (5, 96, 96, 3)
    assert clip.masks.shape == (5, len(scene.masks or ()), 96, 96)
    assert not np.array_equal(clip.frames[0], clip.frames[4])
    item = ClipDataset([scene], length=2, num_frames=3, image_size=112)[0]
    pixels, masks = item["pixel_values"], item["clip_masks"]
    assert pixels.shape == (3, 3, 112, 112) and masks.shape[0] == 3


def test_several_clips_are_the_mean_of_each(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = _model().eval()  # without correction clicks
    clips = [ClipDataset(num_frames=4, image_size=112)[i] for i in (0, 3)]
    batch = ClipCollator()(clips)
    batch["clip_prompts"] = ["mask", "box"]
    together = model(**batch)
    alone = [
        clip_loss(model, one["pixel_values"], one["clip_masks"], prompt, 0.0)[0].item()
        for one, prompt in zip(clips, batch["clip_prompts"], strict=True)
    ]
    assert together.loss.item() == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert float(sum(together.loss_dict.values())) == pytest.approx(together.loss.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_a_trainer_trains_the_tracker_alone(kind: str, tmp_path: Path) -> None:
    model = Sam3Model(tiny_config(112))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 2,
        "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-3,
    }  # fmt: skip
    clips = ClipDataset(length=4, num_frames=3, image_size=112)
    if kind == "ours":
        arguments = Sam3TrainingArguments(freeze="detector", ema_decay=0.9, **settings)
        trainer: Trainer = Sam3Trainer(
            model, arguments, train_dataset=clips, eval_dataset=clips, data_collator=ClipCollator()
        )
    else:
        plain = TrainingArguments(remove_unused_columns=False, label_names=["clip_masks"], **settings)
        trainer = Trainer(model, plain, train_dataset=clips, eval_dataset=clips, data_collator=ClipCollator())
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    if kind == "ours":
        assert any("loss_mask" in entry for entry in trainer.state.log_history)
    after = Sam3Model.from_pretrained(tmp_path / "checkpoint-2").state_dict()
    changed = {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"tracker_model", "tracker_neck"}


def test_bad_batches_of_clips(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (pixels, masks) = _model(), clip
    with pytest.raises(ValueError, match="there is no clip"):
        model(clip_masks=[masks])
    with pytest.raises(ValueError, match=r"expected \(num_clips"):
        model(pixel_values=pixels, clip_masks=[masks])
    with pytest.raises(ValueError, match="one num_frames"):
        ClipCollator()([ClipDataset(num_frames=n, image_size=112)[0] for n in (2, 3)])


def test_drawn_objects_do_not_leap() -> None:
    def kept(clips: list[np.ndarray]) -> float:
        """Mean IoU of an object's masks on frames in a row, where it is on both."""
        ious = []
        for masks in clips:
            for before, after in itertools.pairwise(masks):
                common, either = (before & after).sum((1, 2)), (before | after).sum((1, 2))
                both = before.any((1, 2)) & after.any((1, 2))
                ious += (common[both] / either[both]).tolist()
        return float(np.mean(ious))

    def parts(leaps: float) -> list[np.ndarray]:
        clips = ClipDataset(num_frames=4, image_size=112, leaps=leaps, returns=0.0)
        return [clips[i]["clip_masks"].numpy() for i in range(24)]

    wholes = [concept_clip(i, 4, 112).masks for i in range(12)]
    smooth, leaping = kept(parts(0.0)), kept(parts(1.0))
    assert smooth > 0.45 and smooth > 1.3 * kept(wholes)
    assert leaping < 0.8 * smooth


def test_hidden_objects_come_back_in_the_clips_that_are_for_it() -> None:
    def returned(returns: float) -> int:
        """In how many of 12 clips the first object is seen, then away, then seen, unlike others in their order."""
        clips = ClipDataset(num_frames=6, image_size=112, leaps=0.0, returns=returns, max_objects=2)
        seen = [clips[i]["clip_masks"].any(3).any(2)[:, 0].tolist() for i in range(12)]
        for frames in seen:
            assert len(frames) == 6 and frames[0]
        changes = [sum(a != b for a, b in itertools.pairwise(frames)) for frames in seen]
        return sum(number >= 2 for number in changes)

    assert returned(1.0) >= 9  # the rest are clips of one object that does not hide, or that hides too long
    assert returned(0.0) <= 3


def test_pictures_without_masks_are_passed_over() -> None:
    bare = replace(concept_scene(4, "train", image_size=112), masks=None)
    masked = concept_scene(5, "train", image_size=112)
    item = ClipDataset([bare, masked], length=3, num_frames=2, image_size=112, max_objects=2)[1]
    assert 1 <= item["clip_masks"].shape[1] <= 2
    with pytest.raises(ValueError, match="no object with a mask"):
        ClipDataset([bare], length=3, num_frames=2, image_size=112)[0]


def test_every_third_clip_is_a_photo_in_motion() -> None:
    drawn, photos = [list(range(100)), [[f"a{i}" for i in range(100)], [f"b{i}" for i in range(100)]]]
    mixed = ClipMixture(drawn, photos)  # type: ignore[arg-type]
    assert [mixed[i] for i in range(9)] == [0, 1, "a2", 3, 4, "b5", 6, 7, "a8"]
    assert ClipMixture(drawn)[3] == 3  # type: ignore[arg-type, comparison-overlap]
