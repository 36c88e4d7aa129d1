"""Whole models as plans: the forward pass of a GGUF file, written as calls of public ops.

What the library's own model path computes is computed here by nothing but ops, with the same bits,
and the plan that comes out runs from any language. docs/guide_plan.md walks through it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from . import _ffi_api, ops
from .checks import as_count, as_ids, as_path
from .model import Model, ModelConfig
from .plan import Plan, PlanBuilder, PlanValue

PAGE_SIZE = 32  # entries of a page of the KV cache (paged_attention)
_ARCHITECTURES = ("llama", "qwen2")
_KV_DTYPES = ("float16", "float32")


def llama(path: str | os.PathLike[str], *, kv_dtype: str = "float16") -> Plan:
    """The forward pass of a decoder in the manner of Llama, its weights packed into the plan.

    Inputs, for ``n`` tokens of any mix of sequences, of which ``m`` want logits:

    ======================  ===============================================================
    ``tokens``              int32 ``[n]``
    ``positions``           int32 ``[n]``, of each in its sequence
    ``rows``                int32 ``[n]``, row of the block table of each
    ``slots``               int64 ``[n]``, entry that stores each: page * 32 + offset
    ``block_table``         int32 ``[sequences, max_pages]``, pages of each sequence, then -1
    ``page_positions``      int32 ``[pages, 32]``, position of each entry, negative where empty;
                            those of these tokens are there already
    ``k_pages``             ``[layers, pages, kv_heads, head_dim, 32]``, written in place
    ``v_pages``             ``[layers, pages, kv_heads, 32, head_dim]``, written in place
    ``outputs``             int32 ``[m]``, tokens whose logits are wanted
    ======================  ===============================================================

    Output: ``logits``, float32 ``[m, vocabulary]``. `Session` keeps a cache for one sequence.

    Args:
        path: A GGUF file of architecture llama (SmolLM2, TinyLlama, Llama 1 to 3, Mistral 7B) or
            qwen2.
        kv_dtype: Of the pages: ``"float16"`` or ``"float32"``.

    Raises:
        NotImplementedError: Another architecture, or a feature that the model path lacks too.
        OSError: The file cannot be read.
        ValueError: It is no such model, or ``kv_dtype`` is another.
    """
    if kv_dtype not in _KV_DTYPES:
        raise ValueError(f"kv_dtype is {kv_dtype!r}, expected one of {', '.join(_KV_DTYPES)}")
    with Model(path, repack=False) as model:  # checks all that it says of itself
        config, metadata = model.config, model.metadata
        if config.architecture not in _ARCHITECTURES:
            raise NotImplementedError(
                f"plans.llama: architecture {config.architecture!r}, expected one of "
                f"{', '.join(_ARCHITECTURES)}"
            )
        # The file says the divisor; the reciprocal of its reciprocal may be another number.
        scaled = config.rope_freq_scale != 1
        factor = metadata[f"{config.architecture}.rope.scaling.factor"] if scaled else 1.0
    return _Decoder(_Weights(path), config, float(factor), kv_dtype).plan()


class _Weights:
    """Tensors of a file as constants of a plan."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file: Any = _ffi_api.Gguf.open_tensors(as_path("path", path))
        self._infos = {info["name"].decode(): info for info in self._file.tensors()}

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def vector(self, b: PlanBuilder, name: str) -> PlanValue:
        """Floats of any format, as float32 [size]."""
        info = self._infos[name]
        rows = ops.dequantize(self._file.tensor(name.encode()), format=info["format"])
        (size,) = info["shape"]
        return b.view(b.constant(rows, name=name), (size,))

    def optional_vector(self, b: PlanBuilder, name: str) -> PlanValue | None:
        return self.vector(b, name) if name in self else None

    def matrix(self, b: PlanBuilder, name: str) -> _Matrix:
        """Tiled, for products and look-ups."""
        info = self._infos[name]
        packed = ops.pack_weight(self._file.tensor(name.encode()), format=info["format"])
        return _Matrix(b.constant(packed, name=name), info["format"], int(info["shape"][0]))


class _Matrix:
    """A packed weight, and the options of ops that say what it is."""

    def __init__(self, value: PlanValue, format: str, rows: int) -> None:
        self.value = value
        self.rows = rows
        self.options = (format, True, rows)  # format, packed, rows


