"""What every test may ask for: the reference's golden outputs, the shared data, a share of the cores, no network."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

# Before anything imports transformers or huggingface_hub: both read these once. No test may need the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Gives each xdist worker its share of the cores: workers that all use every core slow one another down."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of the reference's golden outputs, with the script that makes them."""
    return REPOSITORY / "tests" / "golden" / "reference"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: for models so small, more of them cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a whole tiny model with random weights for pictures of 112 pixels, and its processor."""
    from sam3_hf import Sam3Model, Sam3Processor, tiny_config

    folder = tmp_path_factory.mktemp("tiny_checkpoint")
    torch.manual_seed(0)
    Sam3Model(tiny_config(112)).save_pretrained(folder)
    Sam3Processor(size=112).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which this process's files stop growing at so many bytes: an OSError, as on a full disk."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(num_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures beside the repository; a test that needs it is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real pictures at {folder}")
    return folder
