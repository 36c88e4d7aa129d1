"""Which plugins an engine needs: written beside it, checked before TensorRT loads it.

An engine names its plugins too, but TensorRT finds them missing in the middle of loading, and says
no more than a name. A manifest is data: nothing that stands in it is imported or run.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import bindings
from .fields import is_c_string
from .plugin_base import PluginBase, registry, used

FORMAT = 1
SUFFIX = ".plugins.json"


def manifest_path(engine: str | Path) -> Path:
    """Where the manifest of an engine's file is."""
    return Path(f"{engine}{SUFFIX}")


def save_engine(
    path: str | Path,
    engine: Any,
    *,
    plugins: Iterable[PluginBase | type[PluginBase]] | None = None,
) -> Path:
    """Writes an engine, and its manifest beside it.

    Args:
        path: Of the engine.
        engine: What `Builder.build_serialized_network` or `ICudaEngine.serialize` gave.
        plugins: Those in it; None: all that this process added to networks.

    Returns:
        Path of the manifest.

    Raises:
        TypeError: There is no engine: the build failed; or a plugin is none.
    """
    if engine is None:
        raise TypeError(
            "save_engine: engine is None: the build failed, and TensorRT's log says why"
        )
    data = engine_bytes("save_engine", engine)
    classes = used.values() if plugins is None else [_class(plugin) for plugin in _listed(plugins)]
    rows = {(c.plugin_name, c.plugin_version, c.plugin_namespace): _row(c) for c in classes}
    listed = [row for _, row in sorted(rows.items())]
    text = json.dumps(
        {
            "format": FORMAT,
            "engine_bytes": len(data),
            "engine_sha256": hashlib.sha256(data).hexdigest(),
            "plugins": listed,
        },
        indent=2,
    )
    Path(path).write_bytes(data)
    manifest = manifest_path(path)
    manifest.write_text(text + "\n", "utf-8")
    return manifest


def engine_bytes(function: str, engine: Any) -> bytes:
    """A serialized engine's bytes.

    Raises:
        TypeError: It has none; says so for a function.
    """
    try:
        return bytes(memoryview(engine))  # not bytes(engine), which makes zeros of a number
    except TypeError:
        said = (
            f"{function}: engine is {type(engine).__name__}, expected a serialized engine's bytes"
        )
        raise TypeError(said) from None


def _listed(plugins: Any) -> Iterable[Any]:
    if isinstance(plugins, Iterable) and not isinstance(plugins, str):
        return plugins
    raise TypeError(f"save_engine: plugins is {plugins!r}, expected a list of plugins")


def _class(plugin: PluginBase | type[PluginBase]) -> type[PluginBase]:
    cls = plugin if isinstance(plugin, type) else type(plugin)
    if not issubclass(cls, PluginBase) or "plugin_name" not in vars(cls) or cls is PluginBase:
        raise TypeError(f"save_engine: {plugin!r} is no registered plugin")
    return cls


def _row(cls: type[PluginBase]) -> dict[str, str]:
    package = cls.__module__
    if package == "__main__":  # a script: its name is not that of a module to import
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        package = spec.name if spec is not None else ""
    elif package.startswith(__package__ + "."):
        package = __package__
    return {
        "name": cls.plugin_name,
        "version": cls.plugin_version,
        "namespace": cls.plugin_namespace,
        "module": package,
    }


def load_engine(path: str | Path) -> bytes:
    """Reads an engine, after its manifest was checked where there is one.

    Args:
        path: Of the engine.

    Raises:
        LookupError: A plugin is not registered; says what to import.
        ValueError: The manifest is none, or belongs to another engine.
    """
    data = Path(path).read_bytes()
    manifest = manifest_path(path)
    if manifest.exists():
        check_manifest(manifest, data)
    return data


def check_manifest(path: str | Path, engine: bytes) -> None:
    """Refuses an engine whose plugins are not there.

    Args:
        path: Of the manifest.
        engine: The engine's bytes.

    Raises:
        TypeError: The engine is none.
        LookupError: A plugin is not registered; says what to import.
        ValueError: The manifest is none, or belongs to another engine.
    """
    data = engine_bytes("check_manifest", engine)
    content = _read(Path(path))
    if content["engine_sha256"] != hashlib.sha256(data).hexdigest():
        raise ValueError(f"{path} belongs to another engine: size or content differ")
    missing = [row for row in content["plugins"] if not _is_there(row)]
    if missing:
        raise LookupError(f"{path}: {'; '.join(map(_what_to_do, missing))}")


def _read(path: Path) -> dict[str, Any]:
    """A manifest whose members are of the right types."""
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # of UTF-8 too, and of too large numbers
        raise ValueError(f"{path} is no manifest: {error}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is not int or found != FORMAT:
        raise ValueError(f"{path}: format is {found!r}, expected {FORMAT}")
    rows = content.get("plugins")
    keys = ("name", "version", "namespace", "module")
    whole = isinstance(content.get("engine_sha256"), str) and isinstance(rows, list)
    if not whole or not all(_is_row(row, keys) for row in rows):
        raise ValueError(f"{path} is no manifest: a member is missing or of another type")
    return dict(content)


def _is_row(row: Any, keys: Sequence[str]) -> bool:
    if not isinstance(row, dict):
        return False
    texts = [row.get(key) for key in keys]
    return all(isinstance(text, str) and is_c_string(text) for text in texts)


def _is_there(row: dict[str, str]) -> bool:
    key = (row["name"], row["version"], row["namespace"])
    if bindings.trt is None:
        return key in registry
    return bindings.trt.get_plugin_registry().get_creator(*key) is not None


def _what_to_do(row: dict[str, str]) -> str:
    said = (
        f"plugin {row['name']}, version {row['version']} of namespace {row['namespace']!r}, is not "
        "registered: "
    )
    same = [key[1] for key in registry if (key[0], key[2]) == (row["name"], row["namespace"])]
    if same and row["module"]:
        return f"{said}version {', '.join(sorted(same))} is, expected another {row['module']}"
    if row["module"]:
        return f"{said}import {row['module']} before the engine is loaded"
    return (
        f"{said}run the script that defines it, or import its module, before the engine is loaded"
    )
