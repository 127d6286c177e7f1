"""The command `sam3-hf video` on a tiny random model: files, resuming, errors."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from moving_squares import write_moving_square
from sam3_hf import cli
from sam3_hf.video import open_video, propagation

pytest.importorskip("av")

SIZE, NUM_FRAMES = 112, 20
# A random model is sure of nothing.
OPTIONS = ["--text", "square", "--text", "dog", "--threshold", "0.09", "--new-threshold", "0.09", "--max-objects", "3"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_square(tmp_path_factory.mktemp("video") / "clip.mp4", NUM_FRAMES)


def _run(video: Path | str, output: Path, model: str, *more: str) -> int:
    return cli.main(
        ["video", str(video), *OPTIONS, "--model", model, "--device", "cpu", "--output", str(output), *more]
    )


@pytest.mark.filterwarnings("ignore:there is room for")
def test_writes_video_and_tracks(
    video: Path, tiny_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(video, tmp_path / "out", tiny_checkpoint, "--mots", "--start", "2", "--end", "1.8") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["annotated.mp4", "tracks.json", "tracks.txt"]
    assert "16 frames; square:" in capsys.readouterr().out
    with open_video(tmp_path / "out" / "annotated.mp4") as annotated:
        assert (annotated.num_frames, annotated.size) == (16, (60, 80))
    tracks = json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert [category["name"] for category in tracks["categories"]] == ["square", "dog"]
    assert all(len(found["segmentations"]) == 16 for found in tracks["annotations"])
    assert _run(video, tmp_path / "out", tiny_checkpoint) == 2  # nothing is overwritten
    assert "already there" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:there is room for")
def test_goes_on_after_a_kill(
    video: Path,
    tiny_checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(video, tmp_path / "whole", tiny_checkpoint) == 0
    original = propagation.track_frame

    def dies(model: object, session: object, frame: int, *rest: object) -> object:
        if frame == 17:
            raise KeyboardInterrupt
        return original(model, session, frame, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(propagation, "track_frame", dies)
    assert _run(video, tmp_path / "cut", tiny_checkpoint, "--save-minutes", "0") == 130
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["journal.jsonl", "session.pt"]
    assert _run(video, tmp_path / "cut", tiny_checkpoint) == 2
    assert "--resume" in capsys.readouterr().err
    assert _run(video, tmp_path / "cut", tiny_checkpoint, "--resume") == 0
    whole, cut = (json.loads((tmp_path / name / "tracks.json").read_text()) for name in ("whole", "cut"))
    assert whole["annotations"] == cut["annotations"]


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [("missing.mp4", [], "missing.mp4"), ("text.txt", [], "text.txt"), (None, ["--start", "99"], "99")],
)
def test_what_cannot_be_opened(
    name: str | None,
    more: list[str],
    message: str,
    video: Path,
    tiny_checkpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.txt").write_text("no video")
    assert _run(tmp_path / name if name else video, tmp_path / "out", tiny_checkpoint, *more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:there is room for")
def test_a_truncated_file_keeps_what_was_read(
    video: Path, tiny_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    with open_video(video) as source:
        from PIL import Image

        for frame in source:
            Image.fromarray(frame.image).save(frames / f"{frame.index}.png")
    (frames / "7.png").write_bytes((frames / "7.png").read_bytes()[:40])
    assert _run(frames, tmp_path / "out", tiny_checkpoint) == 1
    assert "7" in capsys.readouterr().err
    with open_video(tmp_path / "out" / "annotated.mp4") as annotated:
        assert annotated.num_frames == 7


def test_no_phrase_is_wrong_usage(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["video", str(video), "--output", str(tmp_path / "out")]) == 2
    assert "--text" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:there is room for")
@pytest.mark.parametrize("num_bytes", [600, 3000])  # while objects are followed; while the video is written
def test_a_full_disk_breaks_no_file_and_loses_nothing(
    video: Path,
    tiny_checkpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    full_disk: Callable[[int], AbstractContextManager[None]],
    num_bytes: int,
) -> None:
    assert _run(video, tmp_path / "whole", tiny_checkpoint) == 0
    with full_disk(num_bytes):
        assert _run(video, tmp_path / "cut", tiny_checkpoint) == 2
    assert "File too large" in capsys.readouterr().err
    assert not list((tmp_path / "cut").glob("*.mp4")) and (tmp_path / "cut" / "journal.jsonl").exists()
    assert not list((tmp_path / "cut").glob(".*"))
    assert _run(video, tmp_path / "cut", tiny_checkpoint, "--resume") == 0
    whole, cut = (json.loads((tmp_path / name / "tracks.json").read_text()) for name in ("whole", "cut"))
    assert whole["annotations"] == cut["annotations"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["annotated.mp4", "tracks.json"]
