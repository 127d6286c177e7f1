"""From annotated files to batches: loaders, augmentation, which phrases are asked, and what the collator packs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools import mask as coco_mask

from sam3_hf import Sam3Processor
from sam3_hf.data.examples import ConceptExample
from sam3_hf.ops.boxes import box_cxcywh_to_xyxy
from sam3_hf.ops.masks import masks_to_boxes, rle_decode, rle_encode
from sam3_hf.ops.polygons import polygons_to_runs
from sam3_hf.training.augment import Augmentation, crop, flip, recolour
from sam3_hf.training.collator import ConceptCollator, ConceptDataset
from sam3_hf.training.datasets import ConceptExamples, load_coco, load_mask_folder, load_saco, to_dataset
from sam3_hf.training.pictures import open_picture
from sam3_hf.training.regions import Region, runs_to_rle
from sam3_hf.training.sampling import (
    EVERYDAY_PHRASES,
    AllPhrases,
    ConceptSampler,
    MinedNegatives,
    hard_negatives,
    noisy_boxes,
)

# pycocotools' own, with a recent numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PLAIN = ConceptSampler(visual_query=0.0, added_boxes=0.0, assumed_absent=())


def random_masks(count: int, size: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Blobs and speckles of all sizes, some touching the border, some in several pieces."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        mask = np.zeros(size, dtype=bool)
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
            h, w = rng.integers(1, size[0] // 2), rng.integers(1, size[1] // 2)
            mask[y : y + h, x : x + w] |= rng.random((h, w))[: size[0] - y, : size[1] - x] < 0.8
        mask[rng.integers(0, size[0]), rng.integers(0, size[1])] = True
        masks.append(mask)
    return masks


def example(masks: list[np.ndarray], concepts: dict[str, tuple[int, ...]], **fields: Any) -> ConceptExample:
    size = masks[0].shape
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    boxes = masks_to_boxes(torch.from_numpy(np.stack(masks))).numpy()
    return ConceptExample(fields.pop("image_id", 1), image, size, boxes, masks, concepts, **fields)


@pytest.fixture
def street() -> ConceptExample:
    """Four objects under two phrases, and absent names."""
    return example(
        random_masks(4, (60, 90)),
        {"red car": (0, 1, 2), "dog": (3,)},
        vocabulary=("red car", "dog", "blue car", "van", "cat", "tree"),
    )


@pytest.fixture
def processor() -> Sam3Processor:
    return Sam3Processor(size=224)


# Regions and polygons


def test_a_region_is_its_mask_from_pixels_and_from_run_lengths() -> None:
    for mask in random_masks(20, (37, 53)):
        code = rle_encode(torch.from_numpy(mask)[None])[0]
        runs = {
            "size": [37, 53],
            "counts": np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=2, append=2))).tolist(),
        }
        if mask[0, 0]:
            runs["counts"].insert(0, 0)
        for source in (mask, code, runs):
            region = Region.from_mask(source, (37, 53))
            painted = np.zeros((37, 53), dtype=bool)
            region.paint(painted)
            assert np.array_equal(painted, mask)
            assert region.box == tuple(masks_to_boxes(torch.from_numpy(mask)[None])[0].int().tolist())
            assert region.area == mask.sum()


def test_flipping_and_cropping_a_region_is_slicing_its_mask() -> None:
    rng = np.random.default_rng(1)
    for mask in random_masks(20, (37, 53)):
        region = Region.from_mask(mask, (37, 53))
        flipped = np.zeros_like(mask)
        region.flipped(53).paint(flipped)
        assert np.array_equal(flipped, mask[:, ::-1])
        x0, y0 = rng.integers(-20, 40, 2)
        window = (int(x0), int(y0), int(x0 + rng.integers(1, 60)), int(y0 + rng.integers(1, 60)))
        padded = np.pad(mask, 100)
        wanted = padded[100 + window[1] : 100 + window[3], 100 + window[0] : 100 + window[2]]
        seen = np.zeros(wanted.shape, dtype=bool)
        cropped = region.cropped(window)
        cropped.paint(seen)
        assert np.array_equal(seen, wanted)
        if wanted.any():
            assert cropped.box == tuple(masks_to_boxes(torch.from_numpy(wanted)[None])[0].int().tolist())


@pytest.mark.parametrize(("source", "target"), [((36, 60), (9, 12)), ((37, 53), (16, 16)), ((20, 10), (64, 64))])
def test_a_scaled_region_holds_pixels_that_are_more_than_half_covered(source: Any, target: Any) -> None:
    for mask in random_masks(10, source):
        # Exact areas: every pixel drawn so many times that both grids fit in.
        fine = np.repeat(np.repeat(mask, target[0], 0), target[1], 1).astype(float)
        covered = fine.reshape(target[0], source[0], target[1], source[1]).mean((1, 3))
        wanted = covered > 0.5 + 1e-6
        got = np.zeros(target, dtype=bool)
        Region.from_mask(mask, source).scaled(source, target).paint(got)
        unsure = np.abs(covered - 0.5) < 1e-4
        assert np.array_equal(got[~unsure], wanted[~unsure]) or (not wanted.any() and got.sum() == 1)


def test_scaling_never_loses_an_object() -> None:
    for place in [(0, 0), (99, 99), (49, 50)]:
        mask = np.zeros((100, 100), dtype=bool)
        mask[place] = True
        small = np.zeros((7, 7), dtype=bool)
        Region.from_mask(mask, (100, 100)).scaled((100, 100), (7, 7)).paint(small)
        assert np.argwhere(small).tolist() == [[place[0] * 7 // 100, place[1] * 7 // 100]]


def test_polygons_are_filled_as_pycocotools_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        size = (int(rng.integers(5, 80)), int(rng.integers(5, 80)))
        polygons = []
        for _ in range(rng.integers(1, 4)):
            corners = rng.uniform(-5, 85, (rng.integers(3, 9), 2))
            polygons.append((corners if rng.random() < 0.5 else corners.round()).ravel().tolist())
        wanted = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
        got = runs_to_rle(polygons_to_runs(polygons, size), size)
        assert got["counts"].encode() == wanted["counts"]


# Loaders


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    """Two pictures: polygons, both kinds of run lengths, a crowd, a noun phrase, and a picture without any object."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8)).save(tmp_path / "images" / name)
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:10, 20:30] = True
    code = rle_encode(torch.from_numpy(mask)[None])[0]
    counts = coco_mask.decode({"size": [40, 60], "counts": code["counts"].encode()}).T.ravel()
    lengths = np.diff(np.flatnonzero(np.diff(counts, prepend=2, append=2))).tolist()
    content = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 6, "name": "bird"}],
        "images": [
            {"id": 10, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 11, "file_name": "b.png", "height": 40, "width": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 1, "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]},
            {"id": 2, "image_id": 10, "category_id": 1, "segmentation": code, "noun_phrase": "striped cat"},
            {"id": 3, "image_id": 10, "category_id": 5, "segmentation": {"size": [40, 60], "counts": lengths}},
        ],
    }
    content["annotations"][-1]["iscrowd"] = 1
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_gives_phrases_masks_and_honest_negatives(coco_file: Path) -> None:
    first, second = ConceptExamples(load_coco(coco_file))
    assert (first.image_id, first.size) == ("10", (40, 60))
    assert first.concepts == {"cat": (0, 1), "striped cat": (1,), "dog": (2,)}
    assert first.is_crowd == {2}
    assert first.absent() == ["bird"]
    assert second.concepts == {} and second.absent() == ["cat", "dog", "bird"]
    assert first.boxes.tolist() == [[2, 2, 12, 12], [20, 5, 30, 10], [20, 5, 30, 10]]
    assert first.masks is not None
    masks = [rle_decode(dict(code)) for code in first.masks]  # type: ignore[arg-type]
    assert torch.equal(masks[1], masks[2]) and masks[1].sum() == 50
    assert masks[0].sum() == 100


