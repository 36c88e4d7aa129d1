"""Rust source of ops, from their declarations: one function per op, its options, its choices.

Counterparts: rust/my-llm-ffi/src/ops.rs (what comes of the ops of this library), op_call.rs beside
it (what the functions are made of). The source names the crate ``my_llm_ffi``, so that it can stand
in any other crate too, for ops that were declared elsewhere.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..declaration import PREFIX, REQUIRED, Attribute, Op, Tensor
from ..render import describe_tensor, split_doc
from .rust_text import (
    WIDTH,
    brackets,
    camel,
    documentation,
    number,
    signature,
    snake,
    structure,
    text_literal,
    variant,
)

_RUST = {"float": "f64", "int": "i64", "bool": "bool", "str": "String"}
_READ = {"float": "Call::float", "int": "Call::int", "bool": "Call::flag", "str": "Call::text"}


def source(ops: Sequence[Op]) -> str:
    """One module: the functions of these ops, and ``call``, which takes one of them by its name.

    Raises:
        ValueError: Two choices of one option would have the same name in Rust.
    """
    enums = _Enums(ops)
    parts = [
        _HEAD,
        *enums.definitions(),
        *(_Writer(op, enums).text() for op in ops),
        _dispatch(ops),
    ]
    return "\n".join(parts)


_HEAD = """\
//! The ops, made by scripts/generate from the declarations: do not edit.
//!
//! Each takes its tensors as its signature lists them, then the outputs, then its options. All
//! memory is the caller's; a tensor that is written to is borrowed mutably. Where an output may be
//! the memory of an input, `…_in_…` does that. Shapes, strides, dtypes, devices and values are
//! checked by the library, whose error names the argument.
//!
//! `..Default::default()` fills the options that are not named: others may come.

#![allow(clippy::derivable_impls, clippy::too_many_arguments)]
#![allow(non_camel_case_types, unused_imports)]

use my_llm_ffi::op_call::{Call, Choice, UnknownChoice, Value};
use my_llm_ffi::{Any, Arg, CachedFunction, Result, TensorView, TensorViewMut};
"""


# ---- choices ------------------------------------------------------------------------------------


class _Enums:
    """The choices of all options: one type for options of one name that have the same ones."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._choices: dict[str, tuple[str, ...]] = {}
        for op in ops:
            for attribute in op.attributes:
                if attribute.choices:
                    self._add(op, attribute)

    def _add(self, op: Op, attribute: Attribute) -> None:
        name = camel(attribute.name)
        if self._choices.get(name, attribute.choices) != attribute.choices:
            name = camel(op.name) + name
        self._choices[name] = attribute.choices
        self._names[op.name, attribute.name] = name
        if len({variant(choice) for choice in attribute.choices}) != len(attribute.choices):
            raise ValueError(
                f"{op.name}: {attribute.name} has choices {list(attribute.choices)}, of which two "
                "would have the same name in Rust"
            )

    def name(self, op: Op, attribute: Attribute) -> str:
        """The type of an option."""
        return self._names[op.name, attribute.name]

    def definitions(self) -> list[str]:
        """The types."""
        return [self._definition(name) for name in self._choices]

    def _definition(self, name: str) -> str:
        choices = self._choices[name]
        listed = "\n".join(f"    /// `{c}`\n    {variant(c)}," for c in choices)
        arms = "\n".join(
            f"            {text_literal(c)} => Ok(Self::{variant(c)})," for c in choices
        )
        texts = "\n".join(
            f"            Self::{variant(c)} => {text_literal(c + chr(0))}," for c in choices
        )
        names = brackets(
            "    const NAMES: &'static [&'static str] = &[", "];", map(text_literal, choices)
        )
        return _ENUM.format(name=name, listed=listed, arms=arms, texts=texts, names=names)


_ENUM = """\
/// The choices of an option `{name}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum {name} {{
{listed}
}}

impl {name} {{
    /// As the library has it.
    pub fn as_str(self) -> &'static str {{
        self.terminated().trim_end_matches('\\0')
    }}

    fn terminated(self) -> &'static str {{
        match self {{
{texts}
        }}
    }}
}}

impl Choice for {name} {{
{names}
}}

impl std::str::FromStr for {name} {{
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {{
        match text {{
{arms}
            _ => Err(UnknownChoice),
        }}
    }}
}}

impl From<{name}> for Arg<'static> {{
    fn from(choice: {name}) -> Self {{
        Arg::terminated(choice.terminated())
    }}
}}
"""


# ---- an op --------------------------------------------------------------------------------------


