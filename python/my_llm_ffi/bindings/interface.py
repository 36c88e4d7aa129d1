"""What the library offers to every language: functions, objects, structures, enums and ops.

Types come from the registry; names of parameters, their defaults and the texts from the line that
each registration carries: ``(path, n_threads = 0) -> ModelConfig: What it does.`` (src/ffi/*.cc).
``(*tensors)`` are any number of tensors, of a method whose types the registry does not know.
Structures and their fields are the dataclasses of the Python package. Ops are declared by their
own signatures: :mod:`my_llm_ffi.declaration`.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm_ffi import core

from .. import generation, model, request, sampling
from ..declaration import PREFIX, Op, load, op_names

REQUIRED = object()
TENSORS = "tensors"  # the type of a parameter that is any number of tensors


@dataclasses.dataclass(frozen=True)
class Type:
    """A type of the registry: ``Type("ffi.Array", (Type("int"),))``."""

    name: str
    args: tuple[Type, ...] = ()


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a function.

    Attributes:
        name: Its name.
        type: What the registry says.
        default: A Python value; :data:`REQUIRED` where it must be given.
        annotation: What is more special than the type: a structure, an enum, a callable.
    """

    name: str
    type: Type
    default: Any = REQUIRED
    annotation: str = ""


@dataclasses.dataclass(frozen=True)
class Function:
    """A registered function, or a method of an object.

    Attributes:
        name: Without the package's prefix.
        parameters: Without the object itself.
        result: What it returns.
        result_annotation: What is more special: a structure or an enum.
        doc: One paragraph.
        is_static: Whether it is a method that needs no object.
    """

    name: str
    parameters: tuple[Parameter, ...]
    result: Type
    result_annotation: str
    doc: str
    is_static: bool = True


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of an object or a structure; ``type`` in the notation of Python's annotations."""

    name: str
    type: str
    default: Any
    doc: str
    is_mutable: bool = False


@dataclasses.dataclass(frozen=True)
class Structure:
    """Named values that cross the border as a map. ``is_input``: they are given, not returned."""

    name: str
    doc: str
    fields: tuple[Field, ...]
    is_input: bool


@dataclasses.dataclass(frozen=True)
class Object:
    """A type of objects: those are references, which copies share."""

    name: str
    doc: str
    fields: tuple[Field, ...]
    methods: tuple[Function, ...]


@dataclasses.dataclass(frozen=True)
class Enum:
    """Named numbers."""

    name: str
    doc: str
    values: tuple[tuple[str, int], ...]


