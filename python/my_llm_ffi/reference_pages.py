"""The reference of the package as Markdown, from its docstrings; ops have theirs in reference.py.

`PAGES` lists every public name once: tests/test_reference_pages.py fails for one that is nowhere.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from . import render_jax
from .declaration import Op

# Page -> its title, a line about it, and (module, names) in the order of the page.
PAGES: dict[str, tuple[str, str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    "models": (
        "Models",
        "GGUF files, their text and their tokens: [guide_models.md](../guide_models.md).",
        (
            ("", ("fetch_model", "Model", "ModelConfig", "Generation", "FinishReason")),
            ("", ("Vocab", "StreamDecoder", "Context", "Batch", "LoraAdapter")),
        ),
    ),
    "sampling": (
        "Sampling",
        "How the next token is chosen: `SamplingParams` for requests, `Sampler` step by step.",
        (
            ("", ("SamplingParams", "Sampler", "Penalties", "LogitBias", "Temperature", "TopK")),
            ("", ("TopP", "MinP", "TypicalP", "Draw")),
        ),
    ),
    "executor": (
        "Executor",
        "Many requests at once: [guide_executor.md](../guide_executor.md).",
        (
            ("", ("Executor", "ExecutorConfig", "SchedulerPolicy", "Request", "EarlyStopping")),
            ("", ("Response", "TokenLogprobs", "ResponseStream", "MaskEntry")),
        ),
    ),
    "guided": (
        "Guided decoding",
        "Text that follows a grammar: [guide_guided.md](../guide_guided.md).",
        (("guided", ()),),
    ),
    "custom": (
        "Ops of your own",
        "Declarations and kernels from Python, and frameworks that see them.",
        (
            ("", ("declare_op", "register_kernel", "load_ops")),
            ("torch", ("register",)),
        ),
    ),
    "plan": (
        "Plans",
        "Calls of ops put together once, and run by the library alone: "
        "[guide_plan.md](../guide_plan.md).",
        (
            ("", ("PlanBuilder", "Plan", "PlanValue")),
            ("plans", ("llama", "Session")),
        ),
    ),
    "package": (
        "The package",
        "What the library says of itself, the log, and the walk-through of tvm-ffi's guide.",
        (
            ("", ("build_info", "set_log_callback", "log_to_logging", "InternalError")),
            ("", ("add_one", "raise_error", "join_strings", "swap_pair", "invert_dict")),
            ("", ("call_with", "call_from_threads", "IntPair")),
            ("config", ("libdir", "includedir", "cmakedir", "cflags", "ldflags")),
        ),
    ),
}


def pages() -> dict[str, str]:
    """Text of each page, by its name without a suffix.

    Raises:
        ValueError: Something public has no docstring.
    """
    return {name: "\n".join(_page(name)) + "\n" for name in PAGES}


def _page(name: str) -> Iterator[str]:
    title, text, groups = PAGES[name]
    yield f"# {title}\n\n{text}\n"
    yield "This page is made by `scripts/generate` from the docstrings."
    for module, names in groups:
        yield from _group(module, names)


def _group(module: str, names: Sequence[str]) -> Iterator[str]:
    path = f"my_llm_ffi.{module}" if module else "my_llm_ffi"
    if module == "torch":  # which need not be installed
        yield from _TORCH_ENTRY
        return
    owner = importlib.import_module(path)
    for name in names or public_names(owner):
        yield from _entry(f"{module}.{name}" if module else name, getattr(owner, name))


_TORCH_ENTRY = (
    "\n## torch.register\n\n```python\ndef register(name: str) -> None\n```\n\n"
    "After `import my_llm_ffi.torch`, every op is `torch.ops.my_llm_ffi.<name>`; this registers\n"
    "one that was declared later.",
)


def public_names(module: Any) -> list[str]:
    """What a module offers: ``__all__``, or what it defines under a public name."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


# ---- entries ------------------------------------------------------------------------------------