class _Decoder:
    """x = embed(token); per layer x += attention(norm(x)), x += ff(norm(x)); head(norm(x))."""

    def __init__(
        self, weights: _Weights, config: ModelConfig, rope_factor: float, kv_dtype: str
    ) -> None:
        self.b, self.weights, self.config = PlanBuilder(), weights, config
        b, c = self.b, config
        self.tokens = b.input("tokens", "int32", ("n",))
        self.positions = b.input("positions", "int32", ("n",))
        self.rows = b.input("rows", "int32", ("n",))
        self.slots = b.input("slots", "int64", ("n",))
        self.block_table = b.input("block_table", "int32", ("sequences", "max_pages"))
        self.page_positions = b.input("page_positions", "int32", ("pages", PAGE_SIZE))
        self.page = c.n_kv_heads * c.head_dim * PAGE_SIZE  # elements of a page of a layer
        heads = (c.n_layers, "pages", c.n_kv_heads)
        self.k_pages = b.input("k_pages", kv_dtype, (*heads, c.head_dim, PAGE_SIZE))
        self.v_pages = b.input("v_pages", kv_dtype, (*heads, PAGE_SIZE, c.head_dim))
        self.outputs = b.input("outputs", "int32", ("m",))
        self.freq_factors = weights.optional_vector(b, "rope_freqs.weight")
        scaling = "linear" if rope_factor != 1 else "none"
        interleaved = c.architecture == "llama"  # whose files hold q and k for pairs of neighbours
        self.rope = (c.rope_dims, interleaved, c.rope_base, scaling, rope_factor)
        self.hidden = self.floats(c.n_embd)
        self.normed = self.floats(c.n_embd)
        self.delta = self.floats(c.n_embd)

    def plan(self) -> Plan:
        b = self.b
        embedding = self.weights.matrix(b, "token_embd.weight")
        tied = "output.weight" not in self.weights
        head = embedding if tied else self.weights.matrix(b, "output.weight")
        b.call("embedding_lookup", embedding.value, self.tokens, self.hidden, *embedding.options)
        for layer in range(self.config.n_layers):
            block = f"blk.{layer}."
            self.norm(block + "attn_norm.weight", first=layer == 0)
            self.attention(layer, block)
            self.norm(block + "ffn_norm.weight")
            self.feed_forward(block)
        self.norm("output_norm.weight")
        chosen = b.buffer("float32", ("m", self.config.n_embd))
        b.call("embedding_lookup", self.normed, self.outputs, chosen, None, False, None)
        logits = b.buffer("float32", ("m", head.rows))
        b.call("linear", chosen, head.value, None, logits, *head.options)
        b.output("logits", logits)
        return b.build()

    def floats(self, width: int) -> PlanValue:
        """A row of floats for each token."""
        return self.b.buffer("float32", ("n", width))

    def norm(self, name: str, *, first: bool = False) -> None:
        """The norm of the stream, to which what the last part gave is added first."""
        weight, eps = self.weights.vector(self.b, name), self.config.norm_eps
        if first:
            self.b.call("rms_norm", self.hidden, weight, self.normed, eps)
        else:
            self.b.call("add_rms_norm", self.delta, self.hidden, weight, self.normed, eps)

    def linear(
        self, x: PlanValue, name: str, *, out: PlanValue | None = None, bias: str | None = None
    ) -> PlanValue:
        """The product with a weight of the file."""
        weight = self.weights.matrix(self.b, name)
        added = None if bias is None else self.weights.optional_vector(self.b, bias)
        out = self.floats(weight.rows) if out is None else out
        self.b.call("linear", x, weight.value, added, out, *weight.options)
        return out

    def attention(self, layer: int, block: str) -> None:
        """Attention over the pages, after keys and values of these tokens are written to them."""
        b, c = self.b, self.config
        heads = {"q": c.n_heads, "k": c.n_kv_heads, "v": c.n_kv_heads}
        q, k, v = (
            b.view(
                self.linear(self.normed, f"{block}attn_{x}.weight", bias=f"{block}attn_{x}.bias"),
                ("n", heads[x], c.head_dim),
            )
            for x in "qkv"
        )
        b.call("rope", q, k, self.positions, self.freq_factors, *self.rope, None, 32.0, 1.0, None)
        offset, page = f"{layer} * pages * {self.page}", ("pages", c.n_kv_heads)
        k_pages = b.view(self.k_pages, (*page, c.head_dim, PAGE_SIZE), offset=offset)
        v_pages = b.view(self.v_pages, (*page, PAGE_SIZE, c.head_dim), offset=offset)
        b.call("kv_append", k_pages, v_pages, k, v, self.slots)
        width = c.n_heads * c.head_dim
        attended = self.floats(width)
        cache = (k_pages, v_pages, self.page_positions, self.block_table, self.rows)
        out = b.view(attended, ("n", c.n_heads, c.head_dim))
        options = (None, None, None)  # scale, window, soft_cap
        b.call("paged_attention", q, *cache, self.positions, None, None, out, *options)
        self.linear(attended, block + "attn_output.weight", out=self.delta)

    def feed_forward(self, block: str) -> None:
        """The gated feed-forward network (Shazeer, arXiv:2002.05202)."""
        gate = self.linear(self.normed, block + "ffn_gate.weight")
        up = self.linear(self.normed, block + "ffn_up.weight")
        self.b.call("silu_mul", gate, up, gate)
        self.linear(gate, block + "ffn_down.weight", out=self.delta)


