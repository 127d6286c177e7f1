"""The stage on names: cells get the names of the objects that cover them, and a small model learns them."""

import numpy as np
import torch

from sam3_hf import Sam3Detector, tiny_config
from sam3_hf.data import SceneDataset, concept_scene
from sam3_hf.processing.tokenization import clip_tokenizer
from sam3_hf.training.naming import GROUPS, NAMES, NamedScenes, NamingTrainer, named_objects


def test_objects_have_their_cells_and_names() -> None:
    scene = concept_scene(3, image_size=112)
    assert scene.masks
    coverage, names = named_objects(scene, 8, 30)
    assert coverage.shape == (30, 64) and names.shape == (30, len(NAMES))
    for index, mask in enumerate(scene.masks):
        cells = np.asarray(mask, dtype=float).reshape(8, 14, 8, 14).mean((1, 3))
        np.testing.assert_allclose(coverage[index].reshape(8, 8), cells, atol=1e-6)
        for group, group_names in zip(names[index].tolist(), NAMES, strict=True):
            named = [name for name in group_names if index in scene.concepts.get(name, ())]
            assert named == ([group_names[group]] if group != -100 else [])
    assert (names[: len(scene.masks), :3] != -100).all()  # only a size may have no name
    assert not coverage[len(scene.masks) :].any() and (names[len(scene.masks) :] == -100).all()


def test_names_are_learned() -> None:
    torch.manual_seed(0)
    detector = Sam3Detector(tiny_config(112).detector_config).train()
    naming = NamingTrainer(detector, clip_tokenizer())
    scenes = NamedScenes(SceneDataset(10, image_size=112), detector.config.vision_config.backbone_config.grid_size)
    batch = [torch.stack(parts) for parts in zip(*(scenes[i] for i in range(4)), strict=True)]
    optimizer = torch.optim.Adam(naming.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss, terms = naming(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert set(terms) == {f"loss_{group}{suffix}" for group in GROUPS for suffix in ("", "_object")}
    assert losses[-1] < 0.5 * losses[0]


def test_pictures_without_objects_give_a_finite_loss() -> None:
    naming = NamingTrainer(Sam3Detector(tiny_config(112).detector_config), clip_tokenizer())
    nothing = torch.zeros(1, 5, naming.detector.config.vision_config.backbone_config.grid_size**2)
    loss, _ = naming(torch.zeros(1, 3, 112, 112), nothing, torch.full((1, 5, len(NAMES)), -100))
    loss.backward()
    assert loss.item() == 0
