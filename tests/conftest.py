"""What every test relies on: one CPU thread, no network, a fixed seed, and gpu tests skipped where there is no GPU."""

import os

# One thread: the tests' tensors are tiny, and other work may share the cores. Before torch is imported, and through the
# environment, so that subprocesses inherit it; a given OMP_NUM_THREADS wins.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def fixed_seed_and_threads() -> Iterator[None]:
    """Each test starts from the same seed and leaves the thread count as it found it."""
    torch.manual_seed(0)
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What openjanus keeps of users' data lies in a folder of this test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENJANUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def compiled_kernels() -> None:
    """Skips where no C++ compiler is; where one is, a build that breaks is a failure."""
    from openjanus.inference import kernels

    if not kernels.compiler():
        pytest.skip("no C++ compiler here: the kernels cannot be built")
    assert kernels.available(), "there is a C++ compiler, but the kernels do not build"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
