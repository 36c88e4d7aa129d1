"""LoRA adapters: low-rank changes of a model's matrices."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Union

from . import _ffi_api
from .checks import as_number, as_path

if TYPE_CHECKING:
    from .model import Model


class LoraAdapter(_ffi_api.Wrapper):
    """An adapter loaded for a model; any number of contexts and threads share it.

    ``y = W x + scale * alpha / rank * B (A x)`` for each matrix W that it changes (Hu et al.,
    arXiv:2106.09685). The file is what llama.cpp's ``convert_lora_to_gguf.py`` writes.

    Args:
        path: The adapter's GGUF file.
        model: The model, whose architecture and matrices must be those of the adapter.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no adapter, or not one for this model; the message names the tensor.
        NotImplementedError: It changes the embedding, norms or biases.
    """

    def __init__(self, path: str | bytes | os.PathLike[Any], model: Model) -> None:
        self._handle: Any = _ffi_api.LoraAdapter.load(model._handle, as_path("path", path))

    @property
    def alpha(self) -> float:
        """Its scale is ``alpha / rank``; 0: it is 1."""
        return float(self._handle.alpha())

    @property
    def n_matrices(self) -> int:
        """How many matrices of the model it changes."""
        return int(self._handle.n_matrices())

    @property
    def size_bytes(self) -> int:
        """Bytes of its matrices in the file."""
        return int(self._handle.bytes())


_Path = Union[str, bytes, "os.PathLike[Any]"]
LoraUse = Union[_Path, LoraAdapter, "tuple[_Path | LoraAdapter, float]"]


def lora_uses(lora: LoraUse | Iterable[LoraUse], model: Model) -> tuple[list[Any], list[float]]:
    """Native adapters and their scales; files are loaded for ``model``.

    Args:
        lora: One use, or several: a path, a `LoraAdapter`, or one of these with its scale.
        model: The model.

    Raises:
        TypeError: A use is none of these.
        ValueError: A scale is not finite, or as `LoraAdapter`.
    """
    uses = [lora] if _is_use(lora) else list(lora)  # type: ignore[arg-type]
    handles, scales = [], []
    for use in uses:
        if not _is_use(use):
            raise TypeError(
                f"lora: {type(use).__name__} is no adapter, expected a path, a LoraAdapter, or a "
                "pair of one of these and a scale"
            )
        given, scale = use if isinstance(use, tuple) else (use, 1.0)
        if not math.isfinite(as_number("lora scale", scale)):
            raise ValueError(f"lora: scale is {scale}, expected a finite number")
        adapter = given if isinstance(given, LoraAdapter) else LoraAdapter(given, model)
        handles.append(adapter._handle)
        scales.append(float(scale))
    return handles, scales


def _is_use(item: object) -> bool:
    if isinstance(item, tuple):
        return (
            len(item) == 2
            and not isinstance(item[0], tuple)
            and _is_use(item[0])
            and isinstance(item[1], numbers.Real)
        )
    return isinstance(item, (str, bytes, os.PathLike, LoraAdapter))
