"""From a real photograph to files: the command and the pipeline, with a small model of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from pycocotools.coco import COCO

from sam3_hf.cli import main
from sam3_hf.configuration import tiny_config
from sam3_hf.modeling import Sam3Model
from sam3_hf.pipelines import TASK
from sam3_hf.visualization import draw_instances

# pycocotools' own, with a recent numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def photo(shared_data: Path) -> Path:
    return sorted((shared_data / "coco" / "images").glob("*.jpg"))[0]


def test_the_command_segments_a_photograph(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    Sam3Model(tiny_config()).save_pretrained(tmp_path / "model")
    output = tmp_path / "out"
    words = ["--text", "person", "--text", "a bowl of food", "--threshold", "0", "--device", "cpu"]
    assert main(["segment", str(photo), "--model", str(tmp_path / "model"), "--output", str(output), *words]) == 0

    with Image.open(photo) as picture, Image.open(output / f"{photo.stem}_annotated.png") as drawn:
        assert drawn.size == picture.size
        assert np.any(np.asarray(drawn) != np.asarray(picture.convert("RGB")))
    coco = COCO(output / "annotations.json")
    assert len(coco.anns) > 0
    assert all(coco.annToMask(annotation).shape == picture.size[::-1] for annotation in coco.anns.values())
    assert "person" in capsys.readouterr().out


def test_the_pipeline_answers_a_path_as_the_opened_photograph(photo: Path) -> None:
    torch.manual_seed(0)
    pipe = transformers.pipeline(TASK, model=Sam3Model(tiny_config()), device="cpu", threshold=0.0, text="person")
    with Image.open(photo) as picture:
        from_path, from_picture = pipe([str(photo), picture])
        assert [entry["score"] for entry in from_path] == [entry["score"] for entry in from_picture]
        assert draw_instances(picture, from_path).size == picture.size
