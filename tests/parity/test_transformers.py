"""Equal to transformers on shared weights wherever transformers equals the reference: prompts with boxes, and clicks.

The stored outputs were made by tests/golden/make_transformers.py with transformers 5.23.0; nothing of transformers' own
SAM 3 runs here (its classes ask for torchvision).
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sam3_hf import Sam3Detector, Sam3Model, Sam3VideoTracker

TOLERANCE = 1e-5  # of a tensor's range


def load(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(reference_dir: Path) -> Path:
    return reference_dir.parent / "transformers"


@pytest.fixture(scope="module")
def gold(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "outputs.safetensors")


@pytest.fixture(scope="module")
def cases(reference_dir: Path) -> dict[str, Any]:
    """The inputs, from the source of the script that made the outputs (which imports what is not here)."""
    source = (reference_dir.parent / "make_transformers.py").read_text()
    start, end = source.index("def pixels("), source.index("@torch.inference_mode()")
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(source[start:end], "make_transformers.py", "exec"), namespace)
    return {
        "pixels": namespace["pixels"](2),
        "concepts": namespace["concept_cases"](),
        "clicks": namespace["click_cases"](),
    }


@pytest.fixture(scope="module")
def hub_directory(folder: Path, reference_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as transformers saves a whole model, its prefix `tracker_model.` doubled as version 5.23 does."""
    fill = load("reference_fill", reference_dir / "reference.py").fill
    names = json.loads((folder / "keys.json").read_text())
    tensors = {name: fill(name, tuple(shape)) for name, shape in names.items()}
    tensors["tracker_model.no_memory_embedding"].zero_()  # transformers adds it in the wrong place
    doubled = {name.replace("tracker_model.", "tracker_model.tracker_model.", 1): t for name, t in tensors.items()}
    directory = tmp_path_factory.mktemp("hub")
    save_file(doubled, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text((folder / "config.json").read_text())
    return directory


def check(name: str, actual: Tensor, expected: Tensor) -> None:
    scale = max((expected.max() - expected.min()).item(), 1.0)
    error = (actual.reshape(expected.shape) - expected).abs().max().item()
    assert error <= TOLERANCE * scale, f"{name}: off by {error:.2e} of a range of {scale:.2f}"


@pytest.mark.parametrize("tag", ["boxes", "padded_boxes"])
@pytest.mark.parametrize("model_class", [Sam3Model, Sam3Detector])
def test_concepts(
    model_class: Any, tag: str, hub_directory: Path, gold: dict[str, Tensor], cases: dict[str, Any]
) -> None:
    model = model_class.from_pretrained(hub_directory)
    with torch.inference_mode():
        out = model(pixel_values=cases["pixels"], **cases["concepts"][tag])
    for key in ("pred_logits", "presence_logits", "pred_boxes", "pred_masks", "semantic_seg"):
        value = out[key][..., ::2, ::2] if out[key].dim() == 4 else out[key]
        check(f"{tag}.{key}", value, gold[f"{tag}.{key}"])


@pytest.mark.parametrize("tag", ["points", "object_boxes", "points_and_boxes", "masks"])
@pytest.mark.parametrize("multimask", ["multi", "single"])
def test_clicks(tag: str, multimask: str, hub_directory: Path, gold: dict[str, Tensor], cases: dict[str, Any]) -> None:
    tracker = Sam3VideoTracker.from_pretrained(hub_directory)
    whole = Sam3Model.from_pretrained(hub_directory)
    prompts = cases["clicks"][tag] | {"multimask_output": multimask == "multi"}
    with torch.inference_mode():
        alone = tracker(pixel_values=cases["pixels"], **prompts)
        shared = whole.segment_objects(pixel_values=cases["pixels"], **prompts)
    for out in (alone, shared):
        for key in ("pred_masks", "iou_scores", "object_score_logits"):
            value = out[key][..., ::2, ::2] if out[key].dim() == 5 else out[key]
            check(f"{tag}.{multimask}.{key}", value, gold[f"{tag}.{multimask}.{key}"])


def test_what_is_saved_has_exactly_transformers_names(hub_directory: Path, folder: Path, tmp_path: Path) -> None:
    """No key that transformers' `Sam3VideoModel` has is missing, none is added but those of point exemplars."""
    expected = {name: tuple(shape) for name, shape in json.loads((folder / "keys.json").read_text()).items()}
    loaded = Sam3Model.from_pretrained(hub_directory)
    loaded.save_pretrained(tmp_path / "without")
    saved = load_file(tmp_path / "without" / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in saved.items()} == expected
    assert json.loads((tmp_path / "without" / "config.json").read_text())["architectures"] == ["Sam3VideoModel"]

    loaded.config.detector_config.geometry_encoder_config.exemplar_points = True
    Sam3Model(loaded.config).save_pretrained(tmp_path / "with")
    added = load_file(tmp_path / "with" / "model.safetensors").keys() - expected.keys()
    assert added and all(name.startswith("detector_model.geometry_encoder.points_") for name in added)


def test_transformers_opens_what_is_saved(hub_directory: Path, tmp_path: Path, cases: dict[str, Any]) -> None:
    """Live, where torchvision is: `Sam3Model`, `Sam3VideoModel` and `Sam3TrackerModel` of plain transformers."""
    pytest.importorskip("torchvision", reason="transformers' SAM 3 classes ask for torchvision")
    import transformers

    ours = Sam3Model.from_pretrained(hub_directory)
    ours.save_pretrained(tmp_path)
    ours.detector_model.save_pretrained(tmp_path / "detector")
    Sam3VideoTracker.from_pretrained(hub_directory).save_pretrained(tmp_path / "tracker")
    opened = {
        "Sam3Model": (tmp_path, tmp_path / "detector"),
        "Sam3VideoModel": (tmp_path,),
        "Sam3TrackerModel": (tmp_path, tmp_path / "tracker"),
        "Sam3TrackerVideoModel": (tmp_path, tmp_path / "tracker"),
    }
    for name, directories in opened.items():
        for directory in directories:
            _, info = getattr(transformers, name).from_pretrained(directory, output_loading_info=True)
            assert not info["missing_keys"] and not info["mismatched_keys"], (name, info)
            assert not info["unexpected_keys"], (name, info)
    theirs = transformers.Sam3Model.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        for case in cases["concepts"].values():
            a, b = ours(pixel_values=cases["pixels"], **case), theirs(pixel_values=cases["pixels"], **case)
            check("pred_masks", a.pred_masks, b.pred_masks)