class _Writer:
    """The source of one op."""

    def __init__(self, op: Op, enums: _Enums) -> None:
        self.op = op
        self.enums = enums
        self.tensors = op.inputs + op.outputs
        self.required = [a for a in op.attributes if a.default is REQUIRED]
        self.optional = [a for a in op.attributes if a.default is not REQUIRED]
        self.options = f"{camel(op.name)}Options"
        self.static = f"{op.name.upper()}_FUNCTION"
        self.head, self.texts = split_doc(op)

    def text(self) -> str:
        """Options, function, the functions that write into an input, the one behind ``call``."""
        parts = [
            f"static {self.static}: CachedFunction =\n"
            f"    CachedFunction::new({text_literal(PREFIX + self.op.name)});\n"
        ]
        line = parts[0].replace("\n    ", " ")
        parts[0] = line if len(line) <= WIDTH + 1 else parts[0]
        if self.optional:
            parts.append(self._options())
        parts.append(self._function(None))
        if len(self.op.outputs) == 1:
            parts += [self._function(name) for name in self.op.outputs[0].may_be]
        parts.append(self._by_name())
        return "\n".join(parts)

    def _type(self, attribute: Attribute) -> str:
        kind = _RUST[attribute.kind]
        if attribute.choices:
            kind = self.enums.name(self.op, attribute)
        return f"Option<{kind}>" if attribute.optional else kind

    def _value(self, attribute: Attribute) -> str:
        """A default."""
        value = attribute.default
        if value is None:
            return "None"
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        if attribute.choices:
            text = f"{self.enums.name(self.op, attribute)}::{variant(value)}"
        elif attribute.kind == "str":
            text = f"String::from({text_literal(value)})"
        elif attribute.kind == "float":
            text = number(float(value))
        return f"Some({text})" if attribute.optional else text

    def _options(self) -> str:
        fields = []
        for attribute in self.optional:
            about = self.texts.get(attribute.name, "") or f"Option `{attribute.name}`."
            fields += documentation("\n".join(textwrap.wrap(about, WIDTH - 8)), "    ")
            fields.append(f"    pub {snake(attribute.name)}: {self._type(attribute)},")
        values = [f"{snake(a.name)}: {self._value(a)}" for a in self.optional]
        copy = ", Copy" if all(a.kind != "str" or a.choices for a in self.optional) else ""
        return _OPTIONS.format(
            op=self.op.name,
            name=self.options,
            copy=copy,
            fields="\n".join(fields),
            body=structure("Self", values, "        "),
        )

    def _documentation(self, into: str | None) -> list[str]:
        head = self.head
        if into is not None:
            name = self.op.name
            head = f"[`{name}`] whose output is `{into}` itself."
        lines = documentation(head)
        lines.append("///")
        for tensor in self.tensors:
            if into is None or tensor.use != "output":
                about = f"{describe_tensor(tensor)} {self.texts.get(tensor.name, '')}"
                lines += self._entry(tensor.name, about)
        for attribute in self.required:
            lines += self._entry(attribute.name, self.texts.get(attribute.name, ""))
        lines += ["///", "/// # Errors"]
        lines += documentation(_ERRORS)
        return lines

    @staticmethod
    def _entry(name: str, about: str) -> list[str]:
        text = " ".join(f"- `{name}`: {about}".split())
        wrapped = textwrap.wrap(
            text, WIDTH - 6, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
        )
        return documentation("\n".join(wrapped))

    def _parameter(self, tensor: Tensor, into: str | None) -> str:
        written = tensor.use != "input" or tensor.name == into
        kind = "&mut TensorViewMut<'_>" if written else "&TensorView<'_>"
        if tensor.optional:
            kind = f"Option<{kind}>"
        return f"{snake(tensor.name)}: {kind}"

    def _function(self, into: str | None) -> str:
        tensors = [t for t in self.tensors if into is None or t.use != "output"]
        parameters = [self._parameter(t, into) for t in tensors]
        parameters += [f"{snake(a.name)}: {self._type(a)}" for a in self.required]
        if self.optional:
            parameters.append(f"options: {self.options}")
        name = self.op.name if into is None else f"{self.op.name}_in_{into}"
        head = [*self._documentation(into), signature(snake(name), parameters)]
        return "\n".join([*head, *self._body(tensors, into), "}", ""])

    def _body(self, tensors: Sequence[Tensor], into: str | None) -> list[str]:
        lines = []
        for tensor in tensors:
            name = snake(tensor.name)
            lower = f"{name}.map(|t| t.lower())" if tensor.optional else f"{name}.lower()"
            lines.append(f"    let {name} = {lower};")
        texts = [a for a in self.op.attributes if a.kind == "str" and not a.choices]
        for attribute in texts:
            lines += self._text_argument(attribute)
        arguments = []
        for tensor in self.tensors:
            name = snake(tensor.name if into is None or tensor.use != "output" else into)
            given = f"{name}.as_ref().map(|t| t.arg()).into()"
            arguments.append(given if tensor.optional else f"{name}.arg()")
        arguments += [self._argument(a) for a in self.op.attributes]
        lines.append(
            "    // SAFETY: it writes to what is borrowed mutably here, and to nothing else."
        )
        lines.append(self._call(arguments))
        return lines

    def _place(self, attribute: Attribute) -> str:
        name = snake(attribute.name)
        return name if attribute in self.required else f"options.{name}"

    def _text_argument(self, attribute: Attribute) -> list[str]:
        name, place = f"{attribute.name}_text", self._place(attribute)
        if attribute.optional:
            return [f"    let {name} = {place}.as_deref().map(Any::text).transpose()?;"]
        return [f"    let {name} = Any::text(&{place})?;"]

    def _argument(self, attribute: Attribute) -> str:
        if attribute.kind == "str" and not attribute.choices:
            name = f"{attribute.name}_text"
            return f"{name}.as_ref().into()" if attribute.optional else f"Arg::from(&{name})"
        return f"{self._place(attribute)}.into()"

    def _call(self, arguments: Sequence[str]) -> str:
        joined = ", ".join(arguments)
        line = f"    unsafe {{ {self.static}.run(&[{joined}]) }}"
        if len(line) <= WIDTH:
            return line
        line = f"        {self.static}.run(&[{joined}])"
        if len(line) > WIDTH:
            inner = "".join(f"            {a},\n" for a in arguments)
            line = f"        {self.static}.run(&[\n{inner}        ])"
        return f"    unsafe {{\n{line}\n    }}"

    # ---- by its name ------------------------------------------------------------------------

    def _by_name(self) -> str:
        op = self.op
        parameters = ["call: Call<'_>", "tensors: Tensors<'_, '_>", "values: &[Value]"]
        counts = f"({len(self.tensors)}, {len(op.attributes)})"
        lines = [
            signature(f"call_{op.name}", parameters, public=False),
            f"    call.check_count({counts}, (tensors.len(), values.len()))?;",
            *self._unknown_choices(),
            "    let mut tensors = tensors.iter_mut();",
        ]
        lines += [self._given(i, tensor) for i, tensor in enumerate(self.tensors)]
        arguments = [self._passed(i, tensor) for i, tensor in enumerate(self.tensors)]
        arguments += [self._read(a) for a in self.required]
        if self.optional:
            fields = [f"{snake(a.name)}: {self._read(a)}" for a in self.optional]
            lines.append("    let options = " + structure(self.options, fields, "    ") + ";")
            arguments.append("options")
        name = snake(op.name)
        line = f"    {name}({', '.join(arguments)})"
        if len(line) > WIDTH:
            line = "\n".join([f"    {name}(", *(f"        {a}," for a in arguments), "    )"])
        return "\n".join([*lines, line, "}", ""])

    def _unknown_choices(self) -> list[str]:
        """The library says what is wrong with a text that is none of the choices."""
        lines = []
        for i, attribute in enumerate(self.op.attributes):
            if attribute.choices:
                kind = self.enums.name(self.op, attribute)
                lines += [
                    f"    if !call.knows::<{kind}>(&values[{i}]) {{",
                    f"        return call.as_given(&{self.static}, tensors, values);",
                    "    }",
                ]
        return lines

    @staticmethod
    def _given(i: int, tensor: Tensor) -> str:
        if not tensor.optional:
            return f"    let t{i} = call.given({text_literal(tensor.name)}, tensors.next())?;"
        if tensor.use == "input":
            return f"    let t{i} = call.perhaps(tensors.next()).map(|t| t.view());"
        return f"    let t{i} = call.perhaps(tensors.next());"

    @staticmethod
    def _passed(i: int, tensor: Tensor) -> str:
        if tensor.use == "input":
            return f"t{i}.as_ref()" if tensor.optional else f"&t{i}.view()"
        return f"t{i}"

    def _read(self, attribute: Attribute) -> str:
        name, value = (
            text_literal(attribute.name),
            f"&values[{self.op.attributes.index(attribute)}]",
        )
        read = _READ[attribute.kind]
        if attribute.choices:
            read = f"Call::choice::<{self.enums.name(self.op, attribute)}>"
        if attribute.optional:
            return f"call.optional({name}, {value}, {read})?"
        return f"{read}(call, {name}, {value})?"


