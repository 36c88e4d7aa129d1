"""Every op as a function of JAX, made from its declaration when it is first used.

They work eagerly and under ``jax.jit``, on the CPU and on CUDA devices (docs/guide_jax.md). Nothing
is written in place: an input that an op writes comes back as a further result, after the outputs.
``jax.pyi`` shows them all. Needs ``jax`` and ``jax-tvm-ffi``: ``pip install my-llm-ffi[jax]``.
"""

from __future__ import annotations

from typing import Any

try:
    from . import jax_calls as _calls
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"my_llm_ffi.jax: {error.name} is not installed, expected what "
        "`pip install my-llm-ffi[jax]` installs for Python 3.11 and later",
        name=error.name,
    ) from error


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name.startswith("__"):
        raise AttributeError(name)
    from . import declaration

    try:
        op = declaration.load(name)
    except KeyError:
        raise AttributeError(f"my_llm_ffi.jax has no op {name!r}") from None
    function = globals()[name] = _calls.compile_op(op)
    return function


def __dir__() -> list[str]:
    from . import declaration

    return declaration.op_names()
