"""The type of torch.ops.my_llm_ffi, made by scripts/generate: do not edit."""

from typing import Literal

from torch import Tensor

class Operators:
    """Every op as an operator of torch."""

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, *, eps: float = 1e-06
    ) -> Tensor:
        """Adds to the residual stream, then root-mean-square normalisation of it."""

    def apply_penalties(
        self,
        logits: Tensor,
        tokens: Tensor,
        repetition: Tensor | None = None,
        frequency: Tensor | None = None,
        presence: Tensor | None = None,
    ) -> None:
        """Makes tokens that were seen less likely, in place."""

    def apply_token_bitmask(
        self, logits: Tensor, bitmask: Tensor, mask_rows: Tensor | None = None
    ) -> None:
        """Sets logits of tokens that a bitmask forbids to -inf, in place."""

    def argmax(self, x: Tensor) -> Tensor:
        """Index of the largest element of each row."""

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_q: Tensor | None = None,
        cu_k: Tensor | None = None,
        *,
        scale: float | None = None,
        causal: bool = True,
        window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        """Softmax attention of queries to keys, of one sequence or of many packed ones."""

    def dequantize(
        self,
        weight: Tensor,
        *,
        format: Literal[
            "F32",
            "F16",
            "BF16",
            "Q8_0",
            "Q4_0",
            "Q4_1",
            "Q5_0",
            "Q5_1",
            "Q2_K",
            "Q3_K",
            "Q4_K",
            "Q5_K",
            "Q6_K",
            "IQ4_NL",
            "MXFP4",
            "IQ2_XXS",
        ],
    ) -> Tensor:
        """Weights of a block format as floats."""

    def embedding_lookup(
        self,
        table: Tensor,
        ids: Tensor,
        *,
        format: Literal[
            "F32",
            "F16",
            "BF16",
            "Q8_0",
            "Q4_0",
            "Q4_1",
            "Q5_0",
            "Q5_1",
            "Q2_K",
            "Q3_K",
            "Q4_K",
            "Q5_K",
            "Q6_K",
            "IQ4_NL",
            "MXFP4",
            "IQ2_XXS",
        ]
        | None = None,
        packed: bool = False,
        rows: int | None = None,
    ) -> Tensor:
        """Rows of a table: ``out[..., :] = table[ids[...], :]``."""

    def gelu_mul(
        self, gate: Tensor, up: Tensor, *, approximate: Literal["none", "tanh"] = "none"
    ) -> Tensor:
        """GELU of the gate times up: the gated activation of a GeGLU layer."""

    def kv_append(
        self, k_pages: Tensor, v_pages: Tensor, k: Tensor, v: Tensor, slots: Tensor
    ) -> None:
        """Writes keys and values to entries of a paged cache, rounded to the pages' dtype."""

    def layer_norm(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, eps: float = 1e-05
    ) -> Tensor:
        """Layer normalisation of the last dimension."""

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        format: Literal[
            "F32",
            "F16",
            "BF16",
            "Q8_0",
            "Q4_0",
            "Q4_1",
            "Q5_0",
            "Q5_1",
            "Q2_K",
            "Q3_K",
            "Q4_K",
            "Q5_K",
            "Q6_K",
            "IQ4_NL",
            "MXFP4",
            "IQ2_XXS",
        ]
        | None = None,
        packed: bool = False,
        rows: int | None = None,
    ) -> Tensor:
        """Product with a weight: ``out[..., i] = sum_k x[..., k] * weight[i, k] + bias[i]``."""

    def log_softmax(
        self, x: Tensor, *, scale: float = 1.0, soft_cap: float | None = None
    ) -> Tensor:
        """Logarithm of the softmax of the last dimension."""

    def mask_logits(
        self,
        logits: Tensor,
        bitmask: Tensor | None = None,
        mask_rows: Tensor | None = None,
        temperature: Tensor | None = None,
        ln_min_p: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks, scales and cuts rows of logits in place, one row per sequence."""

    def pack_weight(
        self,
        weight: Tensor,
        *,
        format: Literal[
            "F32",
            "F16",
            "BF16",
            "Q8_0",
            "Q4_0",
            "Q4_1",
            "Q5_0",
            "Q5_1",
            "Q2_K",
            "Q3_K",
            "Q4_K",
            "Q5_K",
            "Q6_K",
            "IQ4_NL",
            "MXFP4",
            "IQ2_XXS",
        ],
    ) -> Tensor:
        """A weight in the tiled layout that the CPU's matrix multiplication reads fastest."""

    def paged_attention(
        self,
        q: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        page_positions: Tensor,
        block_table: Tensor,
        token_row: Tensor,
        token_position: Tensor,
        windows: Tensor | None = None,
        sinks: Tensor | None = None,
        *,
        scale: float | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        """Attention of tokens to the pages of a cache, prefill and decode in one call."""

    def quantize_q8_0(self, x: Tensor) -> Tensor:
        """Rows of floats in the format Q8_0: blocks of 32 bytes and a float16 scale."""

    def rms_norm(self, x: Tensor, weight: Tensor, *, eps: float = 1e-06) -> Tensor:
        """Root-mean-square normalisation of the last dimension."""

    def rope(
        self,
        q: Tensor,
        k: Tensor,
        positions: Tensor,
        freq_factors: Tensor | None = None,
        *,
        rotary_dims: int | None = None,
        interleaved: bool = False,
        base: float = 10000.0,
        scaling: Literal["none", "linear", "yarn"] = "none",
        factor: float = 1.0,
        original_context: int | None = None,
        beta_fast: float = 32.0,
        beta_slow: float = 1.0,
        attention_factor: float | None = None,
    ) -> None:
        """Rotary position embedding of queries and keys, in place."""

    def sample(
        self,
        logits: Tensor,
        uniform: Tensor,
        temperature: Tensor | None = None,
        top_k: Tensor | None = None,
        top_p: Tensor | None = None,
        min_p: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws one token for each row, by uniform numbers that the caller draws."""

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """SiLU of the gate times up: the gated activation of a SwiGLU layer."""

    def softmax(self, x: Tensor, *, scale: float = 1.0, soft_cap: float | None = None) -> Tensor:
        """Softmax of the last dimension."""

    def top_k(self, x: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
        """The k largest elements of each row, the largest first, and their indices."""
