"""Arrays of any DLPack framework: which ones ops take, and outputs in the framework of an input."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import tvm_ffi

from . import _ffi_api

Array = TypeVar("Array")

# Classes that were looked at once and found safe to hand to native code.
_known_types: set[type] = {tvm_ffi.Tensor}


def check_arrays(op: str, **arrays: Any) -> None:
    """Refuses arrays that DLPack would hand over although native code must not touch them.

    Everything else (dtype, shape, strides, device, read-only memory) is checked natively.

    Args:
        op: Name of the op, for the message.
        **arrays: The arguments by name.

    Raises:
        TypeError: An eager JAX array (immutable, yet DLPack would let an op write into it) or a
            torch tensor without memory of its own, such as a FakeTensor.
    """
    for name, array in arrays.items():
        if type(array) not in _known_types:
            _check_type(op, name, type(array))


def _check_type(op: str, name: str, cls: type) -> None:
    framework = cls.__module__.partition(".")[0]
    if framework in ("jax", "jaxlib"):
        raise TypeError(
            f"{op}: {name} is an eager JAX array, which is immutable; expected an array that may "
            "be shared, such as numpy.array(x)"
        )
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(cls, torch.Tensor):
        plain = torch._C._disabled_torch_dispatch_impl
        if getattr(cls, "__torch_dispatch__", plain) is not plain and cls is not torch.Tensor:
            raise TypeError(
                f"{op}: {name} is a {cls.__name__}, which has no memory of its own; expected a "
                "plain torch.Tensor"
            )
    _known_types.add(cls)


def empty_like(op: str, x: Array) -> Array:
    """An uninitialized array like ``x``, from the framework of ``x``.

    Args:
        op: Name of the op, for the message.
        x: NumPy, torch or tvm_ffi; contiguous.

    Returns:
        An array with the shape, dtype and device of ``x``.

    Raises:
        TypeError: The framework of ``x`` is none of these.
    """
    framework = type(x).__module__.partition(".")[0]
    module = sys.modules.get(framework)
    if framework in ("numpy", "torch") and module is not None:
        return module.empty_like(x)  # type: ignore[no-any-return]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return torch.empty_like(x)  # type: ignore[no-any-return]
    if isinstance(x, tvm_ffi.Tensor):
        return _ffi_api.empty_like(x)  # type: ignore[no-any-return]
    raise TypeError(
        f"{op}: cannot allocate the output for a {type(x).__module__}.{type(x).__qualname__}, "
        "expected an array of NumPy, torch or tvm_ffi, or pass out="
    )
