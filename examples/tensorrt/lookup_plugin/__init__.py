"""A package of TensorRT plugins: importing it registers them, whoever loads an engine with them.

The convention: one module per plugin, all imported here; the namespace is the package's name. An
engine's manifest then says "import lookup_plugin".
"""

from .lookup import LookUp

__all__ = ["LookUp"]