_ERRORS = """\
`ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
argument; `ImportError` where the library is not there."""

_OPTIONS = """\
/// Options of [`{op}`].
#[derive(Debug, Clone{copy}, PartialEq)]
pub struct {name} {{
{fields}
}}

impl Default for {name} {{
    fn default() -> Self {{
        {body}
    }}
}}
"""


def _dispatch(ops: Sequence[Op]) -> str:
    arms = "\n".join(
        f"        {text_literal(op.name)} => call_{op.name}(call, tensors, values)," for op in ops
    )
    names = brackets("pub const NAMES: &[&str] = &[", "];", [text_literal(op.name) for op in ops])
    return _DISPATCH.format(arms=arms, names=names)


_DISPATCH = """\
/// Names of the ops.
{names}

type Tensors<'t, 'v> = &'t mut [Option<TensorViewMut<'v>>];

/// Calls an op by its name.
///
/// - `tensors`: as the op's function takes them, the outputs last; None for an optional one.
/// - `values`: of all its options, in the order of its declaration.
///
/// # Errors
/// `KeyError` where there is no such op; `TypeError` where their number or a type is wrong; as of
/// the op's function.
pub fn call(op: &str, tensors: &mut [Option<TensorViewMut<'_>>], values: &[Value]) -> Result<()> {{
    let call = Call {{ op }};
    match op {{
{arms}
        _ => Err(call.unknown()),
    }}
}}
"""
