"""Writes abi.json, everything that callers in any language see by name; ``--print`` only shows it.

docs/abi.md says what a change of this list means.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import tvm_ffi
from tvm_ffi import core

from my_llm_ffi import base

GOLDEN = Path(__file__).with_name("abi.json")
PREFIX = "my_llm_ffi."


def schema_of(metadata: dict[str, Any]) -> str:
    """A type schema the way Python writes it: ``Callable[[Tensor, float], None]``."""
    schema = metadata.get("type_schema")
    return "untyped" if schema is None else str(core.TypeSchema.from_json_str(schema))


def functions() -> dict[str, str]:
    """Registered functions and their types."""
    names = tvm_ffi.registry.list_global_func_names()
    return {
        name: schema_of(tvm_ffi.get_global_func_metadata(name))
        for name in sorted(names)
        if name.startswith(PREFIX)
    }


def exports(path: Path) -> dict[str, str]:
    """Functions that the library exports as symbols, and their types."""
    module = tvm_ffi.load_module(str(path))
    names = re.findall(rb"\x00__tvm_ffi_([A-Za-z]\w*)(?=\x00)", path.read_bytes())
    return {
        name: schema_of(module.get_function_metadata(name) or {})
        for name in sorted({name.decode() for name in names})
    }


def describe_object(key: str) -> dict[str, Any]:
    """Parent, fields and methods of one object type."""
    info = core._lookup_or_register_type_info_from_type_key(key)
    fields = {
        f.name: f"{f.ty}{', read-only' if f.frozen else ''}"
        f"{', has a default' if f.c_has_default else ''}"
        for f in info.fields
    }
    methods = {
        m.name: ("static " if m.is_static else "") + schema_of(m.metadata or {})
        for m in sorted(info.methods, key=lambda m: m.name)
    }
    return {"parent": info.parent_type_info.type_key, "fields": fields, "methods": methods}


def objects() -> dict[str, Any]:
    """Object types."""
    keys = tvm_ffi.get_global_func("ffi.GetRegisteredTypeKeys")()
    return {str(k): describe_object(str(k)) for k in sorted(keys) if str(k).startswith(PREFIX)}


def collect() -> dict[str, Any]:
    """The whole list."""
    path = base.library_path()
    if path is None:
        raise SystemExit("update.py: install the package first: pip install .")
    return {"functions": functions(), "exports": exports(path), "objects": objects()}


def digest(listed: dict[str, Any]) -> str:
    """What CHANGELOG.md must name, so that no change of the list goes without a word there."""
    text = json.dumps(listed, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def main(argv: list[str]) -> int:
    """Writes or prints the list."""
    listed = collect()
    text = json.dumps(listed, indent=1, ensure_ascii=False) + "\n"
    if argv == ["--print"]:
        sys.stdout.write(text)
        return 0
    if argv:
        print("usage: python tests/golden/update.py [--print]", file=sys.stderr)
        return 2
    GOLDEN.write_text(text, "utf-8")
    print(f"wrote {GOLDEN}; say in CHANGELOG.md what changed and why, and name there")
    print(f"ABI {digest(listed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
