"""Declarations of ops, read back from the registry: one signature line each (src/base/signature.h).

Everything that other languages and frameworks see of an op is made from :class:`Op`: functions and
stubs (:mod:`my_llm_ffi.render`), torch ops (:mod:`my_llm_ffi.torch`), the reference of the docs.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any, Callable

import tvm_ffi

from . import base as base  # loads the library first
from . import op_rules
from .checks import is_too_large

PREFIX = "my_llm_ffi."
DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a signature.

    Attributes:
        name: Its name.
        use: ``"input"``, ``"mutable"`` (written in place) or ``"output"``.
        dims: Names, numbers and, in outputs, expressions; the first may be ``*name``.
        dtypes: Full names of the dtypes allowed; an output gets the first when it is allocated.
        like: Tensor whose dtype is allowed too, and comes first for an output.
        may_be: Tensors whose memory an output may be.
        optional: Whether None may be given.
    """

    name: str
    use: str
    dims: tuple[str, ...]
    dtypes: tuple[str, ...] = ()
    like: str | None = None
    may_be: tuple[str, ...] = ()
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One keyword-only option of a signature.

    Attributes:
        name: Its name.
        kind: ``"float"``, ``"int"``, ``"bool"`` or ``"str"``.
        default: What it is when omitted; :data:`REQUIRED` when it must be given.
        choices: The values allowed, of a ``"str"``.
        optional: Whether None may be given.
    """

    name: str
    kind: str
    default: Any
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def expected(self) -> str:
        """What it takes, for messages."""
        return _KINDS[self.kind] + " or None" * self.optional


_KINDS = {"float": "a number", "int": "an integer", "bool": "a bool", "str": "a string"}
REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Op:
    """An op: names and types of what goes in and out, documentation, the function itself.

    Attributes:
        name: Name without the package's prefix.
        inputs: Tensors that are read or written in place, in order.
        outputs: Tensors that are written, in order.
        attributes: Options, keyword-only.
        doc: Text of the registration: a line, paragraphs, ``name: text`` per argument.
        signature: The line it was read from.
        function: Takes inputs, outputs and attributes, all of them by position.
        schema: Types that C++ has for it, in the registry's notation.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...]
    doc: str = ""
    signature: str = ""
    function: Callable[..., None] | None = dataclasses.field(default=None, compare=False)
    schema: str = ""

    def infer(
        self,
        shapes: Sequence[Sequence[Any] | None],
        dtypes: Sequence[str | None],
        attributes: dict[str, Any],
    ) -> list[tuple[tuple[Any, ...], str]]:
        """Shapes and dtypes of the outputs: what frameworks call the meta or fake kernel.

        Args:
            shapes: Of each input; None where it is absent. Sizes may be symbols of a framework.
            dtypes: Of each input, full names.
            attributes: Values by name; defaults where one is missing.

        Raises:
            ValueError: A rank or a dimension does not fit, a choice is unknown, or sizes and
                options do not agree; names it.
            TypeError: A dtype is not allowed.
        """
        sizes: dict[str, Any] = {a.name: attributes.get(a.name, a.default) for a in self.attributes}
        for attribute in self.attributes:
            self._check_attribute(attribute, sizes[attribute.name])
        if "format" in sizes:
            sizes["block"], sizes["block_bytes"] = block_of(sizes["format"])
        bound_by: dict[str, str] = {}
        dtype_of: dict[str, str] = {}
        for tensor, shape, dtype in zip(self.inputs, shapes, dtypes):
            if shape is None or dtype is None:
                continue
            dtype_of[tensor.name] = dtype
            self._check_dtype(tensor, dtype, dtype_of)
            self._bind(tensor, tuple(shape), sizes, bound_by)
        op_rules.check(self.name, sizes, dtype_of)
        return [
            (self._output_shape(out, sizes), output_dtype(out, dtype_of)) for out in self.outputs
        ]

    def _output_shape(self, out: Tensor, sizes: dict[str, Any]) -> tuple[Any, ...]:
        shape = evaluate_dims(out.dims, sizes)
        if any(type(size) is int and size < 0 for size in shape):
            raise ValueError(f"{self.name}: {out.name} would have shape {list(shape)}")
        return shape

    def _check_attribute(self, attribute: Attribute, value: Any) -> None:
        if value is None and attribute.optional:
            return
        if attribute.choices and value not in attribute.choices:
            listed = ", ".join(repr(c) for c in attribute.choices)
            raise ValueError(
                f'{self.name}: {attribute.name} is "{value}", expected one of {listed}'
            )
        wrong = {"int": _is_wrong_integer, "float": _is_wrong_number}.get(attribute.kind)
        if wrong is not None and wrong(value):
            raise self.option_error(attribute, value)

    def option_error(self, attribute: Attribute, value: Any) -> Exception:
        """The error for an option's value that is of the wrong type, or too large to be given."""
        if is_too_large(value):
            digits = len(f"{abs(value):x}")  # 10**400 has no float, and its decimals take long
            said = f"{value:.6g}" if digits < 256 else f"an integer of {digits} hexadecimal digits"
            return OverflowError(
                f"{self.name}: {attribute.name} is {said}, which does not fit 64 bits"
            )
        cls = type(value)
        module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
        kind = f"{module}{cls.__name__}"
        return TypeError(f"{self.name}: {attribute.name} is {kind}, expected {attribute.expected}")

    def _check_dtype(self, tensor: Tensor, dtype: str, dtype_of: dict[str, str]) -> None:
        allowed = list(tensor.dtypes)
        if tensor.like in dtype_of and tensor.like != tensor.name:
            allowed.append(dtype_of[tensor.like])
        if dtype not in allowed:
            raise TypeError(
                f"{self.name}: {tensor.name} is {dtype}, expected "
                f"{'one of ' * (len(allowed) > 1)}{', '.join(allowed)}"
            )

    def _bind(
        self, tensor: Tensor, shape: tuple[Any, ...], sizes: dict[str, Any], by: dict[str, str]
    ) -> None:
        """Gives the names in a tensor's dims their sizes, or compares with what they have."""
        dims, parts = tensor.dims, list(shape)
        if dims and dims[0].startswith("*"):
            lead = len(shape) - len(dims) + 1
            parts = [shape[: max(lead, 0)], *shape[max(lead, 0) :]]
        fits = len(parts) == len(dims)
        for dim, size in zip(dims, parts):
            if fits and dim not in by and not dim.isdigit():
                sizes[dim], by[dim] = size, tensor.name
            fits = fits and bool(size == (int(dim) if dim.isdigit() else sizes[dim]))
        if not fits:
            expected = ", ".join(_expected(d, tensor.name, sizes, by) for d in dims)
            raise ValueError(
                f"{self.name}: {tensor.name} has shape {list(shape)}, expected [{expected}]"
            )


