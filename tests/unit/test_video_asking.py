"""Models on annotated videos: phrases of SAM 3, and another detector's boxes that the tracker follows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moving_squares import SIZE, moving_square
from sam3_hf import Sam3Model, Sam3Processor, cli, tiny_config
from sam3_hf.data.examples import ConceptExample
from sam3_hf.evaluation import score_veval, video_asking
from sam3_hf.evaluation.askers import ModelSpec, open_asker
from sam3_hf.ops.masks import rle_decode, rle_encode
from sam3_hf.video import VideoRules, follow_detections, propagate, track_frame
from sam3_hf.video.engine import _Parts, masks_of_boxes, prepare
from tiny_detectors import save_owlv2

NUM_FRAMES = 5
# A random model is sure of nothing, and what it finds would not outlive the hot start.
RULES = VideoRules(0.02, 0.02, max_objects=3, hot_start_delay=0, hot_start_unmatched=0, hot_start_duplicate=0)
PHRASES = {7: "red square", 9: "dog"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:there is room for", "ignore:.*video-phrase pairs"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of a red square, with annotations, a tiny model and a tiny detector."""
    folder = tmp_path_factory.mktemp("videos")
    annotations: dict[str, Any] = {
        "videos": [], "categories": [{"id": number, "name": name} for number, name in PHRASES.items()],
        "annotations": [], "video_np_pairs": [{"video_id": v, "category_id": c} for v in (1, 2) for c in PHRASES],
    }  # fmt: skip
    for video in (1, 2):
        names = [f"clip{video}/{t:03d}.png" for t in range(NUM_FRAMES)]
        (folder / f"clip{video}").mkdir()
        for name, frame in zip(names, frames(video), strict=True):
            Image.fromarray(frame).save(folder / name)
        codes = rle_encode(torch.from_numpy(np.stack(frames(video))[..., 0] > 150))
        annotations["videos"].append({"id": video, "file_names": names, "height": SIZE[0], "width": SIZE[1]})
        annotations["annotations"].append({"id": video, "video_id": video, "category_id": 7, "segmentations": codes})
    (folder / "truth.json").write_text(json.dumps(annotations))
    torch.manual_seed(3)
    Sam3Model(tiny_config(112)).save_pretrained(folder / "model")
    save_owlv2(folder / "owl")
    return folder


def frames(video: int) -> list[np.ndarray]:
    return moving_square(NUM_FRAMES, step=3, height=10 + 5 * video)


@pytest.fixture(scope="module")
def model(folder: Path) -> Sam3Model:
    return Sam3Model.from_pretrained(folder / "model").eval()