def test_coco_switches(coco_file: Path) -> None:
    with pytest.warns(UserWarning, match="no phrase is known to be there or absent: picture 11"):
        known = load_coco(coco_file, exhaustive=False)
    assert ConceptExamples(known)[0].absent() == []
    with pytest.warns(UserWarning, match="without a phrase: annotation 1, annotation 3"):
        own = load_coco(coco_file, category_phrases=False)
    assert [e.concepts for e in ConceptExamples(own)] == [{"striped cat": (0,)}]
    assert "kitten" in ConceptExamples(load_coco(coco_file, rename={"cat": "kitten"}))[0].concepts
    with pytest.raises(ValueError, match="rename holds \\['cow'\\]"):
        load_coco(coco_file, rename={"cow": "ox"})


def test_coco_boxes_without_masks_are_box_only(coco_file: Path) -> None:
    content = json.loads(coco_file.read_text())
    for annotation in content["annotations"]:
        annotation.pop("segmentation")
        annotation["bbox"] = [50, 30, 20, 20]  # beyond the picture: clipped
    coco_file.write_text(json.dumps(content))
    first = ConceptExamples(load_coco(coco_file))[0]
    assert first.masks is None
    assert first.boxes.tolist() == [[50, 30, 60, 40]] * 3


def test_lvis_absent_names_are_its_own(coco_file: Path) -> None:
    content = json.loads(coco_file.read_text())
    content["images"][0] |= {"neg_category_ids": [6], "not_exhaustive_category_ids": [5]}
    content["images"][1] |= {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    coco_file.write_text(json.dumps(content))
    first, second = ConceptExamples(load_coco(coco_file))
    assert (list(first.concepts), first.absent(), second.absent()) == (["cat", "striped cat"], ["bird"], ["cat"])


def test_saco_joins_pairs_of_one_picture(coco_file: Path) -> None:
    content = json.loads(coco_file.read_text())
    size = {"height": 40, "width": 60}
    content["images"] = [
        {"id": 100, "file_name": "a.png", "text_input": "a cat", **size},
        {"id": 101, "file_name": "a.png", "text_input": "a bus", "is_instance_exhaustive": 1, **size},
        {"id": 102, "file_name": "b.png", "text_input": "a bus", **size},
        {"id": 103, "file_name": "b.png", "text_input": "a dog", "is_instance_exhaustive": 0, **size},
    ]
    content["annotations"] = [
        {"id": 1, "image_id": 100, "segmentation": content["annotations"][1]["segmentation"], "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 103, "bbox": [0.5, 0.5, 0.5, 0.5]},
    ]
    path = coco_file.with_name("gold.json")
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="skipped 1: not annotated exhaustively: pair 103"):
        first, second = ConceptExamples(load_saco(path, coco_file.parent / "images"))
    assert first.image_id == "a.png"
    assert first.concepts == {"a cat": (0,), "a bus": ()}
    assert second.concepts == {"a bus": ()}
    assert first.boxes.tolist() == [[20, 5, 30, 10]]
    with pytest.raises(ValueError, match="no 'text_input'"):
        load_saco(coco_file, coco_file.parent / "images")


def test_saco_boxes_are_fractions(coco_file: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "text_input": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0.5, 0.25, 0.25, 0.5]}],
    }
    path = coco_file.with_name("silver.json")
    path.write_text(json.dumps(content))
    [only] = ConceptExamples(load_saco(path, coco_file.parent / "images"))
    assert only.masks is None and only.boxes.tolist() == [[30, 10, 45, 30]]


