"""Writing to the pages of a cache against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import my_llm_ffi as llm


def pages(n=6, kv_heads=2, head_dim=20, dtype="float32"):
    k = np.full((n, kv_heads, head_dim, 32), -5, dtype)
    v = np.full((n, kv_heads, 32, head_dim), -5, dtype)
    return k, v


def rows(tokens, kv_heads=2, head_dim=20, dtype="float32"):
    rng = np.random.default_rng([tokens, kv_heads, head_dim])
    return rng.standard_normal((2, tokens, kv_heads, head_dim)).astype(dtype)


@pytest.mark.parametrize("to", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("head_dim", [1, 15, 16, 17, 64, 128])
@pytest.mark.parametrize("tokens", [0, 1, 5, 32, 33, 100])
@pytest.mark.parametrize("order", ["run", "page", "scattered"])
def test_rows_come_to_their_entries(to, dtype, head_dim, tokens, order):
    k_pages, v_pages = pages(6, 2, head_dim, to)
    k, v = rows(tokens, 2, head_dim, dtype)
    slots = {
        "run": np.arange(tokens) + 7,
        "page": np.arange(tokens) + 32,
        "scattered": np.random.default_rng(1).permutation(6 * 32)[:tokens],
    }[order].astype(np.int64)
    want_k, want_v = k_pages.copy(), v_pages.copy()
    want_k[slots // 32, :, :, slots % 32] = k.astype(to)
    want_v[slots // 32, :, slots % 32] = v.astype(to)
    assert llm.ops.kv_append(k_pages, v_pages, k, v, slots) is None
    np.testing.assert_array_equal(k_pages, want_k)
    np.testing.assert_array_equal(v_pages, want_v)


def test_many_tokens_on_many_threads():
    k_pages, v_pages = pages(80, 8, 64)
    k, v = rows(2500, 8, 64)
    slots = np.arange(2500) + 3
    llm.ops.kv_append(k_pages, v_pages, k, v, slots)
    np.testing.assert_array_equal(k_pages.transpose(0, 3, 1, 2).reshape(-1, 8, 64)[slots], k)
    np.testing.assert_array_equal(v_pages.transpose(0, 2, 1, 3).reshape(-1, 8, 64)[slots], v)


@pytest.mark.parametrize("to", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch_rounds_alike(to, name):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    k_pages, v_pages = (torch.from_numpy(a).to(getattr(torch, to)) for a in pages())
    k, v = (torch.from_numpy(a).to(getattr(torch, name)) for a in rows(70))
    slots = torch.arange(70) + 5
    llm.ops.kv_append(k_pages, v_pages, k, v, slots)
    assert torch.equal(k_pages.permute(0, 3, 1, 2).reshape(-1, 2, 20)[slots], k.to(k_pages.dtype))
    assert torch.equal(v_pages.transpose(1, 2).reshape(-1, 2, 20)[slots], v.to(v_pages.dtype))


def i64(*values):
    return np.array(values, np.int64)


K_PAGES, V_PAGES = pages()
K, V = rows(3)
GOOD = {"k_pages": K_PAGES, "v_pages": V_PAGES, "k": K, "v": V, "slots": i64(1, 2, 3)}
REJECTED = {
    "slot beyond the pages": (
        {"slots": i64(1, 192, 3)},
        IndexError,
        r"kv_append: slots\[1\] is 192, expected one of the 192 entries of 6 pages",
    ),
    "negative slot": ({"slots": i64(1, 2, -1)}, IndexError, r"slots\[2\] is -1"),
    "slots alike": (
        {"slots": i64(9, 2, 9)},
        ValueError,
        r"slots\[0\] and slots\[2\] are both 9",
    ),
    "dtype of slots": (
        {"slots": np.array([1, 2, 3], np.int32)},
        TypeError,
        "slots is int32, expected int64",
    ),
    "number of slots": ({"slots": i64(1, 2)}, ValueError, r"slots has shape \[2\]"),
    "dtype of k": ({"k": K.astype("f8"), "v": V.astype("f8")}, TypeError, "k is float64"),
    "dtype of v": ({"v": V.astype("f2")}, TypeError, r"v is float16, expected float32 \(like k\)"),
    "dtype of v_pages": ({"v_pages": V_PAGES.astype("f2")}, TypeError, "v_pages is float16"),
    "heads of k": (
        {"k": K[:, :1].copy()},
        ValueError,
        r"k has shape \[3, 1, 20\], expected \[tokens=3, kv_heads=2 \(from k_pages\)",
    ),
    "head_dim of v": ({"v": V[..., :16].copy()}, ValueError, r"v has shape \[3, 2, 16\]"),
    "layout of v_pages": ({"v_pages": K_PAGES.copy()}, ValueError, "v_pages has shape"),
    "read-only pages": (
        {"k_pages": np.broadcast_to(K_PAGES, K_PAGES.shape)},
        BufferError,
        "read-only",
    ),
    "k inside the pages": (
        {"k": K_PAGES.reshape(-1)[: K.size].reshape(K.shape)},
        ValueError,
        "k_pages overlaps k",
    ),
    "strides": ({"k": K[::-1]}, ValueError, "k must be contiguous"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects_and_writes_nothing(case):
    replaced, error, message = REJECTED[case]
    before = K_PAGES.copy(), V_PAGES.copy()
    with pytest.raises(error, match=message):
        llm.ops.kv_append(**{**GOOD, **replaced})
    np.testing.assert_array_equal(K_PAGES, before[0])
    np.testing.assert_array_equal(V_PAGES, before[1])


def test_rejects_pages_of_the_same_memory():
    square = np.zeros((6, 2, 32, 32), np.float32)
    k, v = rows(3, 2, 32)
    with pytest.raises(ValueError, match="overlaps"):
        llm.ops.kv_append(square, square, k, v, i64(1, 2, 3))
