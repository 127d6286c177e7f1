import io
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import requests
import torch
from safetensors.torch import load_file

from sam3_hf.processing import images as module
from sam3_hf.processing.images import load_image, load_images, normalize_pixels, resize_image

REFERENCE = Path(__file__).parents[1] / "golden/reference"
SIZE = {"height": 1008, "width": 1008}
HALF = [0.5] * 3


@pytest.fixture
def rgb():
    """A colour picture, 12 high and 16 wide, in which no two channels or sides look alike."""
    y, x = np.mgrid[0:12, 0:16]
    return np.stack([x * 15, y * 20, (x + y) * 9], -1).astype(np.uint8)


def expected(array):
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="reference goldens are not in this checkout")
def test_pixels_equal_the_references_to_the_bit():
    sys.path.insert(0, str(REFERENCE))
    try:
        from reference import picture
    finally:
        sys.path.remove(str(REFERENCE))
    pixels = normalize_pixels(resize_image(load_image(picture()), SIZE), HALF, HALF)
    assert torch.equal(pixels[:, ::16, ::16], load_file(REFERENCE / "thin_golden.safetensors")["pixels_sub"])


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "HSV", "RGBX", "La", "RGBa"]
)
def test_pil_modes_are_read_as_convert_rgb_does(rgb, mode):
    image = PIL.Image.fromarray(rgb)
    image = (
        image.convert("LA" if mode in ("La", "PA") else "RGBA").convert(mode)
        if mode in ("La", "PA", "RGBa")
        else image.convert(mode)
    )
    through = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert("RGB")
    assert torch.equal(load_image(image), expected(np.asarray(through)))


def test_transparent_palette_keeps_its_colours_without_a_warning(rgb):
    image = PIL.Image.fromarray(rgb).convert("P")
    plain = load_image(image)
    image.info["transparency"] = bytes(range(256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load_image(image), plain)


@pytest.mark.parametrize("mode", ["I;16", "I", "I;16B"])
def test_16_bit_pictures_are_scaled_not_clipped(mode):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    if mode == "I;16B":
        image = PIL.Image.frombytes(mode, (4, 1), values.astype(">u2").tobytes())
    else:
        image = PIL.Image.fromarray(values).convert(mode)
    assert load_image(image)[:, 0].tolist() == [[0, 1, 128, 255]] * 3


def test_a_rotated_tiff_on_disk(rgb, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(rgb).save(tmp_path / "turned.tif", exif=exif)
    assert torch.equal(load_image(tmp_path / "turned.tif"), expected(np.rot90(rgb, 3)))


def test_16_bit_png_on_disk(tmp_path):
    PIL.Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png")[0].tolist() == [[0, 255]]


def test_float_pil_image():
    assert load_image(PIL.Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)))[0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("orientation, turns", [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(rgb, tmp_path, orientation, turns):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    upright = expected(np.rot90(rgb, turns))
    assert torch.equal(load_image(tmp_path / "turned.png"), upright)
    assert torch.equal(load_image(PIL.Image.open(tmp_path / "turned.png").convert("RGB")), upright)


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a,
        lambda a: a.transpose(2, 0, 1),
        lambda a: a[..., ::-1][..., ::-1],
        lambda a: np.concatenate([a, a[..., :1]], -1),
        lambda a: a.astype(np.int64),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.float32) / 255,
        lambda a: a.astype(">f4") / 255,
        lambda a: a.astype(np.uint16) * 257,
        lambda a: a.astype(">u2") * 257,
        lambda a: torch.from_numpy(a).permute(2, 0, 1),
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a).permute(2, 0, 1).float() / 255,
        lambda a: torch.from_numpy(a).float().requires_grad_(),
        lambda a: PIL.Image.fromarray(a),
    ],
)
def test_arrays_and_tensors_of_any_type_give_the_same_picture(rgb, convert):
    assert torch.equal(load_image(convert(rgb)), expected(rgb))


