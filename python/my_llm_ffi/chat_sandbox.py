"""Runs one chat template as hostile code; counterparts: chat_filters.py, chat_budget.py.

The world inside is closed: values are plain data, ``namespace`` objects, macros and loops. Every
node that could do unbounded work in one go (loops, operators, comparisons, slices, literals, calls,
output) is replaced by one that pays first. Nothing of Python's is reachable by attribute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache, partial
from types import CodeType
from typing import Any, Callable, NoReturn

from jinja2 import Template, TemplateError, Undefined, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .chat_budget import MAX_DEPTH, MAX_INT_BITS, Budget, ChatLimits, ChatTemplateError
from .chat_filters import FILTERS, METHODS, TESTS, compare, concatenate, cut, dictionary, literal
from .chat_text import percent, to_text

_FILE = "<chat template>"
_MAX_TOKENS = 12_000  # of a template; the largest in use have about 4,000
_MAX_EXPRESSION_TOKENS = 2_000
_MAX_MESSAGE = 500  # characters of an error
_MAX_RANGE = 100_000
_MAX_TIME_FORMAT = 128
_LONG_NUMBER = re.compile(r"\d[\d_]{299}")
_NESTING = frozenset(("for", "if", "macro", "call", "filter", "with", "generation", "set"))
_LOOP_ATTRIBUTES = frozenset(
    "cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0".split()
)
_ALLOWED_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Macro,
    nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.Assign, nodes.AssignBlock, nodes.Name,
    nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword,
    nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice,
    nodes.Concat, nodes.Compare, nodes.Operand, nodes.BinExpr, nodes.UnaryExpr, nodes.Break,
    nodes.Continue,
)  # fmt: skip


class _GenerationBlock(Extension):
    """``{% generation %} … {% endgeneration %}``: marks the assistant's words; renders its body."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _RuntimeOutput(CodeGenerator):
    """Compiles without evaluating anything: what a template computes, it pays for when it runs."""

    def _output_child_to_const(self, node: Any, frame: Any, finalize: Any) -> NoReturn:
        raise nodes.Impossible


