"""Attention over a paged cache against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from reference.attention import attend, row_error

import my_llm_ffi as llm

PAGE = 32
# Of a row's norm. float32 sums; the rounding of 16-bit outputs, 2^-11.
TOLERANCE = {"float32": 2e-6, "float16": 6e-4}


class Cache:
    """Sequences in pages of random order, filled through kv_append; spare pages hold NaN."""

    def __init__(self, lengths, kv_heads=2, head_dim=32, dtype="float32", seed=0):
        rng = np.random.default_rng([*lengths, kv_heads, head_dim, seed])
        self.lengths, self.kv_heads, self.head_dim = lengths, kv_heads, head_dim
        most = max(-(-n // PAGE) for n in lengths) + 1
        pages = most * len(lengths) + 2
        order = rng.permutation(pages).astype(np.int32)
        self.table = np.full((len(lengths), most), -1, np.int32)
        self.positions = np.full((pages, PAGE), -1, np.int32)
        self.k = np.full((pages, kv_heads, head_dim, PAGE), np.nan, dtype)
        self.v = np.full((pages, kv_heads, PAGE, head_dim), np.nan, dtype)
        self.keys, self.values = [], []
        for s, n in enumerate(lengths):
            used = -(-n // PAGE)
            self.table[s, :used] = order[s * most : s * most + used]
            p = np.arange(n)
            slots = self.table[s, p // PAGE].astype(np.int64) * PAGE + p % PAGE
            self.positions.reshape(-1)[slots] = p
            k, v = rng.standard_normal((2, n, kv_heads, head_dim)).astype(dtype)
            llm.ops.kv_append(self.k, self.v, k, v, slots)
            self.keys.append(k)
            self.values.append(v)

    def attend(self, q, row, position, **options):
        row, position = (np.array(a, np.int32) for a in (row, position))
        return llm.ops.paged_attention(
            q, self.k, self.v, self.positions, self.table, row, position, **options
        )

    def expected(self, q, row, position, *, window=None, windows=None, sinks=None, **options):
        out = np.zeros(q.shape)
        for t in range(len(q)):
            j = np.arange(self.lengths[row[t]])
            reach = window if windows is None else windows[t]
            seen = position[t] - j < (reach or 2**60)
            if sinks is not None:
                seen |= j < sinks[t]
            seen &= j <= position[t]
            k, v = self.keys[row[t]], self.values[row[t]]
            out[t] = attend(q[t : t + 1], k, v, seen[None], **options)[0]
        return out


def queries(tokens, heads=4, head_dim=32, dtype="float32"):
    rng = np.random.default_rng([tokens, heads, head_dim])
    return rng.standard_normal((tokens, heads, head_dim)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("pages", ["float32", "float16"])
@pytest.mark.parametrize("head_dim", [1, 15, 16, 17, 64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 1), (8, 2)])
def test_matches_the_reference(dtype, pages, head_dim, heads, kv_heads):
    for length in [1, 31, 32, 33, 100]:
        cache = Cache([length, 40], kv_heads, head_dim, pages)
        position = np.arange(length)[-5:]
        q = queries(len(position), heads, head_dim, dtype)
        row = np.zeros(len(q), int)
        out = cache.attend(q, row, position)
        assert out.dtype == q.dtype
        least = 1.0 if head_dim < 15 else 0.0  # a mean of few numbers may cancel
        assert row_error(out, cache.expected(q, row, position), least) < TOLERANCE[dtype]


@pytest.mark.parametrize("window", [None, 1, 2, 31, 32, 33, 1000, 2**40])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_prefill_and_decode_of_many_sequences_in_one_call(window, soft_cap):
    cache = Cache([70, 130, 1, 200])
    row = [0] * 70 + [1] + [2] + [3] * 40 + [1]
    position = [*range(70), 129, 0, *range(160, 200), 5]
    q = queries(len(row))
    out = cache.attend(q, row, position, window=window, soft_cap=soft_cap)
    want = cache.expected(q, row, position, window=window, soft_cap=soft_cap)
    assert row_error(out, want) < 2e-6
    for t in [0, 33, 69, 70, 71, 80, 112]:
        alone = cache.attend(
            q[t : t + 1], row[t : t + 1], position[t : t + 1], window=window, soft_cap=soft_cap
        )
        np.testing.assert_array_equal(alone[0], out[t])


def test_windows_and_sinks_of_each_token():
    cache = Cache([150, 40], seed=1)
    position = np.arange(30, 150, 3)
    row, q = np.zeros(len(position), int), queries(len(position))
    rng = np.random.default_rng(2)
    views = {
        "windows": rng.choice([0, 1, 2, 31, 32, 33, 1000], len(position)).astype(np.int32),
        "sinks": rng.choice([0, 1, 4, 33, 1000], len(position)).astype(np.int32),
    }
    for names in [("windows", "sinks"), ("windows",), ("sinks",)]:
        options = {name: views[name] for name in names}
        out = cache.attend(q, row, position, **options)
        assert row_error(out, cache.expected(q, row, position, **options)) < TOLERANCE["float32"]
    options = {"sinks": views["sinks"], "window": 20}
    out = cache.attend(q, row, position, **options)
    assert row_error(out, cache.expected(q, row, position, **options)) < TOLERANCE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pages_and_plain_tensors_give_the_same_bits(dtype):
    cache = Cache([300], kv_heads=2, head_dim=48, dtype=dtype)
    q = queries(300, 6, 48, dtype)
    for options in [{}, {"window": 50}, {"soft_cap": 3.0, "scale": 0.3}]:
        paged = cache.attend(q, [0] * 300, range(300), **options)
        plain = llm.ops.attention(q, cache.keys[0], cache.values[0], **options)
        np.testing.assert_array_equal(paged, plain)


def test_holes_and_positions_out_of_order():
    cache = Cache([100])
    q = queries(1)
    slots = cache.table[0, np.arange(100) // PAGE] * PAGE + np.arange(100) % PAGE
    cache.positions.reshape(-1)[slots[40:60]] = -1
    cache.positions.reshape(-1)[slots[90]] = -7
    a, b = slots[3], slots[80]
    cache.positions.reshape(-1)[[a, b]] = cache.positions.reshape(-1)[[b, a]]
    position = np.arange(100)
    position[40:60] = position[90] = -1
    position[[3, 80]] = position[[80, 3]]
    for window in [None, 30]:
        seen = (position >= 0) & (position <= 85) & (85 - position < (window or 1000))
        want = attend(q, cache.keys[0], cache.values[0], seen[None])
        assert row_error(cache.attend(q, [0], [85], window=window), want) < 2e-6


def test_a_token_that_sees_nothing_gets_zeros():
    cache = Cache([40, 32])
    cache.table[1] = -1
    out = cache.attend(queries(4), [0, 1, 0, 0], [-1, 39, -(2**31), 39])
    assert (out[:3] == 0).all()
    assert (out[3] != 0).all()
    assert (cache.attend(queries(1), [0], [2**31 - 1], window=5) == 0).all()


def test_sizes_of_zero():
    cache = Cache([40])
    assert cache.attend(queries(0), [], []).shape == (0, 4, 32)
    cache.table = cache.table[:, :0].copy()
    assert (cache.attend(queries(2), [0, 0], [1, 2]) == 0).all()


def test_what_stands_behind_the_end_of_a_row_is_not_read():
    cache = Cache([40])
    want = cache.attend(queries(1), [0], [39])
    cache.table = np.concatenate([cache.table, np.full((1, 3), 1, np.int32)], axis=1)
    np.testing.assert_array_equal(cache.attend(queries(1), [0], [39]), want)


def test_out_may_be_q():
    cache = Cache([60])
    q = queries(60)
    want = cache.attend(q, [0] * 60, range(60))
    assert cache.attend(q, [0] * 60, range(60), out=q) is q
    np.testing.assert_array_equal(q, want)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch_tensors(name):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    dtype = getattr(torch, name)
    cache = Cache([75])
    q = torch.from_numpy(queries(5)).to(dtype)
    k, v = (torch.from_numpy(a).to(dtype) for a in (cache.k, cache.v))
    tables = [cache.positions, cache.table, np.zeros(5, np.int32), np.arange(70, 75, dtype="i4")]
    tables = [torch.from_numpy(a) for a in tables]
    out = llm.ops.paged_attention(q, k, v, *tables)
    assert out.dtype == dtype
    cache.keys, cache.values = (
        [torch.from_numpy(a[0]).to(dtype).double().numpy()] for a in (cache.keys, cache.values)
    )
    want = cache.expected(q.double().numpy(), [0] * 5, range(70, 75))
    tolerance = {"float32": 2e-6, "float16": 6e-4, "bfloat16": 4.5e-3}[name]
    assert row_error(out.double().numpy(), want) < tolerance


def arguments(**replaced):
    """Valid arguments, some replaced."""
    given = {
        "q": np.ones((3, 4, 16), np.float32),
        "k_pages": np.ones((5, 2, 16, 32), np.float32),
        "v_pages": np.ones((5, 2, 32, 16), np.float32),
        "page_positions": np.zeros((5, 32), np.int32),
        "block_table": np.array([[0, 1, -1], [4, -1, -1]], np.int32),
        "token_row": np.array([0, 1, 1], np.int32),
        "token_position": np.array([40, 0, 1], np.int32),
    }
    return {**given, **replaced}


def i32(*values):
    return np.array(values, np.int32)


REJECTED = {
    "row beyond the table": (
        {"token_row": i32(0, 2, 1)},
        IndexError,
        r"paged_attention: token_row\[1\] is 2, expected a row of block_table, which has 2",
    ),
    "negative row": ({"token_row": i32(0, 1, -1)}, IndexError, r"token_row\[2\] is -1"),
    "no rows": ({"block_table": np.zeros((0, 3), np.int32)}, IndexError, r"token_row\[0\] is 0"),
    "page beyond the cache": (
        {"block_table": i32([0, 1, -1], [5, -1, -1])},
        IndexError,
        r"block_table\[1, 0\] is 5, expected one of 5 pages, or -1",
    ),
    "negative page": (
        {"block_table": i32([0, -2, -1], [4, -1, -1])},
        IndexError,
        r"block_table\[0, 1\] is -2",
    ),
    "page behind the end": (
        {"block_table": i32([0, -1, 99], [4, -1, -1])},
        IndexError,
        r"block_table\[0, 2\] is 99",
    ),
    "no pages": (
        {
            "k_pages": np.ones((0, 2, 16, 32), np.float32),
            "v_pages": np.ones((0, 2, 32, 16), np.float32),
            "page_positions": np.zeros((0, 32), np.int32),
        },
        IndexError,
        r"block_table\[0, 0\] is 0, expected one of 0 pages",
    ),
    "entries of a page": (
        {"k_pages": np.ones((5, 2, 16, 16), np.float32)},
        ValueError,
        r"k_pages has shape \[5, 2, 16, 16\], expected \[pages=5, kv_heads=2, head_dim=16 "
        r"\(from q\), 32\]",
    ),
    "layout of v_pages": (
        {"v_pages": np.ones((5, 2, 16, 32), np.float32)},
        ValueError,
        r"v_pages has shape \[5, 2, 16, 32\]",
    ),
    "dtype of v_pages": (
        {"v_pages": np.ones((5, 2, 32, 16), np.float16)},
        TypeError,
        r"v_pages is float16, expected float32 \(like k_pages\)",
    ),
    "dtype of q": ({"q": np.ones((3, 4, 16))}, TypeError, "q is float64"),
    "dtype of block_table": (
        {"block_table": np.zeros((2, 3), np.int64)},
        TypeError,
        "block_table is int64, expected int32",
    ),
    "pages of positions": (
        {"page_positions": np.zeros((4, 32), np.int32)},
        ValueError,
        r"page_positions has shape \[4, 32\], expected \[pages=5 \(from k_pages\), 32\]",
    ),
    "tokens": ({"token_row": i32(0, 1)}, ValueError, r"token_row has shape \[2\]"),
    "positions of tokens": ({"token_position": i32(0)}, ValueError, "token_position has shape"),
    "heads": (
        {"q": np.ones((3, 3, 16), np.float32)},
        ValueError,
        "q has 3 heads, expected a multiple of the 2 of k_pages",
    ),
    "window": ({"window": 0}, ValueError, "window must be positive"),
    "windows": ({"windows": i32(1, -1, 0)}, ValueError, r"windows\[1\] is -1, expected 0 or more"),
    "sinks": ({"sinks": i32(0, 4, -2)}, ValueError, r"sinks\[2\] is -2, expected 0 or more"),
    "dtype of windows": ({"windows": np.ones(3, np.int64)}, TypeError, "windows is int64"),
    "length of sinks": ({"sinks": i32(1, 2)}, ValueError, r"sinks has shape \[2\]"),
    "two windows": ({"window": 3, "windows": i32(1, 2, 3)}, ValueError, "windows and window were"),
    "soft_cap": ({"soft_cap": float("nan")}, ValueError, "soft_cap must be a positive"),
    "scale": ({"scale": float("inf")}, ValueError, "scale must be a finite"),
    "strides": ({"q": np.ones((3, 4, 32), np.float32)[..., ::2]}, ValueError, "q must be contig"),
    "read-only out": (
        {"out": np.broadcast_to(np.float32(0), (3, 4, 16))},
        BufferError,
        "read-only",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    replaced, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.paged_attention(**arguments(**replaced))


def test_the_arguments_of_the_rejections_are_valid_otherwise():
    assert llm.ops.paged_attention(**arguments()).shape == (3, 4, 16)


def test_rejects_an_out_inside_the_pages():
    pages = np.ones((5, 2, 16, 32), np.float32)
    out = pages.reshape(-1)[: 3 * 4 * 16].reshape(3, 4, 16)
    with pytest.raises(ValueError, match="out overlaps k_pages"):
        llm.ops.paged_attention(**arguments(k_pages=pages, out=out))