class TokenType(enum.IntEnum):
    """What a token of a vocabulary is, as GGUF numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_ENUMS: tuple[type[enum.IntEnum], ...] = (
    generation.FinishReason,
    request.EarlyStopping,
    request.SchedulerPolicy,
    TokenType,
)
_INPUTS: tuple[type[Any], ...] = (sampling.SamplingParams, request.Request, request.ExecutorConfig)
_OUTPUTS: tuple[type[Any], ...] = (model.ModelConfig, generation.Timings)
_ONLY_IN_PYTHON = {"guided"}  # fields that the Python package reads itself
_OBJECT_DOCS = {
    "Batch": "Tokens of any mix of sequences, computed by one decode. One thread at a time.",
    "Context": "Sequences in a paged KV cache over a model. One thread at a time.",
    "Executor": "Runs many requests over one model: continuous batching. From any thread.",
    "Generation": "Text as it is generated. One thread at a time.",
    "Gguf": "What a file says of itself and of its tensors.",
    "IntPair": "Two integers, as tvm-ffi's packaging guide has them.",
    "LoraAdapter": "An adapter, loaded for a model.",
    "MachineLimits": "Measures what this machine can do.",
    "MaskEntry": "One sequence in a call of a logits post-processor; valid during the call only.",
    "Model": "A model's weights. From any thread.",
    "Plan": "Calls of functions, ready to run. One thread at a time.",
    "PlanBuilder": "Puts a plan together: tensors, then calls. One thread at a time.",
    "PlanValue": "A tensor of a plan.",
    "Response": "What came of a sequence since its last response.",
    "Sampler": "From logits to a token. One thread at a time.",
    "StreamDecoder": "Text of tokens that come one by one. One thread at a time.",
    "Vocab": "A tokenizer. From any thread.",
}


# ---- registrations ------------------------------------------------------------------------------


def _type(node: dict[str, Any]) -> Type:
    return Type(str(node["type"]), tuple(_type(a) for a in node.get("args", ())))


def _split(line: str) -> tuple[str, str]:
    """``(names) -> result: text`` into the part before the colon and the text."""
    depth = 0
    for i, c in enumerate(line):
        depth += (c in "([") - (c in ")]")
        if c == ":" and depth == 0:
            return line[:i].strip(), line[i + 1 :].strip()
    raise ValueError(f"no text: {line}")


def read_function(name: str, line: str, schema: str, *, is_static: bool = True) -> Function:
    """A function from its registration.

    Args:
        name: Without the package's prefix.
        line: ``(names) -> result: text``.
        schema: Types in the registry's notation.
        is_static: Whether there is no object before the parameters.

    Raises:
        ValueError: The line does not fit the types.
    """
    head, doc = _split(line)
    try:
        tree = ast.parse(f"def _{head}: ...").body[0]
    except SyntaxError as error:
        raise ValueError(f"{name}: bad line, {error.msg}: {line}") from None
    assert isinstance(tree, ast.FunctionDef)
    returns = ast.unparse(tree.returns) if tree.returns else ""
    if tree.args.vararg is not None and not tree.args.args:
        tensors = Parameter(tree.args.vararg.arg, Type(TENSORS))
        return Function(
            name, (tensors,), Type("Any" if returns else "None"), returns, doc, is_static
        )
    named = json.loads(schema)["named_args"]
    types = [_type(p) for p in named["params"]][0 if is_static else 1 :]
    names = tree.args.args
    if len(names) != len(types):
        raise ValueError(f"{name}: {len(names)} names for {len(types)} parameters: {line}")
    defaults = [REQUIRED] * (len(names) - len(tree.args.defaults))
    defaults += [ast.literal_eval(d) for d in tree.args.defaults]
    annotations = [ast.unparse(a.annotation) if a.annotation else "" for a in names]
    parameters = tuple(
        Parameter(a.arg, t, d, n) for a, t, d, n in zip(names, types, defaults, annotations)
    )
    result = _type((named["return"] or [{"type": "None"}])[0])
    return Function(name, parameters, result, returns, doc, is_static)


def functions() -> list[Function]:
    """Registered functions that say what they do and are no ops, by name."""
    found = []
    for name in sorted(tvm_ffi.registry.list_global_func_names()):
        metadata = (tvm_ffi.get_global_func_metadata(name) or {}) if _is_ours(name) else {}
        if "doc" in metadata and "op" not in metadata:
            schema = metadata["type_schema"]
            found.append(read_function(name[len(PREFIX) :], metadata["doc"], schema))
    return found


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX)


# ---- objects ------------------------------------------------------------------------------------


def objects() -> list[Object]:
    """Registered types of objects, by name."""
    keys = sorted(str(k) for k in tvm_ffi.get_global_func("ffi.GetRegisteredTypeKeys")())
    return [_object(key) for key in keys if _is_ours(key)]


def _object(key: str) -> Object:
    info = core._lookup_or_register_type_info_from_type_key(key)
    name = key[len(PREFIX) :]
    methods = []
    for m in info.methods:
        if m.name.startswith("_"):
            continue
        line, schema = m.doc or "", m.metadata["type_schema"]
        if not line.startswith("("):
            raise ValueError(f"{key}.{m.name} is registered without the names of its parameters")
        methods.append(read_function(m.name, line, schema, is_static=m.is_static))
    like = {"Response": request.Response}.get(name)
    known = {f.name: f for f in _fields(like)} if like is not None else {}
    fields = []
    for f in info.fields:
        declared = known.get(f.name)
        kind = declared.type if declared else str(f.ty)
        doc = declared.doc if declared else f.doc or ""
        fields.append(Field(f.name, kind, REQUIRED, doc, not f.frozen))
    return Object(name, _OBJECT_DOCS.get(name, ""), tuple(fields), tuple(methods))


# ---- structures and enums -----------------------------------------------------------------------


def _argument_docs(cls: type[Any]) -> dict[str, str]:
    """Texts of ``Args:`` or ``Attributes:`` of a docstring."""
    texts: dict[str, str] = {}
    current = None
    for line in textwrap.dedent(cls.__doc__ or "").splitlines():
        match = re.match(r"    (?:    )?(\w+): (.*)", line)
        if match:
            current = match[1]
            texts[current] = match[2]
        elif current and line.startswith("        "):
            texts[current] += " " + line.strip()
        else:
            current = None
    return texts


def _fields(cls: type[Any]) -> list[Field]:
    docs = _argument_docs(cls)
    fields = []
    for f in dataclasses.fields(cls):
        if f.name in _ONLY_IN_PYTHON:
            continue
        default = REQUIRED if f.default is dataclasses.MISSING else f.default
        fields.append(Field(f.name, str(f.type), default, docs.get(f.name, "")))
    return fields


def _first_line(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def structures() -> list[Structure]:
    """Those that are given, in the order of use, then those that are returned."""
    return [
        Structure(c.__name__, _first_line(c), tuple(_fields(c)), c in _INPUTS)
        for c in _INPUTS + _OUTPUTS
    ]


def enums() -> list[Enum]:
    """Those that cross the border as numbers."""
    return [Enum(e.__name__, _first_line(e), tuple((v.name, int(v)) for v in e)) for e in _ENUMS]


# ---- ops ----------------------------------------------------------------------------------------


def ops(names: Sequence[str] | None = None) -> list[Op]:
    """Declared ops, by name; those of the names given, in their order.

    Raises:
        KeyError: One is not declared.
    """
    return [load(name) for name in (op_names() if names is None else names)]


def formats() -> tuple[str, ...]:
    """Names of the weight formats, in the library's order."""
    (attribute,) = load("dequantize").attributes
    return attribute.choices