class _PayFirst(NodeTransformer):
    """Puts the paying form in the place of every node that could be expensive."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(node, _ALLOWED_NODES):
            what = type(node).__name__.lower()
            where = f"line {node.lineno}: " if node.lineno else ""
            raise ChatTemplateError(f"{where}a chat template may not use {what}")
        return super().visit(node, *args, **kwargs)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)  # passes `finalize`, unlike the other

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _paying("<items>", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        rest = [part for op in node.ops for part in (nodes.Const(op.op), op.expr)]
        return _paying("<compare>", node.expr, *rest)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _paying("<concatenate>", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        parts = [part for pair in node.items for part in (pair.key, pair.value)]
        return _paying("<dictionary>", nodes.Const(None, lineno=node.lineno), *parts)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _paying("<literal>", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _paying("<literal>", node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _paying("<cut>", node.node, *(bound or nodes.Const(None) for bound in bounds))


def _paying(name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
    """A filter of a name that no template can write."""
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """What a template runs in; one per rendering, since it holds the budget."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    code_generator_class = _RuntimeOutput

    def __init__(self, limits: ChatLimits) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is evaluated while compiling
            autoescape=False,
            cache_size=0,
            finalize=partial(to_text, self),
            extensions=(LoopControlExtension, _GenerationBlock),
        )
        self.budget = Budget(limits)
        self._calls = 0
        filters: dict[str, Any] = {name: partial(fn, self) for name, fn in FILTERS.items()}
        filters.update(
            {
                "<items>": self.items,
                "<compare>": partial(compare, self),
                "<concatenate>": partial(concatenate, self),
                "<cut>": partial(cut, self),
                "<dictionary>": partial(dictionary, self),
                "<literal>": partial(literal, self),
            }
        )
        self.filters = filters
        tests: dict[str, Any] = {name: partial(fn, self) for name, fn in TESTS.items()}
        self.tests = tests
        self.globals = {
            "range": partial(_range, self),
            "dict": partial(_dict, self),
            "namespace": partial(_namespace, self),
            "raise_exception": _raise_exception,
            "strftime_now": partial(_strftime_now, self),
        }

    # ---- values --------------------------------------------------------------------------------

    def items(self, value: Any, backwards: bool = False) -> Iterator[Any]:
        """Iterates over a value of the closed world, a step an item."""
        if isinstance(value, Undefined):
            return iter(value)
        if type(value) not in (str, list, tuple, dict, range):
            raise TypeError(f"a {type(value).__name__} is not iterable")
        return self.budget.steps_over(reversed(value) if backwards else value)

    def hashable(self, key: Any) -> Any:
        """The key, unless hashing it could cost more than a glance."""
        if type(key) not in (str, int, float, bool, type(None)):
            raise TypeError(f"a {type(key).__name__} cannot be a key in a chat template")
        return key

    def reader(self, attribute: Any, default: Any = None) -> Callable[[Any], Any]:
        """Reads a dotted attribute of an item; with None, the item itself."""
        parts = [] if attribute is None else to_text(self, attribute).split(".")
        keys = [int(part) if part.isdecimal() and len(part) < 10 else part for part in parts]

        def read(item: Any) -> Any:
            for key in keys:
                item = self.getitem(item, key)
            return default if default is not None and isinstance(item, Undefined) else item

        return read

    # ---- access --------------------------------------------------------------------------------

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``: methods in METHODS, items of mappings, parts of loops."""
        self.budget.step()
        kind = type(obj)
        method = METHODS.get(kind, {}).get(attribute)
        if method is not None:
            return partial(method, self, obj)
        if kind is dict and attribute in obj:
            return obj[attribute]
        if isinstance(obj, Undefined):
            return getattr(obj, attribute)  # raises with the name of what is undefined
        if kind is LoopContext and attribute in _LOOP_ATTRIBUTES:
            value = getattr(obj, attribute)
            return partial(value) if attribute == "cycle" else value
        if attribute.startswith("_") or (kind is not Namespace and hasattr(kind, attribute)):
            raise SecurityError(f"a template may not read {attribute!r} of a {kind.__name__}")
        if kind is Namespace:
            try:
                return getattr(obj, attribute)
            except AttributeError:
                pass
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``; falls back to the attribute, as Jinja2 does."""
        self.budget.step()
        self.hashable(argument)
        if isinstance(obj, Undefined):
            return obj[argument]  # raises with the name of what is undefined
        if type(obj) in (dict, list, tuple, str, range):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                pass
        if type(argument) is str:
            return self.getattr(obj, argument)
        return self.undefined(obj=obj, name=argument)

    def is_safe_callable(self, obj: Any) -> bool:
        """Only macros, loops and what getattr and the globals hand out."""
        return type(obj) in (Macro, LoopContext, partial) or obj is _raise_exception

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """``obj(…)``: a step, and a level of a bounded depth."""
        __self.budget.step()
        __self.budget.spend(64 * (1 + len(kwargs)) + 8 * len(args))
        if isinstance(__obj, Undefined):
            return __obj()  # raises with the name of what is undefined
        if not __self.is_safe_callable(__obj):
            raise TypeError(f"a {type(__obj).__name__} cannot be called in a chat template")
        if isinstance(__obj, LoopContext):
            args = (__self.items(args[0]) if args else (),)
        if __self._calls >= MAX_DEPTH:
            raise ChatTemplateError(f"calls are nested deeper than {MAX_DEPTH} levels")
        __self._calls += 1
        try:
            return __context.call(__obj, *args, **kwargs)
        finally:
            __self._calls -= 1

    # ---- operators -----------------------------------------------------------------------------

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An arithmetic operator, its result paid for first."""
        self.budget.step()
        if operator == "+":
            return self.add(left, right)
        if operator == "*":
            self._pay_product(left, right)
        elif operator == "**":
            _check_bits(_bits(left) * (abs(right) if type(right) is int else 1))
        elif operator == "%" and type(left) is str:
            return percent(self, left, right)
        return self.binop_table[operator](left, right)

    def add(self, left: Any, right: Any) -> Any:
        """``left + right``."""
        if type(left) is str and type(right) is str:
            self.budget.spend(len(left) + len(right) if left.isascii() and right.isascii()
                              else 4 * (len(left) + len(right)))  # fmt: skip
        elif type(left) in (list, tuple) and type(right) is type(left):
            self.budget.spend(64 + 8 * (len(left) + len(right)))
        _check_bits(max(_bits(left), _bits(right)) + 1)
        return self.binop_table["+"](left, right)

    def _pay_product(self, left: Any, right: Any) -> None:
        if type(right) in (str, list, tuple):
            left, right = right, left
        if type(left) in (str, list, tuple) and isinstance(right, int):
            self.budget.spend((4 if type(left) is str else 8) * len(left) * max(right, 0))
        else:
            _check_bits(_bits(left) + _bits(right))


def _bits(value: Any) -> int:
    return int(value).bit_length() if isinstance(value, int) else 0


def _check_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise ChatTemplateError(f"an integer has more than {MAX_INT_BITS} bits")


# ---- globals -----------------------------------------------------------------------------------


def _range(env: ChatEnvironment, *bounds: int) -> range:
    values = range(*bounds)
    if len(values) > _MAX_RANGE:
        raise ChatTemplateError(f"a range has {len(values)} items, expected at most {_MAX_RANGE}")
    return values


def _dict(env: ChatEnvironment, mapping: Any = (), /, **named: Any) -> dict[Any, Any]:
    pairs = mapping.items() if type(mapping) is dict else env.items(mapping)
    found = {env.hashable(key): value for key, value in pairs}
    env.budget.spend(128 * (1 + len(found) + len(named)))
    found.update(named)
    return found


def _namespace(env: ChatEnvironment, mapping: Any = (), /, **named: Any) -> Namespace:
    return Namespace(_dict(env, mapping, **named))


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(str(message) if type(message) is str else "raise_exception was called")


def _strftime_now(env: ChatEnvironment, form: str) -> str:
    if len(form) > _MAX_TIME_FORMAT:
        raise ChatTemplateError(f"strftime_now: the format is longer than {_MAX_TIME_FORMAT}")
    env.budget.spend(256 * len(form))  # the most that strftime writes
    return datetime.now().strftime(form)


# ---- compile and run ---------------------------------------------------------------------------


def render(template: str, variables: dict[str, Any], limits: ChatLimits) -> str:
    """The template's output; every failure arrives as ChatTemplateError."""
    if len(template) > limits.template_chars:
        raise ChatTemplateError(
            f"the chat template has {len(template)} characters, more than {limits.template_chars}"
        )
    code = _compiled(template)
    env = ChatEnvironment(limits)
    program = Template.from_code(env, code, env.globals)
    try:
        return _collect(env, program.root_render_func(program.new_context(variables)))
    except Exception as error:
        raise _explained(error, program) from error


