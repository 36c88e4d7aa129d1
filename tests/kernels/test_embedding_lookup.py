"""`embedding_lookup` against NumPy's indexing."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants
from reference.stored import BLOCKS, block, stored

import my_llm_ffi as llm

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "float32"}


def normal(rows: int, cols: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, cols)).astype(np.float32)


def quantized(format: str, rows: int, cols: int) -> np.ndarray:
    return stored(format, normal(rows, cols))


def some_ids(rows: int, n: int, dtype: str = "int32") -> np.ndarray:
    ids = np.random.default_rng(n).integers(0, rows, n).astype(dtype)
    ids[:1], ids[-1:] = rows - 1, 0
    return ids


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("ids_dtype", ["int32", "int64"])
@pytest.mark.parametrize("n", [0, 1, 7, 65])
@pytest.mark.parametrize("cols", [1, 15, 16, 17, 576])
def test_float_tables(dtype, ids_dtype, n, cols):
    table, ids = normal(33, cols).astype(dtype), some_ids(33, n, ids_dtype)
    out = llm.ops.embedding_lookup(table, ids)
    assert out.dtype == table.dtype
    np.testing.assert_array_equal(out, table[ids])


def test_a_half_table_into_float32():
    table, ids = normal(20, 37).astype(np.float16), some_ids(20, 9)
    out = llm.ops.embedding_lookup(table, ids, out=np.empty((9, 37), np.float32))
    np.testing.assert_array_equal(out, table[ids].astype(np.float32))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch_tensors_give_torch_tensors(name):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    table = torch.from_numpy(normal(50, 96)).to(getattr(torch, name))
    ids = torch.from_numpy(some_ids(50, 12, "int64")).reshape(3, 4)
    out = llm.ops.embedding_lookup(table, ids)
    assert torch.equal(out, torch.nn.functional.embedding(ids, table))


@pytest.mark.parametrize("format", [*BLOCKS, *FLOATS])
@pytest.mark.parametrize("ids_dtype", ["int32", "int64"])
@pytest.mark.parametrize("blocks", [1, 3, 65])
def test_tables_of_bytes(format, ids_dtype, blocks):
    cols = blocks * max(32, block(format))
    table, ids = quantized(format, 37, cols), some_ids(37, 20, ids_dtype)
    out = llm.ops.embedding_lookup(table, ids, format=format)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, quants.dequantize(table, Type[format])[ids])


@pytest.mark.parametrize("format", [*BLOCKS, *FLOATS])
@pytest.mark.parametrize("rows", [1, 16, 37])
@pytest.mark.parametrize("blocks", [1, 3, 65])
def test_packed_tables(format, rows, blocks):
    cols = blocks * max(32, block(format))
    table, ids = quantized(format, rows, cols), some_ids(rows, 20)
    packed = llm.ops.pack_weight(table, format=format)
    out = llm.ops.embedding_lookup(packed, ids, format=format, packed=True, rows=rows)
    np.testing.assert_array_equal(out, quants.dequantize(table, Type[format])[ids])


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 0, 3), (1, 2, 1)])
def test_ids_of_any_rank(shape):
    table = normal(9, 20)
    ids = (np.arange(np.prod(shape, dtype=int), dtype=np.int64) % 9).reshape(shape)
    out = llm.ops.embedding_lookup(table, ids)
    assert out.shape == (*shape, 20)
    np.testing.assert_array_equal(out, table[ids])


def test_a_large_vocabulary():
    table, ids = normal(128256, 64), some_ids(128256, 5000)
    np.testing.assert_array_equal(llm.ops.embedding_lookup(table, ids), table[ids])


def test_long_rows():
    table, ids = normal(5, 32768), some_ids(5, 11)
    np.testing.assert_array_equal(llm.ops.embedding_lookup(table, ids), table[ids])


def test_nan_and_infinity_are_copied():
    table = np.float32([[1, np.nan], [np.inf, -np.inf]])
    np.testing.assert_array_equal(llm.ops.embedding_lookup(table, np.int32([1, 0])), table[[1, 0]])


def test_no_columns():
    out = llm.ops.embedding_lookup(np.zeros((3, 0), np.float32), np.int32([2]))
    assert out.shape == (1, 0)


TABLE, IDS = normal(40, 64), np.int32([[3, 1, 2], [0, 39, 5]])
BYTES, PACKED = np.zeros((40, 68), np.uint8), np.zeros((48, 68), np.uint8)


def with_id(value: int, dtype: str = "int32") -> np.ndarray:
    ids = IDS.astype(dtype)
    ids[1, 2] = value
    return ids


Q8 = {"format": "Q8_0"}
REJECTED = {
    "id beyond the table": (
        (TABLE, with_id(40)),
        {},
        IndexError,
        r"embedding_lookup: ids\[1, 2\] is 40, expected 0 or greater and less than 40 \(rows of",
    ),
    "negative id": ((TABLE, with_id(-1)), {}, IndexError, r"ids\[1, 2\] is -1, expected 0 or"),
    "id of 64 bits": (
        (TABLE, with_id(1 << 32, "int64")),
        {},
        IndexError,
        r"ids\[1, 2\] is 4294967296",
    ),
    "smallest id": ((TABLE, with_id(-(2**63), "int64")), {}, IndexError, "is -9223372036854775808"),
    "id of the padding": (
        (PACKED, with_id(40)),
        {**Q8, "packed": True, "rows": 40},
        IndexError,
        r"ids\[1, 2\] is 40, .* less than 40",
    ),
    "id of a scalar": ((TABLE, np.int64(40)[...]), {}, IndexError, r"ids\[\] is 40"),
    "id into an empty table": ((TABLE[:0], IDS), {}, IndexError, r"ids\[0, 0\] is 3"),
    "id of an empty row": ((TABLE[:, :0].copy(), with_id(40)), {}, IndexError, "is 40"),
    "no format": ((BYTES, IDS), {}, ValueError, "table is uint8, expected format= one of F32, F16"),
    "unknown format": ((BYTES, IDS), {"format": "Q9_9"}, ValueError, 'format is "Q9_9"'),
    "format of a float table": (
        (TABLE, IDS),
        {**Q8, "out": np.empty((2, 3, 64), np.float32)},
        ValueError,
        "format is for a uint8 weight, got table of dtype float32",
    ),
    "packed float table": ((TABLE, IDS), {"packed": True}, ValueError, "packed is for a uint8"),
    "packed without padding": (
        (BYTES, IDS),
        {**Q8, "packed": True},
        ValueError,
        "table has 40 rows, expected a multiple of 16 where it is packed",
    ),
    "too few rows": (
        (PACKED, IDS),
        {**Q8, "packed": True, "rows": 32},
        ValueError,
        r"rows is 32, expected 33 to 48 \(from table\)",
    ),
    "rows of a table that is not packed": ((TABLE, IDS), {"rows": 39}, ValueError, "rows is 39"),
    "part of a block": (
        (BYTES[:, :67].copy(), IDS),
        Q8,
        ValueError,
        r"table has rows of 67 bytes, expected a multiple of 34 \(one block of Q8_0\)",
    ),
    "dtype of ids": ((TABLE, IDS.astype("i2")), {}, TypeError, "ids is int16, expected one of"),
    "float ids": ((TABLE, IDS.astype("f4")), {}, TypeError, "ids is float32, expected one of"),
    "dtype of table": ((TABLE.astype("f8"), IDS), {}, TypeError, "table is float64, expected one"),
    "rank of table": ((TABLE[0], IDS), {}, ValueError, r"table has shape \[64\]"),
    "strides of table": ((TABLE[:, ::2], IDS), {}, ValueError, "table must be contiguous"),
    "strides of ids": ((TABLE, IDS[:, ::2]), {}, ValueError, "ids must be contiguous"),
    "cols of out": (
        (TABLE, IDS),
        {"out": np.empty((2, 3, 63), np.float32)},
        ValueError,
        r"out has shape \[..., 63\], expected \[..., 64\] \(from table\)",
    ),
    "batch of out": (
        (TABLE, IDS),
        {"out": np.empty((3, 2, 64), np.float32)},
        ValueError,
        r"out has shape \[3, 2, 64\], expected .*\(2, 3\) \(from ids\)",
    ),
    "dtype of out": (
        (TABLE, IDS),
        {"out": np.empty((2, 3, 64), np.float16)},
        TypeError,
        r"out is float16, expected one of float32 \(like table\), float32",
    ),
    "bytes as out": (
        (BYTES, IDS),
        {**Q8, "out": np.empty((2, 3, 64), np.uint8)},
        TypeError,
        "out is uint8, expected float32",
    ),
    "read-only out": (
        (TABLE, IDS),
        {"out": np.broadcast_to(np.float32(0), (2, 3, 64))},
        BufferError,
        "read-only",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.embedding_lookup(*arguments, **options)


def test_nothing_is_written_when_an_id_is_out_of_range():
    out = np.zeros((2, 3, 64), np.float32)
    with pytest.raises(IndexError):
        llm.ops.embedding_lookup(TABLE, with_id(40), out=out)
    assert not out.any()


def test_rejects_an_out_that_overlaps():
    table = normal(40, 64)
    with pytest.raises(ValueError, match="out overlaps table in memory"):
        llm.ops.embedding_lookup(table, np.int32([1, 2]), out=table[:2])
