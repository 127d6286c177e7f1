"""Any picture to a uint8 RGB tensor, and that tensor to the model's pixels.

What a number means is decided by type and range, never silently by clipping:

| values | read as |
|---|---|
| bool | black and white |
| uint8 | as they are |
| uint16 and PIL's `I;16` | 0..65535, divided by 257 |
| other integers, PIL's `I` | 0..255 if none is above 255, else 0..65535 |
| floats, PIL's `F` | 0..1 if none is above 1, else 0..255 |

Arrays are (H, W), (H, W, C) or (C, H, W) with 1, 2 (grey + alpha), 3 or 4 (RGB + alpha) channels; where both readings
are possible numpy arrays are channel-last and torch tensors channel-first.  Alpha is dropped, as PIL's `convert("RGB")`
does.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import requests
import torch
from torch import Tensor

__all__ = ["ImageInput", "load_image", "load_images", "normalize_pixels", "resize_image"]

ImageInput = PIL.Image.Image | np.ndarray | Tensor | str | Path

_URL_TIMEOUT_S = 20.0
_CHANNELS = (1, 2, 3, 4)
_FLOAT_SLACK = 1e-3  # a resampling filter may overshoot 0..1 by this much
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}  # PIL has no direct way from these to RGB
_WIDE_PIL_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def load_images(images: ImageInput | Sequence[ImageInput]) -> list[Tensor]:
    """Pictures as uint8 RGB tensors (3, H, W): of a single one, of a list, or of an array with a batch axis.

    Raises ValueError for an empty batch, and as `load_image` does.
    """
    if isinstance(images, PIL.Image.Image | str | Path):
        images = [images]
    elif isinstance(images, np.ndarray | Tensor):
        images = list(images) if images.ndim == 4 else [images]
    elif not isinstance(images, list | tuple):
        raise TypeError(
            f"images is {type(images).__name__}; expected a picture (PIL image, array, tensor, path or URL) "
            "or a list of them."
        )
    if len(images) == 0:
        raise ValueError("images is empty; expected at least one picture.")
    return [load_image(image, f"images[{index}]") for index, image in enumerate(images)]


def load_image(image: ImageInput, name: str = "image") -> Tensor:
    """One picture as a uint8 RGB tensor (3, H, W) on the CPU, turned upright as its EXIF orientation says.

    `name` is how errors call it.  Raises ValueError for what cannot be read as a picture, FileNotFoundError for a
    missing file, TypeError for another type.
    """
    if isinstance(image, str | Path):
        name = f"{name} ({str(image)!r})"
        image = _open(image, name)
    if isinstance(image, PIL.Image.Image):
        rgb = _from_pil(image, name)
    elif isinstance(image, Tensor):
        rgb = _from_array(image.detach().cpu(), name, channels_first=True)
    elif isinstance(image, np.ndarray):
        rgb = _from_array(_torch_readable(image, name), name, channels_first=False)
    else:
        raise TypeError(
            f"{name} is {type(image).__name__}; expected a PIL image, numpy array, torch tensor, path or URL."
        )
    if 0 in rgb.shape:
        raise ValueError(f"{name} has no pixels: {rgb.shape[-2]} high, {rgb.shape[-1]} wide.")
    return rgb


def resize_image(rgb: Tensor, size: dict[str, int]) -> Tensor:
    """The uint8 picture (3, H, W) resized to `size` {"height", "width"} without keeping its aspect ratio.

    Resizing uint8, not floats, is what the reference does; its rounding is reproduced to the bit.
    """
    target = (size["height"], size["width"])
    if rgb.shape[-2:] == target:
        return rgb
    return torch.nn.functional.interpolate(rgb[None], target, mode="bilinear", antialias=True)[0]


def normalize_pixels(rgb: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 (3, H, W) from uint8: (value / 255 - mean) / std for each channel.

    Times 1/255 rather than divided by 255, as torchvision does for the reference: the last bit differs.
    """
    scale = torch.tensor([mean, std], dtype=torch.float32)[:, :, None, None]
    pixels = rgb.to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.mul_(1 / 255).sub_(scale[0]).div_(scale[1])