def _is_wrong_integer(value: Any) -> bool:
    return isinstance(value, bool) or not hasattr(value, "__index__") or is_too_large(value)


def _is_wrong_number(value: Any) -> bool:
    """Others than these are symbols of frameworks, which the op looks at when it is called."""
    return value is None or isinstance(value, (bool, str)) or is_too_large(value)


def _expected(dim: str, tensor: str, sizes: dict[str, Any], by: dict[str, str]) -> str:
    return f"{dim}={sizes[dim]} (from {by[dim]})" if by.get(dim, tensor) != tensor else dim


def output_dtype(out: Tensor, dtype_of: dict[str, str]) -> str:
    """Dtype that an output gets: like its model, unless that holds bytes of a weight format."""
    like = dtype_of.get(out.like) if out.like is not None else None
    if like is not None and not (like == "uint8" and out.dtypes):
        return like
    return out.dtypes[0]


@functools.cache
def block_of(format: str | None) -> tuple[int, int]:
    """Weights and bytes of one block of a weight format; 1 and 1 for None.

    Raises:
        ValueError: The library knows no such format.
    """
    if format is None:
        return 1, 1
    block, block_bytes = tvm_ffi.get_global_func(PREFIX + "format_block")(format)
    return int(block), int(block_bytes)


# ---- expressions --------------------------------------------------------------------------------

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}


def evaluate_dims(dims: Sequence[str], sizes: dict[str, Any]) -> tuple[Any, ...]:
    """The shape that dims of an output stand for."""
    shape: list[Any] = []
    for dim in dims:
        if dim.startswith("*"):
            shape += sizes[dim]
        else:
            shape.append(
                sizes[dim] if dim in sizes else _evaluate(ast.parse(dim, mode="eval").body, sizes)
            )
    return tuple(shape)


