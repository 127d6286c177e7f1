"""J and F of object segmentation in videos, as DAVIS has them: the region, and its boundary.

    J = |found & true| / |found | true|
    F = 2 P R / (P + R),    P, R: share of the boundary pixels of the one within r of the other's
    r = ceil(0.008 * diagonal) pixels

(Perazzi et al., CVPR 2016; Pont-Tuset et al., https://arxiv.org/abs/1704.00675).  Of each object the frames give a
mean, a recall (share of frames above 0.5) and a decay (the mean of the first quarter of frames less that of the last);
the figures of several objects are averaged.  In the semi-supervised protocol the first frame, which is given, and the
last one are left out.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt

from ..ops.masks import rle_decode

__all__ = ["DAVIS_NAMES", "boundary_f", "davis_folder", "j_and_f", "region_j"]

DAVIS_NAMES = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")

_BOUNDARY = 0.008
_VOID = 255
_PARTS = 4

Masks = Sequence[Any] | np.ndarray | torch.Tensor


def j_and_f(
    found: Masks | Sequence[Masks], there: Masks | Sequence[Masks], *, skip_ends: bool = True
) -> dict[str, float]:
    """`DAVIS_NAMES`, each in 0..1 (decay in -1..1), of one object or the mean over several.

    Args:
        found, there: an object's masks (num_frames, height, width), bool or 0 and 1, or a list with a mask, a COCO
            run-length code or None (nothing) for each frame; or a list of such objects.
        skip_ends: leave out the first and the last frame, as the protocol does where the first is given.

    Frames are compared one by one. Raises ValueError where objects, frames or sizes do not agree.
    """
    if _is_object(found) != _is_object(there):
        raise ValueError("found and there are an object and a list of objects; expected the same of both.")
    pairs = [(found, there)] if _is_object(found) else list(zip(found, there, strict=False))
    if not pairs or (not _is_object(found) and len(found) != len(there)):
        raise ValueError(f"{len(found)} objects found, {len(there)} true ones; expected as many, and at least one.")
    return _mean_of_objects([_object_figures(one, other, skip_ends) for one, other in pairs])


def davis_folder(
    found: str | os.PathLike[str], there: str | os.PathLike[str], *, skip_ends: bool = True
) -> dict[str, dict[str, float]]:
    """`DAVIS_NAMES` of each object ("clip_1") and of all ("all"), from folders `clip/00000.png` of label pictures.

    A label picture has the object's number at each pixel, 0 where there is none; 255 in the annotations is none. The
    first annotated frame says how many objects a clip has. Every annotated frame must be among the results, by name.

    Raises FileNotFoundError for a clip or frame that is missing, ValueError for a number or size that does not fit.
    """
    figures: dict[str, dict[str, float]] = {}
    for folder in sorted(path for path in Path(there).iterdir() if path.is_dir()):
        names = sorted(path.name for path in folder.glob("*.png"))
        missing = [name for name in names if not (Path(found) / folder.name / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{Path(found) / folder.name} lacks {len(missing)} of {len(names)} annotated frames, such as "
                f"{missing[0]}."
            )
        values = _folder_values(Path(found) / folder.name, folder, names[1:-1] if skip_ends else names, names[:1])
        for number, (region, contour) in enumerate(values, 1):
            figures[f"{folder.name}_{number}"] = _figures(np.array(region), np.array(contour))
    if not figures:
        raise ValueError(f"{there} has no folder with label pictures of objects (clip/00000.png).")
    return figures | {"all": _mean_of_objects(list(figures.values()))}


def region_j(found: np.ndarray, there: np.ndarray) -> float:
    """J of two bool masks (height, width), 1 where both are empty."""
    either = np.count_nonzero(found | there)
    return np.count_nonzero(found & there) / either if either else 1.0


def boundary_f(found: np.ndarray, there: np.ndarray, tolerance: float = _BOUNDARY) -> float:
    """F of two bool masks (height, width), 1 where neither has a boundary.

    `tolerance` is in diagonals of the picture where it is below 1, in pixels from 1 on.
    """
    radius = tolerance if tolerance >= 1 else np.ceil(tolerance * np.linalg.norm(found.shape))
    found_edge, true_edge = _edge(found), _edge(there)
    num_found, num_true = np.count_nonzero(found_edge), np.count_nonzero(true_edge)
    if not num_found or not num_true:
        return float(num_found == num_true)
    # To be within r of a boundary pixel is to be in its disk: what the official code draws around all of them.
    precision = np.count_nonzero(distance_transform_edt(~true_edge)[found_edge] <= radius) / num_found
    recall = np.count_nonzero(distance_transform_edt(~found_edge)[true_edge] <= radius) / num_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or both; on the border from the one along it."""
    edge = np.zeros_like(mask)
    edge[:-1, :-1] = (
        (mask[:-1, :-1] ^ mask[:-1, 1:]) | (mask[:-1, :-1] ^ mask[1:, :-1]) | (mask[:-1, :-1] ^ mask[1:, 1:])
    )
    edge[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    edge[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return edge


def _is_object(masks: Any) -> bool:
    """Whether `masks` are one object's: a stack, or a list whose entries are frames."""
    if isinstance(masks, np.ndarray | torch.Tensor):
        return masks.ndim == 3
    return not any(isinstance(one, list | tuple) or getattr(one, "ndim", 2) == 3 for one in masks)


def _object_figures(found: Masks, there: Masks, skip_ends: bool) -> dict[str, float]:
    if len(found) != len(there):
        raise ValueError(f"an object has {len(found)} frames, the true one {len(there)}; expected as many.")
    frames = range(1, len(there) - 1) if skip_ends else range(len(there))
    if not frames:
        raise ValueError(f"an object has {len(there)} frames, of which none counts; give skip_ends=False.")
    region, contour = [], []
    for frame in frames:
        one, other = _pair_of_masks(found[frame], there[frame])
        region.append(region_j(one, other))
        contour.append(boundary_f(one, other))
    return _figures(np.array(region), np.array(contour))


def _pair_of_masks(found: Any, there: Any) -> tuple[np.ndarray, np.ndarray]:
    one, other = _mask(found), _mask(there)
    size = next((mask.shape for mask in (other, one) if mask is not None), (1, 1))
    one, other = (np.zeros(size, dtype=bool) if mask is None else mask for mask in (one, other))
    if one.shape != other.shape or one.ndim != 2:
        raise ValueError(f"a mask is of size {one.shape}, the true one {other.shape}; expected the same two sides.")
    return one, other


def _mask(mask: Any) -> np.ndarray | None:
    if mask is None:
        return None
    return (rle_decode(dict(mask)).numpy() if isinstance(mask, Mapping) else np.asarray(mask)).astype(bool)


def _folder_values(
    found: Path, there: Path, names: Sequence[str], first: Sequence[str]
) -> list[tuple[list[float], list[float]]]:
    """(J, F) on each of `names`, of each object that the `first` frame has."""
    num_objects = int(_without_void(_labels(there / first[0])).max()) if first else 0
    if num_objects and not names:
        raise ValueError(f"{there} has no frame that counts; give skip_ends=False.")
    values: list[tuple[list[float], list[float]]] = [([], []) for _ in range(num_objects)]
    for name in names:
        guess, truth = _labels(found / name), _without_void(_labels(there / name))
        if guess.shape != truth.shape or guess.max() > num_objects:
            raise ValueError(
                f"{found / name} is of size {guess.shape} with numbers up to {guess.max()}; expected {truth.shape} and "
                f"at most {num_objects}."
            )
        for number, (region, contour) in enumerate(values, 1):
            region.append(region_j(guess == number, truth == number))
            contour.append(boundary_f(guess == number, truth == number))
    return values


def _labels(path: Path) -> np.ndarray:
    labels = np.asarray(Image.open(path))
    if labels.ndim != 2:
        raise ValueError(f"{path} is a picture of shape {labels.shape}; expected one number a pixel.")
    return labels


def _without_void(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == _VOID, 0, labels)


def _figures(region: np.ndarray, contour: np.ndarray) -> dict[str, float]:
    figures = {"J&F-Mean": float(region.mean() + contour.mean()) / 2}
    for key, values in (("J", region), ("F", contour)):
        ends = np.round(np.linspace(1, len(values), _PARTS + 1) + 1e-10).astype(int) - 1
        first, last = values[: ends[1] + 1], values[ends[-2] :]  # neighbouring parts share a frame
        figures[f"{key}-Mean"] = float(values.mean())
        figures[f"{key}-Recall"] = float((values > 0.5).mean())
        figures[f"{key}-Decay"] = float(first.mean() - last.mean())
    return figures


def _mean_of_objects(objects: Iterable[Mapping[str, float]]) -> dict[str, float]:
    known = list(objects)
    return {name: float(np.mean([one[name] for one in known])) for name in DAVIS_NAMES}
