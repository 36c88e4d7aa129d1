"""The machine that a table was measured on: its names and, measured in the same run, its limits."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NATIVE = Path(__file__).parent / "native"
ROOT = Path(__file__).parents[1]
FLOAT_LANES = {"avx512": 16, "avx2": 8}

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


def last_level_cache() -> int:
    """Bytes of the largest cache of CPU 0; 32 MiB where the system does not say."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text("ascii").strip()
        sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]])
    return max(sizes) or 32 << 20


@dataclass(frozen=True)
class Machine:
    """What the table's figures are held against.

    Attributes:
        threads: Threads of both sides.
        cache_bytes: The last-level cache.
        copy: Bytes per second, read plus written, of a copy of 4 caches' size; None: not measured.
        read: Bytes per second of reading as much.
        fma: Float32 operations per second; a multiply and an add are two.
    """

    threads: int
    cache_bytes: int
    copy: float | None
    read: float | None
    fma: float | None

    @property
    def beyond_cache(self) -> int:
        """Bytes of a working set that no cache helps with."""
        return 4 * self.cache_bytes

    def limit(self, name: str) -> float | None:
        """The limit ``copy``, ``read`` or ``fma``."""
        return {"copy": self.copy, "read": self.read, "fma": self.fma}[name]

    def describe(self) -> str:
        """The limits in a line."""
        known = {
            "copy": self.copy and f"copy {self.copy / 1e9:.1f} GB/s (read + written)",
            "read": self.read and f"read {self.read / 1e9:.1f} GB/s",
            "fma": self.fma and f"float32 {self.fma / 1e9:.0f} GFLOP/s",
        }
        cache = f"last-level cache {self.cache_bytes >> 20} MiB"
        return ", ".join([cache, *(text or f"{name} unknown" for name, text in known.items())])


def measure(threads: int, cpu_level: str) -> Machine:
    """Compiles native/limits.cc and asks it.

    Args:
        threads: Threads to measure with.
        cpu_level: The instructions the library uses, which bound its arithmetic.
    """
    cache = last_level_cache()
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        print("no C++ compiler: the machine's limits stay unknown")
        return Machine(threads, cache, None, None, None)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        source = str(NATIVE / "limits.cc")
        flags = ["-std=c++20", "-O2", "-pthread", "-o", str(program)]
        subprocess.run([compiler, *flags, source], check=True)
        arguments = [str(threads), str(4 * cache), str(FLOAT_LANES.get(cpu_level, 4))]
        done = subprocess.run([program, *arguments], check=True, capture_output=True, text=True)
    limits = json.loads(done.stdout)
    return Machine(threads, cache, limits["copy"], limits["read"], limits["fma"] or None)


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
