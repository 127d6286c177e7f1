"""The recipe of the bundled model runs through its stages, goes on where it stopped, and gives a model that opens."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from sam3_hf import Sam3Detector, Sam3Model, Sam3Processor, tiny_config
from sam3_hf.data import concept_scene
from sam3_hf.training import ConceptCollator, bundled_tracker
from sam3_hf.training.ablations import CONDITIONS
from sam3_hf.training.ablations import main as ablations_main
from sam3_hf.training.bundled import at_size, bundled_config, main, with_queries
from sam3_hf.training.bundled_data import training_data
from sam3_hf.training.bundled_scores import main as scores_main
from sam3_hf.training.bundled_stages import DETECTOR_STAGES
from sam3_hf.training.bundled_tracker import train_neck
from sam3_hf.training.clicks import click_loss

RECIPE = [
    "--image-size",
    "112",
    "--large-size",
    "168",
    "--photo-size",
    "196",
    "--batch-size",
    "2",
    "--workers",
    "0",
    "--log-every",
    "1",
    "--no-bf16",
]


def test_recipe_trains_goes_on_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clicks: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        clicks.append(len(args[2]))
        return click_loss(*args, **kwargs)

    monkeypatch.setattr(bundled_tracker, "click_loss", counted)
    first = ["--name-minutes", "1", "--word-minutes", "1"]  # the other stages are there by default
    main([str(tmp_path), *RECIPE, *first, "--steps", "2"])
    main([str(tmp_path), *RECIPE, *first, "--steps", "3"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    steps = [(line["stage"], line["step"]) for line in lines]
    stages = ("names", "words", "detector", "large", "photos", "heads", "clicks", "clips")
    assert steps == [(stage, step) for stage in stages for step in (1, 2)] + [(stage, 3) for stage in stages]
    assert len(clicks) == 4, "one of the three lessons on clips clicks on pictures"

    folder = tmp_path / "model"
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    model = Sam3Model.from_pretrained(folder)
    assert model.dtype == torch.float32
    processor = Sam3Processor.from_pretrained(folder)
    assert processor.image_size == model.config.image_size == 196
    inputs = processor(images=concept_scene(seed=0, image_size=196).image, text="circle", return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).pred_masks.shape == (1, 200, 56, 56)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_stage_on_photos_leaves_a_share_of_the_weights_it_began_with(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    Sam3Model(bundled_config(112)).save_pretrained(tmp_path / "init")
    changed = DETECTOR_STAGES["photos"]._replace(start_share=share)
    monkeypatch.setitem(DETECTOR_STAGES, "photos", changed)
    others = [f"--{name}-minutes" for name in ("large", "head", "neck", "click", "clip")]
    none = [text for name in ("--minutes", *others) for text in (name, "0")]
    size_of_init = RECIPE[2:]  # --image-size is not given
    main([str(tmp_path), *size_of_init, *none, "--init", str(tmp_path / "init"), "--photo-size", "112", "--steps", "1"])
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("init", "model"))
    same = {name for name, value in before.items() if torch.equal(value.half(), after[name])}
    tower = {name for name in before if ".backbone.layers." in name and name.endswith(".weight")}
    presence = "detector_model.detr_decoder.presence_head.layer3.bias"
    torch.testing.assert_close(after[presence].float(), before[presence] + 2, atol=0.01, rtol=0)
    assert tower and (same == before.keys() - {presence} if share else not tower <= same)


@pytest.mark.parametrize(("stage", "learned"), [("photo", True), ("head", False)])
def test_neck_learns_only_where_the_tower_has(stage: str, learned: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    Sam3Model(bundled_config(112)).save_pretrained(tmp_path / "init")
    others = [f"--{name}-minutes" for name in ("large", "photo", "head", "click", "clip") if name != stage]
    none = [text for name in ("--minutes", *others) for text in (name, "0")]
    sizes = ["--init", str(tmp_path / "init"), "--photo-size", "112", "--steps", "1"]
    main([str(tmp_path), *RECIPE[2:], *none, *sizes])
    assert (tmp_path / "neck.pt").exists() is learned


def test_neck_makes_the_maps_that_it_made_before_the_tower_learned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = Sam3Model(tiny_config(112))
    before.save_pretrained(tmp_path / "before")
    moved = Sam3Model.from_pretrained(tmp_path / "before")
    with torch.no_grad():
        for parameter in moved.detector_model.vision_encoder.backbone.parameters():
            parameter += 0.2 * parameter.abs().mean() * torch.randn_like(parameter)
    moved_before = {name: value.clone() for name, value in moved.state_dict().items()}
    names = ("seed", "log_every", "save_minutes", "ema", "final_rate", "clip", "batch_size", "workers", "bf16")
    values = (0, 10, 5, 0.9, 0.02, 5.0, 4, 0, False)
    options = Namespace(**dict(zip(names, values, strict=True)), learning_rate=1e-3, matrix_rate=4e-3)
    options.output, options.steps, options.neck_minutes, options.warmup = str(tmp_path), 40, 0, 100
    data = training_data(None, 112, {"scenes": 1.0})
    train_neck(moved, before, data, ConceptCollator(Sam3Processor(size=112)), options)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 4 and lines[-1]["loss_neck"] < 0.5 * lines[0]["loss_neck"]
    changed = {name for name, value in moved.state_dict().items() if not torch.equal(value, moved_before[name])}
    assert changed and all(name.startswith("tracker_neck.") for name in changed)


def test_positions_are_stretched_to_larger_pictures() -> None:
    torch.manual_seed(0)
    small = Sam3Model(bundled_config(112)).eval()
    embeddings = small.detector_model.vision_encoder.backbone.embeddings
    embeddings.position_embeddings.data[:] = torch.arange(8.0).repeat(8)[None, :, None]  # the column
    large = at_size(small, 224).eval()
    table = large.detector_model.vision_encoder.backbone.embeddings.position_embeddings[0, :, 0].view(16, 16)
    torch.testing.assert_close(table[3, 2:-2], torch.arange(16.0)[2:-2] / 2 - 0.25, atol=0.2, rtol=0)
    assert large.config.image_size == 224 and torch.equal(table[0], table[9])
    same = at_size(small, 112)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in small.state_dict().items())


def test_more_queries_begin_as_copies_and_leave_the_others_as_they_are() -> None:
    torch.manual_seed(0)
    config = bundled_config(112)
    config.detector_config.detr_decoder_config.num_queries = 30
    few = Sam3Model(config)
    many = with_queries(few, 50)
    assert with_queries(many, 50) is many and many.config.detector_config.detr_decoder_config.num_queries == 50
    before, after = few.state_dict(), many.state_dict()
    for name, value in before.items():
        if name.endswith(("query_embed.weight", "reference_points.weight")):
            assert len(after[name]) == 50 and torch.equal(after[name][:30], value)
        else:
            assert torch.equal(after[name], value)
    decoder = many.detector_model.detr_decoder
    assert torch.equal(decoder.query_embed.weight[30:], decoder.query_embed.weight[:20])
    boxes = decoder.reference_points.weight.sigmoid()
    moved = (boxes[30:, :2] - boxes[:20, :2]).norm(dim=1)
    inside = ((boxes[30:] > 0.02) & (boxes[30:] < 0.98)).all(1)
    assert inside.any() and (moved[inside] > 0.3 * boxes[:20, 2:].amin(1)[inside]).all()


def test_the_model_would_fit_into_25_megabytes() -> None:
    with torch.device("meta"):
        model = Sam3Model(bundled_config())
    assert 2 * sum(tensor.numel() for tensor in model.state_dict().values()) < 25e6


def write_coco_folder(folder: Path) -> None:
    """One picture with one car, and no dog."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (60, 40), "grey").save(folder / "images" / "a.jpg")
    car = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 10], "area": 200, "iscrowd": 0}
    car["segmentation"] = [[5, 5, 25, 5, 25, 15, 5, 15]]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
        "annotations": [car],
    }
    (folder / "val.json").write_text(json.dumps(content))


