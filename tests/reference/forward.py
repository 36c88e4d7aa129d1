"""A transformer in NumPy float64 over a GGUF file, with llama.cpp's sequence operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

NEOX_ARCHITECTURES = ("qwen2",)


@dataclass(frozen=True)
class Token:
    """One entry of a batch."""

    token: int
    position: int
    seq_ids: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Entry:
    """What the cache holds of one token; never changed once its batch is decoded."""

    position: int
    k: np.ndarray  # [layers, kv_heads, head_dim], rotated for `position`
    v: np.ndarray  # [layers, kv_heads, head_dim]


class ReferenceModel:
    """Weights of a file, dequantized by `gguf.quants`, and the layers' mathematics.

    Args:
        path: GGUF file of architecture llama or qwen2.
        dtype: float64 for an oracle; float32 where memory matters more than the last digits.
    """

    def __init__(self, path: Path, dtype: type = np.float64) -> None:
        """Reads the whole file."""
        reader = gguf.GGUFReader(path)
        self.dtype = dtype
        self.metadata: dict[str, Any] = {k: f.contents() for k, f in reader.fields.items()}
        self.weights = {t.name: self._dequantize(t) for t in reader.tensors}
        self.architecture: str = self.metadata["general.architecture"]
        self.n_layers = int(self._key("block_count"))
        self.n_embd = int(self._key("embedding_length"))
        self.n_heads = int(self._key("attention.head_count"))
        self.n_kv_heads = int(self._key("attention.head_count_kv", self.n_heads))
        self.head_dim = int(self._key("attention.key_length", self.n_embd // self.n_heads))
        self.eps = float(self._key("attention.layer_norm_rms_epsilon"))
        self.freq_base = float(self._key("rope.freq_base", 10000.0))
        self.rotary_dims = int(self._key("rope.dimension_count", self.head_dim))
        self.n_vocab = self.weights["token_embd.weight"].shape[0]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """[tokens, n_vocab]: one sequence from position 0 in an empty cache."""
        return ReferenceContext(self).decode([Token(t, p) for p, t in enumerate(tokens)])

    def rope(self, x: np.ndarray, position: int) -> np.ndarray:
        """Turns x [..., head_dim] by `position`: pairs (2i, 2i+1), or (i, i+d/2) for NeoX."""
        half = self.rotary_dims // 2
        factors = self.weights.get("rope_freqs.weight", np.ones(half))
        angle = position * self.freq_base ** (-np.arange(half) / half) / factors
        if self.architecture in NEOX_ARCHITECTURES:
            first, second = slice(0, half), slice(half, 2 * half)
        else:
            first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
        out: np.ndarray = x.copy()
        a, b = x[..., first], x[..., second]
        out[..., first] = a * np.cos(angle) - b * np.sin(angle)
        out[..., second] = a * np.sin(angle) + b * np.cos(angle)
        return out

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """Root-mean-square norm over the last axis (Zhang and Sennrich, arXiv:1910.07467)."""
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return np.asarray(x * scale * self.weights[f"{name}.weight"])

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """X [tokens, cols] times the weight [rows, cols] transposed, plus the bias if any."""
        out: np.ndarray = x @ self.weights[f"{name}.weight"].T
        if f"{name}.bias" in self.weights:
            out += self.weights[f"{name}.bias"]
        return out

    def feed_forward(self, x: np.ndarray, block: str) -> np.ndarray:
        """SwiGLU (Shazeer, arXiv:2002.05202) with its norm; x [tokens, n_embd]."""
        h = self.norm(x, f"{block}.ffn_norm")
        gate = self.linear(h, f"{block}.ffn_gate")
        gated = gate / (1 + np.exp(-gate)) * self.linear(h, f"{block}.ffn_up")
        return self.linear(gated, f"{block}.ffn_down")

    def head(self, x: np.ndarray) -> np.ndarray:
        """[tokens, n_vocab]; a file without output.weight is tied to its embedding."""
        tied = "output.weight" not in self.weights
        return self.linear(self.norm(x, "output_norm"), "token_embd" if tied else "output")

    def _key(self, name: str, default: Any = None) -> Any:
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        if value is None:
            raise KeyError(f"{self.architecture}.{name}")
        return value

    def _dequantize(self, tensor: gguf.ReaderTensor) -> np.ndarray:
        values = gguf.quants.dequantize(np.asarray(tensor.data), tensor.tensor_type)
        return np.asarray(values, self.dtype)


class ReferenceContext:
    """Sequences as plain lists of entries: what a token sees is its sequence's list, in full view.

    Args:
        model: The weights.
        kv_dtype: Keys and values are rounded to this on their way into the cache.
    """

    def __init__(self, model: ReferenceModel, kv_dtype: type | None = None) -> None:
        """Starts with an empty cache."""
        self.model = model
        self.kv_dtype = kv_dtype or model.dtype
        self.sequences: dict[int, list[Entry]] = {}

    def decode(self, batch: Iterable[Token]) -> np.ndarray:
        """Logits [tokens, n_vocab] of every token of the batch."""
        return self.model.head(self.hidden(batch))

    def hidden(self, batch: Iterable[Token]) -> np.ndarray:
        """What the head's norm reads: [tokens, n_embd] of every token of the batch."""
        model, tokens = self.model, list(batch)
        shape = (model.n_layers, model.n_kv_heads, model.head_dim)
        fresh = [Entry(t.position, np.zeros(shape), np.zeros(shape)) for t in tokens]
        for token, entry in zip(tokens, fresh):
            for seq in token.seq_ids:
                self.sequences.setdefault(seq, []).append(entry)
        x = model.weights["token_embd.weight"][[t.token for t in tokens]]
        for layer in range(model.n_layers):
            x = x + self._attention(x, tokens, fresh, layer)
            x = x + model.feed_forward(x, f"blk.{layer}")
        return x

    def visible(self, seq: int, position: int) -> list[Entry]:
        """What a token of `seq` at `position` attends to."""
        return [e for e in self.sequences.get(seq, []) if e.position <= position]

    def remove(self, seq: int, p0: int = 0, p1: int | None = None) -> None:
        """Forgets positions p0 <= p < p1."""
        self.sequences[seq] = [e for e in self._entries(seq) if not _inside(e, p0, p1)]

    def copy(self, src: int, dst: int, p0: int = 0, p1: int | None = None) -> None:
        """Gives dst the entries of src at p0 <= p < p1."""
        shared = [e for e in self._entries(src) if _inside(e, p0, p1)]
        self.sequences[dst] = [*self._entries(dst), *shared]

    def keep(self, seq: int) -> None:
        """Forgets every other sequence."""
        self.sequences = {seq: self._entries(seq)}

    def shift(self, seq: int, p0: int, p1: int | None, delta: int) -> None:
        """Moves positions p0 <= p < p1 by delta: keys turn by delta more, values stay."""
        self.sequences[seq] = [
            replace(e, position=e.position + delta, k=self.model.rope(e.k, delta))
            if _inside(e, p0, p1)
            else e
            for e in self._entries(seq)
        ]

    def _entries(self, seq: int) -> list[Entry]:
        return self.sequences.get(seq, [])

    def _attention(
        self, x: np.ndarray, tokens: list[Token], fresh: list[Entry], layer: int
    ) -> np.ndarray:
        model, block = self.model, f"blk.{layer}"
        h = model.norm(x, f"{block}.attn_norm")
        split = (len(tokens), -1, model.head_dim)
        q = model.linear(h, f"{block}.attn_q").reshape(split)
        k = model.linear(h, f"{block}.attn_k").reshape(split)
        v = model.linear(h, f"{block}.attn_v").reshape(split)
        for row, entry in enumerate(fresh):
            entry.k[layer] = model.rope(k[row], entry.position).astype(self.kv_dtype)
            entry.v[layer] = v[row].astype(self.kv_dtype)
        mixed = [self._attend(q[row], token, layer) for row, token in enumerate(tokens)]
        return model.linear(np.stack(mixed).astype(model.dtype), f"{block}.attn_output")

    def _attend(self, q: np.ndarray, token: Token, layer: int) -> np.ndarray:
        """Softmax attention of one token, q [heads, head_dim] before rope; flat [heads * dim]."""
        seen = self.visible(token.seq_ids[0], token.position)
        group = self.model.n_heads // self.model.n_kv_heads
        k = np.stack([e.k[layer] for e in seen]).repeat(group, axis=1)  # [seen, heads, head_dim]
        v = np.stack([e.v[layer] for e in seen]).repeat(group, axis=1)
        rotated = self.model.rope(q, token.position)
        scores = np.einsum("hd,ehd->he", rotated, k) / np.sqrt(self.model.head_dim)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.asarray(np.einsum("he,ehd->hd", weights, v)).reshape(-1)


def _inside(entry: Entry, p0: int, p1: int | None) -> bool:
    return p0 <= entry.position and (p1 is None or entry.position < p1)
