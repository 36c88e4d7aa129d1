"""The ops, made by scripts/generate from the declarations: do not edit."""

from typing import Literal

from .arrays import Array

def dequantize(
    weight: Array,
    *,
    format: Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"],
    out: Array | None = None,
) -> Array:
    """Weights of a block format as float32.

    The blocks are those of GGUF files (ggml's quantization formats), bit for bit as PyPI's ``gguf``
    reads them.

    Args:
        weight: ``[rows, row_bytes]``, uint8. Rows of whole blocks.
        format: One of ``"F32"``, ``"F16"``, ``"BF16"``, ``"Q8_0"``, ``"Q4_0"``, ``"Q4_1"``,
            ``"Q5_0"``, ``"Q5_1"``. Name of the format.
        out: ``[rows, row_bytes//block_bytes*block]``, float32. Allocated when omitted.

    Returns:
        ``out``.

    Raises:
        ValueError: A shape, stride, device or value is wrong, or an output overlaps another
            tensor; the message names the argument.
        TypeError: A dtype or type is wrong; or an array is an eager JAX array or has no memory
            of its own.
        BufferError: An array is read-only.
        NotImplementedError: There is no kernel for the device, or torch would record a
            gradient.
    """

def rms_norm(x: Array, weight: Array, *, eps: float = 1e-06, out: Array | None = None) -> Array:
    """Root-mean-square normalisation of the last dimension.

    ``out[..., i] = x[..., i] * weight[i] / sqrt(mean(x**2) + eps)``, accumulated in float32 (Zhang
    and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467).

    Args:
        x: ``[*batch, hidden]``, float32, float16 or bfloat16. Activations; may have no rows.
        weight: ``[hidden]``, dtype of ``x``. Gain of each element.
        eps: Added to the mean square; positive and finite as float32.
        out: ``[*batch, hidden]``, dtype of ``x``; may be ``x`` itself. Allocated when omitted.

    Returns:
        ``out``.

    Raises:
        ValueError: A shape, stride, device or value is wrong, or an output overlaps another
            tensor; the message names the argument.
        TypeError: A dtype or type is wrong; or an array is an eager JAX array or has no memory
            of its own.
        BufferError: An array is read-only.
        NotImplementedError: There is no kernel for the device, or torch would record a
            gradient.
    """
