"""Writes LoRA adapters as llama.cpp's converter does, and what they make of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gguf
import numpy as np

from .stored import stored

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Adapter:
    """A pair [rank, cols], [rows, rank] for each matrix that it changes."""

    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    alpha: float = 16.0
    format: str = "F32"
    architecture: str = "llama"
    metadata: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """The adapter as a GGUF file."""
        writer = gguf.GGUFWriter(path, self.architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", self.alpha)
        for key, value in self.metadata.items():
            writer.add_string(key, value)
        kind = gguf.GGMLQuantizationType[self.format]
        for name, pair in self.pairs.items():
            for half, values in zip(("lora_a", "lora_b"), pair):
                data = stored(self.format, values)
                writer.add_tensor(f"{name}.{half}", data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def changed(self, weights: dict[str, np.ndarray], scale: float = 1.0) -> dict[str, np.ndarray]:
        """The weights with the adapter merged into them, in float64."""
        merged = dict(weights)
        for name, (a, b) in self.pairs.items():
            factor = scale * (self.alpha / len(a) if self.alpha else 1.0)
            merged[name] = merged[name] + factor * (self._values(b) @ self._values(a))
        return merged

    def _values(self, values: np.ndarray) -> np.ndarray:
        """What the file holds of them."""
        kind = gguf.GGMLQuantizationType[self.format]
        read = gguf.quants.dequantize(stored(self.format, values), kind)
        return np.asarray(read, np.float64)


def random_adapter(
    weights: dict[str, np.ndarray], *, rank: int = 8, seed: int = 0, **options: object
) -> Adapter:
    """A pair for every matrix but the embedding, large enough to change every logit."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, cols: int) -> np.ndarray:
        return np.asarray(rng.standard_normal((rows, cols)) / np.sqrt(cols) / 2, np.float32)

    pairs = {
        name: (matrix(rank, values.shape[1]), matrix(values.shape[0], rank))
        for name, values in weights.items()
        if values.ndim == 2 and name != "token_embd.weight"
    }
    return Adapter(pairs, **options)  # type: ignore[arg-type]
