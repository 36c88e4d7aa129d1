"""Takes back what `declare_op` and `register_kernel` did, for the tests after."""

from __future__ import annotations

import tvm_ffi

from my_llm_ffi import ops


def forget(name: str) -> None:
    """Removes an op and its kernels from the registry and from `my_llm_ffi.ops`."""
    for full in (name, f"{name}.cpu", f"{name}.cuda"):
        if tvm_ffi.get_global_func(f"my_llm_ffi.{full}", allow_missing=True) is not None:
            tvm_ffi.registry.remove_global_func(f"my_llm_ffi.{full}")
    vars(ops).pop(name, None)
