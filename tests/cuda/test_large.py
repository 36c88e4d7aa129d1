"""Tensors of more than 2^31 elements, and more rows than a grid holds."""

from __future__ import annotations

import importlib

import pytest

torch = pytest.importorskip("torch", reason="CUDA kernels are tested through torch")
ops = importlib.import_module("my_llm_ffi.ops")

MANY = 2**31 + 4096  # elements; 4 GiB of bfloat16


def need(gib):
    if torch.cuda.mem_get_info()[0] < gib << 30:
        pytest.skip(f"needs {gib} GiB of free GPU memory")


@pytest.fixture(autouse=True)
def freed(cuda_target):
    """Gives the memory back after each test."""
    yield
    torch.cuda.empty_cache()


def bf16(*shape):
    return torch.full(shape, 2.0, dtype=torch.bfloat16, device="cuda")


def test_more_rows_than_a_grid_holds():
    need(40)
    rows = 2**33 + 9
    x, weight = bf16(rows, 1), bf16(1) / 2
    ops.rms_norm(x, weight, eps=1e-6, out=x)
    assert x.min() == 1
    assert x.max() == 1


@pytest.mark.parametrize("name", ["rms_norm", "silu_mul", "softmax"])
@pytest.mark.parametrize("columns", [4096, MANY])
def test_the_last_elements(name, columns):
    need(24)
    x = bf16(MANY // columns, columns)
    last = x[-1:, -4096:] if columns > 4096 else x[-1:]
    if name == "rms_norm":
        out = ops.rms_norm(x, bf16(columns) / 2, eps=1e-6)
        want = 1.0
    elif name == "silu_mul":
        out = ops.silu_mul(x, x)
        want = float(torch.nn.functional.silu(last[0, 0].double()) * 2)
    else:
        x[-1, -1] = 60.0
        out = ops.softmax(x)
        want = 0.0
        assert float(out[-1, -1]) == 1.0
    tail = out[-1, -4096:-1].double()
    assert (tail - want).abs().max() <= 1e-2 * abs(want) + 1e-6


def test_rows_of_a_large_table():
    need(16)
    rows = MANY // 4096
    table = torch.zeros(rows, 4096, dtype=torch.bfloat16, device="cuda")
    table[-1] = 3.0
    ids = torch.tensor([0, rows - 1], device="cuda")
    assert ops.embedding_lookup(table, ids).float().mean(-1).tolist() == [0.0, 3.0]


def test_a_weight_of_many_bytes():
    need(16)
    rows, cols = 2**18, 16384  # 4.25 GiB of Q8_0
    weight = torch.zeros(rows, cols // 32 * 34, dtype=torch.uint8, device="cuda")
    weight.view(rows, -1, 34)[-1, :, :2] = torch.tensor([0, 0x3C], device="cuda")  # float16 1
    weight.view(rows, -1, 34)[-1, :, 2:] = 1
    x = torch.ones(1, cols, device="cuda")
    out = ops.linear(x, weight, format="Q8_0")
    assert float(out[0, -1]) == pytest.approx(cols, rel=1e-2)
    assert float(out[0, :-1].abs().max()) == 0
