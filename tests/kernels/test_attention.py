"""Attention over plain tensors against NumPy in float64."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tvm_ffi
from reference.attention import attend, row_error, visible_keys

import my_llm_ffi as llm

# Of a row's norm. float32: its own rounding in chains of at most 1024 steps. The others: the
# rounding of the output, 2^-11 and 2^-8, because all sums are float32.
TOLERANCE = {"float32": 2e-6, "float16": 6e-4, "bfloat16": 4.5e-3}


def tensors(queries, keys, heads=4, kv_heads=2, head_dim=32, dtype="float32", seed=0):
    rng = np.random.default_rng([queries, keys, heads, head_dim, seed])
    shapes = [(queries, heads, head_dim), (keys, kv_heads, head_dim), (keys, kv_heads, head_dim)]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def expected(q, k, v, *, causal=True, window=None, **options):
    visible = visible_keys(len(q), len(k), causal=causal, window=window)
    return attend(q, k, v, visible, **options)


def check(q, k, v, **options):
    out = llm.ops.attention(q, k, v, **options)
    assert out.dtype == q.dtype
    assert out.shape == q.shape
    # A mean of few numbers may cancel; the norm of a long row does not.
    least = 1.0 if q.shape[2] < 15 else 0.0
    assert row_error(out, expected(q, k, v, **options), least) < TOLERANCE[str(q.dtype)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("head_dim", [1, 8, 15, 16, 17, 64, 80, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 1), (8, 2), (9, 3), (5, 5)])
def test_matches_the_reference(dtype, head_dim, heads, kv_heads):
    for queries, keys in [(1, 1), (1, 33), (5, 31), (32, 32), (33, 70)]:
        check(*tensors(queries, keys, heads, kv_heads, head_dim, dtype))


@pytest.mark.parametrize("queries", [1, 2, 7, 65])
@pytest.mark.parametrize("keys", [1, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("causal", [True, False])
def test_any_number_of_keys(queries, keys, causal):
    check(*tensors(queries, keys), causal=causal)


@pytest.mark.parametrize("window", [1, 2, 31, 32, 33, 64, 100, 1500, 2**40])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 90), (90, 90), (70, 40), (3, 2100)])
def test_window(window, causal, queries, keys):
    check(*tensors(queries, keys), causal=causal, window=window)


def test_window_is_not_off_by_one():
    q, k, v = tensors(5, 5, heads=2, kv_heads=2, head_dim=16)
    np.testing.assert_allclose(llm.ops.attention(q, k, v, window=1), v, rtol=1e-6)
    wide = llm.ops.attention(q, k, v, window=5)
    np.testing.assert_array_equal(wide, llm.ops.attention(q, k, v))
    narrow = llm.ops.attention(q, k, v, window=4)
    np.testing.assert_array_equal(wide[:4], narrow[:4])
    assert (wide[4] != narrow[4]).all()


@pytest.mark.parametrize("soft_cap", [0.5, 5.0, 50.0, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_soft_cap(soft_cap, dtype):
    q, k, v = tensors(9, 77, dtype=dtype)
    check(q, k, v, soft_cap=soft_cap)
    check(q, k, v, soft_cap=soft_cap, window=40, scale=0.3)
    out = llm.ops.attention(9 * q, 9 * k, v, soft_cap=soft_cap)  # scores of 10^2: 10^-5 apart
    np.testing.assert_allclose(out, expected(9 * q, 9 * k, v, soft_cap=soft_cap), atol=2e-3)


@pytest.mark.parametrize("scale", [0.0, 1.0, 0.01, -0.3])
def test_scale(scale):
    check(*tensors(4, 40), scale=scale)


def test_long_sums_keep_their_digits():
    check(*tensors(2, 20000, heads=2, kv_heads=1, head_dim=64))


def test_wide_heads_and_many_query_heads():
    q, k, v = tensors(3, 40, heads=64, kv_heads=1, head_dim=576)
    out = llm.ops.attention(q, k, v)
    assert row_error(out, expected(q, k, v)) < 4e-6  # scores are chains of 576, fused or not


def test_sequences_of_any_length():
    lengths = [(3, 3), (0, 5), (1, 70), (0, 0), (40, 33), (2, 0), (1, 1)]
    cu_q, cu_k = (np.cumsum([0, *n], dtype=np.int32) for n in zip(*lengths))
    q, k, v = tensors(cu_q[-1], cu_k[-1])
    for options in [{}, {"causal": False}, {"window": 7}, {"causal": False, "window": 3}]:
        out = llm.ops.attention(q, k, v, cu_q, cu_k, **options)
        for s in range(len(lengths)):
            one = slice(cu_q[s], cu_q[s + 1])
            keys = slice(cu_k[s], cu_k[s + 1])
            want = expected(q[one], k[keys], v[keys], **options)
            assert row_error(out[one], want) < 2e-6
            alone = llm.ops.attention(q[one], k[keys], v[keys], **options)
            np.testing.assert_array_equal(out[one], alone)


def test_prefill_and_decode_in_one_call():
    queries, keys = [1] * 9 + [200, 30] + [1] * 4, [1500, *range(40, 48), 200, 70, 5, 64, 1, 1100]
    cu_q, cu_k = (np.cumsum([0, *n], dtype=np.int32) for n in (queries, keys))
    q, k, v = tensors(cu_q[-1], cu_k[-1], heads=12, kv_heads=3, head_dim=16)
    out = llm.ops.attention(q, k, v, cu_q, cu_k)
    for s in range(len(queries)):
        one, own = slice(cu_q[s], cu_q[s + 1]), slice(cu_k[s], cu_k[s + 1])
        assert row_error(out[one], expected(q[one], k[own], v[own])) < 2e-6
        np.testing.assert_array_equal(out[one], llm.ops.attention(q[one], k[own], v[own]))


def test_a_query_without_keys_gets_zeros():
    q, k, v = tensors(5, 2)
    out = llm.ops.attention(q, k, v)
    assert (out[:3] == 0).all()
    assert (out[3:] != 0).all()
    assert (llm.ops.attention(q, k[:0], v[:0]) == 0).all()
    assert (llm.ops.attention(q, k[:0], v[:0], causal=False) == 0).all()


@pytest.mark.parametrize("shape", [(0, 5, 2, 2, 8), (0, 0, 2, 2, 8), (3, 5, 0, 0, 8)])
def test_sizes_of_zero(shape):
    q, k, v = tensors(*shape)
    assert llm.ops.attention(q, k, v).shape == q.shape


def test_a_head_without_dims():
    q, k, v = tensors(3, 5, head_dim=0)
    assert llm.ops.attention(q, k, v).shape == (3, 4, 0)


def test_a_row_does_not_depend_on_its_batch():
    q, k, v = tensors(1300, 1300, head_dim=24)
    whole = llm.ops.attention(q, k, v)
    for t in [0, 1, 31, 32, 700, 1023, 1024, 1025, 1299]:
        alone = llm.ops.attention(q[t : t + 1], k[: t + 1], v[: t + 1])
        np.testing.assert_array_equal(alone[0], whole[t])


def test_threads_make_no_difference():
    program = (
        "import os, numpy as np\n"
        "if {threads} == 1: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "import my_llm_ffi as llm\n"
        "rng = np.random.default_rng(1)\n"
        "for n, m, g in [(1, 9000, 1), (1, 3000, 3), (70, 1500, 2), (200, 200, 2)]:\n"
        "    q = rng.standard_normal((n, 6, 64), np.float32)\n"
        "    k, v = rng.standard_normal((2, m, g, 64), np.float32)\n"
        "    print(llm.ops.attention(q, k, v).tobytes().hex())\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program.format(threads=n)],
            check=True,
            capture_output=True,
        ).stdout
        for n in (1, 2)
    ]
    assert outputs[0]
    assert outputs[0] == outputs[1]


def test_what_is_hidden_does_not_count():
    q, k, v = tensors(40, 40)
    out = llm.ops.attention(q, k, v)
    k[30], v[30] = np.inf, np.nan
    poisoned = llm.ops.attention(q, k, v)
    np.testing.assert_array_equal(out[:30], poisoned[:30])
    assert np.isnan(poisoned[30]).all()


def test_nan_propagates():
    q, k, v = tensors(3, 40)
    q[1, 2, 3] = np.nan
    out = llm.ops.attention(q, k, v)
    assert np.isnan(out[1, 2]).all()
    out[1, 2] = 0
    assert np.isfinite(out).all()


def test_large_scores():
    q, k, v = tensors(4, 100)
    for scale, atol in [(10, 1e-4), (1e4, 1e-1)]:  # float32 scores of 10^5 are 10^-2 apart
        out = llm.ops.attention(q, k, v, scale=scale)
        np.testing.assert_allclose(out, expected(q, k, v, scale=scale), atol=atol)


def test_out_is_written_and_may_be_q():
    q, k, v = tensors(70, 70)
    want = llm.ops.attention(q, k, v)
    out = np.full_like(q, np.nan)
    assert llm.ops.attention(q, k, v, out=out) is out
    np.testing.assert_array_equal(out, want)
    llm.ops.attention(q, k, v, out=q)
    np.testing.assert_array_equal(q, want)
    q, k, v = tensors(1, 5000, heads=2, kv_heads=1)
    want = llm.ops.attention(q, k, v)
    np.testing.assert_array_equal(llm.ops.attention(q, k, v, out=q), want)


def test_tvm_ffi_tensors():
    q, k, v = tensors(3, 9)
    out = llm.ops.attention(*(tvm_ffi.from_dlpack(a) for a in (q, k, v)))
    assert isinstance(out, tvm_ffi.Tensor)
    np.testing.assert_array_equal(np.from_dlpack(out), llm.ops.attention(q, k, v))


@pytest.mark.parametrize("name", TOLERANCE)
def test_torch_agrees(name):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    q, k, v = (torch.from_numpy(a).to(getattr(torch, name)) for a in tensors(50, 70))
    out = llm.ops.attention(q, k, v)
    assert isinstance(out, torch.Tensor)
    assert out.dtype == q.dtype
    want = expected(*(a.double().numpy() for a in (q, k, v)))
    assert row_error(out.double().numpy(), want) < TOLERANCE[name]
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(a.double().transpose(0, 1)[None] for a in (q, k, v)),
        attn_mask=torch.from_numpy(visible_keys(50, 70)),
        enable_gqa=True,
    )
    np.testing.assert_allclose(theirs[0].transpose(0, 1).numpy(), want, rtol=1e-9)


def i32(*values):
    return np.array(values, np.int32)


Q, K, V = tensors(6, 8)
REJECTED = {
    "dtype of q": ((Q.astype("f8"), K, V), {}, TypeError, "q is float64, expected one of float32"),
    "dtype of k": ((Q, K.astype("f2"), V), {}, TypeError, "k is float16, expected float32"),
    "dtype of v": ((Q, K, V.astype("i4")), {}, TypeError, "v is int32"),
    "rank of q": ((Q[0], K, V), {}, ValueError, r"q has shape \[4, 32\]"),
    "keys of v": (
        (Q, K, V[:7]),
        {},
        ValueError,
        r"v has shape \[7, 2, 32\], expected \[keys=8 \(from k\)",
    ),
    "heads of v": ((Q, K, V[:, :1].copy()), {}, ValueError, r"v has shape \[8, 1, 32\]"),
    "head_dim": (
        (Q[..., :16].copy(), K, V),
        {},
        ValueError,
        r"k has shape \[8, 2, 32\], expected \[keys=8, kv_heads=2, head_dim=16 \(from q\)\]",
    ),
    "heads": (
        (Q[:, :3].copy(), K, V),
        {},
        ValueError,
        "attention: q has 3 heads, expected a multiple of the 2 of k",
    ),
    "no key heads": ((Q, K[:, :0].copy(), V[:, :0].copy()), {}, ValueError, "multiple of the 0"),
    "strides": ((Q, K[:, :, ::-1], V), {}, ValueError, "k must be contiguous"),
    "cu_q alone": ((Q, K, V, i32(0, 6)), {}, ValueError, "cu_q is given without cu_k"),
    "cu_k alone": ((Q, K, V, None, i32(0, 8)), {}, ValueError, "cu_k is given without cu_q"),
    "lengths of cu": ((Q, K, V, i32(0, 6), i32(0, 4, 8)), {}, ValueError, "cu_k has shape"),
    "dtype of cu_q": (
        (Q, K, V, np.array([0, 6]), i32(0, 8)),
        {},
        TypeError,
        "cu_q is int64, expected int32",
    ),
    "empty cu": ((Q, K, V, i32(), i32()), {}, ValueError, r"cu_q has shape \[0\]"),
    "begin of cu_q": (
        (Q, K, V, i32(1, 6), i32(0, 8)),
        {},
        ValueError,
        r"cu_q\[0\] is 1, expected 0",
    ),
    "end of cu_q": (
        (Q, K, V, i32(0, 7), i32(0, 8)),
        {},
        ValueError,
        r"cu_q\[1\] is 7, expected 6, the rows of q",
    ),
    "end of cu_k": (
        (Q, K, V, i32(0, 6), i32(0, 2)),
        {},
        ValueError,
        r"cu_k\[1\] is 2, expected 8, the rows of k",
    ),
    "descent of cu_k": (
        (Q, K, V, i32(0, 2, 6, 6), i32(0, 9, 7, 8)),
        {},
        ValueError,
        r"cu_k\[2\] is 7, expected at least cu_k\[1\] = 9",
    ),
    "negative cu_q": ((Q, K, V, i32(0, -1, 6), i32(0, 1, 8)), {}, ValueError, r"cu_q\[1\] is"),
    "scale of NaN": ((Q, K, V), {"scale": float("nan")}, ValueError, "scale must be a finite"),
    "infinite scale": ((Q, K, V), {"scale": 1e300}, ValueError, "scale must be a finite"),
    "window of 0": ((Q, K, V), {"window": 0}, ValueError, "window must be positive or None, got 0"),
    "negative window": ((Q, K, V), {"window": -3}, ValueError, "window must be positive"),
    "soft_cap of 0": ((Q, K, V), {"soft_cap": 0.0}, ValueError, "soft_cap must be a positive"),
    "negative soft_cap": ((Q, K, V), {"soft_cap": -1.0}, ValueError, "soft_cap must be"),
    "soft_cap of NaN": ((Q, K, V), {"soft_cap": float("nan")}, ValueError, "soft_cap must be"),
    "infinite soft_cap": ((Q, K, V), {"soft_cap": float("inf")}, ValueError, "soft_cap must be"),
    "type of window": ((Q, K, V), {"window": "5"}, TypeError, "window"),
    "shape of out": ((Q, K, V), {"out": Q[:5].copy()}, ValueError, r"out has shape \[5, 4, 32\]"),
    "dtype of out": ((Q, K, V), {"out": Q.astype("f2")}, TypeError, "out is float16"),
    "read-only out": ((Q, K, V), {"out": np.broadcast_to(Q, Q.shape)}, BufferError, "read-only"),
    "out is k": ((K, K, V), {"out": K}, ValueError, "out overlaps k"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.attention(*arguments, **options)


def test_rejects_a_shifted_out():
    buffer = np.ones((7, 4, 32), np.float32)
    with pytest.raises(ValueError, match="out overlaps q"):
        llm.ops.attention(buffer[:6], K, V, out=buffer[1:])
