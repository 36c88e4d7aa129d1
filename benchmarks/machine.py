"""The machine that a table was measured on: its names and, measured in the same run, its limits."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Of glibc's mallopt.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def pin(threads: int) -> None:
    """Confines the process to ``threads`` CPUs; before the libraries under test count them.

    Args:
        threads: At most the CPUs that the process may use now.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if threads > len(cpus):
        raise SystemExit(f"--threads {threads}: this process may use {len(cpus)} CPUs")
    os.sched_setaffinity(0, cpus[:threads])


def keep_freed_memory() -> None:
    """Lets malloc reuse what was freed, so that no one pays for fresh pages in every call.

    Both sides allocate their outputs with torch; by default a large one is mapped, cleared and
    unmapped every time, which would hide the ops.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class Machine:
    """What the table's figures are held against; a limit is measured in turns with what it bounds.

    Args:
        threads: Threads of both sides.

    Attributes:
        threads: Likewise.
        cache_bytes: The last-level cache.
        beyond_cache: Bytes of a working set that no cache helps with.
    """

    LIMITS = ("copy", "read", "fma")

    def __init__(self, threads: int) -> None:
        from my_llm_ffi import limits  # after pin(): it brings the libraries under test

        self.threads = threads
        self.cache_bytes = limits.last_level_cache()
        self.beyond_cache = limits.beyond_cache()
        # Small pages, as the tensors of the frameworks have them.
        self._limits = limits.MachineLimits(n_threads=threads, huge_pages=False)

    def sample(self, limit: str) -> float:
        """One measurement of a limit.

        Args:
            limit: ``copy``: bytes per second, read plus written, of all threads copying a working
                set beyond the cache; ``read``: of reading it; ``fma``: float32 operations per
                second, a multiply and an add being two.
        """
        return self._limits.sample(limit)

    def describe(self) -> str:
        """The best of the limits in a line."""
        texts = [f"last-level cache {self.cache_bytes >> 20} MiB"]
        for limit in self.LIMITS:
            best = max(self.sample(limit) for _ in range(15))
            texts.append(f"{limit} {best / 1e9:.0f} {'GFLOP/s' if limit == 'fma' else 'GB/s'}")
        return ", ".join(texts)


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def commit() -> str:
    """The commit of the tree, "+" where it was changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
