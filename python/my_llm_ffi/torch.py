"""``torch.ops.my_llm_ffi.*``: every op as an operator of torch, made from its declaration.

Importing this module registers them. They work eagerly on CPU and CUDA tensors, under
``torch.compile(fullgraph=True)`` and in ``torch.export``; fake kernels infer shapes from the
declaration. Outputs are new tensors; what a signature marks ``Mut`` is written in place, and
torch knows it. None has a derivative: an input that requires grad is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import torch

from . import arrays
from . import ops as plain_ops
from .declaration import REQUIRED, Attribute, Op, Tensor, load, op_names

if TYPE_CHECKING:
    from .torch_types import Operators

__all__ = ["ops", "register"]

NAMESPACE = "my_llm_ffi"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
# torch.ops.my_llm_ffi itself, with a type: editors and checkers know its operators.
ops: Operators = getattr(torch.ops, NAMESPACE)
# The compiler must hand over what the kernels take: contiguous tensors.
_TAGS = tuple(
    getattr(torch.Tag, name)
    for name in ("pt2_compliant_tag", "needs_contiguous_strides")
    if hasattr(torch.Tag, name)
)


def _tensor_type(tensor: Tensor, index: int) -> str:
    mutable = f"(a{index}!)" if tensor.use == "mutable" else ""
    return f"Tensor{mutable}{'?' if tensor.optional else ''} {tensor.name}" + (
        "=None" if tensor.optional else ""
    )


def _attribute_type(attribute: Attribute) -> str:
    text = f"{attribute.kind}{'?' if attribute.optional else ''} {attribute.name}"
    if attribute.default is REQUIRED:
        return text
    default = (
        f'"{attribute.default}"'
        if attribute.default in attribute.choices
        else (repr(attribute.default))
    )
    return f"{text}={default}"


def schema(op: Op) -> str:
    """The schema of an op in torch's notation.

    Args:
        op: The declaration.
    """
    parameters = [_tensor_type(t, i) for i, t in enumerate(op.inputs)]
    if op.attributes:
        parameters += ["*", *(_attribute_type(a) for a in op.attributes)]
    outputs = ", ".join(f"Tensor {o.name}" for o in op.outputs)
    results = "Tensor" if len(op.outputs) == 1 else f"({outputs})"
    return f"{op.name}({', '.join(parameters)}) -> {results}"


def _fake(op: Op) -> Callable[..., Any]:
    """Outputs of the right shape and dtype, without data."""

    def fake(*given: torch.Tensor | None, **attributes: Any) -> Any:
        tensors = [*given, *[None] * (len(op.inputs) - len(given))]
        shapes = [None if t is None else t.shape for t in tensors]
        dtypes = [None if t is None else arrays.dtype_name(t) for t in tensors]
        model = tensors[0]
        assert model is not None, "the first tensor of an op is not optional"
        outputs = tuple(
            model.new_empty(shape, dtype=getattr(torch, dtype))
            for shape, dtype in op.infer(shapes, dtypes, attributes)
        )
        return outputs[0] if len(outputs) == 1 else (outputs or None)

    return fake


def _refuse_gradients(op: Op) -> Callable[..., Any]:
    """What runs where torch would record a gradient."""
    overload: Any = None

    def autograd(keyset: Any, *tensors: Any, **attributes: Any) -> Any:
        nonlocal overload
        if overload is None:
            overload = getattr(getattr(torch.ops, NAMESPACE), op.name).default
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            arrays.refuse_gradient(op.name)
        if torch.autograd.forward_ad._current_level >= 0:
            arrays.refuse_tangents(op.name, tensors)
        with torch._C._AutoDispatchBelowAutograd():
            below = keyset & torch._C._after_autograd_keyset
            return overload.redispatch(below, *tensors, **attributes)

    return autograd


def register(name: str) -> None:
    """Registers one op; those declared before are registered when the module is imported.

    Args:
        name: Name of an op that was declared later; one that is registered stays as it is.

    Raises:
        KeyError: No such op is declared.
    """
    if name in _registered:
        return
    op = load(name)
    _registered.add(name)
    _LIBRARY.define(schema(op), tags=_TAGS)
    _LIBRARY.impl(name, getattr(plain_ops, name), "CompositeExplicitAutograd")
    _LIBRARY.impl(name, _refuse_gradients(op), "Autograd", with_keyset=True)
    torch.library.register_fake(f"{NAMESPACE}::{name}", _fake(op), lib=_LIBRARY)


_registered: set[str] = set()
for _name in op_names():
    register(_name)
