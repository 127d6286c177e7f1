import json

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import BatchFeature

import sam3_hf.processing.processor as module
from sam3_hf.processing import Sam3Processor, Sam3TrackerProcessor


@pytest.fixture(scope="module")
def processor():
    return Sam3Processor(size={"height": 56, "width": 56}, image_mean=[0.4, 0.5, 0.6], image_std=[0.3, 0.2, 0.1])


@pytest.fixture(scope="module")
def picture():
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))


@pytest.fixture
def saved(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    return tmp_path


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_defaults_are_the_released_models():
    processor = Sam3Processor()
    assert (processor.image_size, processor.size) == (1008, {"height": 1008, "width": 1008})
    assert processor.image_mean == processor.image_std == [0.5, 0.5, 0.5]


def test_output_is_a_batch_feature_with_known_names(processor, picture):
    inputs = processor(
        images=picture, text=["cat", "dog"], input_boxes=[[[1, 2, 3, 4]], None], input_points=[None, [[1, 2]]]
    )
    assert isinstance(inputs, BatchFeature)
    assert set(inputs) <= set(processor.model_input_names)
    assert inputs.pixel_values.dtype == torch.float32


def test_a_batch_equals_its_items_one_by_one(processor, picture):
    other = picture.resize((17, 90))
    together = processor(images=[picture, other], text=["cat", "yellow bus"])
    for index, (image, text) in enumerate([(picture, "cat"), (other, "yellow bus")]):
        alone = processor(images=image, text=text)
        assert all(torch.equal(together[name][index : index + 1], alone[name]) for name in alone)


def test_saved_processor_is_read_back(processor, picture, saved):
    again = Sam3Processor.from_pretrained(saved)
    assert same(again(images=picture, text="Crème brûlée"), processor(images=picture, text="Crème brûlée"))
    assert again.to_dict() == processor.to_dict()


def test_save_returns_the_files_it_wrote(processor, tmp_path):
    written = processor.save_pretrained(tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new/folder").iterdir()} >= {"processor_config.json", "tokenizer.json"}
    assert any(path.endswith("processor_config.json") for path in written)


def test_saved_layout_is_the_hubs(saved):
    config = json.loads((saved / "processor_config.json").read_text())
    assert config["processor_class"] == "Sam3VideoProcessor"
    assert config["image_processor"]["image_processor_type"] == "Sam3ImageProcessor"
    assert config["image_processor"]["size"] == config["video_processor"]["size"] == {"height": 56, "width": 56}
    assert config["target_size"] == 56


def test_overrides_win(saved):
    assert Sam3Processor.from_pretrained(saved, size={"height": 560, "width": 560}).image_size == 560
    assert Sam3Processor.from_pretrained(saved, image_mean=[0.0, 0.0, 0.0]).image_mean == [0.0, 0.0, 0.0]


def test_older_flat_configuration_is_read(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 70, "width": 70}, "do_resize": True})
    )
    processor = Sam3Processor.from_pretrained(str(tmp_path))
    assert processor.image_size == 70
    assert len(processor.tokenizer) == 49408  # no tokenizer files there: the packaged vocabulary


def test_tracker_processor_reads_the_same_directory(saved):
    tracker = Sam3TrackerProcessor.from_pretrained(saved)
    assert isinstance(tracker, Sam3TrackerProcessor)
    assert tracker.image_size == 56


def test_directory_without_configuration_says_what_to_do(tmp_path):
    with pytest.raises(OSError, match=r"has no processor_config.json or preprocessor_config.json; save one there"):
        Sam3Processor.from_pretrained(tmp_path)


def test_missing_repository_says_how_to_log_in_or_point_at_a_directory():
    with pytest.raises(OSError, match=r"'nobody/nothing' .* local directory"):
        Sam3Processor.from_pretrained("nobody/nothing", local_files_only=True)


def test_unknown_argument_is_named(saved):
    with pytest.raises(TypeError, match="sizes"):
        Sam3Processor.from_pretrained(saved, sizes=560)


def test_push_uploads_under_the_directorys_name(processor, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        module.Sam3Processor, "push_to_hub", lambda self, repo_id, **kwargs: pushed.append((repo_id, kwargs))
    )
    processor.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True)
    processor.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/mine")
    assert pushed == [("mine", {"private": True}), ("me/mine", {})]


@pytest.mark.parametrize("size", [{"height": 56, "width": 70}, {"shortest_edge": 56}, 0])
def test_only_squares_are_accepted(size):
    with pytest.raises(ValueError, match="expected a square"):
        Sam3Processor(size=size)


def test_one_by_one_and_very_wide_pictures(processor):
    inputs = processor(images=[PIL.Image.new("RGB", (1, 1)), PIL.Image.new("RGB", (20000, 50))], text="cat")
    assert inputs["pixel_values"].shape == (2, 3, 56, 56)
    assert inputs["original_sizes"].tolist() == [[1, 1], [50, 20000]]


def test_nan_pixels_name_the_picture(processor, picture):
    with pytest.raises(ValueError, match=r"images\[1\] has 3 pixel values that are NaN"):
        processor(images=[picture, np.array([[[np.nan] * 3]])], text="cat")


def test_post_processing_is_that_of_the_module(processor):
    masks = torch.randn(1, 1, 3, 8, 8)
    assert processor.post_process_masks(masks, torch.tensor([[20, 30]]))[0].shape == (1, 3, 20, 30)


def test_transformers_sam3_processors_open_what_was_saved(processor, picture, saved):
    """Only where torchvision is installed, which transformers' classes need."""
    pytest.importorskip("torchvision")
    import transformers

    for name in ("Sam3Processor", "Sam3VideoProcessor", "Sam3TrackerProcessor"):
        theirs = getattr(transformers, name).from_pretrained(saved)
        pixels = theirs(images=picture, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, processor(images=picture)["pixel_values"], atol=1e-5, rtol=1e-5)
