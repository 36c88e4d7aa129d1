"""Files of plans: what they may call, what is damaged. Runs: test_plan.py."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi
from reference.small_plan import ONES, expected, rows, small_builder

import my_llm_ffi as llm


@pytest.fixture
def small() -> llm.Plan:
    plan = small_builder().build()
    plan.bind({"p": 3 * ONES})
    return plan


def test_a_file_calls_ops_alone_unless_allowed(tmp_path):
    calls: list[object] = []

    def foreign(*arguments: object) -> None:
        x, w, y, text = arguments
        np.from_dlpack(y)[:] = np.from_dlpack(x) + np.from_dlpack(w)
        np.from_dlpack(w)[:] = 0  # its own copy: the file's pages are read-only
        calls.append(text)

    tvm_ffi.register_global_func("test_plan.foreign", foreign)
    try:
        b = llm.PlanBuilder()
        x, y = b.input("x", "float32", (16,)), b.buffer("float32", (16,))
        b.call("test_plan.foreign", x, b.constant(ONES, name="w"), y, "text")
        b.output("y", y)
        path = tmp_path / "foreign.plan"
        b.build().save(path)
        refused = r'at byte \d+: plan: step 0 .*calls "test_plan.foreign", which is no op'
        with pytest.raises(ValueError, match=refused):
            llm.Plan.load(path)
        with pytest.raises(ValueError, match=refused):
            llm.Plan.load(path, allow=["my_llm_ffi.raise_error"])
        assert calls == []
        plan = llm.Plan.load(path, allow=["test_plan.foreign"])
        np.testing.assert_array_equal(plan.run({"x": ONES})["y"], 2 * ONES)
        assert calls == ["text"]
    finally:
        forget_function("test_plan.foreign")
    with pytest.raises(ValueError, match="which is not registered"):
        llm.Plan.load(path, allow=["test_plan.foreign"])


def forget_function(name: str) -> None:
    tvm_ffi.registry.remove_global_func(name)


def test_functions_of_the_library_that_are_no_ops_are_refused(tmp_path):
    b = llm.PlanBuilder()
    b.call("begin_exit")
    b.build().save(tmp_path / "exit.plan")
    with pytest.raises(ValueError, match=r'calls "my_llm_ffi\.begin_exit", which is no op'):
        llm.Plan.load(tmp_path / "exit.plan")


def test_allow_takes_names():
    with pytest.raises(TypeError, match="allow"):
        llm.Plan.load("x", allow="my_llm_ffi.rms_norm")
    with pytest.raises(FileNotFoundError):
        llm.Plan.load("/nonexistent/x.plan")


def test_constants_are_aligned_and_the_file_may_replace_itself(small, tmp_path):
    path = tmp_path / "small.plan"
    small.save(path)
    data = path.read_bytes()
    at = data.index((2 * ONES).tobytes())
    assert at % 64 == 0
    loaded = llm.Plan.load(path)
    loaded.save(path)
    assert path.read_bytes() == data
    loaded.bind({"p": 3 * ONES})
    np.testing.assert_array_equal(loaded.run({"x": rows(2)})["out"], expected(rows(2)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.plan"]


def test_another_version_says_so(small, tmp_path):
    path = tmp_path / "small.plan"
    small.save(path)
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", 2)
    path.write_bytes(data)
    with pytest.raises(NotImplementedError, match="at byte 8: version is 2, expected 1"):
        llm.Plan.load(path)


@pytest.fixture
def file_bytes(small: llm.Plan, tmp_path: Path) -> bytes:
    small.save(tmp_path / "whole.plan")
    return (tmp_path / "whole.plan").read_bytes()


def test_truncated_files_are_refused(file_bytes, tmp_path):
    path = tmp_path / "cut.plan"
    for i in range(200):
        size = i * len(file_bytes) // 200
        path.write_bytes(file_bytes[:size])
        with pytest.raises(ValueError, match="at byte"):
            llm.Plan.load(path)
    path.write_bytes(file_bytes + b"\0")
    with pytest.raises(ValueError, match="at byte 16"):
        llm.Plan.load(path)


def checksum(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


@pytest.mark.parametrize("repaired", [False, True])
def test_damaged_files_are_refused_or_run(file_bytes, tmp_path, repaired):
    """With the checksum made right again, the checks behind it are met."""
    path, rng = tmp_path / "damaged.plan", random.Random(0)
    (size,) = struct.unpack_from("<Q", file_bytes, 32)
    refused = ran = 0
    for _ in range(400):
        data = bytearray(file_bytes)
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(64, 64 + size)] = rng.choice((0, 1, 255, rng.randrange(256)))
        if bytes(data) == file_bytes:
            continue
        if repaired:
            data[40:48] = struct.pack("<Q", checksum(data[64 : 64 + size]))
        path.write_bytes(data)
        try:
            plan = llm.Plan.load(path)
        except ValueError as error:
            assert "at byte" in str(error)
            refused += 1
            continue
        try:
            plan.bind({name: 3 * ONES for name in plan.parameters})
            plan.run({name: rows(2) for name in plan.inputs})
        except (ValueError, TypeError):
            pass
        ran += 1
    assert refused > 200
    assert bool(ran) is repaired
