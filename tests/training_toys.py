"""Pictures of coloured rectangles, with phrases and masks: enough to train a tiny model in seconds."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3_hf import Sam3Config, Sam3Detector, Sam3Processor, tiny_config

COLORS = {"red thing": (220, 40, 40), "green thing": (40, 190, 60), "blue thing": (50, 70, 220)}
SIDE = 56
UNIT = 7


def toy_config(side: int = SIDE) -> Sam3Config:
    """The tiny configuration for pictures of `side` pixels, without dropout: two runs see the same model."""
    config = tiny_config(side)
    detector = config.detector_config
    detector.vision_config.backbone_config.drop_path_rate = 0.0
    for name in ("geometry_encoder_config", "detr_encoder_config", "detr_decoder_config"):
        getattr(detector, name).dropout = 0.0
    return config


def toy_model(side: int = SIDE, seed: int = 0) -> Sam3Detector:
    """A tiny detector with random weights."""
    torch.manual_seed(seed)
    return Sam3Detector(toy_config(side).detector_config)


class Rectangles(torch.utils.data.Dataset):
    """Pictures with one rectangle, at most, of each colour; every picture is asked for every colour.

    Args:
        count: number of pictures.
        side: their side in pixels.
        seed: of the drawing.
    """

    def __init__(self, count: int, side: int = SIDE, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.processor = Sam3Processor(size=side)
        self.drawn = [_draw(generator, side) for _ in range(count)]
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture, masks = self.drawn[index]
        side = picture.shape[0]
        inputs = self.processor(images=picture, text=list(COLORS))
        labels = [
            {
                "boxes": _boxes(mask) / side,
                "masks": torch.from_numpy(mask),
                "image_id": f"picture-{index}",
                "phrase": phrase,
                "size": (side, side),
            }
            for phrase, mask in masks.items()
        ]
        return {"pixel_values": inputs.pixel_values, "inputs": inputs, "labels": labels}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch whose rows are all phrases of all pictures."""
    return {
        "pixel_values": torch.cat([item["pixel_values"] for item in items]),
        "input_ids": torch.cat([item["inputs"].input_ids for item in items]),
        "attention_mask": torch.cat([item["inputs"].attention_mask for item in items]),
        "image_ids": torch.arange(len(items)).repeat_interleave(len(COLORS)),
        "labels": [label for item in items for label in item["labels"]],
    }


def _draw(generator: np.random.Generator, side: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A picture and its masks; edges lie on those of the model's mask pixels, two of which are `UNIT` pixels."""
    picture = np.full((side, side, 3), 200, np.uint8)
    masks: dict[str, np.ndarray] = {}
    units, band = side // UNIT, side // UNIT // len(COLORS)
    for row, (phrase, color) in enumerate(COLORS.items()):
        if generator.random() < 0.3:
            masks[phrase] = np.zeros((0, side, side), bool)
            continue
        height, width = generator.integers((band + 1) // 2, band + 1), generator.integers(units // 4, units // 2 + 1)
        y, x = row * band + generator.integers(0, band - height + 1), generator.integers(0, units - width + 1)
        mask = np.zeros((1, side, side), bool)
        mask[0, y * UNIT : (y + height) * UNIT, x * UNIT : (x + width) * UNIT] = True
        picture[mask[0]] = color
        masks[phrase] = mask
    return picture, masks


def _boxes(masks: np.ndarray) -> Tensor:
    """cxcywh in pixels."""
    found = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        found.append([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
    return torch.tensor(found, dtype=torch.float32).reshape(-1, 4)