def test_a_folder_of_masks(coco_file: Path) -> None:
    root = coco_file.parent
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[:4, :6] = 255
    for name in ("traffic sign/0.png", "traffic sign/1.png"):
        path = root / "masks" / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(mask).save(path)
        mask = np.roll(mask, 20)
    (root / "masks" / "a" / "bus").mkdir()
    first, second = ConceptExamples(load_mask_folder(root))
    assert first.concepts == {"bus": (), "traffic sign": (0, 1)}
    assert first.boxes.tolist() == [[0, 0, 6, 4], [20, 0, 26, 4]]
    assert second.absent() == ["bus", "traffic sign"]


def test_a_dataset_survives_the_disk_and_holds_arrays(street: ConceptExample, tmp_path: Path) -> None:
    from datasets import load_from_disk

    dataset = to_dataset([street])
    dataset.save_to_disk(tmp_path / "arrow")
    again = ConceptExamples(load_from_disk(tmp_path / "arrow"))[0]
    assert np.array_equal(again.image, street.image)
    assert again.concepts == street.concepts and tuple(again.vocabulary) == street.vocabulary
    assert again.masks is not None and street.masks is not None
    for ours, theirs in zip(again.masks, street.masks, strict=True):
        assert np.array_equal(rle_decode(dict(ours)).numpy(), theirs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lacks the columns"):
        ConceptExamples(dataset.remove_columns("masks"))


def test_without_datasets_the_extra_is_named(coco_file: Path) -> None:
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from sam3_hf.training.datasets import load_coco\n"
        f"try: load_coco({str(coco_file)!r})\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": "src", "HF_HUB_OFFLINE": "1"}
    )
    assert "pip install 'sam3-hf[train]'" in done.stdout, done.stderr


