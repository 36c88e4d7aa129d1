"""The machine's limits: sane figures, refused arguments. How large they are is never tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from my_llm_ffi import limits

NAMES = ("read", "copy", "fma", "int8")
CHILD = """
import json, my_llm_ffi
from my_llm_ffi import limits
m = limits.MachineLimits(n_bytes=8 << 20, n_threads=1)
print(json.dumps([my_llm_ffi.build_info()["cpu_level"], *(m.sample(n) for n in %r)]))
"""


@pytest.mark.parametrize("huge_pages", [False, True])
@pytest.mark.parametrize("n_threads", [None, 1])
def test_samples_are_sane(n_threads, huge_pages):
    machine = limits.MachineLimits(n_threads=n_threads, n_bytes=5 << 20, huge_pages=huge_pages)
    for name in NAMES:
        assert 1e6 < machine.sample(name) < 1e18
    best = machine.best(2)
    assert all(1e6 < getattr(best, name) < 1e18 for name in NAMES)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "dotprod"])
def test_every_level_is_measured(level):
    env = {**os.environ, "MY_LLM_FFI_CPU": level}
    child = subprocess.run(
        [sys.executable, "-c", CHILD % (NAMES,)], capture_output=True, text=True, env=env
    )
    if f"this CPU has no {level}" in child.stderr:
        pytest.skip(f"this CPU has no {level}")
    used, *speeds = json.loads(child.stdout)
    assert used == level
    assert all(1e6 < speed < 1e18 for speed in speeds)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_threads": 0}, ValueError, "n_threads is 0, expected a count >= 1 or None"),
        ({"n_threads": 65536}, ValueError, "n_threads is 65536, expected a count"),
        ({"n_threads": 1.5}, TypeError, "n_threads is float, expected an integer"),
        ({"n_bytes": (4 << 20) - 1}, ValueError, "bytes is 4194303, expected at least 4194304"),
        ({"n_bytes": -1}, ValueError, "bytes is -1, expected at least"),
        ({"n_bytes": 1 << 62}, MemoryError, "the working set of MachineLimits: cannot allocate"),
    ],
)
def test_refused_arguments(options, error, message):
    with pytest.raises(error, match=message):
        limits.MachineLimits(**options)


def test_an_unknown_limit_is_refused():
    machine = limits.MachineLimits(n_threads=1, n_bytes=4 << 20)
    with pytest.raises(ValueError, match="limit is 'write', expected one of read, copy, fma, int8"):
        machine.sample("write")


def test_the_line_and_the_keys_say_the_units():
    found = limits.Limits(read=54.12e9, copy=60e9, fma=233.7e9, int8=935e9)
    assert str(found) == ("read 54.1 GB/s, copy 60.0 GB/s, fma 233.7 GFLOP/s, int8 935.0 GOP/s")
    assert found.as_dict() == {
        "read_bytes_per_s": 54.12e9,
        "copy_bytes_per_s": 60e9,
        "fma_ops_per_s": 233.7e9,
        "int8_ops_per_s": 935e9,
    }


def test_the_cache_is_the_largest_of_those_listed(monkeypatch, tmp_path):
    for index, size in enumerate(["48K", "2048K", "32M", "what", ""]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n", "ascii")
    monkeypatch.setattr(limits, "Path", lambda path: tmp_path)
    assert limits.last_level_cache() == 32 << 20
    assert limits.beyond_cache() == 128 << 20
    for file in tmp_path.glob("*/size"):
        file.unlink()
    assert limits.last_level_cache() == 32 << 20  # nothing is said
