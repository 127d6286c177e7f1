"""The demo's videos on a tiny random model: following, stopping, prompts on frames, files, the timeline."""

import json
from pathlib import Path

import pytest

from moving_squares import write_moving_square
from sam3_hf.demo import Engine, VideoJob, example_clip
from sam3_hf.demo.following import CLICKED
from sam3_hf.demo.prompts import ExampleBox, VideoPrompts
from sam3_hf.demo.timeline import bars, timeline_html
from sam3_hf.ops.masks import rle_decode
from sam3_hf.video import VideoRules, open_video, propagate

pytest.importorskip("av")

SIZE, NUM_FRAMES = 112, 18
SURE = 0.09  # a random model is sure of nothing
pytestmark = [pytest.mark.filterwarnings("ignore:there is room for"), pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: str) -> Engine:
    return Engine(tiny_checkpoint, "cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_square(tmp_path_factory.mktemp("video") / "my clip.mp4", NUM_FRAMES)


@pytest.fixture(autouse=True)
def few_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam3_hf.demo.video_job.MAX_OBJECTS", 2)


@pytest.fixture
def job(engine: Engine, clip: Path, tmp_path: Path) -> VideoJob:
    return VideoJob(engine, clip, tmp_path / "results")


def test_a_run_gives_what_propagate_gives(job: VideoJob, clip: Path) -> None:
    job.set_phrases(["square"])
    steps = list(job.run(SURE))
    assert [step.done for step in steps] == list(range(1, NUM_FRAMES + 1))
    assert all(step.total == NUM_FRAMES and step.preview.shape == (60, 80, 3) for step in steps)
    processor, model = job.engine.processor, job.engine.model
    session = processor.init_video_session(str(clip), rules=VideoRules(SURE, SURE, max_objects=2))
    processor.add_text_prompt(session, "square")
    some = 0
    for output in propagate(model, session, start_frame_idx=0):
        wanted = processor.postprocess_outputs(session, output)
        found = job.objects_on(output.frame_idx)
        assert [one["id"] for one in found] == wanted["object_ids"].tolist()
        for one, mask in zip(found, wanted["masks"], strict=True):
            assert rle_decode(one["mask"]).equal(mask)
            some += 1
    assert some > 0


def test_stopping_keeps_what_is_done(job: VideoJob) -> None:
    job.set_phrases(["square"])
    for step in job.run(SURE):
        if step.done == 5:
            job.cancel()
    assert step.done == 5
    result = job.result()
    assert result is not None and "Stopped after 5 of 18 frames" in result.message
    with open_video(result.video) as video:
        assert (video.num_frames, video.size) == (5, (60, 80))
    tracks = json.loads(result.tracks.read_text())
    assert tracks["videos"][0]["length"] == 5
    assert all(frame < 5 for frames in job.spans.values() for frame in frames)
    assert sorted(path.suffix for path in job.folder.iterdir()) == [".json", ".mp4"]
    assert [step.done for step in job.run(SURE, max_frames=3)] == [1, 2, 3]  # and it can be followed anew


def test_boxes_and_clicks_on_frames_are_followed(job: VideoJob) -> None:
    first = job.add_click(0, 15, 20)
    assert job.add_click(2, 22, 20, number=first) == first
    assert job.add_click(0, 15, 50, is_positive=False, number=first) == first
    second = job.add_click(1, 60, 50)
    assert {first, second} == {0, 1}
    for _ in job.run(SURE, max_frames=4):
        pass
    numbers = {one["id"]: one["label"] for frame in range(4) for one in job.objects_on(frame)}
    assert numbers and numbers.keys() <= {first, second} and set(numbers.values()) == {CLICKED}
    assert job.undo() and second not in job.prompts.clicks
    job.set_phrases(["square"])
    job.add_box(0, (25, 30, 5, 10))
    assert job.prompts.boxes[0][0].box == (5, 10, 25, 30)
    for _ in job.run(SURE, max_frames=3):
        pass
    result = job.result()
    assert result is not None
    labels = {entry["name"] for entry in json.loads(result.tracks.read_text())["categories"]}
    assert {"square", CLICKED} >= labels >= {"square"}


def masks_by_frame(job: VideoJob) -> dict[int, dict[int, object]]:
    """What a whole run finds."""
    for _ in job.run(SURE):
        pass
    return {frame: {one["id"]: one["mask"] for one in job.objects_on(frame)} for frame in range(NUM_FRAMES)}


def test_an_object_that_a_phrase_found_is_corrected_and_the_others_stay(job: VideoJob) -> None:
    job.set_phrases(["square"])
    before = masks_by_frame(job)
    frame = max(number for number, found in before.items() if found)
    number = next(iter(before[frame]))
    x0, y0, x1, y1 = next(one["box"] for one in job.objects_on(frame) if one["id"] == number)
    assert job.add_click(frame, (x0 + x1) / 2, (y0 + y1) / 2, is_positive=False, number=number) == number
    assert not job.prompts.clicks and job.prompts.corrections[number][frame]
    after = masks_by_frame(job)
    assert all(before[earlier] == after[earlier] for earlier in range(frame))
    others = before[frame].keys() - {number}
    assert all(before[frame][other] == after[frame][other] for other in others)
    assert before[frame][number] != after[frame].get(number)
    new = job.add_click(frame, 60, 50)
    assert new > max(job.spans)  # those that were found keep their numbers
    assert job.undo() and job.prompts.corrections
    for _ in job.run(0.5, max_frames=2):  # other objects are looked for, so the numbers mean others
        pass
    result = job.result()
    assert result is not None and "were forgotten" in result.message and not job.prompts.corrections


def test_boxes_count_for_the_phrase_that_they_name() -> None:
    prompts = VideoPrompts(
        ("square", "dot"), {0: (ExampleBox((0, 0, 9, 9), phrase="dot"),), 2: (ExampleBox((1, 1, 5, 5), False),)}
    )
    assert list(prompts.shown("square")) == [2] and list(prompts.shown("dot")) == [0, 2]
    assert list(prompts.shown(None)) == [0, 2]


def test_nothing_is_followed_twice_at_a_time(job: VideoJob) -> None:
    job.set_phrases(["square"])
    run = job.run(SURE)
    next(run)
    with pytest.raises(ValueError, match="being followed already"):
        next(job.run(SURE))
    run.close()
    assert next(job.run(SURE)).done == 1


def test_what_cannot_be_followed_says_why(engine: Engine, job: VideoJob, tmp_path: Path) -> None:
    assert job.result() is None
    with pytest.raises(ValueError, match="Nothing to follow yet"):
        next(job.run(SURE))
    with pytest.raises(ValueError, match="outside the picture"):
        job.add_click(0, 500, 5)
    with pytest.raises(ValueError, match="has to be on it"):
        job.add_click(0, 5, 5, is_positive=False)
    with pytest.raises(ValueError, match="covers no pixel"):
        job.add_box(0, (5, 5, 5, 5))
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"“notes.mp4” cannot be read as a video"):
        VideoJob(engine, tmp_path / "notes.mp4", tmp_path / "results")


def test_a_damaged_video_gives_what_could_be_read(engine: Engine, clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.ts"
    import av

    with av.open(str(clip)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    job = VideoJob(engine, cut, tmp_path / "results")
    job.set_phrases(["square"])
    assert 0 < len(list(job.run(SURE))) < NUM_FRAMES
    assert job.result() is not None


def test_our_clip_is_a_video(tmp_path: Path) -> None:
    phrases = example_clip(tmp_path / "clip.mp4")
    assert phrases
    with open_video(tmp_path / "clip.mp4") as video:
        assert video.num_frames == 24


def test_the_timeline_shows_when_objects_are_in_view() -> None:
    assert bars({3: "a", 1: "a", 2: "a", 7: "a"}) == [(1, 3), (7, 7)]
    drawn = timeline_html({4: {0: "<dog>", 1: "<dog>", 5: "<dog>"}, 2: {3: "cat"}}, 10)
    assert drawn.count("<rect") == 2 + 3
    assert "4 &lt;dog&gt;: frames 0 to 1, 5" in drawn and "<dog>" not in drawn
    assert drawn.index("2 cat") < drawn.index("4 &lt;dog")
    assert timeline_html({}, 10) == ""
