"""Tensor ops. Inputs may come from any DLPack framework; outputs have the type of the input."""

from __future__ import annotations

from . import _ffi_api
from .arrays import Array, check_arrays, empty_like

__all__ = ["rms_norm"]


def rms_norm(x: Array, weight: Array, *, eps: float = 1e-6, out: Array | None = None) -> Array:
    """Root-mean-square normalisation of the last dimension.

    ``out[..., d] = x[..., d] * weight[d] / sqrt(mean(x**2) + eps)``, accumulated in float32
    (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019).

    Args:
        x: ``[..., hidden]``, float32, float16 or bfloat16, contiguous; may have no rows.
        weight: ``[hidden]``, same dtype and device as ``x``.
        eps: Added to the mean square; must be > 0 and finite as float32.
        out: Like ``x``; may be ``x`` itself. Allocated when omitted.

    Returns:
        ``out``.

    Raises:
        ValueError: A shape, stride, device or ``eps`` is wrong, or ``out`` overlaps an input in
            part; the message names the argument.
        TypeError: A dtype is not supported or differs from that of ``x``; or an array is an eager
            JAX array or a FakeTensor.
        BufferError: An array is read-only.
        NotImplementedError: There is no kernel for the device of ``x``.
    """
    check_arrays("rms_norm", x=x, weight=weight, out=out)
    if out is None:
        out = empty_like("rms_norm", x)
    _ffi_api.rms_norm(out, x, weight, eps)
    return out
