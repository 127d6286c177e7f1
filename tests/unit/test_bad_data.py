"""Bad data: a clear error, or a skip that names what was skipped; never a crash in the middle of training."""

import json
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from sam3_hf import Sam3Detector, Sam3Processor, tiny_config
from sam3_hf.data.examples import ConceptExample
from sam3_hf.training.collator import ConceptCollator, ConceptDataset
from sam3_hf.training.datasets import ConceptExamples, load_coco, load_mask_folder, load_saco
from sam3_hf.training.pictures import open_picture
from sam3_hf.training.sampling import AllPhrases, MinedNegatives

SQUARE = [[5, 5, 15, 5, 15, 15, 5, 15]]
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def coco(tmp_path: Path) -> Callable[[Change], Path]:
    """Writes a sound COCO file with two pictures and two objects, changed by a function."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8)).save(tmp_path / "images" / name)

    def write(change: Change) -> Path:
        content = {
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "images": [{"id": i, "file_name": f"{n}.png", "height": 40, "width": 60} for i, n in ((1, "a"), (2, "b"))],
            "annotations": [{"id": i, "image_id": i, "category_id": i, "segmentation": SQUARE} for i in (1, 2)],
        }
        change(content)
        path = tmp_path / "train.json"
        path.write_text(json.dumps(content))
        return path

    return write


def changed(**fields: Any) -> Change:
    """A change of the second annotation."""
    return lambda content: content["annotations"][1].update(fields)


def loss_of(examples: Any, **options: Any) -> torch.Tensor:
    dataset = ConceptDataset(examples, AllPhrases(), **options)
    batch = ConceptCollator(Sam3Processor(size=56))([dataset[i] for i in range(len(dataset))])
    return small_detector()(**batch).loss


@lru_cache(maxsize=1)
def small_detector() -> Sam3Detector:
    torch.manual_seed(0)
    return Sam3Detector(tiny_config(56).detector_config).train()


NO_MASK = {"size": [40, 60], "counts": [2400]}
BAD_ANNOTATIONS = {
    "empty mask": (changed(segmentation=NO_MASK), "their mask is empty: annotation 2"),
    "wrong size": (changed(segmentation={"size": [60, 40], "counts": [100, 50, 2250]}), r"\(60, 40\).*\(40, 60\).*"),
    "cut off": (changed(segmentation={"size": [40, 60], "counts": [100, 50]}), "sum to 150, expected 40 x 60 = 2400"),
    "damaged string": (changed(segmentation={"size": [40, 60], "counts": "0\x01"}), "cannot be read.*annotation 2"),
    "no counts": (changed(segmentation={"size": [40, 60]}), "cannot be read.*counts.*annotation 2"),
    "two corners": (changed(segmentation=[[1, 2, 3, 4]]), "at least three corners.*annotation 2"),
    "outside": (changed(segmentation=[], bbox=[70, 50, 10, 10]), "covers no area of the picture: annotation 2"),
    "reversed": (changed(segmentation=[], bbox=[10, 10, -5, 5]), "covers no area of the picture: annotation 2"),
    "not a number": (changed(segmentation=[], bbox=[float("nan"), 0, 5, 5]), "NaN or infinity: annotation 2"),
    "nothing": (changed(segmentation=[], bbox=None), "neither a mask nor a box.*annotation 2"),
    "unknown category": (changed(category_id=9), "their category is not in the file: annotation 2"),
    "unknown picture": (changed(image_id=9), "their picture is not in the file: annotation 2"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotations_are_skipped_by_name_or_refused(coco: Callable[[Change], Path], case: str) -> None:
    change, reason = BAD_ANNOTATIONS[case]
    path = coco(change)
    with pytest.warns(UserWarning, match=f"(?s)skipped 1: .*{reason}"):
        examples = ConceptExamples(load_coco(path))
    assert [example.concepts for example in examples] == [{"cat": (0,)}, {}]
    if case not in ("unknown picture", "unknown category"):
        # What could not be read may be there: it is no negative.
        assert examples[1].absent() == ["cat"]
    with pytest.raises(ValueError, match=r"annotation 2: .*Mend it, or leave on_bad"):
        load_coco(path, on_bad="raise")


def test_a_file_full_of_bad_annotations_still_gives_a_finite_loss(coco: Callable[[Change], Path]) -> None:
    def spoil(content: dict[str, Any]) -> None:
        good = content["annotations"].pop()
        for change, _ in BAD_ANNOTATIONS.values():
            content["annotations"].append(dict(good))
            change({"annotations": [None, content["annotations"][-1]]})

    with pytest.warns(UserWarning, match="skipped 12: "):
        assert torch.isfinite(loss_of(load_coco(coco(spoil))))


def test_a_file_without_annotations_is_refused(coco: Callable[[Change], Path]) -> None:
    with pytest.raises(ValueError, match="no annotation that can be used"):
        load_coco(coco(lambda content: content["annotations"].clear()))
    with pytest.raises(ValueError, match="has no list 'annotations'"):
        load_coco(coco(lambda content: content.pop("annotations")))
    path = coco(lambda content: None)
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match="is not JSON"):
        load_coco(path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.json' does not exist"):
        load_coco(path.with_name("nothing.json"))


def test_pictures_without_objects_give_a_finite_loss(coco: Callable[[Change], Path]) -> None:
    examples = ConceptExamples(load_coco(coco(lambda content: content["annotations"].pop())))
    assert examples[1].concepts == {}
    assert torch.isfinite(loss_of(examples)) and torch.isfinite(loss_of([examples[1]]))


def test_repeated_ids(coco: Callable[[Change], Path]) -> None:
    def twice(content: dict[str, Any]) -> None:
        content["images"].append(content["images"][0])
        content["annotations"].append(content["annotations"][0])

    with pytest.warns(UserWarning, match=r"listed twice: picture 1 \(a.png\), annotation 1"):
        examples = ConceptExamples(load_coco(coco(twice)))
    assert [example.num_objects for example in examples] == [1, 1]
    with pytest.raises(ValueError, match=r"picture id 1 twice: for 'a.png' and 'b.png'"):
        load_coco(coco(lambda content: content["images"][1].update(id=1)))
    with pytest.raises(ValueError, match="category 1 has the names 'cat' and 'dog'"):
        load_coco(coco(lambda content: content["categories"][1].update(id=1)))


def test_missing_picture_files_are_listed(coco: Callable[[Change], Path]) -> None:
    path = coco(lambda content: None)
    (path.parent / "images" / "b.png").unlink()
    with pytest.warns(UserWarning, match=r"their file is missing in '.*images': picture 2 \(b.png\)"):
        assert len(load_coco(path)) == 1
    (path.parent / "images" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"no annotation that can be used.*file is missing"):
        load_coco(path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_coco(path, path.parent / "pictures")


def test_files_that_vanish_or_break_during_training_are_skipped(coco: Callable[[Change], Path]) -> None:
    path = coco(lambda content: None)
    dataset = ConceptDataset(load_coco(path), AllPhrases())
    (path.parent / "images" / "a.png").write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match=r"example 0 is skipped: .*a\.png.*cannot be read as a picture"):
        assert dataset[0].picture.image_id == "2"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataset[0].picture.image_id == "2"  # told once
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        ConceptDataset(load_coco(path), AllPhrases(), on_error="raise")[0]
    (path.parent / "images" / "b.png").unlink()
    with pytest.warns(UserWarning, match="example 1 is skipped"), pytest.raises(ValueError, match="none of the 2"):
        dataset[1]


def test_a_picture_of_another_size_than_stated_is_named(coco: Callable[[Change], Path]) -> None:
    examples = ConceptExamples(load_coco(coco(lambda content: content["images"][0].update(height=41, width=60))))
    with pytest.raises(ValueError, match="picture '1' is 60 wide and 40 high, but its annotations say 60 wide and 41"):
        open_picture(examples[0])


def test_a_turned_photograph_is_read_as_it_was_annotated(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    PIL.Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    box = np.array([[1, 1, 5, 5]], dtype=np.float32)
    for size in ((40, 60), (60, 40)):
        assert open_picture(ConceptExample(1, tmp_path / "a.jpg", size, box, None, {"a": (0,)})).size == size


def test_empty_masks_and_boxes_outside_of_own_examples_are_left_out() -> None:
    masks = [np.zeros((40, 40), dtype=bool) for _ in range(3)]
    masks[1][3:8, 3:8] = True
    image = np.zeros((40, 40, 3), np.uint8)
    boxes = np.array([[0, 0, 5, 5], [3, 3, 8, 8], [0, 0, 0, 0]], dtype=np.float32)
    bad = ConceptExample("x", image, (40, 40), boxes, masks, {"a": (0, 1), "b": (2,), "c": ()})
    with pytest.warns(UserWarning, match=r"picture 'x': objects \[0, 2\] have an empty mask"):
        picture = open_picture(bad)
    assert picture.concepts == {"a": (0,)} and picture.absent == ("c",) and len(picture.boxes) == 1
    outside = ConceptExample("x", image, (40, 40), np.array([[50, 50, 60, 60]]), None, {"a": (0,), "c": ()})
    with pytest.warns(UserWarning, match=r"objects \[0\]"):
        assert open_picture(outside).concepts == {}
    with pytest.warns(UserWarning, match="left out"):
        assert torch.isfinite(loss_of([bad, outside]))
    short = ConceptExample("x", image, (40, 40), boxes, masks[:1], {"a": (0,)})
    with pytest.raises(ValueError, match="1 masks and 3 boxes"):
        open_picture(short)
    with pytest.raises(ValueError, match=r"picture 'x', object 0: the mask is \(20, 20\)"):
        open_picture(ConceptExample("x", image, (40, 40), boxes[:1], [np.ones((20, 20), bool)], {"a": (0,)}))


def test_a_picture_about_which_nothing_is_known_is_skipped() -> None:
    image, boxes = np.zeros((20, 20, 3), np.uint8), np.zeros((0, 4), np.float32)
    nothing = ConceptExample("n", image, (20, 20), boxes, None, {})
    known = ConceptExample("k", image, (20, 20), boxes, None, {"cat": ()})
    with pytest.warns(UserWarning, match="picture 'n' has no phrase that is known"):
        assert ConceptDataset([nothing, known])[0].picture.image_id == "k"
    with pytest.raises(ValueError, match="there are no examples"):
        ConceptDataset([])


def test_a_phrase_of_200_words_is_cut_with_one_warning() -> None:
    phrase = " ".join(f"word{i}" for i in range(200))
    image, boxes = np.zeros((20, 20, 3), np.uint8), np.array([[2, 2, 9, 9]], np.float32)
    examples = [ConceptExample(i, image, (20, 20), boxes, None, {phrase: (0,)}) for i in range(2)]
    samples = [ConceptDataset(examples, AllPhrases())[i] for i in (0, 1)]
    collate = ConceptCollator(Sam3Processor(size=56))
    with pytest.warns(UserWarning, match="the model reads 30") as told:
        batch = collate(samples)
    assert len(told) == 1 and batch["input_ids"].shape == (2, 32)
    assert batch["labels"][0]["phrase"] == phrase
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collate(samples)


def test_a_large_picture_is_shrunk_at_once_and_a_giant_one_refused(coco: Callable[[Change], Path]) -> None:
    image = np.zeros((300, 900, 3), np.uint8)
    mask = np.zeros((300, 900), dtype=bool)
    mask[30:60, 90:270] = True
    large = ConceptExample("l", image, (300, 900), np.array([[90, 30, 270, 60]]), [mask], {"a": (0,)})
    picture = open_picture(large, max_side=300)
    assert picture.size == (100, 300) and picture.original_size == (300, 900)
    assert picture.boxes.tolist() == [[30, 10, 90, 20]]
    assert picture.regions is not None and picture.regions[0].area == 10 * 60
    with pytest.raises(ValueError, match="900 wide and 300 high: 270000 pixels, the limit is 1000"):
        open_picture(large, max_pixels=1000)
    path = coco(lambda content: content["images"][1].update(height=100_000, width=100_000))
    with pytest.warns(UserWarning, match=r"they have more than \d+ pixels: picture 2"):
        assert len(load_coco(path)) == 1


def test_a_file_that_is_larger_than_it_says_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL.Image.new("1", (5_000, 4_000)).save(tmp_path / "large.png")
    PIL.Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    box = np.array([[1, 1, 5, 5]], dtype=np.float32)
    monkeypatch.setattr(PIL.Image.Image, "convert", None)  # would be called on the decoded picture
    with pytest.raises(ValueError, match="picture 'b' is 5000 wide and 4000 high, but its annotations say 60 wide"):
        open_picture(ConceptExample("b", tmp_path / "large.png", (40, 60), box, None, {"a": (0,)}))
    with pytest.raises(ValueError, match=r"bomb\.png.* cannot be read as a picture: .*exceeds limit"):
        open_picture(ConceptExample("b", tmp_path / "bomb.png", (40, 60), box, None, {"a": (0,)}))


def test_bad_entries_of_a_saco_file(coco: Callable[[Change], Path]) -> None:
    def pairs(content: dict[str, Any]) -> None:
        content["images"][0]["text_input"] = "cat"
        content["images"].append({"id": 3, "file_name": "gone.png", "text_input": "cat"})
        content["annotations"][1]["image_id"] = 3

    path = coco(pairs)
    with pytest.warns(UserWarning, match=r"without text_input: pair 2 .*file is missing.*: pair 3 \(gone.png, 'cat'\)"):
        examples = ConceptExamples(load_saco(path, path.parent / "images"))
    assert [example.concepts for example in examples] == [{"cat": (0,)}]
    path = coco(lambda content: [image.update(text_input="cat", id=1) for image in content["images"]])
    with pytest.raises(ValueError, match="uses the id 1 twice"):
        load_saco(path, path.parent / "images")


def test_bad_files_of_a_mask_folder(coco: Callable[[Change], Path]) -> None:
    root = coco(lambda content: None).parent
    with pytest.raises(FileNotFoundError, match="masks' is not a folder; expected images"):
        load_mask_folder(root)
    good, colour, small = (root / "masks" / name for name in ("a/cat/0.png", "a/dog/0.png", "c/cat/0.png"))
    for path, picture in ((good, np.ones((40, 60), np.uint8)), (colour, np.ones((40, 60, 3), np.uint8))):
        path.parent.mkdir(parents=True)
        PIL.Image.fromarray(picture).save(path)
    PIL.Image.fromarray(np.ones((20, 20), np.uint8)).save(good.with_name("1.png"))
    small.parent.mkdir(parents=True)
    with pytest.warns(UserWarning) as told:
        examples = ConceptExamples(load_mask_folder(root))
    [message] = [str(warning.message) for warning in told]
    for part in ("masks without a picture: masks/c", "mode RGB", "masks/a/dog/0.png", "masks/a/cat/1.png", "(20, 20)"):
        assert part in message
    assert [example.concepts for example in examples] == [{"cat": (0,)}, {}]
    assert "dog" not in examples[0].absent()


def test_a_damaged_file_of_mined_negatives_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mined.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="is not a file of mined negatives"):
        MinedNegatives(path)