class Session:
    """One sequence over the plan of a model: the cache that it reads and writes. Needs NumPy.

    Args:
        plan: What `llama` gave; may be loaded from a file.
        n_ctx: Tokens that the cache has room for.
    """

    def __init__(self, plan: Plan, *, n_ctx: int) -> None:
        import numpy as np

        if not isinstance(plan, Plan):
            raise TypeError(f"plan is {type(plan).__name__}, expected a Plan")
        if as_count("n_ctx", n_ctx) < 1:
            raise ValueError(f"n_ctx is {n_ctx}, expected 1 or greater")
        self._np: Any = np
        self._plan, self._n_ctx = plan, n_ctx
        self._position = 0
        pages = -(-n_ctx // PAGE_SIZE)
        self._cache = {}
        for name in ("k_pages", "v_pages"):
            value = plan.inputs[name]
            shape = [pages if size == "pages" else int(size) for size in value.shape]
            self._cache[name] = np.zeros(shape, str(value.dtype))
        self._page_positions = np.full((pages, PAGE_SIZE), -1, np.int32)
        # Position p is entry p; a step takes slices of these.
        self._positions = np.arange(n_ctx, dtype=np.int32)
        self._slots = np.arange(n_ctx, dtype=np.int64)
        self._rows = np.zeros(n_ctx, np.int32)
        self._pages = np.arange(pages, dtype=np.int32)[None]
        self._n_vocab = int(plan.outputs["logits"].shape[1])

    def decode(self, tokens: Sequence[int], *, outputs: Sequence[int] = (-1,)) -> Any:
        """Appends tokens; logits ``[len(outputs), vocabulary]`` of those at these indices.

        Raises:
            ValueError: There is no room for them, there are none, or an output is none of them.
            IndexError: A token is none of the vocabulary.
            TypeError: A token or an output is no integer.
        """
        ids = as_ids("tokens", tokens, expected="token ids")
        wanted = as_ids("outputs", outputs, expected="indices of tokens")
        np, first, n = self._np, self._position, len(ids)
        end = first + n
        if n == 0:
            raise ValueError("tokens is empty, expected one or more")
        for i in wanted:
            if not -n <= i < n:
                raise ValueError(f"outputs has {i}, expected an index of the {n} tokens")
        for token in ids:
            if not 0 <= token < 2**31:
                raise IndexError(f"tokens has {token}, expected an id of the vocabulary")
        if end > self._n_ctx:
            raise ValueError(f"{end} tokens do not fit n_ctx={self._n_ctx}")
        self._page_positions.reshape(-1)[first:end] = self._positions[first:end]
        inputs = {
            "tokens": np.array(ids, np.int32),
            "positions": self._positions[first:end],
            "rows": self._rows[:n],
            "slots": self._slots[first:end],
            "block_table": self._pages[:, : -(-end // PAGE_SIZE)],
            "page_positions": self._page_positions,
            "outputs": np.array([i % n for i in wanted], np.int32),
            **self._cache,
        }
        logits = np.empty((len(wanted), self._n_vocab), np.float32)
        self._plan.run(inputs, out={"logits": logits})
        self._position = end
        return logits
