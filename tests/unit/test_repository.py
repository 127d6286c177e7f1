"""The repository keeps its word: links resolve, code blocks parse, versions agree, no optional package creeps in."""

import ast
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))
EXTRAS = {"train", "evaluate", "video", "demo", "dev"}
# A result may not depend on these, so nothing in the package imports them (pycocotools serves the tests alone).
FORBIDDEN = {"torchvision", "triton", "flash_attn", "kernels", "pycocotools", "sam3"}
ALLOWED = {"src/sam3_hf/evaluation/coco_ap.py": {"pycocotools"}}  # COCO's AP is pycocotools' by definition

# Imports point one way: a part may import parts of a lower rank, and itself. Only these look up, inside functions: they
# are where users find the video session.
DOORS = {"src/sam3_hf/modeling/following.py", "src/sam3_hf/processing/processor.py"}
RANKS = {
    **dict.fromkeys(("version", "files"), -1),
    **dict.fromkeys(("ops", "configuration", "hub"), 0),
    "losses": 1,
    **dict.fromkeys(("modeling", "processing", "data"), 2),
    "visualization": 2,
    "bundled": 2,
    **dict.fromkeys(("conversion", "video"), 3),
    "evaluation": 4,
    **dict.fromkeys(("pipelines", "training", "cli_evaluate", "cli_video"), 5),
    "demo": 6,
    "cli_demo": 7,
    "cli": 8,
    "quickstart": 9,
}

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _anchors(page: Path) -> set[str]:
    """The anchors GitHub gives the headings of a page."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        if re.match(r"(https?|mailto):", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


def _setup_call() -> dict[str, ast.expr]:
    """The keyword arguments of the `setup(...)` call, as syntax; a name is replaced by what was assigned to it."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    names = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    [call] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setup"
    ]
    return {
        word.arg: names.get(word.value.id, word.value) if isinstance(word.value, ast.Name) else word.value
        for word in call.keywords
        if word.arg
    }


def _imports(path: Path) -> set[str]:
    """The first part of the name of everything a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def _parts_imported(path: Path) -> set[str]:
    """The parts of the package (`ops`, `modeling`, ...) that a file imports by relative imports."""
    inside = path.relative_to(REPOSITORY / "src" / "sam3_hf").parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == len(inside) + 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
    return found


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_resolve(page: Path) -> None:
    assert _broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_python_blocks_parse(page: Path) -> None:
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in ("python", "py"):
            assert ast.parse(code).body, f"an empty block in {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_pages_import_only_what_the_package_offers(page: Path) -> None:
    import sam3_hf

    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(code)) if language in ("python", "py") else ():
            if isinstance(node, ast.ImportFrom) and node.module == "sam3_hf":
                missing = [alias.name for alias in node.names if not hasattr(sam3_hf, alias.name)]
                assert missing == [], f"{_name(page)} imports from sam3_hf what it does not have"


def test_paths_named_in_the_architecture_page_exist() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", text))
    roots = (REPOSITORY, REPOSITORY / "src" / "sam3_hf")
    assert named, "the page names no file at all"
    assert sorted(path for path in named if not any((root / path).exists() for root in roots)) == []


def test_ci_runs_make_test() -> None:
    script = REPOSITORY / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert re.search(r"^make test$", text, re.MULTILINE)
    assert script.stat().st_mode & 0o111, "the script is not executable"
    assert re.search(r"^test:", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_setup_has_the_extras_and_the_version_of_the_package() -> None:
    import sam3_hf

    words = _setup_call()
    assert set(ast.literal_eval(words["extras_require"])) >= EXTRAS
    assert ast.literal_eval(words["version"]) == sam3_hf.__version__
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{sam3_hf.__version__}]" in changelog


def test_every_requirement_has_a_tested_version() -> None:
    words = _setup_call()
    wanted = [*ast.literal_eval(words["install_requires"]), *ast.literal_eval(words["extras_require"])["dev"]]
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    names = [re.split(r"[<>=!~\[;]", line, maxsplit=1)[0] for line in wanted]
    assert [name for name in names if f"\n{name}==" not in pins] == []


@pytest.mark.parametrize("source", SOURCES, ids=_name)
def test_no_source_imports_a_package_that_could_change_a_result(source: Path) -> None:
    assert _imports(source) & FORBIDDEN - ALLOWED.get(_name(source), set()) == set()


@pytest.mark.parametrize("source", SOURCES, ids=_name)
def test_imports_point_one_way(source: Path) -> None:
    part = source.relative_to(REPOSITORY / "src" / "sam3_hf").parts[0].removesuffix(".py")
    if part in ("__init__", "__main__"):  # they hand on what the parts offer
        return
    rank = RANKS.get(part, max(RANKS.values()))
    upward = {other for other in _parts_imported(source) if other != part and RANKS[other] >= rank}
    if _name(source) in DOORS:
        upward -= {"video"}
    assert upward == set(), f"{part} (rank {rank}) must not import these"


def test_every_third_party_import_is_a_requirement() -> None:
    words = _setup_call()
    extras = ast.literal_eval(words["extras_require"])
    used = ("train", "evaluate", "video", "demo")
    listed = [*ast.literal_eval(words["install_requires"]), *(line for extra in used for line in extras[extra])]
    required = {re.split(r"[<>=!~\[;]", line, maxsplit=1)[0].replace("-", "_") for line in listed}
    renamed = {"PIL": "pillow", "yaml": "pyyaml"}
    third_party = set().union(*map(_imports, SOURCES)) - set(sys.stdlib_module_names) - {"sam3_hf"}
    assert {renamed.get(name, name) for name in third_party} - required == set()


def _offers_something(path: Path) -> bool:
    """Whether a file has a public function or class, or hands on names as a package does."""
    return any(
        (isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"))
        or (isinstance(node, ast.ImportFrom) and path.name == "__init__.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


def test_the_package_is_typed_and_says_what_it_offers() -> None:
    assert (REPOSITORY / "src" / "sam3_hf" / "py.typed").is_file()
    silent = [_name(path) for path in SOURCES if _offers_something(path) and "__all__" not in path.read_text("utf-8")]
    assert silent == []