# Augmentation


def test_flip_mirrors_picture_masks_and_boxes(street: ConceptExample) -> None:
    picture = open_picture(street)
    mirrored = flip(picture)
    assert torch.equal(mirrored.pixels, picture.pixels.flip(2))
    assert mirrored.regions is not None
    assert np.array_equal(mirrored.boxes, [region.box for region in mirrored.regions])
    assert np.array_equal(flip(mirrored).boxes, picture.boxes)


def test_crop_moves_everything_by_the_same_pixels() -> None:
    masks = [np.zeros((40, 60), dtype=bool) for _ in range(3)]
    masks[0][10:20, 10:20] = True  # half inside the window
    masks[1][0:5, 0:5] = True  # outside
    masks[2][25:30, 31:40] = True  # inside
    picture = open_picture(example(masks, {"a": (0,), "b": (1,), "c": (0, 1, 2)}, vocabulary=("a", "z")))
    seen = crop(picture, (15, 5, 55, 40))
    assert seen.size == (35, 40)
    assert torch.equal(seen.pixels, picture.pixels[:, 5:40, 15:55])
    assert seen.boxes.tolist() == [[0, 5, 5, 15], [16, 20, 25, 25]]
    assert seen.concepts == {"a": (0,), "c": (0, 1)}
    assert seen.absent == ("z", "b")  # nothing of b can be seen any more
    boxes_only = crop(open_picture(example(masks, {"a": (0, 1, 2)})), (15, 5, 55, 40))
    assert boxes_only.boxes.tolist() == seen.boxes.tolist()


def test_a_phrase_of_which_a_sliver_is_left_is_neither_there_nor_absent() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 10:30] = True
    seen = crop(open_picture(example([mask], {"a": (0,)})), (29, 0, 60, 40), min_visible=0.1)
    assert seen.concepts == {} and seen.absent == () and len(seen.boxes) == 0


def test_zooming_out_lays_the_picture_in_grey(street: ConceptExample) -> None:
    picture = open_picture(street)
    seen = crop(picture, (-10, -20, 100, 70))
    assert seen.size == (90, 110)
    assert torch.equal(seen.pixels[:, 20:80, 10:100], picture.pixels)
    assert (seen.pixels[:, :20] == 127).all()
    assert np.array_equal(seen.boxes, picture.boxes + np.array([10, 20, 10, 20]))


def test_colours_change_and_stay_within_bounds(street: ConceptExample) -> None:
    pixels = open_picture(street).pixels
    assert torch.equal(recolour(pixels), pixels)
    assert recolour(pixels, brightness=0.5).float().mean() == pytest.approx(pixels.float().mean() * 0.5, abs=1)
    grey = recolour(pixels, saturation=0.0)
    assert (grey.float().std(0) <= 1).all()
    turned = recolour(torch.tensor([[[200]], [[0]], [[0]]], dtype=torch.uint8), hue=1 / 3)
    assert turned.flatten().tolist() == pytest.approx([0, 200, 0], abs=1)


