import io
import sys
import time
import wave
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from sam3_hf.video import video_file
from sam3_hf.video.frames import VideoReadError, open_video


def _picture(number, size=(20, 30)):
    """A grey picture that tells its number, with a red corner that tells which way up it is."""
    image = np.full((*size, 3), 20 + number * 9 % 200, np.uint8)
    image[: size[0] // 2, : size[1] // 3] = (250, 20, 20)
    return image


def _write(path, num_frames=12, *, codec="libx264", pix_fmt="yuv420p", size=(32, 48), options=None, times=None, **more):
    """A video of `_picture`s; `times` in milliseconds; `rotation`, `hflip` as the display matrix."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=more.pop("muxer", {})) as container:
        stream = container.add_stream(codec, rate=30, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        if more:
            stream.set_display_rotation(more["rotation"], hflip=more.get("hflip", False))
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(_picture(number, size), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


FINE = {"qmin": "1", "qmax": "2"}
X264 = {"preset": "ultrafast"}
B_FRAMES = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=3:b-adapt=0"}
OPEN_GROUPS = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=3:b-adapt=0:open-gop=1"}
VARIABLE = [0, 10, 50, 60, 100, 300, 310, 320, 600, 610, *range(650, 1850, 40)]

# name, what it is written with
KINDS = {
    "plain.mp4": {"options": X264},
    "b_frames.mp4": {"options": B_FRAMES},
    "open_groups.mp4": {"options": OPEN_GROUPS},
    "open_groups.mkv": {"options": OPEN_GROUPS},
    "open_groups.ts": {"options": OPEN_GROUPS},
    "variable.mp4": {"options": B_FRAMES, "times": VARIABLE},
    "variable.mkv": {"options": B_FRAMES, "times": VARIABLE},
    "fragments.mp4": {"options": B_FRAMES, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": FINE},
    "b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "10", **FINE}},
    "bare.h264": {"options": B_FRAMES},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, words in KINDS.items():
        _write(folder / name, 40, **words)
    return folder


def _numbers(frames):
    """The numbers that `_picture` wrote into frames, up to what coding loses."""
    return [round((int(frame.image[-2, -2].mean()) - 20) / 9) for frame in frames]


# ---- files ----


@pytest.mark.parametrize("name", KINDS)
def test_reading_a_frame_gives_what_iterating_gives(videos, name):
    with open_video(videos / name) as video:
        frames = list(video)
        assert [frame.index for frame in frames] == list(range(40))
        if name != "open_groups.ts":
            assert _numbers(frames)[:22] == list(range(22))
        assert frames[0].time == 0 and all(a.time < b.time for a, b in pairwise(frames))
        with open_video(videos / name) as unseen:  # has to find out where a frame is
            for index in (39, 0, 10, 9, 11, 8, 27, 20, 1):
                for source in (video, unseen):
                    again = source.read(index)
                    assert (again.index, again.time) == (index, frames[index].time)
                    np.testing.assert_array_equal(again.image, frames[index].image)
        for first in (0, 11, 39, 40):
            with open_video(videos / name) as unseen:
                rest = list(unseen.frames_from(first))
            assert [(frame.index, frame.time) for frame in rest] == [(f.index, f.time) for f in frames[first:]]
            for frame, wanted in zip(rest, frames[first:], strict=True):
                np.testing.assert_array_equal(frame.image, wanted.image)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("start", "end"), [(13, 31), (9, None), (0.5, 1.0), (13, 1.2)])
def test_start_end_and_stride_keep_these_frames(videos, name, start, end):
    with open_video(videos / name) as whole:
        every = list(whole)
    after = [f for f in every if start is None or (f.index >= start if isinstance(start, int) else f.time >= start)]
    inside = [f for f in after if end is None or (f.index < end if isinstance(end, int) else f.time < end)]
    expected = inside[::3]
    with (
        open_video(videos / name, stride=3, start=start, end=end) as video,
        open_video(videos / name, stride=3, start=start, end=end) as unseen,
    ):
        assert video.num_frames in (None, len(expected))
        last = unseen.read(len(expected) - 1)
        np.testing.assert_array_equal(last.image, expected[-1].image)
        with pytest.raises(ValueError, match=f"frame {len(expected)} is not there"):
            unseen.read(len(expected))
        frames = list(video)
        assert [(frame.index, frame.time) for frame in frames] == [(i, f.time) for i, f in enumerate(expected)]
        for frame, wanted in zip(frames, expected, strict=True):
            np.testing.assert_array_equal(frame.image, wanted.image)
        np.testing.assert_array_equal(video.read(2).image, expected[2].image)
        assert [frame.time for frame in video.frames_from(2)] == [frame.time for frame in expected[2:]]


@pytest.mark.parametrize("name", ["plain.mp4", "b_frames.mp4", "open_groups.mp4", "variable.mp4"])
def test_the_index_of_a_file_tells_the_times_that_its_packets_tell(videos, name):
    file = video_file.VideoFile(videos / name)
    by_index, by_packets = video_file.FrameTimes(file, 0), video_file.FrameTimes(file, 0)
    assert by_index.is_indexed and by_index.count == 40
    by_index._read_packets = None  # the index has to do
    by_packets.is_indexed = False
    times = [by_packets.ticks_of(number) for number in range(40)]
    assert [by_index.ticks_of(number) for number in range(40)] == times
    for number, ticks in enumerate(times):
        for source in (by_index, by_packets):
            assert [source.number_at(ticks + shift) for shift in (-1, 0, 1)] == [number, number, number + 1]
            with pytest.raises(IndexError):
                source.ticks_of(40)
    file.close()


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.ts"])
def test_numbers_count_what_can_be_decoded_in_a_file_cut_out_of_another(videos, tmp_path, name):
    av = pytest.importorskip("av")
    if name == "cut.ts":  # begins in the middle of a group, as a recorded broadcast does
        data = (videos / "open_groups.ts").read_bytes()
        (tmp_path / name).write_bytes(data[len(data) // 188 // 6 * 188 :])
    else:
        with av.open(str(videos / "open_groups.mp4")) as source, av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            packets = [packet for packet in source.demux(video=0) if packet.size]
            second_key = [place for place, packet in enumerate(packets) if packet.is_keyframe][1]
            for packet in packets[second_key:]:
                packet.stream = stream
                container.mux_one(packet)
    with open_video(tmp_path / name) as video:
        frames = list(video)
        assert video.num_frames in (None, len(frames)) and len(frames) >= 28
    for index in (0, 1, 5, 17, len(frames) - 1):
        with open_video(tmp_path / name) as unseen, open_video(tmp_path / name, start=index) as later:
            np.testing.assert_array_equal(unseen.read(index).image, frames[index].image)
            np.testing.assert_array_equal(later.read(0).image, frames[index].image)


def test_a_closed_source_lets_its_iterators_end(videos):
    video = open_video(videos / "plain.mp4")
    frames = iter(video)
    next(frames)
    video.close()
    assert len(list(frames)) == 39


def test_a_file_says_what_it_holds(videos):
    for name, count in {"plain.mp4": 40, "mpeg4.avi": 40, "open_groups.mkv": None, "bare.h264": None}.items():
        with open_video(str(videos / name), stride=2) as video:
            assert video.num_frames == (None if count is None else 20), name
            assert video.size == (32, 48) and video.is_seekable and video.name.endswith(name)
            assert video.fps == pytest.approx(12.5 if name == "bare.h264" else 15)


def test_times_are_those_of_the_frames(videos):
    for name in ("variable.mp4", "variable.mkv"):
        assert [round(frame.time * 1000) for frame in open_video(videos / name)] == VARIABLE
    shifted = [frame.time for frame in open_video(videos / "open_groups.ts")]  # its clock starts late
    assert shifted[:2] == [0.0, pytest.approx(1 / 30, abs=1e-3)]


def test_two_iterators_and_read_do_not_disturb_each_other(videos):
    with open_video(videos / "b_frames.mp4") as video:
        one, other = iter(video), iter(video)
        seen = []
        for _ in range(15):
            seen.append((next(one), next(other), video.read(30)))
        assert [first.index for first, _, _ in seen] == list(range(15))
        for first, second, far in seen:
            np.testing.assert_array_equal(first.image, second.image)
            np.testing.assert_array_equal(far.image, seen[0][2].image)


@pytest.mark.parametrize(
    ("rotation", "hflip", "upright"),
    [
        (90, False, lambda image: np.rot90(image)),
        (-90, False, lambda image: np.rot90(image, -1)),
        (180, False, lambda image: image[::-1, ::-1]),
        (0, True, lambda image: image[:, ::-1]),
    ],
)
def test_rotated_and_mirrored_videos_come_out_upright(tmp_path, rotation, hflip, upright):
    words = {"codec": "libx264rgb", "pix_fmt": "rgb24", "size": (20, 30), "options": {"crf": "0"}}
    path = _write(tmp_path / "r.mov", 2, **words, rotation=rotation, hflip=hflip)
    with open_video(path) as video:
        [first, _] = video
        np.testing.assert_array_equal(first.image, upright(_picture(0)))
        assert video.size == first.image.shape[:2] and first.image.flags.c_contiguous
        np.testing.assert_array_equal(video.read(0).image, first.image)


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv420p10le", "yuva420p", "bgra", "yuv444p16le", "gray16le"])
def test_every_pixel_format_becomes_rgb_of_8_bits(tmp_path, pix_fmt):
    path = _write(tmp_path / "v.mkv", 2, codec="ffv1", pix_fmt=pix_fmt, size=(21, 33))
    for frame in open_video(path):
        assert frame.image.shape == (21, 33, 3) and frame.image.dtype == np.uint8
        np.testing.assert_allclose(frame.image[-2, -2], _picture(frame.index)[-2, -2], atol=3)


def test_the_colours_are_those_the_file_says(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "c.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height = stream.width = 16
        stream.pix_fmt, stream.codec_context.colorspace, stream.codec_context.color_range = "yuv444p", 1, 1
        frame = av.VideoFrame.from_ndarray(np.full((3, 16, 16), (((63,),), ((102,),), ((240,),)), np.uint8), "yuv444p")
        frame.colorspace, frame.color_range = 1, 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    [frame] = open_video(tmp_path / "c.mkv")
    np.testing.assert_allclose(frame.image[8, 8], (255, 0, 0), atol=2)  # pure red in BT.709


def test_a_two_hour_file_opens_at_once_and_reads_a_late_frame_alone(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    part, num_parts = 240, 900
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"x264-params": f"keyint={part}:min-keyint={part}:scenecut=0:bframes=2:threads=1"} | X264
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for number in range(part):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    buffer.seek(0)
    path = str(tmp_path / "long.mp4")
    with av.open(buffer) as source, av.open(path, "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        coded = [(bytes(p), p.pts, p.dts, p.is_keyframe, p.duration) for p in source.demux(video=0) if p.size]
        for number in range(num_parts):
            shift = number * part * coded[0][4]
            for data, pts, dts, is_keyframe, duration in coded:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration = pts + shift, dts + shift, duration
                packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 15360), is_keyframe, stream
                container.mux_one(packet)

    num_packets = 0
    packets = video_file.VideoFile.packets

    def counted(self):
        nonlocal num_packets
        for packet in packets(self):
            num_packets += 1
            yield packet

    monkeypatch.setattr(video_file.VideoFile, "packets", counted)
    begin = time.perf_counter()
    with open_video(path) as video:
        opened = time.perf_counter() - begin
        assert video.num_frames == part * num_parts
        frame = video.read(200_000)
        after = next(video.frames_from(200_001))
    assert after.index == 200_001 and after.time == pytest.approx(200_001 / 30)
    assert frame.time == pytest.approx(200_000 / 30) and frame.image.mean() == pytest.approx(200_000 % part, abs=2)
    begin = time.perf_counter()
    with open_video(path, start=7000.0) as video:
        first = next(iter(video))
    at_the_end = time.perf_counter() - begin
    assert first.time == 7000.0 and video.num_frames == 6000
    assert num_packets < 15 * part  # of 216,000
    assert max(opened, at_the_end) < 3  # a loaded machine; alone it takes 0.3 s


def test_a_file_of_one_frame_is_a_video(tmp_path):
    [frame] = open_video(_write(tmp_path / "one.mp4", 1))
    assert (frame.index, frame.time) == (0, 0.0)


def test_what_is_no_video_is_refused(tmp_path):
    av = pytest.importorskip("av")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        open_video(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "nothing.mp4").write_bytes(b"")
    for name in ("text.mp4", "nothing.mp4"):
        with pytest.raises(ValueError, match=rf"{name}' cannot be read as a video"):
            open_video(tmp_path / name)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"sound\.wav' has no video stream"):
        open_video(tmp_path / "sound.wav")
    with av.open(str(tmp_path / "empty.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"empty\.avi' is empty: it has no frames"):
        open_video(tmp_path / "empty.avi")


@pytest.mark.parametrize("name", ["t.mp4", "t.mkv", "t.avi"])
def test_a_truncated_file_gives_its_good_frames_and_then_an_error_that_names_them(tmp_path, name):
    words = {"muxer": {"movflags": "faststart"}} if name == "t.mp4" else {"codec": "mpeg4"} if name == "t.avi" else {}
    data = _write(tmp_path / name, 60, options={"g": "12"}, size=(64, 96), **words).read_bytes()
    whole = list(open_video(tmp_path / name))
    header = data.index({"t.mp4": b"mdat", "t.mkv": b"\x1f\x43\xb6\x75", "t.avi": b"movi"}[name])
    (tmp_path / f"cut_{name}").write_bytes(data[: (header + len(data)) // 2])
    good = []
    with (
        pytest.raises(VideoReadError, match=rf"cut_{name}: reading stopped after \d+ good frames: .+") as caught,
        open_video(tmp_path / f"cut_{name}") as video,
    ):
        good.extend(video)
    assert isinstance(caught.value, ValueError)
    assert 5 < len(good) < 55 and caught.value.num_read == len(good)
    assert caught.value.source == str(tmp_path / f"cut_{name}")
    for frame, wanted in zip(good[:-3], whole, strict=False):
        np.testing.assert_array_equal(frame.image, wanted.image)


def test_a_file_whose_frames_change_size_is_read_up_to_there(tmp_path):
    one = _write(tmp_path / "one.h264", 5, size=(32, 32)).read_bytes()
    other = _write(tmp_path / "other.h264", 5, size=(48, 64)).read_bytes()
    (tmp_path / "both.h264").write_bytes(one + other)
    good = []
    with open_video(tmp_path / "both.h264") as video:
        with pytest.raises(VideoReadError, match=r"frame 5 is 48 x 64 \(height x width\), .* 32 x 32"):
            good.extend(video)
        assert [frame.index for frame in good] == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match=r"frame 7 is 48 x 64"):
            video.read(7)


def test_files_glued_together_read_the_right_frame_although_times_repeat(tmp_path):
    data = _write(tmp_path / "one.ts", 20, options=B_FRAMES).read_bytes()
    (tmp_path / "both.ts").write_bytes(data + data)
    with open_video(tmp_path / "both.ts") as video:
        frames = list(video)
        assert len(frames) == 40
        for index in (3, 25, 39):
            np.testing.assert_array_equal(video.read(index).image, frames[index].image)


def test_only_files_need_pyav(tmp_path, monkeypatch):
    (tmp_path / "v.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sam3-hf\[video\]"'):
        open_video(tmp_path / "v.mp4")
    with pytest.raises(ModuleNotFoundError, match="PyAV"):
        open_video(0)
    assert len(list(open_video([_picture(0)]))) == 1


# ---- which frames ----


def _pictures(count):
    return [_picture(number) for number in range(count)]


@pytest.fixture(params=["list", "tuple", "array", "tensor", "tensor channels first", "folder", "generator"])
def source(request, tmp_path):
    pictures = _pictures(12)
    if request.param == "folder":
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / f"{number}.png")
        return tmp_path
    array = np.stack(pictures)
    return {
        "list": pictures,
        "tuple": tuple(pictures),
        "array": array,
        "tensor": torch.from_numpy(array),
        "tensor channels first": torch.from_numpy(array).permute(0, 3, 1, 2),
        "generator": iter(pictures),
    }[request.param]


def test_every_source_gives_its_frames_from_a_number_on(source):
    with open_video(source, stride=2) as video:
        with pytest.raises(ValueError, match="frame -1 is not there"):
            next(video.frames_from(-1))
        rest = list(video.frames_from(4))
    assert [frame.index for frame in rest] == [4, 5]
    np.testing.assert_array_equal(rest[0].image, _picture(8))


def test_every_source_keeps_the_frames_asked_for(source):
    with open_video(source, stride=2, start=3, end=10) as video:
        seekable = video.is_seekable
        assert video.num_frames == (4 if seekable else None) and video.fps is None
        assert video.size == ((20, 30) if seekable else None)
        frames = list(video)
        assert [frame.index for frame in frames] == [0, 1, 2, 3] and video.size == (20, 30)
        for frame, number in zip(frames, (3, 5, 7, 9), strict=True):
            np.testing.assert_array_equal(frame.image, _picture(number))
            assert frame.time is None and frame.image.dtype == np.uint8
        if seekable:
            np.testing.assert_array_equal(video.read(2).image, _picture(7))
            with pytest.raises(ValueError, match=r"frame 4 is not there: .* has 4 frames, 0 to 3"):
                video.read(4)
            with pytest.raises(ValueError, match="frame -1 is not there"):
                video.read(-1)
        else:
            with pytest.raises(ValueError, match=r"cannot be read again.*while it is the current one, or pass a video"):
                video.read(2)
            with pytest.raises(ValueError, match="only once"):
                next(iter(video))
    with pytest.raises(ValueError, match="closed; open it again"):
        next(iter(video))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"stride": 0}, ValueError, "stride is 0; expected a whole number from 1"),
        ({"stride": 1.5}, ValueError, "stride is 1.5"),
        ({"start": 3, "end": 3}, ValueError, "start=3 is not before end=3"),
        ({"end": 0}, ValueError, "start=0 is not before end=0"),
        ({"start": 2.0, "end": 1.0}, ValueError, r"start=2\.0 is not before end=1\.0"),
        ({"start": -1}, ValueError, "start is -1; expected a number from 0"),
        ({"end": float("nan")}, ValueError, "end is nan"),
        ({"start": "3"}, TypeError, "start is '3'; expected an int"),
    ],
)
def test_a_range_without_frames_is_refused(words, error, message):
    with pytest.raises(error, match=message):
        open_video(_pictures(5), **words)


def test_a_start_beyond_the_end_is_refused(videos):
    with pytest.raises(ValueError, match=r"start=12 lies beyond the end of the list of pictures, which has 5 frames"):
        open_video(_pictures(5), start=12)
    with pytest.raises(ValueError, match=r"start=12 lies beyond the end of the generator, which had 5 frames"):
        list(open_video(iter(_pictures(5)), start=12))
    for name in KINDS:
        for start in (40, 60.0):
            with pytest.raises(ValueError, match=rf"start={start} lies beyond the end of .*{name}"):
                open_video(videos / name, start=start)
    with pytest.raises(ValueError, match=r"start=30 is not before end=0\.5"):
        open_video(videos / "plain.mp4", start=30, end=0.5)
    with pytest.raises(ValueError, match=r"no frame from start=0\.11 to end=0\.2"):
        open_video(videos / "variable.mp4", start=0.11, end=0.2)


def test_seconds_need_a_source_with_times():
    for source in (_pictures(5), iter(_pictures(5))):
        with pytest.raises(ValueError, match=r"start=1\.5 is in seconds, but .* has no times; give a frame number"):
            open_video(source, start=1.5)


# ---- pictures ----


def test_folders_are_in_natural_order_and_hold_pictures_only(tmp_path):
    for name in ("10.png", "2.png", "1.PNG", "frame 3.png"):
        Image.fromarray(_picture(int(name.split(".")[0].split()[-1]))).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._1.png").write_bytes(b"what some systems leave")
    frames = list(open_video(tmp_path))
    assert _numbers(frames) == [1, 2, 10, 3]


def test_pictures_of_every_kind_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(_picture(1)).save(tmp_path / "p.png", exif=exif)
    turned = np.rot90(_picture(1), -1)
    pictures = [tmp_path / "p.png", str(tmp_path / "p.png"), turned, torch.from_numpy(turned.copy()).permute(2, 0, 1)]
    for frame in open_video([*pictures, Image.fromarray(turned)]):
        np.testing.assert_array_equal(frame.image, turned)
    with open_video(tmp_path / "p.png") as single:
        assert single.num_frames == 1 and single.size == (30, 20)


def test_a_folder_and_a_list_are_read_one_by_one(tmp_path):
    opened = []

    class Pictures(list):
        def __getitem__(self, number):
            opened.append(number)
            return super().__getitem__(number)

    video = open_video(Pictures(_pictures(50)), start=10)
    assert opened == [10]
    frames = iter(video)
    next(frames), next(frames)
    assert opened == [10, 10, 11]


def test_a_frame_does_not_share_memory_with_the_callers_array():
    array = np.stack(_pictures(2))
    for frame in open_video(array):
        frame.image[:] = 0
    np.testing.assert_array_equal(array, np.stack(_pictures(2)))


def test_empty_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no pictures in the folder"):
        open_video(tmp_path)
    with pytest.raises(ValueError, match="list of pictures is empty"):
        open_video([])
    with pytest.raises(ValueError, match="generator is empty"):
        list(open_video(iter(())))
    for shape in ((0, 4, 4, 3), (2, 0, 4, 3)):
        with pytest.raises(ValueError, match="is empty; expected at least one frame"):
            open_video(np.zeros(shape, np.uint8))


def test_arrays_of_another_shape_or_dtype_are_refused():
    with pytest.raises(ValueError, match=r"array \(4, 6, 3\) is no video; expected \(frames, height, width, 3\)"):
        open_video(np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"tensor \(2, 4, 6, 4\) is no video"):
        open_video(torch.zeros(2, 4, 6, 4, dtype=torch.uint8))
    for array in (np.zeros((2, 4, 6, 3), np.float32), torch.zeros(2, 3, 4, 6)):
        with pytest.raises(ValueError, match=r"is .*float32; expected uint8"):
            open_video(array)
    with pytest.raises(TypeError, match=r"video is float; expected a path"):
        open_video(1.5)


def test_pictures_that_change_size_are_read_up_to_there(tmp_path):
    pictures = [*_pictures(3), _picture(3, (20, 31))]
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    for source in (pictures, iter(pictures), tmp_path):
        good = []
        with pytest.raises(VideoReadError, match=r"frame 3 is 20 x 31 .* before are 20 x 30") as caught:
            good.extend(open_video(source))
        assert len(good) == caught.value.num_read == 3


def test_a_broken_picture_in_the_middle_is_named_after_the_good_ones(tmp_path):
    for number in range(4):
        Image.fromarray(_picture(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    for source in (tmp_path, (tmp_path / f"{number}.png" for number in range(4))):
        good = []
        with pytest.raises(VideoReadError, match=r"stopped after 2 good frames: frame 2 .*2\.png.* cannot be read"):
            good.extend(open_video(source))
        assert len(good) == 2


def test_a_generator_is_asked_for_no_more_than_it_needs():
    asked = []

    def pictures():
        for number in range(10):
            asked.append(number)
            yield _picture(number)

    video = open_video(pictures(), end=4, stride=2)
    assert asked == []
    frames = iter(video)
    next(frames)
    assert asked == [0]
    assert len(list(frames)) == 1 and asked == [0, 1, 2, 3]


def test_a_camera_that_is_not_there_is_named():
    pytest.importorskip("av")
    with pytest.raises(ValueError, match=r"camera 99 .* cannot be opened"):
        open_video(99)
