"""The command `sam3-hf`: files written, table, exit codes, and what a user sees of his errors."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from sam3_hf import cli, quickstart
from sam3_hf.cli import main
from sam3_hf.configuration import tiny_config
from sam3_hf.files import written_whole
from sam3_hf.modeling import Sam3Model
from sam3_hf.processing import Sam3Processor
from sam3_hf.version import __version__

# pycocotools' own, with a recent numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    Sam3Model(tiny_config()).save_pretrained(directory)
    Sam3Processor(size=tiny_config().image_size).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three pictures (two with the same stem), a text file, and a folder that is not to be entered."""
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for index, name in enumerate(["a.png", "a.jpg", "b.png", "inner/c.png"]):
        pixels = np.random.default_rng(index).integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def _segment(*words: Any, model: str, output: Path, text: tuple[str, ...] = ("cat", "dog")) -> int:
    phrases = [word for phrase in text for word in ("--text", phrase)]
    rest = ["--model", model, "--output", str(output), "--device", "cpu", "--threshold", "0"]
    return main(["segment", *map(str, words), *phrases, *rest])


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_segmented(
    photos: Path, model_directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "out"
    assert _segment(photos, "--top-k", 3, model=model_directory, output=output) == 0
    assert _names(output) == ["a_2_annotated.png", "a_annotated.png", "annotations.json", "b_annotated.png"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    with Image.open(output / "b_annotated.png") as drawn:
        assert drawn.size == (60, 42)

    coco = COCO(output / "annotations.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["cat", "dog"]
    assert [Path(image["file_name"]).name for image in coco.loadImgs(coco.getImgIds())] == ["a.jpg", "a.png", "b.png"]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == 9
    for annotation in annotations:
        mask = coco.annToMask(annotation)
        image = coco.imgs[annotation["image_id"]]
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        assert annotation["iscrowd"] == 0
        assert 0 < annotation["score"] < 1
        assert min(annotation["bbox"][2:]) >= 0

    assert lines[0] == ["picture", "cat", "dog", "total"]
    for image, line in zip(coco.loadImgs(coco.getImgIds()), lines[1:], strict=False):
        counts = [len(coco.getAnnIds(imgIds=[image["id"]], catIds=[category])) for category in (1, 2)]
        assert line == [image["file_name"], *map(str, counts), "3"]
    assert lines[-1][0] == "total"
    assert lines[-1][-1] == "9"


def test_a_damaged_picture_among_good_ones_is_named_and_skipped(
    photos: Path, model_directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "a.png").read_bytes()
    (photos / "aa.png").write_bytes(whole[: len(whole) // 2])
    (photos / "z.jpg").write_bytes(b"")
    missing = photos / "missing.png"
    assert _segment(photos, missing, model=model_directory, output=tmp_path / "out") == 1
    shown = capsys.readouterr()
    for name in ("aa.png", "z.jpg", "missing.png"):
        assert f"skipped {photos / name}" in shown.err
        assert any(line.startswith(str(photos / name)) and line.endswith("failed") for line in shown.out.splitlines())
    assert len(shown.err.splitlines()) == 3
    assert len(_names(tmp_path / "out")) == 4


def test_patterns_and_repeated_pictures(photos: Path, model_directory: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert _segment(photos / "**" / "*.png", photos / "b.png", model=model_directory, output=output) == 0
    assert _names(output) == ["a_annotated.png", "annotations.json", "b_annotated.png", "c_annotated.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(photos: Path) -> None:
    name = photos / "x[1].png"
    (photos / "a.png").rename(name)
    assert cli._find_pictures([str(name)]) == [str(name)]


def test_output_names_differ_also_without_case() -> None:
    pictures = ["one/A.jpg", "two/a.jpg", "a_2.png", "three/a.png", "https://host/a.jpg?size=9"]
    names = cli._output_names(pictures)
    assert len({name.lower() for name in names}) == len(pictures)


def test_nothing_is_overwritten_unasked(
    photos: Path, model_directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert _segment(photos / "b.png", model=model_directory, output=output) == 0
    written = (output / "annotations.json").stat().st_mtime_ns
    assert _segment(photos / "b.png", model=model_directory, output=output) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (output / "annotations.json").stat().st_mtime_ns == written
    assert _segment(photos / "b.png", "--overwrite", model=model_directory, output=output) == 0
    assert (output / "annotations.json").stat().st_mtime_ns > written


def test_boxes_alone_are_a_visual_prompt(photos: Path, model_directory: str, tmp_path: Path) -> None:
    boxes = ["--box", "2,3,30,30", "--box", "31,5,50,20,-"]
    assert _segment(photos / "b.png", *boxes, model=model_directory, output=tmp_path / "out", text=()) == 0
    coco = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert coco["categories"] == [{"id": 1, "name": "visual"}]
    assert len(coco["annotations"]) > 0


def test_a_box_outside_a_picture_fails_that_picture(
    photos: Path, model_directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (300, 300)).save(photos / "large.png")
    options = ["--box", "100,100,200,200"]
    assert _segment(photos / "b.png", photos / "large.png", *options, model=model_directory, output=tmp_path / "o") == 1
    assert "b.png" in capsys.readouterr().err
    assert _names(tmp_path / "o") == ["annotations.json", "large_annotated.png"]


def test_an_interrupt_keeps_what_is_done(
    photos: Path, model_directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sam3_hf.pipelines import ConceptSegmentationPipeline

    plain = ConceptSegmentationPipeline.__call__
    calls: list[int] = []

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(ConceptSegmentationPipeline, "__call__", interrupted)
    output = tmp_path / "out"
    assert _segment(photos, model=model_directory, output=output) == 130
    assert _names(output) == ["a_annotated.png", "annotations.json"]
    assert len(json.loads((output / "annotations.json").read_text())["images"]) == 1


def test_half_written_files_never_appear(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), written_whole(target) as path:
        path.write_text("ne")
        raise RuntimeError
    assert target.read_text() == "old"
    assert _names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to find"),
        (["--text", ""], "empty"),
        (["--text", "cat", "--box", "1,2,3"], "x0,y0,x1,y1"),
        (["--text", "cat", "--box", "9,2,3,4"], "no area"),
        (["--text", "cat", "--box", "1,2,nan,4"], "number"),
        (["--text", "cat", "--threshold", "2"], "from 0 to 1"),
        (["--text", "cat", "--top-k", "0"], "from 1 up"),
        (["--text", "cat", "--model", "no-such-directory/no-such-model"], "no-such-model"),
    ],
)
def test_wrong_usage_is_explained_without_a_traceback(
    words: list[str], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["segment", str(photos), "--output", str(tmp_path / "out"), *words])
    except SystemExit as exit:  # argparse's own
        code = int(str(exit.code))
    shown = capsys.readouterr().err
    assert code == 2
    assert message in shown
    assert "Traceback" not in shown


def test_no_pictures_or_no_place_to_write_is_wrong_usage(
    tmp_path: Path, model_directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _segment(tmp_path, model=model_directory, output=tmp_path / "out") == 2
    assert "no pictures found" in capsys.readouterr().err
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert _segment(tmp_path / "a.png", model=model_directory, output=tmp_path / "a.png") == 2
    assert "cannot make the output directory" in capsys.readouterr().err


def test_an_unknown_device_is_wrong_usage(
    photos: Path, model_directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", str(photos), "--text", "cat", "--model", model_directory, "--output", str(tmp_path / "out")]
    assert main([*words, "--device", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err


def test_convert_goes_both_ways(model_directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, back = tmp_path / "sam3.pt", tmp_path / "back"
    assert main(["convert", model_directory, str(original), "--to", "original"]) == 0
    config = str(Path(model_directory) / "config.json")
    assert main(["convert", str(original), str(back), "--config", config]) == 0
    assert str(back) in capsys.readouterr().out
    expected, got = Sam3Model.from_pretrained(model_directory), Sam3Model.from_pretrained(back)
    # the tracker's position matrix, which sam3.pt stores once, is two matrices in a model of random weights
    for name, tensor in got.detector_model.state_dict().items():
        assert torch.equal(tensor, expected.detector_model.state_dict()[name]), name


def test_converting_what_is_not_there_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "none.pt"), str(tmp_path / "out")]) == 2
    assert "none.pt" in capsys.readouterr().err


def test_help_and_version_need_no_heavy_import() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(SOURCES)!r})\nimport sam3_hf.cli as cli; before = set(sys.modules)\n"
    )
    for word in ("--version", "--help"):
        check = (
            f"try: cli.main([{word!r}])\nexcept SystemExit: assert not {{'torch', 'PIL'}} & (set(sys.modules) - before)"
        )
        finished = subprocess.run([sys.executable, "-c", program + check], capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
    assert (
        __version__
        in subprocess.run(
            [sys.executable, "-m", "sam3_hf", "--version"],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(SOURCES)},
        ).stdout
    )


def test_quickstart_finds_shapes_and_says_what_the_model_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quickstart.main(["--output", str(tmp_path / "out")]) == 0
    assert _names(tmp_path / "out") == ["annotations.json", "sample.png", "sample_annotated.png"]
    printed = capsys.readouterr()
    assert "sam3-hf-tiny" in printed.err and "drawn shapes" in printed.out
    found = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert found, "the bundled model finds nothing in its own sample"
    command = shlex.split(printed.out.splitlines()[0])  # what it shows can be typed again
    assert cli.main(command[1:]) == 0


def test_demo_is_a_command_and_says_why_a_model_cannot_be_opened(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["demo", "--help"])
    assert done.value.code == 0 and "--fixed-models" in capsys.readouterr().out
    command = [sys.executable, "-m", "sam3_hf", "demo", "--model", "/nowhere/at/all"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    failed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert failed.returncode == 2
    assert "there is no directory '/nowhere/at/all'" in failed.stderr or "pip install" in failed.stderr
