"""Which generated files there are, and what each holds: what scripts/generate writes."""

from __future__ import annotations

from . import c, cpp, cpp_objects, interface, rust


def generated() -> dict[str, str]:
    """Path in the source tree and text of each."""
    ops = interface.ops()
    return {
        "include/my_llm_ffi/types.h": cpp_objects.types_header(),
        "include/my_llm_ffi/objects.h": cpp_objects.objects_header(),
        "include/my_llm_ffi/objects_inl.h": cpp_objects.objects_inline_header(),
        "include/my_llm_ffi/ops.h": cpp.ops_header(ops),
        "include/my_llm_ffi/c_ops.h": c.ops_header(ops),
        "include/my_llm_ffi/c_objects.h": c.objects_header(),
        "rust/my-llm-ffi/src/ops.rs": rust.source(ops),
        "tests/parity/cpp/dispatch.h": cpp.dispatch(ops),
        "tests/parity/c/dispatch.h": c.dispatch(ops),
    }
