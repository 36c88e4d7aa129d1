"""An extension made with nanobind that calls my_llm_ffi, and that my_llm_ffi calls.

Importing my_llm_ffi first loads the library whose functions the extension looks up.
"""

from __future__ import annotations

import my_llm_ffi as my_llm_ffi  # before the extension

from ._mixing import (
    Vetoes,
    call_registered,
    first_of_pair,
    normalized,
    register_callable,
    register_vetoes,
)

__all__ = [
    "Vetoes",
    "call_registered",
    "first_of_pair",
    "normalized",
    "register_callable",
    "register_vetoes",
]