def test_augmentation_repeats_for_the_same_draws_and_keeps_sides(street: ConceptExample) -> None:
    augment, picture = Augmentation(), open_picture(street)
    once, again, other = (augment(picture, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(once.pixels, again.pixels) and np.array_equal(once.boxes, again.boxes)
    assert once.pixels.shape != other.pixels.shape or not torch.equal(once.pixels, other.pixels)
    sided = open_picture(example(random_masks(1, (20, 20)), {"left shoe": (0,)}))
    only_flip = Augmentation(flip=1.0, zoom_probability=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
    assert torch.equal(only_flip(sided, np.random.default_rng(0)).pixels, sided.pixels)
    assert torch.equal(only_flip(picture, np.random.default_rng(0)).pixels, picture.pixels.flip(2))


@pytest.mark.parametrize("seed", range(20))
def test_boxes_stay_those_of_the_masks(street: ConceptExample, seed: int) -> None:
    picture = Augmentation(zoom=(0.5, 3.0))(open_picture(street), np.random.default_rng(seed))
    assert picture.regions is not None
    for region, box in zip(picture.regions, picture.boxes, strict=True):
        assert tuple(box) == region.box and region.area
        assert 0 <= box[0] < box[2] <= picture.size[1] and 0 <= box[1] < box[3] <= picture.size[0]


# Which phrases are asked


def test_hard_negatives_sound_like_what_is_there() -> None:
    absent = ["blue car", "dog", "car with a roof", "van", "red van", "scarf"]
    assert hard_negatives(["red car"], absent) == ["blue car", "car with a roof"]
    assert hard_negatives(["red car"], absent, {"car": ["van"]}) == ["blue car", "car with a roof", "van", "red van"]
    assert hard_negatives(["cat"], absent, {"cat": ["dog"]}) == ["dog"]


def test_rows_are_present_phrases_then_absent_ones(street: ConceptExample) -> None:
    picture = open_picture(street)
    for seed in range(20):
        rows = ConceptSampler(positives=1, hard_negatives=1, random_negatives=2)(picture, np.random.default_rng(seed))
        assert len(rows) == 4 and len({row.concept for row in rows}) == 4
        assert [bool(row.objects) for row in rows] == [True, False, False, False]
        assert rows[0].objects == street.concepts[rows[0].concept]
        assert all(row.concept in street.absent() for row in rows[1:])
        if rows[0].concept == "red car":
            assert rows[1].concept == "blue car"


def test_mined_negatives_come_first_and_are_written_whole(street: ConceptExample, tmp_path: Path) -> None:
    mined = MinedNegatives(tmp_path / "mined.json")
    mined.update({1: ["tree", "dog"]})
    mined.save()
    sampler = ConceptSampler(mined=MinedNegatives(tmp_path / "mined.json"), mined_negatives=2, random_negatives=0)
    rows = sampler(open_picture(street), np.random.default_rng(0))
    absent = [row.concept for row in rows if not row.objects]
    assert absent == ["tree", "blue car"]  # the dog is there after all
    assert list(tmp_path.iterdir()) == [tmp_path / "mined.json"]


def test_each_epoch_asks_what_was_mined_meanwhile(street: ConceptExample, tmp_path: Path) -> None:
    path = tmp_path / "mined.json"
    sampler = ConceptSampler(mined=MinedNegatives(path), mined_negatives=1, hard_negatives=0, random_negatives=0)
    dataset = ConceptDataset([street], sampler)
    assert all(row.objects for row in dataset[0].rows)
    elsewhere = MinedNegatives(path)  # as in another process
    elsewhere.update({"1": ["tree"]})
    elsewhere.save()
    assert all(row.objects for row in dataset[0].rows)  # not in the middle of an epoch
    dataset.set_epoch(1)
    assert [row.concept for row in dataset[0].rows if not row.objects] == ["tree"]


def test_assumed_negatives_fill_up_what_a_picture_does_not_know() -> None:
    picture = open_picture(example(random_masks(1, (20, 20)), {"nucleus": (0,)}, vocabulary=("nucleus",)))
    sampler = ConceptSampler(random_negatives=2, hard_negatives=1, assumed_absent=["nucleus", "car", "dog", "cat"])
    absent = {row.concept for row in sampler(picture, np.random.default_rng(0)) if not row.objects}
    assert absent == {"car", "dog", "cat"}


def test_a_picture_that_knows_nothing_absent_is_asked_everyday_phrases_by_default() -> None:
    def absent(concept: str, vocabulary: tuple[str, ...], sampler: ConceptSampler) -> set[str]:
        picture = open_picture(example(random_masks(1, (20, 20)), {concept: (0,)}, vocabulary=vocabulary))
        rows = (row for seed in range(40) for row in sampler(picture, np.random.default_rng(seed)))
        return {row.concept for row in rows if not row.objects}

    asked = absent("tall person", ("tall person",), ConceptSampler())
    assert len(asked) > 20 and asked < set(EVERYDAY_PHRASES) and "person" not in asked
    assert absent("nucleus", ("nucleus", "lamp post"), ConceptSampler()) == {"lamp post"}
    assert absent("nucleus", ("nucleus",), ConceptSampler(assumed_absent=())) == set()


def test_phrases_become_visual_queries_and_get_boxes_as_often_as_asked(street: ConceptExample) -> None:
    picture = open_picture(street)
    kinds = {"text": 0, "visual": 0, "both": 0}
    for seed in range(500):
        row = ConceptSampler(positives=1)(picture, np.random.default_rng(seed))[0]
        kinds["visual" if row.phrase == "visual" else "both" if row.box_labels else "text"] += 1
        assert len(row.boxes) == len(row.box_labels) <= min(3, len(row.objects))
        assert set(row.box_labels) <= {1}
        assert row.objects == street.concepts[row.concept]
    assert kinds["visual"] == pytest.approx(100, abs=30) and kinds["both"] == pytest.approx(100, abs=30)


def test_box_noise_is_bounded_and_stays_inside() -> None:
    boxes = np.array([[0, 0, 500, 10], [490, 490, 500, 500], [100, 100, 102, 101]], dtype=np.float32).repeat(200, 0)
    noisy = noisy_boxes(boxes, (500, 500), np.random.default_rng(0))
    assert np.abs(noisy - boxes).max() <= 20 and (noisy >= 0).all() and (noisy <= 500).all()
    assert ((noisy[:, 2:] - noisy[:, :2]) >= 1).all()
    inner = np.full((2000, 4), [100, 100, 200, 140], dtype=np.float32)
    moved = noisy_boxes(inner, (500, 500), np.random.default_rng(1)) - inner
    assert moved[:, 1].std() == pytest.approx(4, rel=0.1)


def test_evaluation_asks_everything_and_exemplars_are_nested(street: ConceptExample) -> None:
    picture = open_picture(street)
    rows = AllPhrases()(picture, np.random.default_rng(0))
    assert [row.concept for row in rows] == ["red car", "dog", "blue car", "van", "cat", "tree"]
    one, three = (AllPhrases(exemplars=n, negatives=1)(picture, np.random.default_rng(5)) for n in (1, 3))
    assert len(one) == 3 and len(one[0].boxes) == 1 and len(three[0].boxes) == 3
    assert np.array_equal(one[0].boxes[0], three[0].boxes[0])
    assert AllPhrases(exemplars=1, visual=True)(picture, np.random.default_rng(0))[0].phrase == "visual"


# Batches


def test_a_batch_is_what_the_processor_makes(street: ConceptExample, processor: Sam3Processor) -> None:
    other = example(random_masks(2, (50, 40), seed=3), {"tree": (0, 1), "bus": ()}, image_id="b")
    samples = [ConceptDataset([street, other], PLAIN)[i] for i in (0, 1)]
    batch = ConceptCollator(processor, pad_boxes=False)(samples)
    text = [[row.phrase for row in sample.rows] for sample in samples]
    wanted = processor(images=[street.image, other.image], text=text)
    for name in ("pixel_values", "input_ids", "attention_mask", "image_ids"):
        assert torch.equal(batch[name], wanted[name]), name
    assert "input_boxes" not in batch and len(batch["labels"]) == len(batch["image_ids"])
    assert [label["phrase"] for label in batch["labels"]] == [phrase for phrases in text for phrase in phrases]
    assert batch["labels"][0]["size"] == (60, 90) and batch["labels"][-1]["image_id"] == "b"


def test_labels_are_the_objects_of_the_phrase(street: ConceptExample, processor: Sam3Processor) -> None:
    sample = ConceptDataset([street], PLAIN)[0]
    batch = ConceptCollator(processor)([sample])
    assert street.masks is not None
    for row, label in zip(sample.rows, batch["labels"], strict=True):
        assert label["masks"].shape == (len(row.objects), 64, 64) and label["masks"].dtype == torch.bool
        pixels = box_cxcywh_to_xyxy(label["boxes"]) * torch.tensor([90.0, 60.0, 90.0, 60.0])
        torch.testing.assert_close(pixels, torch.from_numpy(street.boxes[list(row.objects)]).reshape(-1, 4))
        for mask, number in zip(label["masks"], row.objects, strict=True):
            share = street.masks[number].mean()  # type: ignore[union-attr]
            assert mask.any() and mask.float().mean().item() == pytest.approx(share, abs=0.1)


def test_exemplars_are_padded_as_the_processor_pads(street: ConceptExample, processor: Sam3Processor) -> None:
    sample = ConceptDataset([street], AllPhrases(exemplars=3, negatives=1))[0]
    batch = ConceptCollator(processor)([sample])
    assert batch["input_boxes_labels"].tolist() == [[1, 1, 1], [1, -10, -10], [-10, -10, -10]]
    wanted = processor(
        images=street.image,
        text=[row.phrase for row in sample.rows],
        input_boxes=[row.boxes.tolist() or None for row in sample.rows],
        input_boxes_labels=[list(row.box_labels) or None for row in sample.rows],
    )
    torch.testing.assert_close(batch["input_boxes"], wanted["input_boxes"])
    plain = ConceptCollator(processor)([ConceptDataset([street], PLAIN)[0]])
    assert set(plain["input_boxes_labels"].flatten().tolist()) == {-10}


def test_crowds_are_neither_right_nor_absent(processor: Sam3Processor) -> None:
    crowded = example(random_masks(3, (40, 40)), {"person": (0, 1), "sheep": (2,)}, is_crowd=frozenset({1, 2}))
    [row] = ConceptDataset([crowded], PLAIN)[0].rows  # a crowd of sheep alone cannot be asked
    assert (row.concept, row.objects, row.crowd) == ("person", (0,), (1,))
    [label] = ConceptCollator(processor)([ConceptDataset([crowded], PLAIN)[0]])["labels"]
    assert label["is_exhaustive"] is False and label["crowd"].shape == (1, 64, 64) and len(label["masks"]) == 1


def test_box_only_labels_have_no_masks(processor: Sam3Processor) -> None:
    bare = ConceptExample(1, np.zeros((20, 20, 3), np.uint8), (20, 20), np.array([[2, 2, 8, 9]]), None, {"a": (0,)})
    [label] = ConceptCollator(processor)([ConceptDataset([bare], PLAIN)[0]])["labels"]
    assert "masks" not in label
    torch.testing.assert_close(label["boxes"], torch.tensor([[0.25, 0.275, 0.3, 0.35]]))


def test_draws_depend_on_seed_epoch_and_example_alone(street: ConceptExample, processor: Sam3Processor) -> None:
    def drawn(epoch: int, seed: int = 0) -> list[Any]:
        dataset = ConceptDataset([street] * 3, augment=Augmentation(), seed=seed)
        dataset.set_epoch(epoch)
        samples = [dataset[i] for i in (2, 0, 1)]
        return [(s.picture.size, [row.phrase for row in s.rows]) for s in samples]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2) and drawn(1) != drawn(1, seed=1)
    assert drawn(1)[0] != drawn(1)[1]  # the same picture under another number


def test_workers_see_a_new_epoch(street: ConceptExample, processor: Sam3Processor) -> None:
    dataset = ConceptDataset([street] * 2, augment=Augmentation())
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=ConceptCollator(processor)
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        [batch] = loader
        alone = ConceptCollator(processor)([dataset[0], dataset[1]])
        assert torch.equal(batch["pixel_values"], alone["pixel_values"])


def test_real_pictures_become_batches(shared_data: Path, processor: Sam3Processor) -> None:
    for name in ("facade", "nuclei", "clothing", "coco"):
        dataset = ConceptDataset(load_coco(shared_data / name / "val.json"), augment=Augmentation(), on_error="raise")
        batch = ConceptCollator(processor)([dataset[i] for i in range(6)])
        assert len(batch["pixel_values"]) == 6 and torch.isfinite(batch["pixel_values"]).all()
        for label in batch["labels"]:
            assert (label["boxes"][:, 2:] > 0).all() and label["masks"].flatten(1).any(1).all()


def test_crowds_of_the_file_agree_with_pycocotools(shared_data: Path) -> None:
    from pycocotools.coco import COCO

    coco = COCO(shared_data / "coco" / "val.json")
    for ours in ConceptExamples(load_coco(shared_data / "coco" / "val.json"))[:10]:
        theirs = coco.imgToAnns[int(ours.image_id)]
        assert ours.masks is not None and len(theirs) == ours.num_objects
        for mask, annotation in zip(ours.masks, theirs, strict=True):
            decoded = rle_decode(dict(mask)).numpy()  # type: ignore[arg-type]
            assert np.array_equal(decoded, coco.annToMask(annotation).astype(bool))
        assert ours.is_crowd == {i for i, annotation in enumerate(theirs) if annotation["iscrowd"]}