def _entry(name: str, value: Any) -> Iterator[str]:
    kind = "class" if inspect.isclass(value) else "def"
    yield f"\n## {name}\n\n```python\n{kind} {value.__name__}{signature(value)}\n```\n"
    yield body(documentation(name, value))
    if inspect.isclass(value):
        if issubclass(value, enum.Enum):
            yield "\n" + ", ".join(f"`{member.name}`" for member in value)
        for attribute, member in members(value):
            yield from _member(f"{name}.{attribute}", attribute, member)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class of ours defines, its bases' included.

    Not those that its docstring lists and that have none of their own.
    """
    seen: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("my_llm_ffi"):
            for name, value in vars(base).items():
                if not name.startswith("_"):
                    seen.setdefault(name, value)
    for name, value in seen.items():
        plain = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        is_python = inspect.isfunction(getattr(plain, "fget", plain))  # C++ has no docstrings
        if is_python and (inspect.getdoc(plain) or f"    {name}: " not in (cls.__doc__ or "")):
            yield name, value


def _member(full: str, name: str, member: Any) -> Iterator[str]:
    text = documentation(full, member)
    if isinstance(member, property) and member.fget is not None:
        returns = _annotation(inspect.signature(member.fget).return_annotation)
        yield f"\n### {full}\n\n```python\n{name}: {returns}\n```\n"
    else:
        plain, prefix = member, ""
        if isinstance(member, (staticmethod, classmethod)):
            prefix = f"@{type(member).__name__}\n"
            plain = member.__func__
        yield f"\n### {full}\n\n```python\n{prefix}def {name}{signature(plain, bound=True)}\n```\n"
    yield body(text)


def documentation(name: str, value: Any) -> str:
    """The docstring.

    Raises:
        ValueError: There is none.
    """
    text = inspect.getdoc(value)
    if not text:
        raise ValueError(f"{name} has no docstring")
    return text


def body(text: str) -> str:
    """A docstring as Markdown: what is before the sections as text, these as they stand."""
    head, _, rest = text.replace("``", "`").partition("\n\n")
    lines = text.replace("``", "`").split("\n")
    for i, line in enumerate(lines):
        if line in _SECTIONS:
            head, rest = "\n".join(lines[:i]).rstrip(), "\n".join(lines[i:])
            return f"{head}\n\n```text\n{rest}\n```" if head else f"```text\n{rest}\n```"
    return "\n\n".join(filter(None, [head, rest]))


_SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Yields:")


# ---- signatures ---------------------------------------------------------------------------------


def signature(value: Any, *, bound: bool = False) -> str:
    """Parameters and result, the same text on every Python."""
    if inspect.isclass(value) and issubclass(value, (enum.Enum, Exception)):
        return f"({', '.join(base.__name__ for base in value.__bases__)})"
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    parameters = list(found.parameters.values())[1 if bound else 0 :]
    listed, star = [], False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not star:
            listed.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        listed.append(_parameter(p))
    returns = "" if inspect.isclass(value) else f" -> {_annotation(found.return_annotation)}"
    line = f"({', '.join(listed)}){returns}"
    return line if len(line) < 80 else "(\n    " + ",\n    ".join(listed) + f",\n){returns}"


def _parameter(p: inspect.Parameter) -> str:
    mark = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
    kind = "" if p.annotation is p.empty else f": {_annotation(p.annotation)}"
    default = "" if p.default is p.empty else f"{' = ' if kind else '='}{_default(p.default)}"
    return f"{mark}{p.name}{kind}{default}"


def _annotation(annotation: Any) -> str:
    if annotation in (inspect.Parameter.empty, None):
        return "None"
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "Any")
    return text.strip("'\"")


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    text = repr(value)
    return "…" if text.startswith("<") else text


# ---- the page of JAX ----------------------------------------------------------------------------


def jax_page(ops: Sequence[Op]) -> str:
    """The page of :mod:`my_llm_ffi.jax`: signatures, with what an op writes among the results."""
    entries = []
    for op in ops:
        results = ", ".join(f"`{name}`" for name in render_jax.results(op))
        head = render_jax.head(op).rstrip(":")
        entries.append(
            f"\n## {op.name}\n\n```python\n{head}\n```\n\nResults: {results}. "
            f"Arguments: [ops.md](ops.md#{op.name}).\n"
        )
    return _JAX_PAGE + "".join(entries)


_JAX_PAGE = """\
# Functions of JAX

`my_llm_ffi.jax.<name>` takes arrays of JAX or NumPy and works eagerly and under `jax.jit`,
`jax.vmap` and `jax.export`: [guide_jax.md](../guide_jax.md). What an op writes in place is a
result here.

This page is made by `scripts/generate` from the declarations in `src/kernels/`.
"""
