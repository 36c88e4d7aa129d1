"""What a case of bench_cuda.py is, and what its makers share. Counterpart: cuda_cases.py."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

BF16 = torch.bfloat16
Sizes = dict[str, int]


@dataclasses.dataclass
class Work:
    """Calls of one case, on one set of tensors.

    Attributes:
        ours: This library's call.
        peers: Others' calls by name; `torch`, if any, is what ours is compared with.
        bytes: That must move: every input read once, every output written once.
        flops: That must be computed, a multiply and an add being two.
        tolerance: Of the norm of the difference, relative to torch's.
        check: Says what is wrong with what ours returned, where there is no such peer; empty: all
            is well.
        compiled: The function of the peer `torch` with its arguments, for torch.compile.
    """

    ours: Callable[[], Any]
    peers: dict[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    bytes: int = 0
    flops: float = 0.0
    tolerance: float = 1e-2
    check: Callable[[Any], str] | None = None
    compiled: tuple[Callable[..., Any], tuple[Any, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        op: Name of the op, with what is special.
        sizes: What `make` takes.
        make: Makes a set of tensors and the calls on it.
        target: `("copy", 0.85)` of the copy's bandwidth, `("matrix", 0.5)` of the matrix rate,
            `("us", 5)` at most; None: no target.
        options: More arguments of `make`.
    """

    op: str
    sizes: Sizes
    make: Callable[..., Work]
    target: tuple[str, float] | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def label(self) -> str:
        """The sizes."""
        return " ".join(f"{name}={size}" for name, size in self.sizes.items())


@functools.cache
def _module(name: str) -> Any:
    """A peer's module; None where it is not installed, or does not import here."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return None
    try:
        return importlib.import_module(name)
    except Exception:
        return None


def triton_peers() -> Any:
    """Kernels in Triton; None without it."""
    return None if _module("triton") is None else _module("benchmarks.triton_peers")


def flashinfer() -> Any:
    """FlashInfer; None without it."""
    return _module("flashinfer")


def nbytes(*tensors: torch.Tensor) -> int:
    """Bytes of tensors."""
    return sum(t.nbytes for t in tensors)


def normal(device: torch.device, *shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """Random numbers."""
    return torch.randn(*shape, device=device).to(dtype)
