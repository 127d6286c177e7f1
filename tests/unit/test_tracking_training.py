"""Training of the tracker on clips: it learns, bad clips are refused, pictures become clips."""

import numpy as np
import pytest
import torch

from sam3_hf import Sam3Model, tiny_config
from sam3_hf.data import concept_scene
from sam3_hf.training.tracking import PROMPTS, ClipDataset, clip_loss, moving_picture


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    return ClipDataset(num_frames=4, image_size=112)[3]


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
    pixels, masks = ClipDataset([scene], length=2, num_frames=3, image_size=112)[0]
    assert pixels.shape == (3, 3, 112, 112) and masks.shape[0] == 3
