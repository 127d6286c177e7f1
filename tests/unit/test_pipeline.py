"""`transformers.pipeline("concept-segmentation")`: forms of input and output, batching, streaming, errors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import sam3_hf.pipelines
from sam3_hf import VideoRules, bundled_model, open_video
from sam3_hf.cli import main
from sam3_hf.configuration import tiny_config
from sam3_hf.modeling import Sam3Detector, Sam3Model
from sam3_hf.ops.masks import rle_decode
from sam3_hf.pipelines import TASK, ConceptSegmentationPipeline

# what transformers 5.10 imports to open a directory does this
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

ANY_SCORE = {"threshold": 0.0}  # random weights are sure of nothing


@pytest.fixture(scope="module")
def model() -> Sam3Model:
    torch.manual_seed(0)
    return Sam3Model(tiny_config()).eval()


@pytest.fixture(scope="module")
def pipe(model: Sam3Model) -> ConceptSegmentationPipeline:
    return transformers.pipeline(TASK, model=model, device="cpu")


@pytest.fixture(scope="module")
def saved(model: Sam3Model, pipe: ConceptSegmentationPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(directory)
    return directory


def _picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def _assert_same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a["label"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        assert max(abs(a["box"][key] - b["box"][key]) for key in a["box"]) <= 1
        assert np.mean(np.asarray(a["mask"]) != np.asarray(b["mask"])) < 1e-3


def test_one_picture_gives_objects_in_transformers_style(pipe: ConceptSegmentationPipeline) -> None:
    found = pipe(_picture(), text="cat", **ANY_SCORE)
    assert [entry["score"] for entry in found] == sorted((entry["score"] for entry in found), reverse=True)
    for entry in found:
        assert entry.keys() == {"score", "label", "mask", "box"}
        assert isinstance(entry["score"], float)
        assert entry["label"] == "cat"
        assert entry["mask"].mode == "L"
        assert entry["mask"].size == (64, 48)
        assert set(np.unique(entry["mask"])) <= {0, 255}
        assert list(entry["box"]) == ["xmin", "ymin", "xmax", "ymax"]
        assert all(isinstance(value, int) for value in entry["box"].values())


def test_the_masks_are_those_of_model_and_processor(pipe: ConceptSegmentationPipeline, model: Sam3Model) -> None:
    inputs = pipe.processor(images=_picture(), text="cat")
    with torch.no_grad():
        outputs = model(**inputs)
    [expected] = pipe.processor.post_process_instance_segmentation(outputs, threshold=0.0, target_sizes=[(48, 64)])
    found = pipe(_picture(), text="cat", mask_format="bool", **ANY_SCORE)
    assert np.allclose([entry["score"] for entry in found], expected["scores"], atol=1e-6)
    assert np.mean(np.stack([entry["mask"] for entry in found]) != expected["masks"].numpy()) < 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_batch_equals_its_pictures_one_by_one(pipe: ConceptSegmentationPipeline, batch_size: int) -> None:
    pictures = [_picture(64, 48), _picture(40, 80, seed=1), _picture(96, 32, seed=2)]
    together = pipe(pictures, text=["cat", "dog"], batch_size=batch_size, **ANY_SCORE)
    assert len(together) == 3
    for picture, found in zip(pictures, together, strict=True):
        _assert_same(found, pipe(picture, text=["cat", "dog"], **ANY_SCORE))


def test_phrases_share_one_vision_pass_and_equal_single_calls(
    pipe: ConceptSegmentationPipeline, model: Sam3Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrases = ["cat", "dog", "red car", "tree", "a person with a hat"]
    alone = [entry for phrase in phrases for entry in pipe(_picture(), text=phrase, **ANY_SCORE)]
    passes = []
    plain = model.get_vision_features
    monkeypatch.setattr(model, "get_vision_features", lambda pixels: passes.append(len(pixels)) or plain(pixels))
    found = pipe(_picture(), text=phrases, phrase_batch_size=2, **ANY_SCORE)
    assert passes == [1]

    def by_phrase(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry for phrase in phrases for entry in entries if entry["label"] == phrase]

    _assert_same(by_phrase(found), by_phrase(alone))


def test_batch_size_groups_pictures_through_the_vision_tower(
    pipe: ConceptSegmentationPipeline, model: Sam3Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    plain = model.get_vision_features
    monkeypatch.setattr(model, "get_vision_features", lambda pixels: passes.append(len(pixels)) or plain(pixels))
    assert len(pipe([_picture(seed=seed) for seed in range(5)], text="cat", batch_size=2)) == 5
    assert passes == [2, 2, 1]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_generator_is_read_only_as_results_are_asked_for(pipe: ConceptSegmentationPipeline, batch_size: int) -> None:
    read = []

    def pictures() -> Iterator[Image.Image]:
        for seed in range(6):
            read.append(seed)
            yield _picture(seed=seed)

    results = pipe(pictures(), text="cat", batch_size=batch_size, **ANY_SCORE)
    assert read == []
    first = next(iter(results))
    assert len(read) == batch_size
    _assert_same(first, pipe(_picture(seed=0), text="cat", **ANY_SCORE))
    assert len(list(results)) == 5


def test_a_map_style_dataset_is_streamed(pipe: ConceptSegmentationPipeline) -> None:
    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": _picture(seed=index), "text": "cat"}

    assert len(list(pipe(Pictures(), **ANY_SCORE))) == 3


def test_no_pictures_give_no_results(pipe: ConceptSegmentationPipeline) -> None:
    assert pipe([], text="cat") == []
    assert list(pipe(iter([]), text="cat")) == []


def test_each_picture_may_bring_its_own_prompts(pipe: ConceptSegmentationPipeline) -> None:
    box = {"boxes": [[4, 4, 30, 30], [32, 8, 60, 40]], "box_labels": [1, 0]}
    requests = [
        {"image": _picture(), "text": "cat"},
        {"image": _picture(seed=1), **box},
        {"image": _picture(seed=2), "text": ["cat", None], "boxes": [[1, 1, 9, 9]]},
    ]
    together = pipe(requests, batch_size=3, **ANY_SCORE)
    assert {entry["label"] for entry in together[1]} == {"visual"}
    assert {entry["label"] for entry in together[2]} == {"cat", "visual"}
    for request, found in zip(requests, together, strict=True):
        _assert_same(found, pipe(request, **ANY_SCORE))
    _assert_same(together[1], pipe(_picture(seed=1), **box, **ANY_SCORE))


def test_boxes_and_points_reach_the_model(pipe: ConceptSegmentationPipeline) -> None:
    plain = pipe(_picture(), text="cat", **ANY_SCORE)
    for prompt in ({"boxes": [[4, 4, 30, 30]]}, {"points": [[10, 10]], "point_labels": [0]}):
        found = pipe(_picture(), text="cat", **prompt, **ANY_SCORE)
        assert [entry["score"] for entry in found] != [entry["score"] for entry in plain]


def test_mask_formats_hold_the_same_masks(pipe: ConceptSegmentationPipeline) -> None:
    pil, array, rle = (pipe(_picture(), text="cat", mask_format=name, **ANY_SCORE) for name in ("pil", "bool", "rle"))
    for a, b, c in zip(pil, array, rle, strict=True):
        assert b["mask"].dtype == bool
        assert np.array_equal(np.asarray(a["mask"]) == 255, b["mask"])
        assert np.array_equal(rle_decode(c["mask"]).numpy(), b["mask"])


def test_threshold_and_top_k_select(pipe: ConceptSegmentationPipeline) -> None:
    every = pipe(_picture(), text=["cat", "dog"], **ANY_SCORE)
    middle = every[len(every) // 2]["score"]
    above = pipe(_picture(), text=["cat", "dog"], threshold=middle)
    assert [entry["score"] for entry in above] == [entry["score"] for entry in every if entry["score"] > middle]
    _assert_same(pipe(_picture(), text=["cat", "dog"], top_k=3, **ANY_SCORE), every[:3])
    assert pipe(_picture(), text="cat", threshold=1.0) == []


def test_nms_drops_overlapping_masks(pipe: ConceptSegmentationPipeline) -> None:
    every = pipe(_picture(), text="cat", **ANY_SCORE)
    assert 0 < len(pipe(_picture(), text="cat", nms_threshold=0.1, **ANY_SCORE)) < len(every)


def test_defaults_may_be_given_with_the_pipeline(model: Sam3Model) -> None:
    pipe = transformers.pipeline(TASK, model=model, device="cpu", text="cat", top_k=2, **ANY_SCORE)
    assert len(pipe(_picture())) == 2


def test_a_directory_opens_with_its_processor_and_answers_the_same(
    pipe: ConceptSegmentationPipeline, saved: Path
) -> None:
    opened = transformers.pipeline(TASK, model=str(saved), device="cpu")
    assert isinstance(opened.model, Sam3Model)
    assert opened.processor.image_size == opened.model.config.image_size
    _assert_same(opened(_picture(), text="cat", **ANY_SCORE), pipe(_picture(), text="cat", **ANY_SCORE))


def test_dtype_is_that_of_the_loaded_model(saved: Path) -> None:
    opened = transformers.pipeline(TASK, model=str(saved), device="cpu", dtype=torch.bfloat16)
    assert opened.model.dtype == torch.bfloat16
    assert len(opened(_picture(), text="cat", **ANY_SCORE)) > 0


def test_a_broken_checkpoint_shows_what_is_wrong_with_it(saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / "model.safetensors")
    missing = next(name for name in tensors if name.startswith("detector_model.") and name.endswith("weight"))
    del tensors[missing]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    with pytest.raises(Exception, match=missing.removeprefix("detector_model.").replace(".", r"\.")):
        transformers.pipeline(TASK, model=str(tmp_path), device="cpu")


def test_a_foreign_model_is_refused_by_name(model: Sam3Model) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn.*Linear.*from_pretrained"):
        ConceptSegmentationPipeline(model=torch.nn.Linear(1, 1))


def test_without_a_model_the_bundled_one_is_taken_and_named() -> None:
    with pytest.warns(UserWarning, match="sam3-hf-tiny"):
        pipe = transformers.pipeline(TASK, device="cpu")
    assert pipe.model.name_or_path == bundled_model()


def test_a_video_gives_objects_with_ids(pipe: ConceptSegmentationPipeline) -> None:
    frames = [np.full((40, 50, 3), 20 * t, dtype=np.uint8) for t in range(4)]
    rules = VideoRules(detection_threshold=0.01, new_object_threshold=0.01, hot_start_delay=0)
    with open_video(frames) as video:
        results = list(pipe(video, text=["square", "dog"], rules=rules, mask_format="rle", max_frames=3))
    assert [result["frame"] for result in results] == [0, 1, 2]
    found = [entry for result in results for entry in result["objects"]]
    assert found, "nothing was found, so nothing is checked"
    assert set(found[0]) == {"id", "score", "label", "mask", "box"} and found[0]["label"] in ("square", "dog")
    with pytest.raises(ValueError, match="needs text"):
        pipe.track(frames)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "."),
        ({"text": "  "}, ValueError, "."),
        ({"text": "cat", "boxes": [[30, 4, 10, 30]]}, ValueError, "."),
        ({"text": "cat", "boxes": [[3, 4, 10, 30]], "box_labels": [1, 0]}, ValueError, "."),
        ({"text": "cat", "treshold": 0.3}, TypeError, "'treshold'.*threshold"),
        ({"text": "cat", "threshold": 3}, ValueError, "threshold must lie between 0 and 1, got 3"),
        ({"text": "cat", "top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ({"text": "cat", "mask_format": "png"}, ValueError, "mask_format must be one of pil, bool, rle, got 'png'"),
    ],
)
def test_bad_arguments_are_named(
    pipe: ConceptSegmentationPipeline, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipe(_picture(), **arguments)


def test_phrases_by_position_are_refused(pipe: ConceptSegmentationPipeline) -> None:
    with pytest.raises(TypeError, match="text='cat'"):
        pipe(_picture(), "cat")


def test_a_dictionary_with_other_keys_is_refused(pipe: ConceptSegmentationPipeline) -> None:
    with pytest.raises(ValueError, match=r"'image'.*got picture"):
        pipe({"picture": _picture()}, text="cat")


def test_registering_again_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    before = dict(transformers.pipelines.PIPELINE_REGISTRY.supported_tasks[TASK])
    sam3_hf.pipelines.register()
    assert transformers.pipelines.PIPELINE_REGISTRY.supported_tasks[TASK] == before


def test_a_directory_with_the_detector_alone_opens(
    model: Sam3Model, pipe: ConceptSegmentationPipeline, tmp_path: Path
) -> None:
    """As the reference's trainer's checkpoints become; through transformers' own factory, and on the command line."""
    model.detector_model.save_pretrained(tmp_path / "detector")
    pipe.processor.save_pretrained(tmp_path / "detector")
    opened = transformers.pipeline(TASK, model=str(tmp_path / "detector"), device="cpu")
    assert isinstance(opened.model, Sam3Detector)
    _assert_same(opened(_picture(), text="dog", **ANY_SCORE), pipe(_picture(), text="dog", **ANY_SCORE))
    _picture().save(tmp_path / "picture.png")
    command = ["segment", str(tmp_path / "picture.png"), "--text", "dog", "--threshold", "0"]
    assert main([*command, "--model", str(tmp_path / "detector"), "--output", str(tmp_path / "out")]) == 0
