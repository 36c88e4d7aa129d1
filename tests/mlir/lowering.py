"""Modules of one operation from an op's sample, and what the op itself makes of the sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from reference import op_samples

import my_llm_ffi as llm
from my_llm_ffi import mlir
from my_llm_ffi.declaration import Op

Made = tuple[Any, list[Any], dict[str, Any]]


def modules_of(op: Op, *, dynamic: bool = False) -> Iterator[Made]:
    """As `module_of`, for each sample of the op."""
    for arrays, options in op_samples.samples(op):
        yield _made(op, list(arrays), options, dynamic)


def module_of(op: Op, *, dynamic: bool = False) -> Made:
    """The module, the arrays and the options; inputs are named as the op names them."""
    return next(modules_of(op, dynamic=dynamic))


def _made(op: Op, arrays: list[Any], options: dict[str, Any], dynamic: bool) -> Made:
    arrays += [None] * (len(op.inputs) - len(arrays))
    builder, names = mlir.Builder(), _names(op, arrays) if dynamic else {}
    values = [
        None
        if array is None
        else builder.input(
            tensor.name,
            str(array.dtype),
            [names.get((tensor.name, i), size) for i, size in enumerate(array.shape)],
            written=tensor.use == "mutable",
        )
        for tensor, array in zip(op.inputs, arrays)
    ]
    made = getattr(builder, op.name)(*values, **options)
    for name, value in zip(result_names(op), made if isinstance(made, tuple) else (made,)):
        builder.output(name, value)
    return builder.build(), arrays, options


def result_names(op: Op) -> list[str]:
    """Outputs, then what is written in place."""
    updated = [f"{t.name}_new" for t in op.inputs if t.use == "mutable"]
    return [o.name for o in op.outputs] + updated


def _names(op: Op, arrays: list[Any]) -> dict[tuple[str, int], str]:
    """The first dimension by name, wherever the signature has the same one."""
    first = op.inputs[0]
    dim = first.dims[0]
    if dim.isdigit() or arrays[0].ndim < 2:
        return {}
    return {
        (t.name, 0): "size"
        for t, array in zip(op.inputs, arrays)
        if array is not None and t.dims[:1] == (dim,)
    }


def expected(op: Op, arrays: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """What `my_llm_ffi.ops` gives, by the names of the results."""
    copies = [None if a is None else np.array(a) for a in arrays]
    made = getattr(llm.ops, op.name)(*copies, **options)
    outputs = [] if made is None else list(made) if isinstance(made, tuple) else [made]
    updated = [c for c, t in zip(copies, op.inputs) if t.use == "mutable"]
    return dict(zip(result_names(op), outputs + updated))
