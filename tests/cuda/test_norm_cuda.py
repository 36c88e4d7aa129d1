"""rms_norm on CUDA tensors against float64. Run by scripts/check_cuda on a machine with a GPU."""

from __future__ import annotations

import importlib

import pytest

torch = pytest.importorskip("torch", reason="CUDA kernels are tested through torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

ops = importlib.import_module("my_llm_ffi.ops")

# One rounding of the output (half an ulp), and a little for the float32 sum.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCE)
EPS = 1e-6


def reference(x, weight, eps=EPS):
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def random(*shape, dtype, offset=0):
    """Contiguous random numbers that start `offset` elements after an aligned address."""
    n = torch.Size(shape).numel()
    return torch.randn(n + offset, device="cuda").to(dtype)[offset:].view(shape)


def poisoned(x, offset=0):
    flat = torch.full((x.numel() + offset,), float("nan"), dtype=x.dtype, device=x.device)
    return flat[offset:].view(x.shape)


def expect_norm(out, x, weight, eps=EPS):
    want = reference(x, weight, eps)
    assert out.isfinite().all()
    error = (out.double() - want).abs()
    assert (error <= TOLERANCE[x.dtype] * (want.abs() + 1e-2)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 3, 130])
@pytest.mark.parametrize("hidden", [1, 7, 8, 63, 64, 65, 576, 1024, 1025, 4096, 8192, 8200, 40000])
def test_matches_float64(dtype, tokens, hidden):
    x, weight = random(tokens, hidden, dtype=dtype), random(hidden, dtype=dtype)
    out = poisoned(x)
    ops.rms_norm(x, weight, eps=EPS, out=out)
    expect_norm(out, x, weight)
    ops.rms_norm(x, weight, eps=EPS, out=x)
    assert torch.equal(x, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offsets", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 5, 7)])
def test_unaligned_memory(dtype, offsets):
    x, weight = (
        random(5, 64, dtype=dtype, offset=offsets[0]),
        random(64, dtype=dtype, offset=offsets[1]),
    )
    out = poisoned(x, offsets[2])
    ops.rms_norm(x, weight, eps=EPS, out=out)
    expect_norm(out, x, weight)


def test_a_row_does_not_depend_on_its_batch():
    x, weight = random(64, 4096, dtype=torch.bfloat16), random(4096, dtype=torch.bfloat16)
    whole = ops.rms_norm(x, weight)
    for t in range(0, 64, 9):
        assert torch.equal(ops.rms_norm(x[t : t + 1].clone(), weight)[0], whole[t])


def test_any_rank_and_eps():
    x, weight = random(2, 3, 4, 96, dtype=torch.float32), random(96, dtype=torch.float32)
    expect_norm(ops.rms_norm(x, weight, eps=0.5), x, weight, 0.5)
    expect_norm(ops.rms_norm(x[0, 0, 0], weight), x[0, 0, 0], weight)
    assert ops.rms_norm(torch.zeros_like(x), weight).eq(0).all()


def test_runs_on_the_callers_stream():
    x, weight = random(256, 1024, dtype=torch.float32), random(1024, dtype=torch.float32)
    source, out = x.clone(), poisoned(x)
    x.fill_(float("nan"))
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # another stream would read x before it is filled
        x.copy_(source)
        ops.rms_norm(x, weight, eps=EPS, out=out)
    stream.synchronize()
    expect_norm(out, source, weight)


def test_is_captured_in_a_graph():
    """A graph refuses synchronization and allocation during capture."""
    x, weight = random(32, 1024, dtype=torch.float16), random(1024, dtype=torch.float16)
    out = poisoned(x)
    ops.rms_norm(x, weight, eps=EPS, out=out)  # loads the library and the kernel
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.rms_norm(x, weight, eps=EPS, out=out)
    x.copy_(random(32, 1024, dtype=torch.float16))
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    expect_norm(out, x, weight)


def test_more_rows_than_a_grid_holds():
    rows = 2**33 + 9  # blocks of 8 rows, at most 2^30 blocks
    if torch.cuda.mem_get_info()[0] < 5 * rows:
        pytest.skip("needs 40 GiB of free GPU memory")
    x = torch.full((rows, 1), 2.0, dtype=torch.bfloat16, device="cuda")
    weight = torch.ones(1, dtype=torch.bfloat16, device="cuda")
    ops.rms_norm(x, weight, eps=EPS, out=x)
    assert x.min() == 1
    assert x.max() == 1


def test_refusals():
    x, weight = random(4, 64, dtype=torch.float32), random(64, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"weight is on device 1:0, x is on 2:0"):
        ops.rms_norm(x, weight.cpu(), out=torch.empty_like(x))
    with pytest.raises(TypeError, match="weight is float16, expected float32"):
        ops.rms_norm(x, weight.half(), out=torch.empty_like(x))
    with pytest.raises(ValueError, match="out overlaps x"):
        flat = random(5 * 64, dtype=torch.float32)
        ops.rms_norm(flat[:256].view(4, 64), weight, out=flat[64:].view(4, 64))
    torch.cuda.synchronize()  # no error is left behind
