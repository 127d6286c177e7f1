"""RoIAlign by matrix products against a plain loop written from torchvision's definition."""

import math

import torch

from sam3_hf.ops.roi_align import roi_align


def one_sample(plane: torch.Tensor, y: float, x: float) -> torch.Tensor:
    height, width = plane.shape[-2:]
    if y < -1 or y > height or x < -1 or x > width:
        return plane.new_zeros(plane.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = plane[:, y0, x0] * (x0 + 1 - x) + plane[:, y0, x1] * (x - x0)
    bottom = plane[:, y1, x0] * (x0 + 1 - x) + plane[:, y1, x1] * (x - x0)
    return top * (y0 + 1 - y) + bottom * (y - y0)


def by_loop(plane: torch.Tensor, box: list[float], size: int) -> torch.Tensor:
    x0, y0, x1, y1 = box
    width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
    rows, columns = math.ceil(height / size), math.ceil(width / size)
    out = torch.zeros(plane.shape[0], size, size)
    for i in range(size):
        for j in range(size):
            for a in range(rows):
                for b in range(columns):
                    y = y0 + (i + (a + 0.5) / rows) * height / size
                    x = x0 + (j + (b + 0.5) / columns) * width / size
                    out[:, i, j] += one_sample(plane, y, x) / (rows * columns)
    return out


def test_equals_the_definition() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 9, 12)
    boxes = [[1.2, 0.7, 7.9, 8.1], [-3.0, -2.0, 20.0, 15.0], [4.0, 4.0, 4.0, 4.0], [11.5, 8.5, 12.0, 9.0]]
    pooled = roi_align(features, torch.tensor([boxes, boxes[::-1]]), 3)
    for image, row in enumerate((boxes, boxes[::-1])):
        for index, box in enumerate(row):
            assert torch.allclose(pooled[image, index], by_loop(features[image], box, 3), atol=1e-5), (image, box)


def test_no_boxes_and_half_precision() -> None:
    features = torch.randn(1, 4, 5, 5, dtype=torch.bfloat16)
    assert roi_align(features, torch.zeros(1, 0, 4), 7).shape == (1, 0, 4, 7, 7)
    assert roi_align(features, torch.tensor([[[0.0, 0.0, 5.0, 5.0]]]), 7).dtype == torch.bfloat16
