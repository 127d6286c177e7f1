"""Mean IoU of what clicks and boxes give, as a Markdown table: drawn scenes, every object of them.

usage: python -m sam3_hf.evaluation.click_scores MODEL [--scenes 12] [--split val] [--seed 0]

A first click falls anywhere on the object, a second one anywhere where the answer to the first is wrong.
"""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data import SceneDataset
from ..modeling import Sam3Model
from ..ops.masks import mask_iou, masks_to_boxes
from ..ops.points import correction_clicks, random_points
from ..processing import Sam3Processor

__all__ = ["evaluate_clicks", "main"]


@torch.inference_mode()
def evaluate_clicks(model: Sam3Model, processor: Sam3Processor, scenes: Iterable[Any], seed: int = 0) -> dict[str, Any]:
    """Mean IoU (0..1) of "click", "two clicks" and "box" over all objects, and `num_objects`.

    Args:
        model, processor: what is asked; of several masks for a click, the one that the model scores best counts.
        scenes: have `image` and `masks`, bool (h, w) each, as `SceneDataset` gives them.
        seed: of where clicks fall.

    Raises:
        ValueError: no scene has an object.
    """
    ious: dict[str, list[Tensor]] = {"click": [], "two clicks": [], "box": []}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for scene in scenes:
            masks = torch.from_numpy(np.stack(scene.masks)) if len(scene.masks) else torch.zeros(0, 1, 1)
            masks = masks[masks.flatten(1).any(1)].bool()
            if not len(masks):
                continue
            pixels = processor(images=scene.image, return_tensors="pt")["pixel_values"].to(model.device)
            for name, shown in _answers(model, pixels, masks).items():
                ious[name].append(mask_iou(shown, masks).diagonal())
    if not ious["click"]:
        raise ValueError("no scene has an object, so there is nothing to click on: give scenes with masks")
    means = {name: float(torch.cat(found).mean()) for name, found in ious.items()}
    return means | {"num_objects": sum(map(len, ious["click"]))}


def _answers(model: Sam3Model, pixels: Tensor, masks_bool: Tensor) -> dict[str, Tensor]:
    """Masks (num_objects, h, w) bool by the name of the prompt."""
    side, size = model.config.image_size, masks_bool.shape[-2:]
    embeddings = model.get_image_embeddings(pixels)

    def ask(several: bool, **prompts: Tensor) -> tuple[Tensor, Tensor]:
        given: dict[str, Any] = {name: value.to(model.device) for name, value in prompts.items()}
        answer = model.segment_objects(image_embeddings=embeddings, multimask_output=several, **given)
        assert answer.pred_masks is not None and answer.iou_scores is not None
        best = answer.iou_scores[0].argmax(1)
        logits = answer.pred_masks[0][torch.arange(len(best)), best][None].float().cpu()
        return logits, torch.nn.functional.interpolate(logits, size, mode="bilinear")[0] > 0

    points = random_points(masks_bool)[None, :, None] * side
    labels = torch.ones(points.shape[:3], dtype=torch.long)
    logits, first = ask(True, input_points=points, input_labels=labels)
    wrong, kind = correction_clicks(first, masks_bool)
    both = torch.cat((points, wrong[None, :, None] * side), 2)
    kinds = torch.cat((labels, kind[None, :, None]), 2)
    _, second = ask(False, input_points=both, input_labels=kinds, input_masks=logits)
    boxes = masks_to_boxes(masks_bool) / torch.tensor([size[1], size[0]] * 2) * side
    _, boxed = ask(False, input_boxes=boxes[None])
    return {"click": first, "two clicks": second, "box": boxed}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Score what clicks and boxes on objects give.")
    add = parser.add_argument
    add("model")
    add("--scenes", type=int, default=12, help="how many pictures (default: %(default)s)")
    add("--split", default="val", choices=("train", "val", "unseen"))
    add("--seed", type=int, default=0, help="of where clicks fall")
    options = parser.parse_args(arguments)
    model = Sam3Model.from_pretrained(options.model).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    size = model.config.image_size
    scenes = SceneDataset(options.scenes, options.split, image_size=size)
    found = evaluate_clicks(model, Sam3Processor(size=size), tqdm(scenes, unit="picture", leave=False), options.seed)
    print("| objects | click | two clicks | box |", "|---|---|---|---|", sep="\n")
    print(f"| {found['num_objects']} | {found['click']:.3f} | {found['two clicks']:.3f} | {found['box']:.3f} |")


if __name__ == "__main__":
    main()
