"""Survival of identities on tracks that can be followed by eye; models asked about clips and given first masks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam3_hf import Sam3Model, Sam3Processor, VideoRules, tiny_config
from sam3_hf.data import concept_clip
from sam3_hf.evaluation import Track, VideoPair, evaluate_masklets, evaluate_video_model, identity_survival
from sam3_hf.evaluation.video_runner import clip_phrases
from sam3_hf.evaluation.video_scores import RULES_OFF, main
from sam3_hf.ops.masks import rle_encode

SIZE = 112
# A random model is sure of nothing: rules that let some detections through.
LOOSE = VideoRules(
    detection_threshold=0.02, new_object_threshold=0.02, nms_iou=0.6, hot_start_delay=0, hot_start_unmatched=0,
    hot_start_duplicate=0, max_objects=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Sam3Model:
    torch.manual_seed(0)
    return Sam3Model(tiny_config(SIZE)).eval()


@pytest.fixture(scope="module")
def processor() -> Sam3Processor:
    return Sam3Processor(size=SIZE)


def track(places: list[int | None], score: float = 0.9) -> Track:
    """A square of 3 pixels that is at these columns on the frames."""
    codes = []
    for x in places:
        mask = torch.zeros(1, 8, 12, dtype=torch.bool)
        if x is not None:
            mask[0, 2:5, x : x + 3] = True
        codes.append(rle_encode(mask)[0] if x is not None else None)
    return Track(1, 1, codes, score=score)


def survival(predictions: list[Track], target: Track) -> dict[str, float]:
    return identity_survival([VideoPair(1, 1, target.num_frames, tuple(predictions), (target,))], (1, 2, 4))


HIDDEN = track([1, 2, None, None, 3, 4, None, 5])  # for two frames, then for one


def test_numbers_that_last_survive() -> None:
    figures = survival([HIDDEN], HIDDEN)
    assert [figures[f"num_hidden@{k}"] for k in (1, 2, 4)] == [1, 2, 2]
    assert [figures[f"survival@{k}"] for k in (1, 2, 4)] == [1, 1, 1]


def test_a_new_number_does_not_survive() -> None:
    before, after = track([1, 2] + [None] * 6), track([None] * 4 + [3, 4, None, 5])
    figures = survival([before, after], HIDDEN)
    assert (figures["survival@1"], figures["survival@2"]) == (1, 0.5)


def test_the_number_counts_that_covers_the_object_last_before_and_first_after() -> None:
    # The first track drifts off before the object hides; the second one takes over, and comes back one frame late.
    early, late = track([1, 8, 8, 8, 8, 8, 8, 8]), track([None, 2, None, None, None, 4, None, 5])
    assert survival([early, late], HIDDEN)["survival@2"] == 1
    assert survival([late, early], HIDDEN)["survival@2"] == 1
    swapped = track([None, 2, None, None, 9, 9, None, 5])
    figures = survival([swapped], HIDDEN)  # lost between: before the second time it is hidden it has no number
    assert (figures["num_hidden@2"], figures["num_followed@2"], figures["survival@2"]) == (2, 1, 0)


def test_what_was_never_followed_has_no_number_to_keep() -> None:
    figures = survival([track([9] * 8), track([1, 2, None, None, 3, 4, None, 5], score=0.4)], HIDDEN)
    assert (figures["num_hidden@2"], figures["num_followed@2"], figures["survival@2"]) == (2, 0, -1)
    late = track([None, None, 1, 2, None, None, None, None])  # comes and goes: nothing hidden
    assert survival([late], late)["num_hidden@4"] == 0


def test_phrases_of_a_clip_are_the_same_in_every_run() -> None:
    clip = concept_clip(3, 8, 64)
    phrases = clip_phrases(clip, 3, 2)
    assert phrases == clip_phrases(concept_clip(3, 8, 64), 3, 2)
    assert [bool(clip.concepts[phrase]) for phrase in phrases] == [True] * 3 + [False] * 2
    assert phrases != clip_phrases(clip, 3, 2, seed=1)


@pytest.mark.filterwarnings("ignore:there is room for 2 objects")
def test_a_model_is_asked_about_clips_and_a_second_run_reads_what_the_first_found(
    model: Sam3Model, processor: Sam3Processor, tmp_path: Path
) -> None:
    clips = [concept_clip(seed, 4, 64, max_objects=2) for seed in (1, 2)]
    figures = evaluate_video_model(
        model, processor, clips, rules=LOOSE, max_present=1, max_absent=1, threshold=0.05, output_dir=tmp_path
    )
    assert figures["num_clips"] == 2 and figures["num_pairs"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{clip.clip_id}.json" for clip in clips)
    stored = json.loads((tmp_path / f"{clips[0].clip_id}.json").read_text())
    assert stored["results"] and stored["settings"]["rules"]["detection_threshold"] == 0.02

    def nothing_runs(*_: object, **__: object) -> None:
        raise AssertionError("the clip was run again")

    forward, model.propagate_in_video_iterator = model.propagate_in_video_iterator, nothing_runs  # type: ignore[method-assign,assignment]
    try:
        again = evaluate_video_model(
            model, processor, clips, rules=LOOSE, max_present=1, max_absent=1, threshold=0.05, output_dir=tmp_path
        )
    finally:
        model.propagate_in_video_iterator = forward  # type: ignore[method-assign]
    assert again == figures
    with pytest.raises(ValueError, match="of a run with other settings"):
        evaluate_video_model(model, processor, clips, max_present=1, max_absent=1, output_dir=tmp_path)
    with pytest.raises(ValueError, match="no clip"):
        evaluate_video_model(model, processor, [])


def masked_videos(folder: Path) -> Path:
    """Two videos of a bright square that stands still; the second has no mask on its first frame."""
    frame = np.full((48, 64, 3), 60, np.uint8)
    frame[10:30, 20:40] = 220
    mask = torch.zeros(1, 48, 64, dtype=torch.bool)
    mask[0, 10:30, 20:40] = True
    [code] = rle_encode(mask)
    videos, annotations = [], []
    for number in (1, 2):
        names = [f"clip{number}/{index:05d}.png" for index in range(4)]
        (folder / "frames" / f"clip{number}").mkdir(parents=True)
        for name in names:
            Image.fromarray(frame).save(folder / "frames" / name)
        videos.append({"id": number, "name": f"clip{number}", "file_names": names, "height": 48, "width": 64})
        codes = [code if number == 1 else None, code, code, code]
        annotations.append({"id": number, "video_id": number, "category_id": 1, "segmentations": codes})
    data = {"videos": videos, "categories": [{"id": 1, "name": "square"}], "annotations": annotations}
    (folder / "videos.json").write_text(json.dumps(data))
    return folder


def test_first_masks_are_followed(model: Sam3Model, processor: Sam3Processor, tmp_path: Path) -> None:
    figures = evaluate_masklets(model, processor, masked_videos(tmp_path))
    assert list(figures) == ["clip1", "all"]
    assert figures["clip1"] == figures["all"]
    assert 0 <= figures["all"]["J&F-Mean"] < 1


def test_the_module_runs(model: Sam3Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save_pretrained(tmp_path / "model")
    masked_videos(tmp_path / "videos")
    arguments = [str(tmp_path / "model"), "--clips", "1", "--frames", "2", "--rules", "holes", "--max-frames", "3"]
    main([*arguments, "--videos", str(tmp_path / "videos"), "--output", str(tmp_path / "out")])
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(scores) == ["all rules", "without holes", "first masks"]
    assert "| without holes |" in capsys.readouterr().out


def test_each_rule_can_be_switched_off() -> None:
    base = VideoRules(reclaim_from=3, reclaim_to=30)
    for name, changes in RULES_OFF.items():
        assert replace(base, **changes) != base, name
    every = {key: value for changes in RULES_OFF.values() for key, value in changes.items()}
    assert VideoRules(**every).reconditions_on(16) is False
