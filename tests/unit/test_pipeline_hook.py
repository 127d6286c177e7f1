"""The task becomes known when transformers.pipelines is imported, whoever imports it, and at no cost before that.

Each case runs in a fresh interpreter: what is imported when is the very thing under test.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src"
HOOK = "import sam3_hf._pipeline_hook as hook; hook.install()"
KNOWN = "assert 'concept-segmentation' in transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks()"


def _run(*lines: str) -> subprocess.CompletedProcess[str]:
    program = "\n".join(["import sys", f"sys.path.insert(0, {str(SOURCES)!r})", *lines])
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


RELOAD = """
import importlib, importlib.resources, inspect
old = transformers.pipelines.PIPELINE_REGISTRY
importlib.reload(transformers.pipelines)
assert transformers.pipelines.PIPELINE_REGISTRY is not old
assert sum(type(finder).__name__ == '_PipelinesFinder' for finder in sys.meta_path) == 1
assert 'PIPELINE_REGISTRY' in inspect.getsource(transformers.pipelines)
assert importlib.resources.files('transformers.pipelines').joinpath('base.py').is_file()
"""


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["import transformers.pipelines", HOOK, KNOWN], id="imported before"),
        pytest.param([HOOK, "import sam3_hf.pipelines, transformers", KNOWN], id="imported by our own module"),
        pytest.param(
            [HOOK, HOOK, "import transformers", "transformers.pipeline", KNOWN, RELOAD, KNOWN],
            id="imported after, then reloaded",
        ),
    ],
)
def test_the_task_is_known(lines: list[str]) -> None:
    finished = _run(*lines)
    assert finished.returncode == 0, finished.stderr
    assert "already registered" not in finished.stderr


def test_installing_imports_neither_torch_nor_transformers() -> None:
    heavy = "{'torch', 'transformers', 'numpy'}"
    # the hook alone: what `import sam3_hf` imports besides is not its affair
    finished = _run(
        "before = set(sys.modules)",
        "import sam3_hf",
        f"given = {heavy} & set(sys.modules)",
        HOOK,
        f"assert {heavy} & set(sys.modules) == given, sys.modules.keys() - before",
        "assert 'transformers.pipelines' not in sys.modules",
    )
    assert finished.returncode == 0, finished.stderr


def test_an_error_in_the_registration_is_not_swallowed() -> None:
    finished = _run(
        HOOK,
        "import types",
        "broken = types.ModuleType('sam3_hf.pipelines')",
        "def register(): raise RuntimeError('the registration broke')",
        "broken.register = register",
        "sys.modules['sam3_hf.pipelines'] = broken",
        "import transformers.pipelines",
    )
    assert finished.returncode != 0
    assert "the registration broke" in finished.stderr