def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that let it find something."""
    made = video_asking.VideoAsker.__init__

    def asker(self: Any, *given: Any) -> None:
        made(self, *given)
        self.rules = RULES

    monkeypatch.setattr(video_asking.VideoAsker, "__init__", asker)


def evaluate(folder: Path, output: Path, *more: str) -> int:
    data = ["--dataset", str(folder / "truth.json"), "--images", str(folder), "--output", str(output)]
    return cli.main(["evaluate", *data, "--threshold", "0.02", "--device", "cpu", *more])


def test_a_model_is_asked_and_scored_and_goes_on_after_a_kill(
    folder: Path, model: Sam3Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure(monkeypatch)
    asked: list[int] = []
    results = video_asking.VideoAsker.results

    def killed(self: Any, source: Any, number: int, *more: Any) -> Any:
        asked.append(number)
        if asked == [1, 2]:
            raise KeyboardInterrupt
        return results(self, source, number, *more)

    monkeypatch.setattr(video_asking.VideoAsker, "results", killed)
    assert evaluate(folder, tmp_path / "out", "--model", str(folder / "model")) == 130
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert evaluate(folder, tmp_path / "out", "--model", str(folder / "model")) == 0
    assert asked == [1, 2, 2]  # the first is not asked again
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures == score_veval(predictions, folder / "truth.json", threshold=0.02)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.json", "per_pair.json", "predictions.json"
    ]  # fmt: skip

    processor = Sam3Processor(size=112)
    session = processor.init_video_session(frames(2), rules=RULES)
    processor.add_text_prompt(session, list(PHRASES.values()))
    expected: dict[tuple[int, int], torch.Tensor] = {}
    for output in propagate(model, session):
        found = processor.postprocess_outputs(session, output)
        for number, mask in zip(found["object_ids"].tolist(), found["masks"], strict=True):
            expected[number, output.frame_idx] = mask
    mine = [entry for entry in predictions if entry["video_id"] == 2]
    seen = [code for entry in mine for code in entry["segmentations"] if code is not None]
    assert len(seen) == len(expected) > 0
    assert sum(int(rle_decode(code).sum()) for code in seen) == sum(int(mask.sum()) for mask in expected.values())


def test_a_detector_is_followed_by_the_tracker(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sure(monkeypatch)
    more = ["--model", str(folder / "owl"), "--masks", str(folder / "model")]
    assert evaluate(folder, tmp_path / "out", *more) == 0
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["category_id"] for entry in predictions} <= set(PHRASES) and predictions
    assert all(len(entry["segmentations"]) == NUM_FRAMES for entry in predictions)


def test_a_table_of_models_is_one_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sure(monkeypatch)
    masks = f"masks: {folder / 'model'}"
    lines = ["models:", f"  - {{model: {folder / 'model'}, name: ours}}"]
    lines += [f"  - {{model: {folder / 'owl'}, name: OWLv2, threshold: 0.03, {masks}}}"]
    (tmp_path / "peers.yaml").write_text("\n".join(lines))
    assert evaluate(folder, tmp_path / "out", "--peers", str(tmp_path / "peers.yaml")) == 0
    page = (tmp_path / "out" / "peers.md").read_text()
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(figures) == ["ours", "OWLv2"]
    for name, threshold in (("ours", "0.02"), ("OWLv2", "0.03")):
        alone = json.loads((tmp_path / "out" / name / "metrics.json").read_text())
        assert figures[name] == alone
        assert f"| {name} | {threshold} | {alone['video_mask_demo_cgf1_50_95']:.4f} |" in page
    (tmp_path / "out" / "metrics.json").unlink()  # as if it had been interrupted at the end
    monkeypatch.setattr(video_asking.VideoAsker, "results", None)  # nobody is asked again
    assert evaluate(folder, tmp_path / "out", "--peers", str(tmp_path / "peers.yaml")) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == figures
    (tmp_path / "out" / "metrics.json").unlink()
    (tmp_path / "peers.yaml").write_text("\n".join(lines).replace("0.03", "0.04"))
    assert evaluate(folder, tmp_path / "out", "--peers", str(tmp_path / "peers.yaml")) == 2  # of another threshold


def test_given_detections_take_the_place_of_the_models_own(model: Sam3Model) -> None:
    processor, rules = Sam3Processor(size=112), RULES

    def session() -> Any:
        made = processor.init_video_session(frames(1), rules=rules)
        return processor.add_text_prompt(made, list(PHRASES.values()))

    ours, theirs = session(), session()
    parts = _Parts(model)
    some = 0
    for t, image in enumerate(frames(1)):
        pixels = prepare(ours, image)
        wanted = track_frame(model, ours, t, pixels)
        with torch.inference_mode():
            detections = parts.detect(theirs, parts.see(theirs, t, prepare(theirs, image)), t)
        found = track_frame(model, theirs, t, pixels, detections=detections)
        assert found.obj_id_to_mask.keys() == wanted.obj_id_to_mask.keys()
        for number, mask in wanted.obj_id_to_mask.items():
            assert torch.equal(found.obj_id_to_mask[number], mask)
            some += 1
    assert some

    boxes = torch.tensor([[5.0, 10, 25, 25], [-50, -50, -40, -40], [70, 50, 500, 500]])
    pixels = prepare(theirs, frames(1)[0])
    masks = masks_of_boxes(model, theirs, 9, pixels, boxes)
    clicked = processor(images=frames(1)[0], input_boxes=[[[5, 10, 25, 25]]], prompt_kind="objects")
    with torch.inference_mode():
        alone = model.segment_objects(
            clicked["pixel_values"], input_boxes=clicked["input_boxes"], multimask_output=False
        )
    assert masks.shape == (3, 32, 32) and masks_of_boxes(model, theirs, 9, pixels, boxes[:0]).shape == (0, 32, 32)
    torch.testing.assert_close(masks[0], alone.pred_masks[0, 0, 0], atol=1e-4, rtol=1e-4)
    nobody = follow_detections(model, session(), lambda image: [])
    with pytest.raises(ValueError, match="answered 0 phrases; the session has 2"):
        next(iter(nobody))


def test_masks_of_a_detectors_boxes_are_drawn(folder: Path, model: Sam3Model) -> None:
    example = ConceptExample(1, frames(1)[0], SIZE, np.zeros((0, 4)), [], {"dog": ()})
    spec = ModelSpec(str(folder / "owl"), masks=str(folder / "model"))
    plain, drawn = (
        next(iter(open_asker(one, "cpu").predict([example], lambda _: ["dog"])))
        for one in (ModelSpec(spec.model), spec)
    )
    assert plain.masks is None and drawn.masks is not None
    assert np.array_equal(plain.boxes, drawn.boxes) and len(drawn.masks) == len(drawn) > 0
    box = drawn.boxes[:1].clip(0, [80, 60, 80, 60])
    given = Sam3Processor(size=112)(images=example.image, input_boxes=[box.tolist()], prompt_kind="objects")
    with torch.inference_mode():
        answer = model.segment_objects(given["pixel_values"], input_boxes=given["input_boxes"], multimask_output=False)
    [masks] = Sam3Processor(size=112).post_process_masks(answer.pred_masks, [SIZE])
    assert torch.equal(rle_decode(drawn.masks[0]), masks[0, 0])
    with pytest.raises(ValueError, match="draws its masks itself"):
        open_asker(ModelSpec(str(folder / "model"), masks=spec.masks), "cpu")


def test_what_cannot_be_asked_says_why(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(folder, tmp_path / "a", "--prompts", "both", "--model", str(folder / "model")) == 2
    assert "videos are asked for phrases, not 'both'" in capsys.readouterr().err
    assert evaluate(folder, tmp_path / "a", "--model", str(folder / "owl")) == 2
    assert "--overwrite to begin anew" in capsys.readouterr().err  # the first try had left its journal
    assert evaluate(folder, tmp_path / "a", "--model", str(folder / "owl"), "--overwrite") == 2
    assert "finds boxes alone; give --masks MODEL" in capsys.readouterr().err
    assert evaluate(folder, tmp_path / "a", "--lenient") == 2
    assert "are for pictures" in capsys.readouterr().err
    broken = json.loads((folder / "truth.json").read_text())
    broken["videos"][1]["file_names"][2] = "clip2/nowhere.png"
    (tmp_path / "truth.json").write_text(json.dumps(broken))
    data = ["--dataset", str(tmp_path / "truth.json"), "--images", str(folder), "--output", str(tmp_path / "b")]
    assert cli.main(["evaluate", *data, "--device", "cpu", "--model", str(folder / "model")]) == 2
    assert "1 frames are missing, such as" in capsys.readouterr().err
    broken["videos"] = [{"id": v, "video_name": "clip1", "length": 9, "height": 60, "width": 80} for v in (1, 2)]
    for one in broken["annotations"]:
        one["segmentations"] = [None] * 9
    (tmp_path / "truth.json").write_text(json.dumps(broken))
    assert cli.main(["evaluate", *data, "--device", "cpu", "--model", str(folder / "model")]) == 2
    assert "its annotations are of 9 frames" in " ".join(capsys.readouterr().err.split())
