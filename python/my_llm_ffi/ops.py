"""Tensor ops. Inputs come from any DLPack framework; outputs have the framework of the first one.

Each function is made from the op's declaration when it is first used (:mod:`my_llm_ffi.render`);
``ops.pyi`` shows them all, and ``python -m my_llm_ffi.ops`` prints a table of them.
"""

from __future__ import annotations

import sys
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name.startswith("__"):
        raise AttributeError(name)
    from . import declaration, render

    try:
        op = declaration.load(name)
    except KeyError:
        raise AttributeError(f"my_llm_ffi.ops has no op {name!r}") from None
    function = globals()[name] = render.compile_op(op)
    return function


def __dir__() -> list[str]:
    from . import declaration

    return declaration.op_names()


if __name__ == "__main__":
    from my_llm_ffi.reference import main

    sys.exit(main())
