"""The Space: its files agree with the package, and its app asks for the accelerator where it is lent."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SPACE = REPOSITORY / "spaces_demo"


def test_requirements_are_those_of_the_package() -> None:
    text = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    extras = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS"  # type: ignore[attr-defined]
    )
    [needed] = [
        ast.literal_eval(word.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "install_requires"
    ]
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert sorted(listed) == sorted([*needed, *(one for one in extras["demo"] if not one.startswith("gradio"))])


def test_front_matter_names_the_app_and_the_tested_gradio() -> None:
    front = (SPACE / "README.md").read_text(encoding="utf-8").split("---")[1]
    values = dict(re.findall(r"^(\w+): (.+)$", front, re.MULTILINE))
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert (values["sdk"], values["app_file"], values["license"]) == ("gradio", "app.py", "apache-2.0")
    assert (SPACE / values["app_file"]).is_file()
    assert f"\ngradio=={values['sdk_version']}\n" in pins
    assert len(values["short_description"]) <= 60  # more is refused


# Stands in for Hugging Face's package, which lends nothing here; it notes what it is asked for.
STAND_IN = """
asked = []
def GPU(duration):
    def around(function):
        asked.append([function.__name__, duration])
        return function
    return around
"""
# One process for both, because importing takes most of the time.
MAKE = """
import json, os, runpy, sys
import spaces
for lent in ("true", ""):
    os.environ["SPACES_ZERO_GPU"] = lent
    made = runpy.run_path(sys.argv[1])
    print("made", json.dumps([made["demo"].title, made["LENT_SECONDS"], spaces.asked]))
    spaces.asked.clear()
"""


def test_the_app_asks_for_the_accelerator_where_it_is_lent(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    (tmp_path / "spaces.py").write_text(STAND_IN, encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]),
        "SPACE_ID": "someone/sam3",
    }
    command = [sys.executable, "-c", MAKE, str(SPACE / "app.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lent, owned = (json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("made "))
    assert lent[0] == owned[0] == "SAM 3 demo"
    assert lent[2] == [[name, lent[1]] for name in ("_encode", "_ask", "_point", "_follow")]
    assert owned[2] == []
