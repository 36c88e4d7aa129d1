"""The machine that a table was measured on: its names and, measured in the same run, its limits."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
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


class Machine:
    """What the table's figures are held against.

    Args:
        threads: Threads of both sides.
        cpu_level: The instructions the library uses, which bound its arithmetic.

    Attributes:
        threads: Likewise.
        cache_bytes: The last-level cache.
    """

    LIMITS = ("copy", "read", "fma")

    def __init__(self, threads: int, cpu_level: str) -> None:
        self.threads = threads
        self.cache_bytes = last_level_cache()
        self._native = _compile_limits()
        if self._native is not None:
            lanes = FLOAT_LANES.get(cpu_level, 4)
            self._handle = self._native.LimitsNew(threads, self.beyond_cache, lanes)

    @property
    def beyond_cache(self) -> int:
        """Bytes of a working set that no cache helps with."""
        return 4 * self.cache_bytes

    def sample(self, limit: str) -> float:
        """One measurement of a limit; 0 where it cannot be measured.

        Args:
            limit: ``copy``: bytes per second, read plus written, of all threads copying a working
                set beyond the cache; ``read``: of reading it; ``fma``: float32 operations per
                second, a multiply and an add being two.
        """
        if self._native is None:
            return 0.0
        speed: float = self._native.LimitsMeasure(self._handle, limit[0].encode())
        return speed

    def describe(self) -> str:
        """The best of the limits in a line."""
        texts = [f"last-level cache {self.cache_bytes >> 20} MiB"]
        for limit in self.LIMITS:
            best = max(self.sample(limit) for _ in range(15))
            unit = "GFLOP/s" if limit == "fma" else "GB/s"
            texts.append(f"{limit} {best / 1e9:.0f} {unit}" if best else f"{limit} unknown")
        return ", ".join(texts)


def _compile_limits() -> ctypes.CDLL | None:
    """native/limits.cc, loaded; None without a compiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        print("no C++ compiler: the machine's limits stay unknown")
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "liblimits.so"
        flags = ["-std=c++20", "-O2", "-pthread", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([compiler, *flags, str(NATIVE / "limits.cc")], check=True)
        native = ctypes.CDLL(str(library))
    native.LimitsNew.restype = ctypes.c_void_p
    native.LimitsNew.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int)
    native.LimitsMeasure.restype = ctypes.c_double
    native.LimitsMeasure.argtypes = (ctypes.c_void_p, ctypes.c_char)
    return native


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