def test_grey_bool_and_grey_with_alpha(rgb):
    grey = rgb[..., 0]
    for array in (grey, grey[..., None], np.stack([grey, grey // 2], -1), torch.from_numpy(grey)[None]):
        assert torch.equal(load_image(array), expected(np.stack([grey] * 3, -1)))
    assert load_image(grey > 100).unique().tolist() == [0, 255]


def test_half_precision_tensor():
    assert load_image(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16)).unique().tolist() == [128]


def test_ambiguous_shape_follows_the_library():
    array = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    assert load_image(array).shape == (3, 3, 5)
    assert load_image(torch.from_numpy(array)).shape == (3, 5, 3)


def test_one_picture_a_list_and_a_batch_axis(rgb):
    assert len(load_images(rgb)) == 1
    assert len(load_images([PIL.Image.fromarray(rgb), rgb, torch.from_numpy(rgb)])) == 3
    assert [tuple(picture.shape) for picture in load_images(np.stack([rgb, rgb]))] == [(3, 12, 16)] * 2


def test_path_as_string_or_path(rgb, tmp_path):
    PIL.Image.fromarray(rgb).save(tmp_path / "a.png")
    assert torch.equal(load_image(str(tmp_path / "a.png")), expected(rgb))
    assert torch.equal(load_images(tmp_path / "a.png")[0], expected(rgb))


def test_url_is_fetched_with_a_timeout(rgb, monkeypatch):
    buffer = io.BytesIO()
    PIL.Image.fromarray(rgb).save(buffer, "png")
    response = requests.Response()
    response.status_code, response._content = 200, buffer.getvalue()
    calls = []
    monkeypatch.setattr(module.requests, "get", lambda url, timeout: calls.append((url, timeout)) or response)
    assert torch.equal(load_image("https://example.org/a.png"), expected(rgb))
    assert calls[0][0] == "https://example.org/a.png"
    assert 0 < calls[0][1] < 120
    response.status_code = 404
    with pytest.raises(ValueError, match=r"image \('https://example.org/a.png'\) cannot be read .*404"):
        load_image("https://example.org/a.png")


@pytest.mark.parametrize("height, width", [(1, 1), (50, 20000), (20000, 50), (1, 3000)])
def test_extreme_shapes_are_resized(height, width):
    pixels = normalize_pixels(resize_image(load_image(np.full((height, width, 3), 255, np.uint8)), SIZE), HALF, HALF)
    assert pixels.shape == (3, 1008, 1008)
    assert pixels.unique().tolist() == [1.0]


def test_normalisation_uses_each_channels_mean_and_std():
    pixels = normalize_pixels(torch.full((3, 1, 1), 255, dtype=torch.uint8), [0.0, 0.5, 1.0], [1.0, 0.25, 0.5])
    assert pixels.flatten().tolist() == [1.0, 2.0, 0.0]


def test_a_picture_of_the_right_size_is_left_alone_and_not_written_to(rgb):
    array = np.full((8, 8, 3), 7, np.uint8)
    picture = load_image(array)
    normalize_pixels(resize_image(picture, {"height": 8, "width": 8}), HALF, HALF)
    assert (array == 7).all()
    assert (picture == 7).all()


@pytest.mark.parametrize(
    "image, error, message",
    [
        (np.full((4, 4, 3), np.nan), ValueError, r"images\[1\] has 48 pixel values that are NaN or infinite"),
        (torch.tensor([[1.0, float("inf")]]), ValueError, r"images\[1\] has 1 pixel values that are NaN or infinite"),
        (np.full((4, 4, 3), -0.5), ValueError, r"images\[1\] has floats from -0.5 to -0.5"),
        (np.full((4, 4, 3), 300.0), ValueError, r"images\[1\] has floats from 300 to 300"),
        (np.full((4, 4, 3), 70000), ValueError, r"images\[1\] has integers from 70000 to 70000"),
        (np.full((4, 4, 3), -1), ValueError, r"images\[1\] has integers from -1 to -1"),
        (np.zeros((4, 4, 3), dtype=complex), TypeError, r"images\[1\] is an array of complex128"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"images\[1\] has no pixels: 0 high, 4 wide"),
        (torch.zeros(3, 4, 0), ValueError, r"images\[1\] has no pixels: 4 high, 0 wide"),
        (np.zeros((9, 9, 7), np.uint8), ValueError, r"images\[1\] has shape \(9, 9, 7\)"),
        (np.zeros(4, np.uint8), ValueError, r"images\[1\] has shape \(4,\)"),
        (PIL.Image.new("RGB", (0, 4)), ValueError, r"images\[1\] has no pixels: 4 high, 0 wide"),
        (None, TypeError, r"images\[1\] is NoneType"),
        ("missing.png", FileNotFoundError, r"images\[1\] \('missing.png'\) does not exist"),
    ],
)
def test_bad_pictures_are_named(image, error, message):
    with pytest.raises(error, match=message):
        load_images([np.zeros((4, 4, 3), np.uint8), image])


def damaged_png():
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise).save(buffer, "png")
    return buffer.getvalue()[:4000]


@pytest.mark.parametrize(
    "content", [b"", b"not a picture", "cut", struct.pack("<I", 0)], ids=["empty", "text", "cut", "zero"]
)
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(damaged_png() if content == "cut" else content)
    with pytest.raises(ValueError, match=r"image \(.*bad.png'\) cannot be read as a picture"):
        load_image(path)


def test_damaged_picture_opened_by_the_caller_is_named():
    with pytest.raises(ValueError, match=r"images\[0\] cannot be read as a picture"):
        load_images([PIL.Image.open(io.BytesIO(damaged_png()))])


@pytest.mark.parametrize(
    "images, error, message", [([], ValueError, "images is empty"), (5, TypeError, "images is int")]
)
def test_no_pictures_at_all(images, error, message):
    with pytest.raises(error, match=message):
        load_images(images)
