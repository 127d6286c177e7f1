"""Every Python example of the README and the docs runs, on a tiny random model in place of "facebook/sam3"."""

import re
from pathlib import Path

import pytest
import torch

from sam3_hf import Sam3Model, Sam3Processor, tiny_config
from sam3_hf.conversion import convert
from sam3_hf.quickstart import draw_sample_picture

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sam3")
    torch.manual_seed(0)
    config = tiny_config()
    Sam3Model(config).save_pretrained(directory)
    Sam3Processor(size={"height": config.image_size, "width": config.image_size}).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def original(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in the original layout."""
    return convert(checkpoint, tmp_path_factory.mktemp("original") / "sam3.pt", to="original")


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(
    code: str, checkpoint: Path, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("kitchen.jpg", "street.jpg"):
        draw_sample_picture().resize((640, 480)).save(name)
    Path("sam3.pt").symlink_to(original)
    Path("config.json").symlink_to(checkpoint / "config.json")
    exec(compile(code.replace("facebook/sam3", str(checkpoint)), "example", "exec"), {})
