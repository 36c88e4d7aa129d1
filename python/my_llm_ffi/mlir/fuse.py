"""The pass ``fuse``: groups of operations that have one kernel become one operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch_mlir import ir

from . import calls, dialect, extra_ops
from .pipelines import register_pass
from .walking import Memory, body, call_making, call_of, functions, users

Match = Callable[[calls.Call, Memory], bool]


@register_pass("fuse")
def fuse(module: ir.Module, *, only: tuple[str, ...] = ()) -> None:
    """Replaces groups of operations by the one that computes them at once.

    ``add-rms-norm``: ``add``, then ``rms_norm`` of the sum, become ``add_rms_norm``, which keeps
    the sum in the memory of one of its terms: one that nothing reads afterwards, and that is no
    argument of the function but one marked ``llm.written``.
    ``silu-mul``: ``silu`` and ``mul`` become ``silu_mul``, which rounds once instead of twice.
    ``rope-kv-append``: ``rope``, then ``kv_append`` of its keys, become the composite
    ``rope_kv_append``.
    ``dequantize-linear``: ``linear`` of a dequantized weight takes the blocks themselves. It may
    round the activations then, as the op says.

    Options: ``only``, names of those above; all where it is empty.

    Raises:
        ValueError: ``only`` has another name.
    """
    for name in only:
        if name not in PATTERNS:
            raise ValueError(f"only has {name!r}, expected some of: {', '.join(PATTERNS)}")
    wanted = [pattern for name, pattern in PATTERNS.items() if not only or name in only]
    for function in functions(module):
        while _fuse_one(function, wanted):
            pass


def _fuse_one(function: Any, wanted: Sequence[Match]) -> bool:
    """Whether a group was found; positions are counted anew afterwards."""
    memory = Memory(function)
    for operation in body(function):
        call = call_of(operation)
        if call is not None and any(match(call, memory) for match in wanted):
            return True
    return False


def _insert(before: Any, name: str, inputs: Sequence[Any], call: calls.Call) -> calls.Call:
    """A new call with the options of another one, in front of an operation, from its place."""
    with call.operation.location, ir.InsertionPoint(before):
        return calls.make(dialect.declared(name), inputs, call.options)


def _replace(old: Any, new: Any) -> None:
    old.replace_all_uses_with(new)


def _erase(*operations: Any) -> None:
    for operation in operations:
        operation.operation.erase()


# ---- patterns -----------------------------------------------------------------------------------


def _add_rms_norm(norm: calls.Call, memory: Memory) -> bool:
    if norm.op.name != "rms_norm" or norm.into:
        return False
    add = call_making(norm.inputs[0], "add")
    if add is None or add.into or add.inputs[0] == add.inputs[1]:
        return False
    total, weight = add.outputs[0], norm.inputs[1]
    place = add.operation
    if memory.position(weight) >= memory.at(place):
        place = norm.operation
        first = min(memory.at(user) for user in users(total))
        if first < memory.at(norm.operation):
            return False
    if any(memory.is_written_between(term, add.operation, place) for term in add.inputs):
        return False
    for x, residual in (tuple(add.inputs), tuple(reversed(add.inputs))):
        last = memory.last_use(residual, but=add.operation.operation)
        if not memory.may_be_written(residual) or last >= memory.at(place):
            continue
        if memory.root[x] == memory.root[residual]:
            continue
        fused = _insert(place, "add_rms_norm", [x, residual, weight], norm)
        _replace(norm.outputs[0], fused.outputs[0])
        _replace(total, fused.updates[1])
        _erase(norm.operation, add.operation)
        return True
    return False


def _silu_mul(product: calls.Call, memory: Memory) -> bool:
    if product.op.name != "mul" or product.into:
        return False
    for gate, up in (tuple(product.inputs), tuple(reversed(product.inputs))):
        silu = call_making(gate, "silu")
        if silu is None or silu.into or len(users(gate)) != 1:
            continue
        if memory.is_written_between(silu.inputs[0], silu.operation, product.operation):
            continue
        fused = _insert(product.operation, "silu_mul", [silu.inputs[0], up], product)
        _replace(product.outputs[0], fused.outputs[0])
        _erase(product.operation, silu.operation)
        return True
    return False


def _rope_kv_append(append: calls.Call, memory: Memory) -> bool:
    if append.op.name != "kv_append":
        return False
    k_pages, v_pages, keys, values, slots = append.inputs
    rope = call_making(keys, "rope")
    if rope is None or rope.updates[1] != keys or len(users(keys)) != 1:
        return False
    q, k, positions, factors = rope.inputs
    begin, end = (memory.at(c.operation) for c in (rope, append))
    queries = rope.updates[0]
    place = append.operation
    if min((memory.at(user) for user in users(queries)), default=end) < end:
        place = rope.operation
        pages = [memory.last_use(p, but=append.operation.operation) for p in (k_pages, v_pages)]
        late = [v for v in (k_pages, v_pages, values, slots) if memory.position(v) >= begin]
        if late or any(begin < use < end for use in pages):
            return False
    inputs = [q, k, positions, k_pages, v_pages, values, slots, factors]
    fused = _insert(place, extra_ops.ROPE_KV_APPEND, inputs, rope)
    _replace(queries, fused.updates[0])
    _replace(append.updates[0], fused.updates[3])
    _replace(append.updates[1], fused.updates[4])
    _erase(append.operation, rope.operation)
    return True


def _dequantize_linear(linear: calls.Call, memory: Memory) -> bool:
    if linear.op.name != "linear" or linear.into:
        return False
    x, weight, bias = linear.inputs
    blocks = call_making(weight, "dequantize")
    if blocks is None or linear.options.get("format") or linear.options.get("packed"):
        return False
    if memory.is_written_between(blocks.inputs[0], blocks.operation, linear.operation):
        return False
    options = {**linear.options, "format": blocks.options["format"]}
    with linear.operation.location, ir.InsertionPoint(linear.operation):
        inputs = [x, blocks.inputs[0], bias]
        types = [value.type for value in linear.outputs]
        fused = calls.make(dialect.declared("linear"), inputs, options, types=types)
    _replace(linear.outputs[0], fused.outputs[0])
    _erase(linear.operation)
    if not users(weight):
        _erase(blocks.operation)
    return True


PATTERNS: dict[str, Match] = {
    "add-rms-norm": _add_rms_norm,
    "silu-mul": _silu_mul,
    "rope-kv-append": _rope_kv_append,
    "dequantize-linear": _dequantize_linear,
}