def test_scores_make_a_page_with_every_round_of_corrections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    Sam3Detector(tiny_config(112).detector_config).save_pretrained(tmp_path / "model")
    page, file = tmp_path / "results.md", tmp_path / "scores.json"
    write_coco_folder(tmp_path / "data" / "street")
    given = [str(tmp_path / "model"), "--pictures", "2", "--sets", "unseen", "street", "--data", str(tmp_path / "data")]
    given += ["--page", str(page), "--output", str(file)]
    scores_main(given)
    found = json.loads(file.read_text("utf-8"))
    assert list(found) == ["unseen", "street"] and found["street"]["both"]["num_pairs"] == 2
    assert list(found["unseen"]) == ["exemplar", "both", *(f"text + {number}" for number in range(5))]
    told = page.read_text("utf-8")
    assert f"bundled_scores {' '.join(given)}" in told
    assert all(line in told for line in capsys.readouterr().out.splitlines())
    assert f"| unseen | both | {found['unseen']['both']['cgF1']:.3f} |" in told


def test_ablations_go_on_where_they_were_and_give_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    Sam3Model(tiny_config(112)).save_pretrained(tmp_path / "model")
    given = [str(tmp_path / "runs"), "--init", str(tmp_path / "model"), "--steps", "2", "--pictures", "1"]
    given += ["--batch-size", "1", "--seeds"]
    ablations_main([*given, "0"])
    first = [json.loads(line) for line in (tmp_path / "runs" / "results.jsonl").read_text("utf-8").splitlines()]
    assert len(first) == len(CONDITIONS) + 2 and {one["seed"] for one in first} == {0}
    capsys.readouterr()
    ablations_main([*given, "0"])  # all is done
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(first) and all("| 1 |" in line for line in table[2:])
    assert [json.loads(line) for line in (tmp_path / "runs" / "results.jsonl").read_text("utf-8").splitlines()] == first