def _evaluate(node: ast.expr, sizes: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return _first_given([_evaluate(value, sizes) for value in node.values])
    raise ValueError(f"bad expression {ast.dump(node)}")


def _first_given(values: list[Any]) -> Any:
    return next((value for value in values[:-1] if value), values[-1])


# ---- reading ------------------------------------------------------------------------------------


def parse(name: str, signature: str, *, doc: str = "") -> Op:
    """Reads a signature.

    Args:
        name: Name of the op.
        signature: As src/base/signature.h draws it.
        doc: Documentation that belongs to it.

    Raises:
        ValueError: It is no signature; says where.
    """
    try:
        function = ast.parse(f"def {name}{signature}: ...").body[0]
    except SyntaxError as error:
        raise ValueError(f"{name}: bad signature, {error.msg}: {signature}") from None
    assert isinstance(function, ast.FunctionDef)
    parameters, required = function.args, len(function.args.args) - len(function.args.defaults)
    first = parameters.args[0].arg if parameters.args else None
    inputs = tuple(
        _tensor(a.arg, a.annotation, first, optional=i >= required)
        for i, a in enumerate(parameters.args)
    )
    attributes = tuple(
        _attribute(a.arg, a.annotation, default)
        for a, default in zip(parameters.kwonlyargs, parameters.kw_defaults)
    )
    outputs = tuple(_outputs(function.returns, first))
    _check_likes(name, inputs, outputs)
    return Op(name, inputs, outputs, attributes, doc, signature)


def _check_likes(op: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Refuses dtypes that follow what cannot say them."""
    before: dict[str, Tensor] = {}
    for tensor in inputs + outputs:
        model = before.get(tensor.like or "")
        if tensor.like is not None and model is None:
            raise ValueError(
                f"{op}: bad signature, {tensor.name} is like {tensor.like}, which is no input "
                "before it"
            )
        if tensor.use != "output":
            before[tensor.name] = tensor
        elif model is not None and model.optional and not tensor.dtypes:
            raise ValueError(
                f"{op}: bad signature, {tensor.name} is like {model.name}, which may be None; "
                "expected a dtype beside it"
            )


def _split_optional(annotation: ast.expr | None) -> tuple[ast.expr, bool]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return annotation.left, True
    assert annotation is not None, "every argument has a type"
    return annotation, False


def _strings(node: ast.Subscript) -> tuple[str, ...]:
    literal = ast.literal_eval(node.slice)
    return (literal,) if isinstance(literal, str) else tuple(literal)


def split_dims(text: str) -> tuple[str, ...]:
    """Pieces between spaces that stand outside of parentheses."""
    words, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == " " and depth == 0:
            words.append("")
        else:
            words[-1] += c
    return tuple(word for word in words if word)


def _tensor(
    name: str,
    annotation: ast.expr | None,
    first: str | None,
    *,
    use: str | None = None,
    optional: bool = False,
) -> Tensor:
    node, can_be_none = _split_optional(annotation)
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        raise ValueError(f"{name} has no type of a tensor: {ast.dump(node)}")
    kind = use or {"T": "input", "Mut": "mutable"}[node.value.id]
    shape, *rest = _strings(node)
    dtypes: list[str] = []
    like: str | None = None
    may_be: tuple[str, ...] = ()
    for text in rest:
        words = text.split()
        if words[:2] == ["may", "be"]:
            may_be = tuple(words[2:])
            continue
        if "like" in words:
            like = words[words.index("like") + 1]
        dtypes += [DTYPES[w] for w in words if w in DTYPES]
    if not dtypes and like is None:
        like = first
    return Tensor(
        name, kind, split_dims(shape), tuple(dtypes), like, may_be, can_be_none and optional
    )


def _attribute(name: str, annotation: ast.expr | None, default: ast.expr | None) -> Attribute:
    node, optional = _split_optional(annotation)
    value = REQUIRED if default is None else ast.literal_eval(default)
    if isinstance(node, ast.Subscript):
        return Attribute(name, "str", value, _strings(node), optional)
    assert isinstance(node, ast.Name)
    return Attribute(name, node.id, value, (), optional)


def _outputs(returns: ast.expr | None, first: str | None) -> list[Tensor]:
    if returns is None or (isinstance(returns, ast.Constant) and returns.value is None):
        return []
    if isinstance(returns, ast.Dict):
        return [
            _tensor(ast.literal_eval(key), value, first, use="output")
            for key, value in zip(returns.keys, returns.values)
            if key is not None
        ]
    return [_tensor("out", returns, first, use="output")]


# ---- the registry -------------------------------------------------------------------------------

_SCHEMA_KINDS = {"float": "float", "int": "int", "bool": "bool", "str": "ffi.String"}


def expected_schema(op: Op) -> list[str]:
    """Types that the C++ function of an op must have, in the registry's notation."""

    def maybe(kind: str, optional: bool) -> str:
        return f"Optional<{kind}>" if optional else kind

    return [
        *(maybe("DLTensor*", t.optional) for t in op.inputs),
        *("DLTensor*" for _ in op.outputs),
        *(maybe(_SCHEMA_KINDS[a.kind], a.optional) for a in op.attributes),
    ]


def actual_schema(op: Op) -> list[str]:
    """Types that the C++ function of an op has."""

    def name(node: dict[str, Any]) -> str:
        inner = ", ".join(name(a) for a in node.get("args", ()))
        return f"{node['type']}<{inner}>" if inner else str(node["type"])

    return [name(p) for p in json.loads(op.schema)["named_args"]["params"]]


def op_names() -> list[str]:
    """Names of all declared ops, sorted."""
    names = tvm_ffi.registry.list_global_func_names()
    return sorted(
        name[len(PREFIX) :]
        for name in names
        if name.startswith(PREFIX) and "op" in (tvm_ffi.get_global_func_metadata(name) or {})
    )


def load(name: str) -> Op:
    """The declaration of a registered op.

    Raises:
        KeyError: No op of this name is registered.
        TypeError: Signature and C++ type disagree.
    """
    function = tvm_ffi.get_global_func(PREFIX + name, allow_missing=True)
    metadata = (tvm_ffi.get_global_func_metadata(PREFIX + name) or {}) if function else {}
    if "op" not in metadata:
        raise KeyError(name)
    op = dataclasses.replace(
        parse(name, metadata["op"].replace(", ]", "]"), doc=metadata["doc"]),
        function=function,
        schema=metadata["type_schema"],
    )
    if actual_schema(op) != expected_schema(op):
        raise TypeError(f"{name}: declares {expected_schema(op)}, C++ has {actual_schema(op)}")
    return op
