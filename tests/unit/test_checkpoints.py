"""Loading is strict and saving is whole: every layout opens, everything else is an error that names the culprit."""

import json
import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from sam3_hf import Sam3Config, Sam3Detector, Sam3Model, Sam3VideoTracker, hub, tiny_config
from sam3_hf.conversion import convert, from_original, read_original, to_original
from sam3_hf.hub import CheckpointNotFoundError


@pytest.fixture(scope="module")
def model() -> Sam3Model:
    torch.manual_seed(0)
    return Sam3Model(tiny_config()).eval()


@pytest.fixture(scope="module")
def directory(model: Sam3Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def original(model: Sam3Model) -> dict[str, torch.Tensor]:
    return to_original(dict(model.state_dict()), model.config.detector_config.vision_config.backbone_config)


def edited(directory: Path, target: Path, edit: Any) -> Path:
    """A copy of a checkpoint whose tensors went through `edit`."""
    target.mkdir(exist_ok=True)
    tensors = load_file(directory / "model.safetensors")
    save_file(edit(tensors) or tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text((directory / "config.json").read_text())
    return target


def assert_equal(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---- what opens ----


def test_what_was_saved_opens_whole_and_by_halves(model: Sam3Model, directory: Path) -> None:
    whole = Sam3Model.from_pretrained(directory)
    assert_equal(whole, model)
    assert not whole.training and whole.name_or_path == str(directory)
    assert_equal(Sam3Detector.from_pretrained(directory), model.detector_model)
    tracker = Sam3VideoTracker.from_pretrained(directory)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        alone, shared = tracker.get_image_embeddings(pixels), model.get_image_embeddings(pixels)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("half", [Sam3Detector, Sam3VideoTracker])
def test_a_half_saves_and_opens_alone(half: Any, directory: Path, tmp_path: Path) -> None:
    loaded = half.from_pretrained(directory)
    loaded.save_pretrained(tmp_path)
    assert_equal(half.from_pretrained(tmp_path), loaded)
    with pytest.raises(ValueError, match="missing"):
        Sam3Model.from_pretrained(tmp_path)


def test_shards_open_and_a_later_save_replaces_them(model: Sam3Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="2MB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert_equal(Sam3Model.from_pretrained(tmp_path), model)
    shards[0].rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=shards[0].name):
        Sam3Model.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("model-*")) and not list(tmp_path.glob("*.index.json"))
    assert_equal(Sam3Model.from_pretrained(tmp_path), model)


def test_configuration_dtype_and_size_may_be_chosen(directory: Path) -> None:
    config = Sam3Config.from_pretrained(directory)
    config.image_size = 112
    for loaded in (
        Sam3Model.from_pretrained(directory, config=config),
        Sam3Model.from_pretrained(directory, image_size=112),
    ):
        assert loaded.config.tracker_config.prompt_encoder_config.image_size == 112
        assert loaded(torch.zeros(1, 3, 112, 112), input_ids=torch.ones(1, 4).long()).pred_masks.shape[-1] == 32
    half = Sam3Model.from_pretrained(directory, dtype=torch.bfloat16, attn_implementation="eager")
    assert half.dtype == torch.bfloat16 and half.config.detector_config.text_config._attn_implementation == "eager"
    # box, position-bias and presence maths keep float32 weights
    assert half.detector_model.detr_decoder.box_head.layer1.weight.dtype == torch.float32


def test_setting_the_image_size_sets_all_that_follows() -> None:
    config = Sam3Config()
    config.image_size = 560
    vision = config.tracker_config.vision_config
    assert vision.backbone_feature_sizes == [[160, 160], [80, 80], [40, 40]]
    assert config.detector_config.vision_config.backbone_config.image_size == 560
    assert config.tracker_config.memory_attention_rope_feat_sizes == [40, 40]
    with pytest.raises(ValueError, match="multiple of the patch size"):
        config.image_size = 561


def test_transformers_epsilon_is_mended_and_ours_kept(directory: Path, tmp_path: Path) -> None:
    content = json.loads((directory / "config.json").read_text())
    backbone = content["detector_config"]["vision_config"]["backbone_config"]
    backbone["layer_norm_eps"] = 1e-6
    (tmp_path / "config.json").write_text(json.dumps(content))
    kept = Sam3Config.from_pretrained(tmp_path)
    assert kept.detector_config.vision_config.backbone_config.layer_norm_eps == 1e-6
    content.pop("sam3_hf_version")  # as transformers writes it
    (tmp_path / "config.json").write_text(json.dumps(content))
    mended = Sam3Config.from_pretrained(tmp_path)
    assert mended.detector_config.vision_config.backbone_config.layer_norm_eps == 1e-5


def test_checkpoint_without_point_weights_opens_and_says_so(directory: Path, tmp_path: Path) -> None:
    def drop(tensors: dict[str, Any]) -> dict[str, Any]:
        return {name: t for name, t in tensors.items() if "geometry_encoder.points_" not in name}

    loaded = Sam3Model.from_pretrained(edited(directory, tmp_path, drop))
    assert not loaded.config.detector_config.geometry_encoder_config.exemplar_points
    with pytest.raises(ValueError, match="no weights for point exemplars"):
        loaded(torch.zeros(1, 3, 224, 224), input_ids=torch.ones(1, 4).long(), input_points=torch.zeros(1, 1, 2))


def test_saving_over_an_interrupted_save_leaves_the_old_files_whole(
    model: Sam3Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Sam3Model(tiny_config()).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".saving")]


def test_model_card_goes_with_the_weights_to_the_hub(
    model: Sam3Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sam3-hf") and "sam-license" in card
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"  # a card that somebody wrote is not overwritten
    sent: list[str] = []
    monkeypatch.setattr(
        Sam3Model, "_upload_modified_files", lambda self, folder, *a, **k: sent.extend(os.listdir(folder))
    )
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, repo_id, **k: Repository(repo_id))
    model.push_to_hub("somebody/sam3")
    assert {"README.md", "config.json", "model.safetensors"} <= set(sent)


class Repository(str):
    """What the hub answers when a repository is made."""

    @property
    def repo_id(self) -> str:
        return str(self)


# ---- what does not ----


BAD_TENSORS: dict[str, tuple[Any, str]] = {
    "missing": (lambda t: {k: v for k, v in t.items() if "presence_token" not in k}, r"missing: .*presence_token"),
    "unexpected": (lambda t: t | {"detector_model.novelty": torch.ones(1)}, r"unexpected: detector_model\.novelty"),
    "elsewhere": (lambda t: t | {"novelty": torch.ones(1)}, r"unexpected: novelty"),
    "shape": (
        lambda t: t | {"tracker_model.no_object_pointer": torch.ones(1, 7)},
        r"tracker_model\.no_object_pointer is \(1, 7\), expected \(1, 32\)",
    ),
    "LoRA": (lambda t: t | {"detector_model.detr_encoder.lora_A.weight": torch.ones(1)}, "LoRA"),
    "original": (lambda t: {f"detector.{k}": v for k, v in t.items()}, "sam3-hf convert"),
    "SAM 3.1": (lambda t: t | {"tracker_model.multiplex_token": torch.ones(1)}, "SAM 3.1"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_do_not_fit_are_named(name: str, directory: Path, tmp_path: Path) -> None:
    edit, message = BAD_TENSORS[name]
    with pytest.raises(ValueError, match=message):
        Sam3Model.from_pretrained(edited(directory, tmp_path, edit))


@pytest.mark.parametrize("half", [Sam3Detector, Sam3VideoTracker])
def test_a_half_does_not_open_what_has_foreign_tensors(half: Any, directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="novelty"):
        half.from_pretrained(edited(directory, tmp_path, lambda t: t | {"novelty": torch.ones(1)}))


def test_files_of_another_kind_are_named(directory: Path, tmp_path: Path) -> None:
    config = (directory / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        Sam3Model.from_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        Sam3Model.from_pretrained(tmp_path)
    (tmp_path / "sam3.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"sam3-hf convert .*sam3\.pt"):
        Sam3Model.from_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="LoRA adapter"):
        Sam3Model.from_pretrained(tmp_path)
    whole = (directory / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        Sam3Model.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a file.*sam3-hf convert"):
        Sam3Model.from_pretrained(tmp_path / "sam3.pt")


def test_a_missing_configuration_is_named(directory: Path, tmp_path: Path) -> None:
    edited(directory, tmp_path, lambda t: t)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        Sam3Model.from_pretrained(tmp_path)


def test_mismatched_sizes_cannot_be_ignored(directory: Path) -> None:
    with pytest.raises(ValueError, match="random weights"):
        Sam3Model.from_pretrained(directory, ignore_mismatched_sizes=True)


def test_missing_and_gated_repositories_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointNotFoundError, match="there is no directory"):
        Sam3Model.from_pretrained("./nowhere")
    with pytest.raises(CheckpointNotFoundError, match=r"'somebody/absent'.*local directory"):  # offline, as all tests
        Sam3Model.from_pretrained("somebody/absent")

    class Response:
        headers: ClassVar[dict[str, str]] = {}
        request = None

    for error, advice in ((GatedRepoError, "accept its licence"), (RepositoryNotFoundError, "check the spelling")):

        def refuse(*_: Any, error: Any = error, **__: Any) -> None:
            raise error("no", response=Response())

        monkeypatch.setattr(hub, "snapshot_download", refuse)
        with pytest.raises(CheckpointNotFoundError, match=f"(?s){advice}.*hf auth login.*local directory"):
            Sam3Model.from_pretrained("facebook/sam3")


# ---- the original layout ----


def test_original_and_back_is_the_same_to_the_bit(model: Sam3Model, original: dict[str, torch.Tensor]) -> None:
    again = from_original(original)
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    twice = to_original(again, model.config.detector_config.vision_config.backbone_config)
    assert twice.keys() == original.keys() and all(torch.equal(twice[k], original[k]) for k in original)


def test_original_names_are_the_references(original: dict[str, torch.Tensor], reference_dir: Path) -> None:
    """Up to the number of layers; and the rotary buffers, which the reference's strict loader wants to see."""
    expected = set(json.loads((reference_dir / "thin_keys.json").read_text()))
    ours = {name for name in original if not name.endswith("freqs_cis")}
    assert ours <= expected
    deeper = [
        f"{part}.{i}."
        for part in ("detector.transformer.encoder.layers", "detector.transformer.decoder.layers",
                     "tracker.transformer.encoder.layers", "detector.geometry_encoder.encode")
        for i in range(2, 6)
    ]  # fmt: skip
    assert {name for name in expected - ours if not name.startswith(tuple(deeper))} == set()


WRAPPINGS: dict[str, Any] = {
    "plain": lambda t: t,
    "wrapped": lambda t: {"model": t, "epoch": 3},
    "module": lambda t: {"model": {f"module.{k}": v for k, v in t.items()}},
    "without the rotary buffers": lambda t: {k: v for k, v in t.items() if not k.endswith("freqs_cis")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_convert_opens_every_wrapping_both_ways(
    wrapping: str, model: Sam3Model, original: dict[str, torch.Tensor], directory: Path, tmp_path: Path
) -> None:
    torch.save(WRAPPINGS[wrapping](original), tmp_path / "sam3.pt")
    written = convert(tmp_path / "sam3.pt", tmp_path / "hub", config=directory / "config.json")
    assert_equal(Sam3Model.from_pretrained(written), model)
    assert (written / "tokenizer.json").is_file()
    back = convert(written, tmp_path / "again.pt", to="original")
    again = torch.load(back, weights_only=True)
    assert again.keys() == original.keys() and all(torch.equal(again[k], original[k]) for k in original)


def test_the_trainers_checkpoint_without_prefix_becomes_a_detector(
    model: Sam3Model, original: dict[str, torch.Tensor], directory: Path, tmp_path: Path
) -> None:
    detector = {k.removeprefix("detector."): v for k, v in original.items() if k.startswith("detector.")}
    torch.save({"model": detector, "optimizer": {"state": {}}}, tmp_path / "checkpoint.pt")
    written = convert(tmp_path / "checkpoint.pt", tmp_path / "hub", config=directory / "config.json")
    assert_equal(Sam3Detector.from_pretrained(written), model.detector_model)


class Code:
    """A pickle that would run something."""

    def __reduce__(self) -> Any:
        return os.system, ("echo owned",)


def test_original_files_that_are_refused(original: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def written(content: Any) -> Path:
        torch.save(content, tmp_path / "file.pt")
        return tmp_path / "file.pt"

    with pytest.raises(ValueError, match="could run code"):
        read_original(written(original | {"evil": Code()}))
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(ValueError, match=r"old\.pt"):
        read_original(tmp_path / "old.pt")
    whole = written(original).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.pt cannot be read"):
        read_original(tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"SAM 3\.1.*multiplex"):
        read_original(written(original | {"tracker.multiplex_controller.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"LoRA.*lora_A"):
        read_original(written({"detector.transformer.lora_A": torch.ones(1)}))
    with pytest.raises(ValueError, match="expected a dict of named tensors"):
        read_original(written([1, 2]))
    with pytest.raises(ValueError, match=r"not a SAM 3 checkpoint.*resnet"):
        read_original(written({"resnet.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match="is a directory"):
        read_original(tmp_path)


def test_conversion_that_does_not_fit_names_the_tensors_and_writes_nothing(
    original: dict[str, torch.Tensor], directory: Path, tmp_path: Path
) -> None:
    torch.save(original, tmp_path / "sam3.pt")
    with pytest.raises(ValueError, match=r"does not fit.*--config"):
        convert(tmp_path / "sam3.pt", tmp_path / "hub")  # tiny weights, released sizes
    part = dict(list(original.items())[:-3])
    torch.save(part, tmp_path / "sam3.pt")
    with pytest.raises(ValueError, match="missing: "):
        convert(tmp_path / "sam3.pt", tmp_path / "hub", config=directory / "config.json")
    torch.save(original | {"tracker.novelty": torch.ones(1)}, tmp_path / "sam3.pt")
    with pytest.raises(ValueError, match=r"tracker\.novelty"):
        convert(tmp_path / "sam3.pt", tmp_path / "hub", config=directory / "config.json")
    assert not (tmp_path / "hub").exists()
    with pytest.raises(ValueError, match="`to` must be"):
        convert(tmp_path / "sam3.pt", tmp_path / "hub", to="onnx")
    with pytest.raises(ValueError, match="there is no"):
        convert(tmp_path / "absent.pt", tmp_path / "hub")
