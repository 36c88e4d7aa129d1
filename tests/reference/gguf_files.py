"""Writes tiny GGUF models: random ones (write_tiny) and ones that say what they are told to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gguf
import numpy as np

from .stored import stored
from .vocabularies import CHAT_TEMPLATE, Vocabulary, bpe_vocabulary, spm_vocabulary

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class TinySpec:
    """Everything that decides the bytes of a model file."""

    architecture: str = "llama"  # or "qwen2": NeoX rope, biases on q, k and v
    n_layers: int = 2
    n_embd: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    n_ff: int = 96
    n_ctx_train: int = 512
    format: str = "F32"  # of every matrix whose rows are whole blocks; F16 for the others. Formats
    # that gguf cannot write hold random blocks of about the size of the weights.
    tied: bool = False  # no output.weight: the embedding is the head
    freq_factors: bool = False  # llama3's rope_freqs.weight
    tokenizer: str = "spm"  # or "bpe"
    chat_template: str | None = CHAT_TEMPLATE
    seed: int = 0

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.n_embd // self.n_heads

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that the file holds."""
        if self.tokenizer == "spm":
            return spm_vocabulary()
        return bpe_vocabulary("qwen2" if self.architecture == "qwen2" else "gpt-2")


def write_tiny(path: Path, spec: TinySpec) -> Path:
    """Writes a random model; the same spec gives the same bytes."""
    return _write(path, spec, random_tensors(spec))


def write_scripted(path: Path, spec: TinySpec, chain: dict[int, int], *, gap: float = 12.0) -> Path:
    """Writes a model whose next token depends on the last token alone: `chain` maps last to next.

    Attention and feed-forward add nothing, token t of the chain is embedded as a basis vector and
    the head row of chain[t] points along it, so that the logit of chain[t] is `gap` and every other
    logit 0. After a token outside the chain all logits are 0 (a greedy choice is token 0).
    """
    if len(chain) > spec.n_embd - 1:
        raise ValueError(f"a chain of {len(chain)} tokens needs n_embd > {len(chain)}")
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            tensors[name][:] = 0
    tensors["output_norm.weight"][:] = 1
    embedding = np.zeros((spec.vocabulary.size, spec.n_embd), np.float32)
    embedding[:, -1] = 1  # of tokens outside the chain; no head row looks there
    head = np.zeros_like(embedding)
    for axis, (last, following) in enumerate(chain.items()):
        embedding[last] = np.eye(spec.n_embd)[axis]
        head[following, axis] = gap / np.sqrt(spec.n_embd)  # the norm gives the axis sqrt(n_embd)
    tensors["token_embd.weight"], tensors["output.weight"] = embedding, head
    return _write(path, spec, tensors)


def random_tensors(spec: TinySpec) -> dict[str, np.ndarray]:
    """Float32 weights by GGUF name, scaled so that every layer and head matters to the logits."""
    rng = np.random.default_rng(spec.seed)
    embd, ff, kv = spec.n_embd, spec.n_ff, spec.n_kv_heads * spec.head_dim

    def matrix(rows: int, cols: int, scale: float = 1.0) -> np.ndarray:
        values = rng.standard_normal((rows, cols)) * scale / np.sqrt(cols)
        return np.asarray(values, np.float32)

    def norm() -> np.ndarray:
        return rng.uniform(0.5, 1.5, embd).astype(np.float32)

    tensors = {"token_embd.weight": matrix(spec.vocabulary.size, embd, np.sqrt(embd))}
    if spec.freq_factors:
        factors = np.linspace(1, 8, spec.head_dim // 2)
        tensors["rope_freqs.weight"] = factors.astype(np.float32)
    for layer in range(spec.n_layers):
        block = {
            "attn_norm.weight": norm(),
            "attn_q.weight": matrix(embd, embd, 1.5),
            "attn_k.weight": matrix(kv, embd, 1.5),
            "attn_v.weight": matrix(kv, embd),
            "attn_output.weight": matrix(embd, embd),
            "ffn_norm.weight": norm(),
            "ffn_gate.weight": matrix(ff, embd),
            "ffn_up.weight": matrix(ff, embd),
            "ffn_down.weight": matrix(embd, ff),
        }
        if spec.architecture == "qwen2":
            for stem, width in (("q", embd), ("k", kv), ("v", kv)):
                block[f"attn_{stem}.bias"] = rng.standard_normal(width).astype(np.float32)
        tensors.update({f"blk.{layer}.{name}": value for name, value in block.items()})
    tensors["output_norm.weight"] = norm()
    if not spec.tied:
        tensors["output.weight"] = matrix(spec.vocabulary.size, embd, 3.0)
    return tensors


def _write(path: Path, spec: TinySpec, tensors: dict[str, np.ndarray]) -> Path:
    writer = gguf.GGUFWriter(path, spec.architecture)
    writer.add_name("tiny")
    writer.add_context_length(spec.n_ctx_train)
    writer.add_embedding_length(spec.n_embd)
    writer.add_block_count(spec.n_layers)
    writer.add_feed_forward_length(spec.n_ff)
    writer.add_head_count(spec.n_heads)
    writer.add_head_count_kv(spec.n_kv_heads)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(spec.vocabulary.size)
    spec.vocabulary.add_to(writer)
    if spec.chat_template is not None:
        writer.add_chat_template(spec.chat_template)
    for name, values in tensors.items():
        kind = tensor_type(spec.format, values)
        data = stored(kind.name, values) if values.ndim > 1 else values
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensor_type(format_name: str, values: np.ndarray) -> gguf.GGMLQuantizationType:
    """Vectors stay F32; a row that is no whole number of blocks is kept in F16."""
    if values.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    kind = gguf.GGMLQuantizationType[format_name]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return kind if values.shape[1] % block == 0 else gguf.GGMLQuantizationType.F16
