import json
import sys
import warnings

import numpy as np
import pytest
import torch

from sam3_hf.ops.masks import rle_decode, rle_encode
from sam3_hf.video import writers
from sam3_hf.video.writers import ResultJournal, VideoWriter, draw_tracks, write_mots, write_youtube_vis
from sam3_hf.visualization import instance_color


def _square(x, y, side, size=(12, 16)):
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, y : y + side, x : x + side] = True
    return mask


def _object(number, x=0, y=0, side=3, label="cat", score=0.5, size=(12, 16)):
    [rle] = rle_encode(_square(x, y, side, size))
    return {"id": number, "label": label, "score": score, "box": [x, y, x + side, y + side], "mask": rle}


def _noise(seed, size=(32, 48)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _frames(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# ---- annotated video ----


def test_a_video_holds_the_frames_colours_and_rate_it_was_given(tmp_path):
    av = pytest.importorskip("av")
    colours = [(200, 30, 30), (30, 180, 60), (20, 40, 220)]
    with VideoWriter(tmp_path / "sub" / "out.mp4", 12.5) as writer:
        for colour in colours:
            writer.write(np.full((32, 48, 3), colour, np.uint8))
        assert not (tmp_path / "sub" / "out.mp4").exists()
    assert writer.num_frames == 3
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["out.mp4"]
    for frame, colour in zip(_frames(writer.path), colours, strict=True):
        assert frame.shape == (32, 48, 3)
        np.testing.assert_allclose(frame[16, 24], colour, atol=4)
    with av.open(str(writer.path)) as container:
        assert container.streams.video[0].average_rate == 12.5


def test_odd_sides_are_padded_with_their_edge(tmp_path):
    pytest.importorskip("av")
    image = np.full((31, 47, 3), 40, np.uint8)
    image[-1], image[:, -1] = 220, 220
    with VideoWriter(tmp_path / "odd.mp4", 30) as writer:
        writer.write(image)
    [frame] = _frames(writer.path)
    assert frame.shape == (32, 48, 3)
    assert frame[-1].mean() > 190 and frame[:, -1].mean() > 190 and frame[:20, :30].mean() < 60


def test_the_next_encoder_serves_where_the_first_is_missing(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setitem(writers._ENCODERS, "h264", ("no_such_encoder", "mpeg4"))
    with VideoWriter(tmp_path / "out.mp4", 30) as writer:
        writer.write(_noise(0))
    assert writer.codec == "mpeg4" and len(_frames(writer.path)) == 1
    with pytest.raises(ValueError, match=r"codec 'theora9'.*no encoder theora9"):
        VideoWriter(tmp_path / "out.mp4", 30, codec="theora9")


@pytest.mark.parametrize("keep_partial", [False, True])
def test_after_an_error_nothing_is_left_or_a_whole_file_of_what_was_written(tmp_path, keep_partial):
    pytest.importorskip("av")
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "out.mp4", 30, keep_partial=keep_partial) as writer:
        writer.write(_noise(0))
        writer.write(_noise(1))
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == (["out.mp4"] if keep_partial else [])
    if keep_partial:
        assert len(_frames(writer.path)) == 2


@pytest.mark.parametrize("keep_partial", [False, True])
def test_a_full_disk_is_an_oserror_and_leaves_no_broken_video(tmp_path, keep_partial, full_disk):
    pytest.importorskip("av")
    (tmp_path / "out.mp4").write_bytes(b"the last good one")
    with (
        full_disk(60_000),
        pytest.raises(OSError),
        VideoWriter(tmp_path / "out.mp4", 30, keep_partial=keep_partial) as writer,
    ):
        for seed in range(30):
            writer.write(_noise(seed, (96, 96)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"out.mp4": b"the last good one"}


def test_a_writer_refuses_what_it_cannot_write(tmp_path):
    pytest.importorskip("av")
    writer = VideoWriter(tmp_path / "out.mp4", 30)
    with pytest.raises(ValueError, match=r"\(4, 4\) uint8; expected"):
        writer.write(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"float32; expected a uint8"):
        writer.write(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="no frame was written"):
        writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(_noise(0))
    with (
        pytest.raises(ValueError, match=r"frame 1 is \(16, 16\), expected \(height, width\) \(32, 48\)"),
        VideoWriter(tmp_path / "out.mp4", 30) as writer,
    ):
        writer.write(_noise(0))
        writer.write(_noise(0, (16, 16)))
    with pytest.raises(ValueError, match=r"no video format ends in '\.what'"):
        VideoWriter(tmp_path / "out.what", 30).write(_noise(0))
    with pytest.raises(ValueError, match="fps is 0"):
        VideoWriter(tmp_path / "out.mp4", 0)
    assert list(tmp_path.iterdir()) == []


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sam3-hf\[video\]"'):
        VideoWriter(tmp_path / "out.mp4", 30)


# ---- drawing ----


def test_an_id_keeps_its_colour_whoever_else_is_there():
    image = np.zeros((96, 96, 3), np.uint8)
    mask = _square(40, 40, 30, (96, 96))[0]
    alone = draw_tracks(image, [mask], [5], alpha=1.0)
    crowded = draw_tracks(image, [_square(0, 0, 12, (96, 96))[0], mask], [9, 5], ["dog", "cat"], [0.9, 0.8], alpha=1.0)
    assert alone.shape == (96, 96, 3) and alone.dtype == np.uint8
    assert tuple(alone[66, 66]) == tuple(crowded[66, 66]) == instance_color(5)
    assert tuple(crowded[10, 10]) == instance_color(9)
    assert not image.any()


def test_drawing_takes_codes_and_shows_ids_phrases_and_scores():
    image = np.full((96, 160, 3), 128, np.uint8)
    [rle] = rle_encode(_square(60, 40, 30, (96, 160)))
    plain = draw_tracks(image, [rle], [3])
    named = draw_tracks(image, [rle], [3], ["cat"])
    scored = draw_tracks(image, [rle], [3], ["cat"], [0.25])
    changed = [int((one != other).any(-1).sum()) for one, other in ((plain, named), (named, scored))]
    assert min(changed) > 20
    np.testing.assert_array_equal(draw_tracks(image, [], []), image)


def test_drawing_refuses_lists_that_do_not_match():
    image = np.zeros((12, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="1 labels for 0 ids"):
        draw_tracks(image, [], [], ["cat"])
    mask = _square(0, 0, 3)[0]
    with pytest.raises(ValueError, match=r"ids are \[1, 1\]; expected different"):
        draw_tracks(image, [mask, mask], [1, 1])


# ---- the journal ----


def test_a_journal_gives_back_frames_in_order(tmp_path):
    with ResultJournal(tmp_path / "r.jsonl", {"text": ["cat"]}) as journal:
        journal.append(2, [_object(1)])
        journal.append(0, [])
        journal.append(1, [_object(np.int64(1), score=np.float32(0.25)), _object(7, label="dög")])
    assert journal.frames_done() == {0, 1, 2} and len(journal) == 3
    content = list(journal)
    assert [index for index, _ in content] == [0, 1, 2]
    assert content[1][1] == [_object(1, score=0.25), _object(7, label="dög")]


def test_a_killed_run_goes_on_and_its_torn_line_is_dropped_with_a_warning(tmp_path):
    path = tmp_path / "r.jsonl"
    with ResultJournal(path, {"stride": 1}) as journal:
        journal.append(0, [_object(1)])
        whole = path.read_bytes()
        journal.append(1, [_object(1), _object(2)])
    for torn in (path.read_bytes()[:-1], path.read_bytes()[:-40], whole + b'{"fr', whole + b"\0" * 100):
        path.write_bytes(torn)
        with pytest.warns(UserWarning, match=r"r\.jsonl: line 3 was cut off"):
            journal = ResultJournal(path, {"stride": 1})
        with journal:
            assert journal.frames_done() == {0} and path.read_bytes() == whole
            journal.append(1, [_object(3)])
        with warnings.catch_warnings(), ResultJournal(path) as again:
            warnings.simplefilter("error")
            assert [[entry["id"] for entry in objects] for _, objects in again] == [[1], [3]]
            assert again.header == {"stride": 1}


def test_a_kill_while_the_header_was_written_starts_anew(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"header": {"te')
    with pytest.warns(UserWarning, match="line 1"), ResultJournal(path, {"text": ["cat"]}) as journal:
        journal.append(0, [])
    with ResultJournal(path, {"text": ["cat"]}) as journal:
        assert journal.frames_done() == {0}


def test_a_journal_of_another_run_or_another_file_is_not_touched(tmp_path):
    path = tmp_path / "r.jsonl"
    with ResultJournal(path, {"stride": 1, "text": ["cat"]}) as journal:
        journal.append(0, [])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="from another run: stride was 1, now 2"):
        ResultJournal(path, {"stride": 2, "text": ["cat"]})
    assert path.read_bytes() == before
    broken = before + b'{"frame": 1, "obj\n' + b'{"frame": 2, "objects": []}\n'
    path.write_bytes(broken)
    with pytest.raises(ValueError, match="line 3 is not a frame"):
        ResultJournal(path)
    assert path.read_bytes() == broken
    path.write_text("dear diary")
    with pytest.raises(ValueError, match="line 1 is not the header of a journal"):
        ResultJournal(path)
    assert path.read_text() == "dear diary"


def test_a_full_disk_leaves_a_whole_journal(tmp_path, full_disk):
    path = tmp_path / "r.jsonl"
    with ResultJournal(path) as journal:
        journal.append(0, [_object(1)])
        before = path.read_bytes()
        with full_disk(len(before) + 100), pytest.raises(OSError):
            journal.append(1, [_object(number) for number in range(20)])
        assert path.read_bytes() == before and journal.frames_done() == {0}
        journal.append(1, [_object(2)])
    with ResultJournal(path) as again:
        assert [index for index, _ in again] == [0, 1]


def test_a_journal_refuses_frames_and_objects_twice_and_incomplete_ones(tmp_path):
    with ResultJournal(tmp_path / "r.jsonl") as journal:
        journal.append(0, [])
        with pytest.raises(ValueError, match="frame 0 is there already"):
            journal.append(0, [])
        with pytest.raises(ValueError, match="frame -1 is negative"):
            journal.append(-1, [])
        with pytest.raises(ValueError, match=r"ids \[4, 4\]; expected each once"):
            journal.append(1, [_object(4), _object(4)])
        with pytest.raises(ValueError, match="object of frame 1 has no score, mask"):
            journal.append(1, [{"id": 1, "label": "cat", "box": [0, 0, 1, 1]}])
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.append(1, [_object(1, score=float("nan"))])
        assert journal.frames_done() == {0}


# ---- files for evaluation ----


@pytest.fixture
def journal(tmp_path):
    with ResultJournal(tmp_path / "r.jsonl") as journal:
        journal.append(0, [_object(4, 1, 2, 3, "cat", 0.9), _object(0, 8, 1, 2, "dog", 0.5)])
        journal.append(1, [])
        journal.append(2, [_object(4, 2, 2, 4, "cat", 0.7)])
    return journal


def test_youtube_vis_has_one_entry_per_frame_and_none_where_an_object_is_not(journal, tmp_path):
    path = tmp_path / "out" / "vis.json"
    write_youtube_vis(journal, path, size=(12, 16), num_frames=4, name="clip", categories=["dog", "cat"])
    data = json.loads(path.read_text())
    assert [entry.name for entry in path.parent.iterdir()] == ["vis.json"]
    assert data["videos"] == [{"id": 1, "video_name": "clip", "file_names": [], "height": 12, "width": 16, "length": 4}]
    assert data["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    cat, dog = data["annotations"]
    assert (cat["id"], cat["track_id"], cat["video_id"], cat["category_id"]) == (1, 4, 1, 2)
    assert (dog["id"], dog["track_id"], dog["category_id"], dog["noun_phrase"]) == (2, 0, 1, "dog")
    assert cat["score"] == pytest.approx(0.8) and cat["iscrowd"] == 0
    assert cat["areas"] == [9, None, 16, None]
    assert cat["bboxes"] == [[1, 2, 3, 3], None, [2, 2, 4, 4], None]
    assert cat["segmentations"][1] is None and dog["segmentations"][1:] == [None] * 3
    assert torch.equal(rle_decode(cat["segmentations"][2]), _square(2, 2, 4)[0])


def test_youtube_vis_is_the_same_however_little_memory_it_may_take(journal, tmp_path, monkeypatch):
    write_youtube_vis(journal, tmp_path / "a.json", size=(12, 16))
    monkeypatch.setattr(writers, "_BYTES_AT_ONCE", 1)
    write_youtube_vis(journal, tmp_path / "b.json", size=(12, 16))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert len(json.loads((tmp_path / "a.json").read_text())["annotations"]) == 2


def test_a_run_that_found_nothing_is_a_file_without_annotations(tmp_path):
    with ResultJournal(tmp_path / "r.jsonl") as journal:
        write_youtube_vis(journal, tmp_path / "vis.json", size=(12, 16), num_frames=2, categories=["cat"])
        write_mots(journal, tmp_path / "mots.txt")
    data = json.loads((tmp_path / "vis.json").read_text())
    assert data["annotations"] == [] and data["videos"][0]["length"] == 2
    assert (tmp_path / "mots.txt").read_text() == ""


def test_a_failed_final_file_leaves_the_old_one(journal, tmp_path, full_disk):
    path = tmp_path / "out" / "vis.json"
    path.parent.mkdir()
    path.write_text("old")
    with pytest.raises(ValueError, match=r"frame 0: the mask of object 4 is \[12, 16\], expected .* \(12, 17\)"):
        write_youtube_vis(journal, path, size=(12, 17))
    with full_disk(100), pytest.raises(OSError):
        write_youtube_vis(journal, path, size=(12, 16))
    with pytest.raises(ValueError, match="has frame 2, but num_frames is 2"):
        write_youtube_vis(journal, path, size=(12, 16), num_frames=2)
    with pytest.raises(ValueError, match=r"labels \['dog'\], which are not among categories \['cat'\]"):
        write_youtube_vis(journal, path, size=(12, 16), categories=["cat"])
    assert {entry.name: entry.read_text() for entry in path.parent.iterdir()} == {"vis.json": "old"}


def test_mots_lines_give_back_the_masks(journal, tmp_path):
    path = tmp_path / "mots.txt"
    write_mots(journal, path)
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    assert [line[:5] for line in lines] == [
        ["0", "4", "1", "12", "16"],
        ["0", "0", "2", "12", "16"],
        ["2", "4", "1", "12", "16"],
    ]
    assert torch.equal(rle_decode({"size": [12, 16], "counts": lines[2][5]}), _square(2, 2, 4)[0])


def test_mots_leaves_empty_masks_out(tmp_path):
    with ResultJournal(tmp_path / "r.jsonl") as journal:
        journal.append(0, [_object(1, side=0), _object(2)])
    write_mots(journal, tmp_path / "mots.txt", categories=["cat"])
    assert [line.split(" ")[1] for line in (tmp_path / "mots.txt").read_text().splitlines()] == ["2"]
