"""Ops and kernels of your own, declared and checked as those of this library.

Counterparts: declaration.py (the notation), src/base/declared_op.h (what a declaration and a call
do), include/my_llm_ffi/declare.h (the same from C++).
"""

from __future__ import annotations

import os
import sys
from typing import Any, Callable, TypeVar

import tvm_ffi

from . import _ffi_api, declaration
from .declaration import PREFIX

Kernel = TypeVar("Kernel", bound=Callable[..., None])
_declare = tvm_ffi.get_global_func(PREFIX + "declare_op")
_load = tvm_ffi.get_global_func(PREFIX + "load_ops")
_DEVICES = ("cpu", "cuda", "rocm", "metal")  # DeviceName in src/base/device_library.cc
_MARK = "declared"  # in the metadata of an op that has no kernel inside the library


def declare_op(name: str, signature: str, *, doc: str) -> None:
    """Declares an op: `my_llm_ffi.ops.<name>` is there afterwards, for arrays of any framework.

    Its checks (dtypes, shapes, contiguity, devices, overlaps) follow from the signature; what
    computes it is registered with :func:`register_kernel`, a kernel per device. C++ and Rust find
    it as the registered function `my_llm_ffi.<name>`; with `my_llm_ffi.torch` imported, before or
    later, it is `torch.ops.my_llm_ffi.<name>`, with a fake kernel for `torch.compile`.

    Args:
        name: An identifier that no function of the registry has yet.
        signature: Tensors, options and outputs, as `src/base/signature.h` draws them:
            ``"(x: T['*batch n', 'f32 f16 bf16'], *, scale: float = 1.0) -> T['*batch n']"``.
        doc: A line, paragraphs, and ``argument: text`` for each argument.

    Raises:
        ValueError: The signature is none, or leaves the size of an output to the kernel; or the
            name is taken or no identifier.
    """
    _declare(name, signature, doc)
    _announce(name)


def load_ops(path: str | os.PathLike[str]) -> list[str]:
    """Loads a library whose ops are declared in C++, with `my_llm_ffi/declare.h`.

    Args:
        path: Of the shared library. It stays loaded as long as the process lives.

    Returns:
        Names of the ops that it declared: none when it was loaded before.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It is no shared library, or one that it needs is missing.
        ValueError: It declares no ops, or one of them is refused (:func:`declare_op`).
        TypeError: A kernel has other arguments than its op.
    """
    names = [str(name) for name in _load(os.fspath(path))]
    for name in names:
        _announce(name)
    return names


# Modules that make something of every op when they are imported.
_DOORS = ("torch", "mlir")


def _announce(name: str) -> None:
    """Tells those that are imported already; others see the op when they are."""
    for door in _DOORS:
        module = sys.modules.get(f"{__package__}.{door}")
        if module is not None and hasattr(module, "register"):
            module.register(name)


def register_kernel(
    name: str, device: str, *, arrays: Callable[[Any], Any] | None = None
) -> Callable[[Kernel], Kernel]:
    """Registers what computes an op on a device: a decorator.

    The kernel is called with the op's tensors, outputs and options, all by position, after they
    were checked; it writes into the outputs and returns nothing. It must not keep the tensors. On
    CUDA it launches on the caller's stream, torch's current one for callers that use torch, and on
    the device of the tensors, which need not be the current one.

    Args:
        name: Of an op that was declared, or of an op of this library that lacks the device.
        device: ``"cpu"``, ``"cuda"``, ``"rocm"`` or ``"metal"``.
        arrays: Applied to each tensor, such as ``torch.from_dlpack`` or ``numpy.from_dlpack``;
            None: the kernel takes `tvm_ffi.Tensor`.

    Raises:
        KeyError: No such op is declared.
        ValueError: The device has a kernel of the op, or no such device is known.
        TypeError: The kernel or ``arrays`` cannot be called.
    """
    op = declaration.load(name)
    if device not in _DEVICES:
        raise ValueError(f"register_kernel: device is {device!r}, expected one of {_DEVICES}")
    if arrays is not None and not callable(arrays):
        raise TypeError(f"register_kernel: arrays is {type(arrays).__name__}, expected a callable")
    slot = f"{PREFIX}{name}.{device}"
    metadata = tvm_ffi.get_global_func_metadata(PREFIX + name) or {}
    native = device == "cpu" and _MARK not in metadata
    count = len(op.inputs) + len(op.outputs)

    def refuse_taken() -> None:
        if device == "cuda":
            _ffi_api.build_info()  # loads our library of it, which registers its kernels
        if native or tvm_ffi.get_global_func(slot, allow_missing=True) is not None:
            raise ValueError(f"register_kernel: {name} has a kernel for {device}")

    def register(kernel: Kernel) -> Kernel:
        if not callable(kernel):
            raise TypeError(
                f"register_kernel: the kernel is {type(kernel).__name__}, expected a callable"
            )
        refuse_taken()

        def call(*given: Any) -> None:
            if arrays is None:
                kernel(*given)
                return
            tensors = [None if t is None else arrays(t) for t in given[:count]]
            kernel(*tensors, *given[count:])

        tvm_ffi.register_global_func(slot, call)
        return kernel

    refuse_taken()
    return register
