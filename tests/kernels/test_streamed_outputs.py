"""Outputs above 32 MiB are written past the caches: the same bits as in parts that are not."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

import my_llm_ffi as llm

COLS = 4096
# Op, whether x is an argument once more, whether a weight is, options.
CALLS = [
    ("rms_norm", False, True, {}),
    ("add_rms_norm", True, True, {}),
    ("layer_norm", False, True, {}),
    ("silu_mul", True, False, {}),
    ("gelu_mul", True, False, {"approximate": "tanh"}),
    ("softmax", False, False, {}),
    ("softmax", False, False, {"soft_cap": 30.0}),
    ("log_softmax", False, False, {}),
]


def aligned(x: np.ndarray) -> np.ndarray:
    """An empty array like x that begins at a line of the cache, as streamed ones must."""
    memory = np.empty(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("op", "twice", "weighted", "options"), CALLS)
def test_same_bits_as_in_parts(op, twice, weighted, options, dtype):
    rows = (33 << 20) // (COLS * np.dtype(dtype).itemsize)
    x = np.random.default_rng(1).standard_normal((rows, COLS), np.float32).astype(dtype)
    weight = [np.linspace(0.5, 1.5, COLS).astype(dtype)] * weighted

    def call(part: np.ndarray) -> np.ndarray:
        more = [part.copy()] * twice  # add_rms_norm writes there
        return getattr(llm.ops, op)(part, *more, *weight, out=aligned(part), **options)

    parts = [call(part) for part in np.array_split(x, 2)]
    np.testing.assert_array_equal(call(x), np.concatenate(parts))


def random_blocks(format: str, rows: int) -> np.ndarray:
    row_bytes = COLS // gguf.GGML_QUANT_SIZES[Type[format]][0] * block_bytes(format)
    blocks = np.random.default_rng(2).integers(0, 256, (rows, row_bytes), np.uint8)
    blocks[blocks >= 0x78] &= 0x37  # no scale is infinite or NaN
    return blocks


def block_bytes(format: str) -> int:
    return gguf.GGML_QUANT_SIZES[Type[format]][1]


def rows_of(row_bytes: int) -> int:
    return (33 << 20) // row_bytes // 16 * 16 + 16


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("format", ["Q8_0", "Q4_0", "Q5_1", "Q4_K", "F16", "F32"])
def test_dequantize(format, dtype):
    rows = rows_of(COLS * np.dtype(dtype).itemsize)
    weight = random_blocks(format, rows)

    def call(part: np.ndarray) -> np.ndarray:
        out = aligned(np.empty((len(part), COLS), dtype))
        return llm.ops.dequantize(part, format=format, out=out)

    parts = [call(part) for part in np.array_split(weight, 2)]
    np.testing.assert_array_equal(call(weight), np.concatenate(parts))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format", ["Q8_0", "Q4_K", "F16", "F32"])
def test_embedding_lookup_of_blocks(format, packed):
    table, options = random_blocks(format, 48), {"format": format}
    if packed:
        table, options = llm.ops.pack_weight(table, format=format), {**options, "packed": True}
        options["rows"] = 48
    check_lookup(table, "float32", options)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_embedding_lookup_copies(dtype):
    bits = np.random.default_rng(3).integers(0, 256, (48, COLS, np.dtype(dtype).itemsize), np.uint8)
    check_lookup(bits.view(dtype)[..., 0], dtype, {})  # NaNs of every kind among them


def check_lookup(table: np.ndarray, dtype: str, options: dict[str, object]) -> None:
    count = rows_of(COLS * np.dtype(dtype).itemsize)
    ids = np.random.default_rng(4).integers(0, 48, count)

    def call(part: np.ndarray) -> np.ndarray:
        out = aligned(np.empty((len(part), COLS), dtype))
        return llm.ops.embedding_lookup(table, part, out=out, **options)

    rows = call(np.arange(48))
    np.testing.assert_array_equal(call(ids).view(np.uint8), rows[ids].view(np.uint8))


@pytest.mark.parametrize(
    "format", ["Q8_0", "Q4_0", "Q5_0", "MXFP4", "Q6_K", "IQ2_XXS", "BF16", "F32"]
)
def test_pack_weight(format):
    rows = rows_of(random_blocks(format, 1).nbytes) + 3  # the last group is not whole
    weight = random_blocks(format, rows)

    def call(part: np.ndarray) -> np.ndarray:
        out = aligned(np.empty((-(-len(part) // 16) * 16, part.shape[1]), np.uint8))
        return llm.ops.pack_weight(part, format=format, out=out)

    half = rows // 32 * 16
    whole = np.concatenate([call(weight[:half]), call(weight[half:])])
    np.testing.assert_array_equal(call(weight), whole)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_quantize_q8_0(dtype):
    rows = rows_of(COLS * np.dtype(dtype).itemsize)
    cols = COLS + 32 * 5  # no whole number of lines
    x = np.random.default_rng(5).standard_normal((rows, cols), np.float32).astype(dtype)

    def call(part: np.ndarray) -> np.ndarray:
        out = aligned(np.empty((len(part), cols // 32 * 34), np.uint8))
        return llm.ops.quantize_q8_0(part, out=out)

    parts = [call(part) for part in np.array_split(x, 2)]
    np.testing.assert_array_equal(call(x), np.concatenate(parts))
