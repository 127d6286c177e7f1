"""Phrase, then click: the bundled model's masks of objects that are pointed at, on scenes that it has not seen."""

from functools import cache

import numpy as np
import torch

from sam3_hf import Sam3Model, Sam3Processor, bundled_model
from sam3_hf.data import SceneDataset
from sam3_hf.ops.points import correction_clicks, random_points


@cache
def opened() -> tuple[Sam3Model, Sam3Processor]:
    return Sam3Model.from_pretrained(bundled_model()).eval(), Sam3Processor.from_pretrained(bundled_model())


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU (N,) of masks (N, h, w)."""
    return (a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1)


@torch.no_grad()
def test_a_click_a_correction_and_a_box_give_the_objects_mask() -> None:
    model, processor = opened()
    side = model.config.image_size
    ious: dict[str, list[float]] = {"click": [], "two clicks": [], "box": []}

    for scene in SceneDataset(12, "val", image_size=side):
        masks = torch.from_numpy(np.stack(scene.masks)) if scene.masks else torch.zeros(0, side, side)
        if not len(masks):
            continue
        torch.manual_seed(0)
        pictures = model.get_image_embeddings(processor(images=scene.image, return_tensors="pt").pixel_values)
        points = (random_points(masks) * side)[None, :, None]

        def answer(masks: torch.Tensor = masks, pictures: tuple[torch.Tensor, ...] = pictures, **prompts: object):
            said = model.segment_objects(image_embeddings=pictures, **prompts)
            best = said.iou_scores[0].argmax(-1)
            logits = said.pred_masks[0][torch.arange(len(best)), best]
            drawn = torch.nn.functional.interpolate(logits[None], (side, side), mode="bilinear")[0] > 0
            return logits, drawn, overlap(drawn, masks).tolist()

        logits, drawn, once = answer(input_points=points)
        new, kind = correction_clicks(drawn, masks)
        both = torch.cat((points, (new * side)[None, :, None]), 2)
        labels = torch.stack((torch.ones_like(kind), kind), -1)[None]
        twice = answer(input_points=both, input_labels=labels, input_masks=logits[None], multimask_output=False)[2]
        boxes = torch.as_tensor(np.asarray(scene.boxes), dtype=torch.float32)[None]
        for name, of_scene in (
            ("click", once),
            ("two clicks", twice),
            ("box", answer(input_boxes=boxes, multimask_output=False)[2]),
        ):
            ious[name] += of_scene

    means = {name: float(np.mean(values)) for name, values in ious.items()}
    assert len(ious["click"]) >= 60
    assert means["click"] > 0.65 and means["box"] > 0.7, means
    assert means["two clicks"] > 0.65, means
