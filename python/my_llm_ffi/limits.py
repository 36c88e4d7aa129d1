"""What this machine can do at most, measured by the library's loops (src/kernels/limits.h)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _ffi_api
from .checks import as_count

_DEFAULT_CACHE_BYTES = 32 << 20
_UNITS = {"read": "GB/s", "copy": "GB/s", "fma": "GFLOP/s", "int8": "GOP/s"}


@dataclass(frozen=True)
class Limits:
    """Units per second of all threads together.

    Attributes:
        read: Bytes read from memory.
        copy: Bytes read plus bytes written of a copy in memory.
        fma: float32 operations, a multiply and an add being two.
        int8: Operations on 8-bit integers with 32-bit sums, likewise.
    """

    read: float
    copy: float
    fma: float
    int8: float

    def as_dict(self) -> dict[str, float]:
        """The figures under names that say their units."""
        return {
            "read_bytes_per_s": self.read,
            "copy_bytes_per_s": self.copy,
            "fma_ops_per_s": self.fma,
            "int8_ops_per_s": self.int8,
        }

    def __str__(self) -> str:
        parts = (f"{name} {getattr(self, name) / 1e9:.1f} {unit}" for name, unit in _UNITS.items())
        return ", ".join(parts)


class MachineLimits:
    """Measures the limits with the CPU instructions in use, by the threads of the library's pool.

    Args:
        n_threads: Threads; None: one per CPU that this process may use.
        n_bytes: Working set of ``read`` and ``copy``; None: beyond the caches.
        huge_pages: Whether it lies on huge pages, as the weights of a model do, or on small ones,
            as arrays of frameworks do.

    Raises:
        ValueError: An argument is out of its range.
        MemoryError: The working set cannot be allocated.
    """

    def __init__(
        self, *, n_threads: int | None = None, n_bytes: int | None = None, huge_pages: bool = True
    ) -> None:
        if n_threads is not None and as_count("n_threads", n_threads) < 1:
            raise ValueError(f"n_threads is {n_threads}, expected a count >= 1 or None")
        size = beyond_cache() if n_bytes is None else as_count("n_bytes", n_bytes)
        self._handle: Any = _ffi_api.MachineLimits.create(n_threads or 0, size, bool(huge_pages))

    def sample(self, limit: str) -> float:
        """One measurement, of some milliseconds.

        Args:
            limit: Name of a field of `Limits`.

        Returns:
            Units per second.

        Raises:
            ValueError: There is no such limit.
        """
        methods = {"read": "read", "copy": "copy", "fma": "float_ops", "int8": "byte_ops"}
        if limit not in methods:
            raise ValueError(f"limit is {limit!r}, expected one of {', '.join(methods)}")
        return float(getattr(self._handle, methods[limit])())

    def best(self, rounds: int = 25) -> Limits:
        """The best of several measurements: on a shared machine the others show its neighbours.

        Args:
            rounds: Measurements of each limit, in turns.
        """
        names = tuple(_UNITS)
        samples = [{name: self.sample(name) for name in names} for _ in range(max(1, rounds))]
        return Limits(**{name: max(s[name] for s in samples) for name in names})


def measure(n_threads: int | None = None) -> Limits:
    """The limits of this machine, in about a second.

    Args:
        n_threads: Threads; None: one per CPU that this process may use.
    """
    return MachineLimits(n_threads=n_threads).best()


def last_level_cache() -> int:
    """Bytes of the largest cache of CPU 0; 32 MiB where the system does not say."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = file.read_text("ascii").strip()
            sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return max(sizes) or _DEFAULT_CACHE_BYTES


def beyond_cache() -> int:
    """Bytes of a working set that no cache helps with."""
    return 4 * last_level_cache()


def available_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
