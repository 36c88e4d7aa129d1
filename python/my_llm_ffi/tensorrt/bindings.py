"""The `tensorrt` module, where it is installed: nothing else here imports it."""

from __future__ import annotations

import importlib
from typing import Any


def _load() -> tuple[Any, str]:
    """The module, or None and why."""
    try:
        module = importlib.import_module("tensorrt")
    except ImportError as error:
        return None, str(error)
    # A folder of that name on the path, or TensorRT before 10.3.
    if not hasattr(module, "IPluginV3OneBuildV2"):
        return None, f"{getattr(module, '__file__', None) or module} has no IPluginV3OneBuildV2"
    return module, ""


trt, _WHY_NOT = _load()


def require() -> Any:
    """The `tensorrt` module.

    Raises:
        ImportError: It is not there, or too old; says why.
    """
    if trt is None:
        raise ImportError(f"this needs TensorRT >= 10.3 (the Python module tensorrt): {_WHY_NOT}")
    return trt
