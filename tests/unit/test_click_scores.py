"""Scores of clicks: where they fall, what is counted, what is refused."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sam3_hf import Sam3Model, Sam3Processor, tiny_config
from sam3_hf.data import SceneDataset
from sam3_hf.evaluation.click_scores import evaluate_clicks, main

SIDE = 28


@dataclass
class Scene:
    """Two squares, one above the other."""

    image: Image.Image
    masks: list[np.ndarray]


def two_squares() -> Scene:
    masks = [np.zeros((SIDE, SIDE), bool) for _ in range(2)]
    masks[0][4:12, 8:16] = True
    masks[1][16:24, 8:16] = True
    return Scene(Image.new("RGB", (SIDE, SIDE)), masks)


class LeftHalfFirst:
    """Answers a first click with the square's left half, all else with the square; keeps what it was asked."""

    config = SimpleNamespace(image_size=SIDE)
    device = torch.device("cpu")

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks, self.asked = torch.from_numpy(np.stack(masks)), list[dict[str, Any]]()

    def get_image_embeddings(self, _pixels: Tensor) -> str:
        return "embeddings"

    def segment_objects(self, image_embeddings: str, multimask_output: bool, **prompts: Tensor) -> Any:
        assert image_embeddings == "embeddings"
        self.asked.append(prompts)
        shown = self.masks.clone()
        if multimask_output:
            shown[:, :, 12:] = False
        logits = 20.0 * shown[None, :, None] - 10
        if not multimask_output:
            return SimpleNamespace(pred_masks=logits, iou_scores=torch.ones(1, 2, 1))
        worse = -10 * torch.ones_like(logits)
        return SimpleNamespace(
            pred_masks=torch.cat((worse, logits, worse), 2), iou_scores=torch.tensor([[[0.1, 0.9, 0.5]] * 2])
        )


def test_clicks_fall_on_objects_and_then_on_what_was_missed() -> None:
    scene = two_squares()
    model = LeftHalfFirst(scene.masks)
    found = evaluate_clicks(model, Sam3Processor(size=SIDE), [scene])  # type: ignore[arg-type]
    assert found == {"click": 0.5, "two clicks": 1.0, "box": 1.0, "num_objects": 2}
    click, second, box = model.asked
    assert click["input_points"].shape == (1, 2, 1, 2) and second["input_points"].shape == (1, 2, 2, 2)
    for mask, (first_place, second_place) in zip(scene.masks, second["input_points"][0].long(), strict=True):
        assert mask[first_place[1], first_place[0]] and mask[second_place[1], second_place[0]]
        assert second_place[0] >= 12, "where the first answer had nothing"
    assert second["input_labels"].tolist() == [[[1, 1], [1, 1]]]
    assert box["input_boxes"].tolist() == [[[8, 4, 16, 12], [8, 16, 16, 24]]]


def test_the_same_seed_gives_the_same_figures_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    model, processor = Sam3Model(tiny_config(112)).eval(), Sam3Processor(size=112)
    scenes = [SceneDataset(5, "val", image_size=112)[i] for i in (2, 4)]  # the first two are empty
    state = torch.get_rng_state()
    first = evaluate_clicks(model, processor, scenes, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluate_clicks(model, processor, scenes, seed=1) == first
    assert first["num_objects"] == sum(len(scene.masks) for scene in scenes)
    assert all(0 <= first[name] <= 1 for name in ("click", "two clicks", "box"))


def test_scenes_without_objects_are_refused() -> None:
    empty = Scene(Image.new("RGB", (SIDE, SIDE)), [])
    with pytest.raises(ValueError, match="no scene has an object"):
        evaluate_clicks(LeftHalfFirst(two_squares().masks), Sam3Processor(size=SIDE), [empty])  # type: ignore[arg-type]


def test_command_prints_a_table(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Sam3Model(tiny_config(112)).save_pretrained(tmp_path)
    main([str(tmp_path), "--scenes", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| objects | click | two clicks | box |" and len(lines) == 3