def _open(source: str | Path, name: str) -> PIL.Image.Image:
    """The opened file or download, decoded here so that a damaged one is reported under its name."""
    try:
        image = PIL.Image.open(io.BytesIO(_read(str(source))))
        image.load()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} does not exist.") from error
    # A damaged file may fail anywhere in PIL's decoders: SyntaxError (PNG), struct.error, EOFError, OSError...
    except Exception as error:
        raise ValueError(f"{name} cannot be read as a picture: {type(error).__name__}: {error}") from error
    return image


def _read(source: str) -> bytes:
    if not source.startswith(("http://", "https://")):
        return Path(source).read_bytes()
    response = requests.get(source, timeout=_URL_TIMEOUT_S)
    response.raise_for_status()
    return response.content


def _from_pil(image: PIL.Image.Image, name: str) -> Tensor:
    if 0 in image.size:
        raise ValueError(f"{name} has no pixels: {image.height} high, {image.width} wide.")
    try:
        image = PIL.ImageOps.exif_transpose(image)
        if image.mode in _WIDE_PIL_MODES:
            return _from_array(_torch_readable(np.array(image), name), name, channels_first=False)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # the same colours; straight to RGB warns about the transparency
        if image.mode in _PREMULTIPLIED:
            image = image.convert(_PREMULTIPLIED[image.mode])
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    # A lazily opened file that turns out to be cut off, or a colour space that PIL cannot convert
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _torch_readable(array: np.ndarray, name: str) -> Tensor:
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} is an array of {array.dtype}; expected bool, integers or floats.")
    # torch has no other byte order than the machine's, no negative strides and no longdouble
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(
        np.array(native, dtype=np.float64 if native.dtype.itemsize > 8 else native.dtype, order="C")
    )


def _from_array(array: Tensor, name: str, channels_first: bool) -> Tensor:
    values = _to_uint8(_channels_first(array, name, channels_first), name)
    channels = values.shape[0]
    return values[:1].expand(3, -1, -1) if channels <= 2 else values[:3]


def _channels_first(array: Tensor, name: str, channels_first: bool) -> Tensor:
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3:
        first, last = array.shape[0] in _CHANNELS, array.shape[-1] in _CHANNELS
        if first and (channels_first or not last):
            return array
        if last:
            return array.permute(2, 0, 1)
    raise ValueError(
        f"{name} has shape {tuple(array.shape)}; expected (height, width), (height, width, channels) or "
        "(channels, height, width) with 1 to 4 channels."
    )


def _to_uint8(values: Tensor, name: str) -> Tensor:
    if values.dtype == torch.uint8 or values.numel() == 0:
        return values.to(torch.uint8)
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255
    if values.is_floating_point():
        return _float_to_uint8(values.to(torch.float32), name)
    wide = values.dtype == torch.uint16
    numbers = values.to(torch.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 65535:
        raise ValueError(f"{name} has integers from {low} to {high}; expected 0..255 or 0..65535.")
    return ((numbers + 128) // 257).to(torch.uint8) if wide or high > 255 else numbers.to(torch.uint8)


def _float_to_uint8(values: Tensor, name: str) -> Tensor:
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name} has {bad} pixel values that are NaN or infinite; expected finite numbers.")
    low, high = float(values.min()), float(values.max())
    if low < -_FLOAT_SLACK or high > 255 + _FLOAT_SLACK:
        raise ValueError(
            f"{name} has floats from {low:g} to {high:g}; expected 0..1 or 0..255. "
            "Undo any normalisation: the processor does it."
        )
    scale = 255 if high <= 1 + _FLOAT_SLACK else 1
    return (values * scale).round().clamp(0, 255).to(torch.uint8)
