"""Rotary position embedding against NumPy in float64 (complex rotation of pairs)."""

from __future__ import annotations

import math

import numpy as np
import pytest

import my_llm_ffi as llm

# Relative to the largest of the head: a product of float32 factors, then one rounding.
TOLERANCE = {"float32": 1e-6, "float16": 5e-4, "bfloat16": 4e-3}


def frequencies(rotary, base=1e4, factors=None):
    f = np.array([base ** (-2 * i / rotary) for i in range(rotary // 2)])
    return f if factors is None else f / factors


def yarn(rotary, base, factor, context, beta_fast=32.0, beta_slow=1.0):
    """Frequencies of "YaRN" (arXiv:2309.00071), section 3, by wavelengths; its own magnitude."""

    def index(turns):  # the pair that makes so many turns in the context
        return rotary / 2 * math.log(context / (2 * math.pi * turns), base)

    low = max(math.floor(index(beta_fast)), 0)
    high = min(math.ceil(index(beta_slow)), rotary - 1)
    own = np.interp(np.arange(rotary // 2), [low, max(high, low + 1e-3)], [1, 0])
    f = frequencies(rotary, base)
    return own * f + (1 - own) * f / factor, 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def reference(x, positions, f, *, interleaved=False, magnitude=1.0):
    x = np.array(x, np.float64)
    turn = magnitude * np.exp(1j * positions[:, None, None].astype(np.float64) * f)
    rotary = 2 * len(f)
    a, b = (
        (slice(0, rotary, 2), slice(1, rotary, 2))
        if interleaved
        else (
            slice(0, rotary // 2),
            slice(rotary // 2, rotary),
        )
    )
    turned = (x[..., a] + 1j * x[..., b]) * turn
    x[..., a], x[..., b] = turned.real, turned.imag
    return x


def inputs(tokens, heads, keys, dim, dtype="float32"):
    rng = np.random.default_rng(tokens * 1000 + dim)
    q, k = (rng.normal(size=(tokens, n, dim)).astype(dtype) for n in (heads, keys))
    return q, k, rng.integers(-3, 131072, tokens).astype(np.int64)


def assert_close(out, want, dtype):
    largest = np.abs(want).max(initial=1e-30)
    np.testing.assert_allclose(out, want, rtol=TOLERANCE[dtype], atol=1e-6 * largest)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 5, 300])
@pytest.mark.parametrize(
    ("heads", "keys", "dim", "rotary"),
    [(1, 1, 2, 2), (4, 2, 64, 64), (3, 0, 80, 34), (9, 3, 128, 126), (2, 2, 256, 256)],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_matches_reference(dtype, heads, keys, dim, rotary, tokens, interleaved):
    q, k, positions = inputs(tokens, heads, keys, dim, dtype)
    want = [reference(x, positions, frequencies(rotary), interleaved=interleaved) for x in (q, k)]
    llm.ops.rope(q, k, positions, rotary_dims=rotary, interleaved=interleaved)
    assert_close(q, want[0], dtype)
    assert_close(k, want[1], dtype)


@pytest.mark.parametrize("interleaved", [False, True])
def test_bfloat16(interleaved):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    q, k, positions = (torch.from_numpy(a) for a in inputs(7, 3, 2, 96))
    q, k = q.to(torch.bfloat16), k.to(torch.bfloat16)
    want = reference(
        q.double().numpy(), positions.numpy(), frequencies(96), interleaved=interleaved
    )
    llm.ops.rope(q, k, positions, interleaved=interleaved)
    assert_close(q.double().numpy(), want, "bfloat16")


def test_agrees_with_torch_rotate_half():
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    q, k, positions = (torch.from_numpy(a) for a in inputs(7, 3, 2, 64))
    angles = positions[:, None].double() * torch.from_numpy(frequencies(64))
    cos, sin = (f(torch.cat([angles, angles], -1))[:, None] for f in (torch.cos, torch.sin))
    half = torch.cat([-q[..., 32:], q[..., :32]], -1)
    expected = (q * cos + half * sin).float()
    llm.ops.rope(q, k, positions)
    torch.testing.assert_close(q, expected, rtol=0, atol=2e-6)


def test_positions_of_int32_and_int64_are_the_same():
    q, k, positions = inputs(11, 2, 1, 64)
    again = q.copy(), k.copy()
    llm.ops.rope(q, k, positions)
    llm.ops.rope(*again, positions.astype(np.int32))
    np.testing.assert_array_equal(q, again[0])
    np.testing.assert_array_equal(k, again[1])


@pytest.mark.parametrize("base", [10.0, 5e5, 1e6])
def test_base_and_frequency_factors(base):
    q, k, positions = inputs(5, 2, 1, 64)
    factors = np.linspace(1, 32, 32, dtype=np.float32)
    want = reference(q, positions, frequencies(64, base, factors))
    llm.ops.rope(q, k, positions, factors, base=base)
    assert_close(q, want, "float32")


def test_settings_of_the_call_before_are_forgotten():
    factors = np.linspace(1, 32, 32, dtype=np.float32)
    plain, other, linear, short = frequencies(64), frequencies(64, 5e5), frequencies(64) / 4, 32
    for settings, f in [
        ({}, plain),
        ({"scaling": "linear", "factor": 4.0}, linear),
        ({"freq_factors": factors}, plain / factors),
        ({}, plain),
        ({"base": 5e5}, other),
        ({"rotary_dims": short}, frequencies(short)),
        ({}, plain),
    ]:
        q, k, positions = inputs(5, 2, 1, 64)
        want = reference(q, positions, f)
        llm.ops.rope(q, k, positions, **settings)
        assert_close(q, want, "float32")


def test_linear_scaling():
    q, k, positions = inputs(5, 2, 1, 64)
    want = reference(q, positions, frequencies(64) / 4)
    llm.ops.rope(q, k, positions, scaling="linear", factor=4.0)
    assert_close(q, want, "float32")


@pytest.mark.parametrize(
    ("rotary", "base", "factor", "context", "betas"),
    [
        (128, 1e4, 8.0, 4096, (32.0, 1.0)),
        (64, 1e6, 4.0, 32768, (32.0, 1.0)),
        (64, 1.5e5, 32.0, 4096, (32.0, 1.0)),
        (64, 1e4, 40.0, 4096, (32.0, 1.0)),
        (128, 1e4, 4.0, 4096, (2.0, 2.0)),
        (16, 1e4, 2.0, 10**9, (32.0, 1.0)),  # every pair turns often: none is scaled
        (16, 1e4, 2.0, 3, (32.0, 1.0)),  # none turns at all: all are
        (64, 1e4, 0.5, 4096, (32.0, 1.0)),
    ],
)
def test_yarn(rotary, base, factor, context, betas):
    q, k, positions = inputs(5, 2, 1, 128)
    f, magnitude = yarn(rotary, base, factor, context, *betas)
    want = reference(q, positions, f, magnitude=magnitude)
    llm.ops.rope(
        q,
        k,
        positions,
        rotary_dims=rotary,
        base=base,
        scaling="yarn",
        factor=factor,
        original_context=context,
        beta_fast=betas[0],
        beta_slow=betas[1],
    )
    assert_close(q, want, "float32")


@pytest.mark.parametrize("scaling", ["none", "linear", "yarn"])
def test_attention_factor_multiplies_sine_and_cosine(scaling):
    q, k, positions = inputs(5, 2, 1, 64)
    context = {"original_context": 4096} if scaling == "yarn" else {}
    f = yarn(64, 1e4, 1.0, 4096)[0]
    want = reference(q, positions, f, magnitude=1.5)
    llm.ops.rope(q, k, positions, scaling=scaling, attention_factor=1.5, **context)
    assert_close(q, want, "float32")


Q, K, P = np.ones((4, 2, 64), np.float32), np.ones((4, 1, 64), np.float32), np.arange(4)
YARN = {"scaling": "yarn", "factor": 2.0, "original_context": 4096}
REJECTED = {
    "dtype": ((Q.astype("f8"), K, P), {}, TypeError, "q is float64, expected one of float32"),
    "dtype of k": ((Q, K.astype("f2"), P), {}, TypeError, "k is float16, expected float32"),
    "dtype of positions": (
        (Q, K, P.astype("f4")),
        {},
        TypeError,
        "positions is float32, expected one of int32, int64",
    ),
    "rank": (
        (Q[0], K, P),
        {},
        ValueError,
        r"q has shape \[2, 64\], expected \[tokens, heads, head_dim\]",
    ),
    "head of k": (
        (Q, K[..., :32].copy(), P),
        {},
        ValueError,
        r"k has shape \[4, 1, 32\], expected \[tokens=4 \(from q\), .*, head_dim=64 \(from q\)\]",
    ),
    "tokens of k": ((Q, K[:3].copy(), P), {}, ValueError, r"k has shape \[3, 1, 64\]"),
    "tokens of positions": (
        (Q, K, P[:3]),
        {},
        ValueError,
        r"positions has shape \[3\], expected \[tokens=4 \(from q\)\]",
    ),
    "strides": ((Q[..., ::2], K[..., ::2], P), {}, ValueError, "q must be contiguous"),
    "read-only q": ((np.broadcast_to(Q[0], Q.shape), K, P), {}, BufferError, "read-only"),
    "number of factors": (
        (Q, K, P, np.ones(31, np.float32)),
        {},
        ValueError,
        r"freq_factors has shape \[31\], expected \[32\]",
    ),
    "dtype of factors": ((Q, K, P, np.ones(32)), {}, TypeError, "freq_factors is float64"),
    "odd rotary_dims": ((Q, K, P), {"rotary_dims": 3}, ValueError, "rotary_dims must be even"),
    "no rotary_dims": ((Q, K, P), {"rotary_dims": 0}, ValueError, "from 2 to 64 .*got 0"),
    "negative rotary_dims": ((Q, K, P), {"rotary_dims": -2}, ValueError, "rotary_dims must be"),
    "wide rotary_dims": ((Q, K, P), {"rotary_dims": 66}, ValueError, "rotary_dims must be"),
    "odd head": (
        (Q[..., :63].copy(), K[..., :63].copy(), P),
        {},
        ValueError,
        "the head dimension must be even",
    ),
    "base of 1": ((Q, K, P), {"base": 1.0}, ValueError, "base must be a float32 above 1, got 1"),
    "base of NaN": ((Q, K, P), {"base": np.nan}, ValueError, "base must be"),
    "infinite base": ((Q, K, P), {"base": np.inf}, ValueError, "base must be"),
    "scaling": ((Q, K, P), {"scaling": "ntk"}, ValueError, "scaling is .*'none', 'linear', 'yarn'"),
    "factor of 0": ((Q, K, P), {"scaling": "linear", "factor": 0.0}, ValueError, "factor must be"),
    "factor of NaN": ((Q, K, P), {**YARN, "factor": np.nan}, ValueError, "factor must be"),
    "negative factor": ((Q, K, P), {**YARN, "factor": -1.0}, ValueError, "factor must be"),
    "idle factor": ((Q, K, P), {"factor": 2.0}, ValueError, "factor is 2, but scaling='none'"),
    "idle context": ((Q, K, P), {"original_context": 9}, ValueError, "original_context belongs"),
    "no context": ((Q, K, P), {"scaling": "yarn"}, ValueError, "needs original_context"),
    "context of 0": ((Q, K, P), {**YARN, "original_context": 0}, ValueError, "must be positive"),
    "betas": ((Q, K, P), {**YARN, "beta_fast": 0.5}, ValueError, "beta_slow <= beta_fast"),
    "beta_slow of 0": ((Q, K, P), {**YARN, "beta_slow": 0.0}, ValueError, "0 < beta_slow"),
    "beta_fast of NaN": ((Q, K, P), {**YARN, "beta_fast": np.nan}, ValueError, "0 < beta_slow"),
    "attention_factor": (
        (Q, K, P),
        {"attention_factor": -1.0},
        ValueError,
        "attention_factor must be a positive float32, got -1",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.rope(*arguments, **options)


def test_rejects_overlap_of_q_and_k():
    buffer = np.ones((5, 1, 64), np.float32)
    with pytest.raises(ValueError, match="rope: q overlaps k in memory"):
        llm.ops.rope(buffer[:4], buffer[1:], P)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_rejects_frequency_factors(factor):
    factors = np.array([1, factor], np.float32)
    q, k = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 4), np.float32)
    with pytest.raises(ValueError, match=r"rope: freq_factors\[1\] is .*expected a finite"):
        llm.ops.rope(q, k, np.zeros(1, np.int32), factors)
    np.testing.assert_array_equal(q, 1)
