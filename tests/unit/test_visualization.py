"""Pictures of results: every object is seen, every label can be read, whatever lies behind."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam3_hf.ops.masks import rle_encode
from sam3_hf.visualization import _collect_instances, _place_labels, _text_color, draw_instances, instance_color


def _disc(size: tuple[int, int], center: tuple[int, int], radius: int) -> np.ndarray:
    y, x = np.mgrid[: size[1], : size[0]]
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def _result(size: tuple[int, int], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` discs of radius 15 with boxes around them, all inside the picture, as the pipeline returns them."""
    generator = np.random.default_rng(seed)
    objects = []
    for index in range(count):
        x, y = int(generator.integers(16, size[0] - 16)), int(generator.integers(16, size[1] - 16))
        box = {"xmin": x - 15, "ymin": y - 15, "xmax": x + 15, "ymax": y + 15}
        objects.append({"score": 1 - index / 1000, "label": "disc", "mask": _disc(size, (x, y), 15), "box": box})
    return objects


def _luminance(color: Any) -> float:
    channels = np.asarray(color) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _contrast(first: Any, second: Any) -> float:
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_first_colors_are_far_apart_and_stay_the_same() -> None:
    colors = [instance_color(index) for index in range(16)]
    distances = [np.abs(np.subtract(a, b)).sum() for a, b in itertools.combinations(colors, 2)]
    assert min(distances) > 40
    assert colors == [instance_color(index) for index in range(16)]


@pytest.mark.parametrize("index", range(0, 300, 7))
def test_text_is_legible_on_every_plate(index: int) -> None:
    color = instance_color(index)
    assert _contrast(_text_color(color), color) >= 4.5  # WCAG AA


def test_both_forms_of_a_result_draw_the_same() -> None:
    objects = _result((200, 150), 5)
    picture = Image.new("RGB", (200, 150), (90, 120, 60))
    columns = {
        "scores": torch.tensor([o["score"] for o in objects], dtype=torch.float64),
        "boxes": torch.tensor([list(o["box"].values()) for o in objects]),
        "masks": torch.from_numpy(np.stack([o["mask"] for o in objects])),
        "labels": ["disc"] * 5,
    }
    expected = np.asarray(draw_instances(picture, objects))
    assert np.array_equal(np.asarray(draw_instances(picture, columns)), expected)
    rle = rle_encode(columns["masks"])
    with_rle = [{**o, "mask": code} for o, code in zip(objects, rle, strict=True)]
    assert np.array_equal(np.asarray(draw_instances(picture, with_rle)), expected)
    with_pil = [{**o, "mask": Image.fromarray(o["mask"].astype(np.uint8) * 255)} for o in objects]
    assert np.array_equal(np.asarray(draw_instances(np.asarray(picture), with_pil)), expected)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_an_outline_shows_on_any_background_and_the_rest_is_untouched(background: int) -> None:
    size = (120, 100)
    picture = Image.new("RGB", size, (background,) * 3)
    mask = _disc(size, (60, 50), 30)
    drawn = np.asarray(draw_instances(picture, [{"mask": mask}], alpha=0.0, line_width=2))
    far = ~_disc(size, (60, 50), 34)
    assert (drawn[far] == background).all()
    assert (drawn[_disc(size, (60, 50), 25)] == background).all()  # alpha 0: outline only
    edge = np.concatenate([drawn[~far & mask], drawn[~far & ~mask]])
    assert max(_contrast(pixel, (background,) * 3) for pixel in np.unique(edge, axis=0)) > 3


def test_the_fill_lets_the_picture_through_by_alpha() -> None:
    mask = _disc((60, 60), (30, 30), 25)
    drawn = np.asarray(draw_instances(Image.new("RGB", (60, 60)), [{"mask": mask}], alpha=0.5, line_width=1))
    assert np.abs(drawn[30, 30] - np.array(instance_color(0)) * 0.5).max() <= 1


def test_small_objects_stay_in_sight_over_large_ones() -> None:
    size = (100, 100)
    small, large = _disc(size, (50, 50), 10), _disc(size, (50, 50), 45)
    drawn = np.asarray(draw_instances(Image.new("RGB", size), [{"mask": small}, {"mask": large}], alpha=1.0))
    assert tuple(drawn[50, 50]) == instance_color(0)


@pytest.mark.parametrize("count", [1, 12, 300])
def test_labels_lie_inside_the_picture_and_overlap_only_in_need(count: int) -> None:
    size = (640, 480)
    instances = _collect_instances(_result(size, count), (480, 640))
    plates = [plate for _, plate, _ in _place_labels(size, instances, ["disc 0.90"] * count, 12)]
    assert len(plates) >= min(count, 12)
    for left, top, right, bottom in plates:
        assert left >= 0
        assert top >= 0
        assert right <= size[0]
        assert bottom <= size[1]
    for first, second in itertools.combinations(plates, 2):
        assert first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
    assert sum((p[2] - p[0]) * (p[3] - p[1]) for p in plates) <= 0.3 * size[0] * size[1]


def test_a_label_longer_than_the_picture_is_shortened_to_fit() -> None:
    size = (60, 60)
    instances = _collect_instances([{"label": "x", "box": [10, 10, 50, 50]}], (60, 60))
    [(_, plate, fitted)] = _place_labels(size, instances, ["a very long phrase for a small picture"], 12)
    assert fitted.text.endswith("…")
    assert plate[2] - plate[0] <= 60


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (20000, 50), (40, 3000)])
def test_any_picture_size_can_be_drawn(size: tuple[int, int]) -> None:
    objects = [{"score": 0.9, "label": "cat", "mask": np.ones(size[::-1], bool), "box": [0, 0, *size]}]
    drawn = draw_instances(Image.new("L", size, 200), objects)
    assert drawn.size == size
    assert drawn.mode == "RGB"


def test_no_objects_leave_the_picture_as_it_is() -> None:
    picture = Image.effect_noise((50, 40), 80).convert("RGB")
    assert np.array_equal(np.asarray(draw_instances(picture, [])), np.asarray(picture))
    empty = {"scores": torch.zeros(0), "boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 40, 50, dtype=torch.bool)}
    assert np.array_equal(np.asarray(draw_instances(picture, empty)), np.asarray(picture))


def test_the_given_picture_is_not_changed() -> None:
    picture = Image.new("RGB", (100, 80))
    draw_instances(picture, _result((100, 80), 3))
    assert np.asarray(picture).max() == 0


def test_empty_masks_and_boxes_outside_do_no_harm() -> None:
    objects = [
        {"score": 0.9, "label": "a", "mask": np.zeros((40, 50), bool), "box": None},
        {"score": 0.8, "label": "b", "box": [-30, -20, 500, 900]},
        {"score": 0.7, "label": "c", "box": [float("nan")] * 4},
    ]
    assert draw_instances(Image.new("RGB", (50, 40)), objects).size == (50, 40)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(10, 20\).*\(40, 50\).*target_sizes"):
        draw_instances(Image.new("RGB", (50, 40)), [{"mask": np.ones((10, 20), bool)}])


def test_alpha_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        draw_instances(Image.new("RGB", (5, 5)), [], alpha=1.5)
