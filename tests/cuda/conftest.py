"""The devices under test, and the seed of the inputs, which are fresh in every run on a GPU.

Needs torch and NumPy alone beside the package, so that a machine with a GPU can run this folder as
it is: `pytest --confcutdir tests/cuda tests/cuda` (scripts/check_cuda does).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

KINDS = ("cpu", "cuda")
CHOSEN = os.environ.get("MY_LLM_FFI_TEST_DEVICE", " ".join(KINDS)).split()
SEED = int(os.environ.get("MY_LLM_FFI_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))


def pytest_report_header() -> str:
    """Says how to repeat a run."""
    return f"inputs on CUDA: MY_LLM_FFI_TEST_SEED={SEED}; devices: {' '.join(CHOSEN)}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that takes a target once per kind of device."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", [k for k in KINDS if k in CHOSEN], scope="session")


@pytest.fixture(scope="session")
def target(kind):
    """The first device of a kind."""
    torch = pytest.importorskip("torch", reason="CUDA kernels are tested through torch")
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield from one_threaded(torch, kind)


@pytest.fixture(scope="session")
def cuda_target():
    """The first CUDA device, for what has no meaning on the CPU."""
    torch = pytest.importorskip("torch", reason="CUDA kernels are tested through torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if "cuda" not in CHOSEN:
        pytest.skip("MY_LLM_FFI_TEST_DEVICE leaves CUDA out")
    yield from one_threaded(torch, "cuda")


def one_threaded(torch, kind):
    """Yields a target; the checks are many small computations, which more threads slow down."""
    from reference.device_target import Target

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Target(torch.device(kind, 0))
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def seed(kind) -> int:
    """Of the random inputs: fresh on a GPU; the same on the CPU, whose run tests the tests."""
    return SEED if kind == "cuda" or "MY_LLM_FFI_TEST_SEED" in os.environ else 0