def _collect(env: ChatEnvironment, pieces: Iterator[str]) -> str:
    written: list[str] = []
    chars = 0
    for piece in pieces:
        chars += len(piece)
        if chars > env.budget.limits.output_chars:
            raise ChatTemplateError(
                f"the prompt is longer than {env.budget.limits.output_chars} characters"
            )
        written.append(piece)
    return "".join(written)


@lru_cache(maxsize=16)
def _compiled(template: str) -> CodeType:
    """Code of the transformed template: nothing of it has run yet."""
    env = ChatEnvironment(ChatLimits())
    try:
        _check_shape(env, template)
        tree = _PayFirst().visit(env.parse(template))
        return env.compile(tree, filename=_FILE)
    except Exception as error:
        raise _explained(error, None) from error


def _check_shape(env: ChatEnvironment, template: str) -> None:
    """Refuses what would keep Jinja2's or Python's compiler busy, or overflow its stack."""
    if _LONG_NUMBER.search(template):
        raise ChatTemplateError("a number in the template has 300 digits or more")
    tokens = expression = brackets = blocks = 0
    previous = tag = ""
    for line, kind, value in env.lex(template):
        if kind == "whitespace":
            continue
        tokens += 1
        expression += 1
        if kind in ("block_begin", "variable_begin"):
            expression, tag = 0, ""
        elif previous == "block_begin":
            tag = value
            blocks += -1 if tag.startswith("end") else tag in _NESTING
        elif kind == "operator":
            brackets += (value in "([{") - (value in ")]}")
            if value == "=" and tag == "set" and brackets == 0:  # an assignment, not a block
                blocks, tag = blocks - 1, ""
        previous = kind
        if max(brackets, blocks) > MAX_DEPTH:
            raise ChatTemplateError(f"line {line}: nested deeper than {MAX_DEPTH} levels")
        if tokens > _MAX_TOKENS or expression > _MAX_EXPRESSION_TOKENS:
            raise ChatTemplateError(f"line {line}: the template is too large to compile")


def _explained(error: Exception, program: Template | None) -> ChatTemplateError:
    """One line that says what went wrong and in which line of the template."""
    text = " ".join(str(error)[: 4 * _MAX_MESSAGE].split()) or type(error).__name__
    line = getattr(error, "lineno", None)
    if isinstance(error, (RecursionError, SyntaxError)):  # Python's, of the generated code
        text, line = "it is nested or recurses too deeply", None
    elif not isinstance(error, (TemplateError, ChatTemplateError)):
        text = f"{type(error).__name__}: {text}"
    frame = error.__traceback__
    while program is not None and frame is not None:
        if frame.tb_frame.f_code.co_filename == _FILE:
            line = program.get_corresponding_lineno(frame.tb_lineno)
        frame = frame.tb_next
    where = f", line {line}" if line else ""
    return ChatTemplateError(f"chat template{where}: {text[:_MAX_MESSAGE]}")
