"""Ops and kernels of your own, declared and checked as those of this library.

Counterparts: declaration.py (the notation), src/base/declared_op.h (what a call does).
"""

from __future__ import annotations

import json
import keyword
from typing import Any, Callable, TypeVar

import tvm_ffi

from . import _ffi_api, declaration
from .declaration import PREFIX, Op

Kernel = TypeVar("Kernel", bound=Callable[..., None])
_declare = tvm_ffi.get_global_func(PREFIX + "declare_op")
_DEVICES = ("cpu", "cuda", "rocm", "metal")  # DeviceName in src/base/device_library.cc
_MARK = "declared"  # in the metadata of an op that has no kernel inside the library


def declare_op(name: str, signature: str, *, doc: str) -> None:
    """Declares an op: `my_llm_ffi.ops.<name>` is there afterwards, for arrays of any framework.

    Its checks (dtypes, shapes, contiguity, devices, overlaps) follow from the signature; what
    computes it is registered with :func:`register_kernel`, a kernel per device. C++ and Rust find
    it as the registered function `my_llm_ffi.<name>`, and after `my_llm_ffi.torch.register(name)`
    it is `torch.ops.my_llm_ffi.<name>`, with a fake kernel for `torch.compile`.

    Args:
        name: An identifier that no function of the registry has yet.
        signature: Tensors, options and outputs, as `src/base/signature.h` draws them:
            ``"(x: T['*batch n', 'f32 f16 bf16'], *, scale: float = 1.0) -> T['*batch n']"``.
        doc: A line, paragraphs, and ``argument: text`` for each argument.

    Raises:
        ValueError: The signature is none, or the name is taken or no identifier.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"declare_op: name is {name!r}, expected an identifier")
    if tvm_ffi.get_global_func(PREFIX + name, allow_missing=True) is not None:
        raise ValueError(f"declare_op: {PREFIX}{name} is registered already")
    op = declaration.parse(name, signature, doc=doc)
    _refuse_unchecked(op)
    types = [_schema(kind) for kind in declaration.expected_schema(op)]
    arguments = {"return": [{"type": "None"}], "params": types}
    schema = {"type": "ffi.Function", "named_args": arguments}
    metadata = {"type_schema": json.dumps(schema), "op": signature, "doc": doc, _MARK: True}
    tensors = [(t.name, "tensor", t.optional) for t in op.inputs + op.outputs]
    options = [(a.name, "choice" if a.choices else a.kind, a.optional) for a in op.attributes]
    names, kinds, optional = zip(*tensors, *options)
    _declare(name, signature, json.dumps(metadata), names, kinds, optional)


def _refuse_unchecked(op: Op) -> None:
    """Refuses outputs whose sizes no input gives: nobody would compare those of ``out=``."""
    if not op.inputs or op.inputs[0].optional:
        raise ValueError(f"declare_op: {op.name} must begin with a tensor that is always given")
    bound = {dim for tensor in op.inputs if not tensor.optional for dim in tensor.dims}
    for out in op.outputs:
        for dim in out.dims:
            if dim not in bound and not dim.isdigit():
                raise ValueError(
                    f"declare_op: {op.name}: {out.name} has the size {dim}, expected a number or a "
                    "size of an input"
                )


def _schema(kind: str) -> dict[str, Any]:
    inner = kind.partition("<")[2].rstrip(">")
    return {"type": "Optional", "args": [{"type": inner}]} if inner else {"type": kind}


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
