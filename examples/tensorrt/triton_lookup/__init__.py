"""LookUp with a Triton kernel: importing this package registers it."""

from .plugin import LookUp

__all__ = ["LookUp"]
