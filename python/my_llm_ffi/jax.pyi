"""The ops for JAX, made by scripts/generate from the declarations: do not edit."""

from typing import Literal

from jax import Array
from jax.typing import ArrayLike

__all__ = [
    "add_rms_norm",
    "apply_penalties",
    "apply_token_bitmask",
    "argmax",
    "attention",
    "dequantize",
    "embedding_lookup",
    "gelu_mul",
    "kv_append",
    "layer_norm",
    "linear",
    "log_softmax",
    "mask_logits",
    "pack_weight",
    "paged_attention",
    "quantize_q8_0",
    "rms_norm",
    "rope",
    "sample",
    "silu_mul",
    "softmax",
    "top_k",
]

def add_rms_norm(
    x: ArrayLike, residual: ArrayLike, weight: ArrayLike, *, eps: float = 1e-06
) -> tuple[Array, Array]:
    """Adds to the residual stream, then root-mean-square normalisation of it.

    ``residual += x``, rounded to its dtype, then ``out = rms_norm(residual, weight, eps)``: the end
    of one layer and the begin of the next in one walk over memory.

    Args:
        x: ``[*batch, hidden]``, float32, float16 or bfloat16. What the layer adds; may have no
            rows.
        residual: ``[*batch, hidden]``, dtype of ``x``. The stream, written in place.
        weight: ``[hidden]``, dtype of ``x``. Gain of each element.
        eps: Added to the mean square; positive and finite as float32.

    Returns:
        ``out``, ``[*batch, hidden]``, dtype of ``x``. ``residual`` as the op leaves it.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def apply_penalties(
    logits: ArrayLike,
    tokens: ArrayLike,
    repetition: ArrayLike | None = None,
    frequency: ArrayLike | None = None,
    presence: ArrayLike | None = None,
) -> Array:
    """Makes tokens that were seen less likely, in place.

    For each token of a row of `tokens`, first ``logit / repetition`` if the logit is positive, else
    ``logit * repetition``, once however often it was seen (Keskar et al., arXiv:1909.05858); then
    ``logit - count * frequency - presence``, as OpenAI's API defines these two. Computed in float64
    and rounded once. Other logits keep their bits. Engines that count the prompt for one penalty
    and not for another call this twice.

    Args:
        logits: ``[rows, vocab]``, float32, float16 or bfloat16. Written in place.
        tokens: ``[rows, seen]``, int32. What was seen, in any order; each is in the vocabulary,
            or -1 as padding. On CUDA, where they are not looked at before, others are passed
            over too.
        repetition: ``[rows]``, float32. Above 0 and finite, 1 for none, also where None.
        frequency: ``[rows]``, float32. Per occurrence; finite, 0 for none, also where None;
            negative ones make it more likely.
        presence: ``[rows]``, float32. Once; finite, 0 for none, also where None; negative ones
            make it more likely.

    Returns:
        ``logits`` as the op leaves it.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def apply_token_bitmask(
    logits: ArrayLike, bitmask: ArrayLike, mask_rows: ArrayLike | None = None
) -> Array:
    """Sets logits of tokens that a bitmask forbids to -inf, in place.

    Args:
        logits: ``[rows, vocab]``, float32, float16 or bfloat16. Written in place.
        bitmask: ``[masks, words]``, int32. Bit ``i % 32``, the lowest first, of word ``i //
            32`` is 1 where token i is allowed; words for all tokens or more, bits past the last
            token are ignored.
        mask_rows: ``[rows]``, int32. Row of `bitmask` for each row of `logits`, -1 for none.
            None: row r has row r, and there are as many. On CUDA, where they are not looked at
            before, one that is out of range forbids all.

    Returns:
        ``logits`` as the op leaves it.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def argmax(x: ArrayLike) -> Array:
    """Index of the largest element of each row.

    The lowest index wins a tie. NaN never wins, unlike in torch and NumPy; a row of NaN alone gives
    0.

    Args:
        x: ``[*batch, n]``, float32, float16 or bfloat16. At least one element a row.

    Returns:
        ``out``, ``[*batch]``, int32.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    cu_q: ArrayLike | None = None,
    cu_k: ArrayLike | None = None,
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Array:
    """Softmax attention of queries to keys, of one sequence or of many packed ones.

    ``softmax(scale * q @ k.T) @ v`` over the keys that a query sees, accumulated in float32; query
    head ``i`` reads key head ``i // (heads // kv_heads)``. In a sequence of n queries and m keys,
    query i stands at position ``p = m - n + i``, so that the last query stands at the last key;
    causal, it sees the keys ``j <= p``. A query that sees no key gets zeros. A row's result depends
    on its own sequence alone, not on the other rows or the number of threads (running maximum and
    sum as in Milakov and Gimelshein, "Online normalizer calculation for softmax",
    arXiv:1805.02867).

    On CUDA the weights of 16-bit inputs are rounded to their dtype, and the values of cu_q and cu_k
    are not checked: a bound outside the rows is moved into them. Every GPU takes a head_dim of up
    to 2000; one that its shared memory has no room for is refused (NotImplementedError).

    Args:
        q: ``[queries, heads, head_dim]``, float32, float16 or bfloat16. Queries; heads is a
            multiple of kv_heads.
        k: ``[keys, kv_heads, head_dim]``, dtype of ``q``. Keys.
        v: ``[keys, kv_heads, head_dim]``, dtype of ``q``. Values.
        cu_q: ``[bounds]``, int32. Packed sequences: sequence s has the queries ``cu_q[s]`` to
            ``cu_q[s + 1] - 1``. Goes with cu_k; None means one sequence.
        cu_k: ``[bounds]``, int32. The same for keys and values.
        scale: Factor of the scores; None means 1 / sqrt(head_dim).
        causal: Whether a query sees no key after its position.
        window: A query sees key j only where ``abs(p - j) < window``: with causal, at most that
            many keys, its own among them. None means all.
        soft_cap: c of ``c * tanh(score / c)``, which bounds the scaled scores; None means no
            bound.

    Returns:
        ``out``, ``[queries, heads, head_dim]``, dtype of ``q``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def dequantize(
    weight: ArrayLike,
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
) -> Array:
    """Weights of a block format as floats.

    The blocks are those of GGUF files (ggml's quantization formats), in float32 bit for bit as
    PyPI's ``gguf`` reads them; into a 16-bit ``out`` the same numbers, rounded to nearest even.

    Args:
        weight: ``[rows, row_bytes]``, uint8. Rows of whole blocks.
        format: One of ``"F32"``, ``"F16"``, ``"BF16"``, ``"Q8_0"``, ``"Q4_0"``, ``"Q4_1"``,
            ``"Q5_0"``, ``"Q5_1"``, ``"Q2_K"``, ``"Q3_K"``, ``"Q4_K"``, ``"Q5_K"``, ``"Q6_K"``,
            ``"IQ4_NL"``, ``"MXFP4"``, ``"IQ2_XXS"``. Name of the format.

    Returns:
        ``out``, ``[rows, row_bytes//block_bytes*block]``, float32, float16 or bfloat16.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def embedding_lookup(
    table: ArrayLike,
    ids: ArrayLike,
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
) -> Array:
    """Rows of a table: ``out[..., :] = table[ids[...], :]``.

    A table of floats gives rows of its own dtype, or of float32 where ``out`` is that. A uint8
    table holds blocks of ``format`` and gives float32 rows, dequantized on the way.

    Args:
        table: ``[n, row_bytes]``, float32, float16, bfloat16 or uint8. Rows of floats or, as
            uint8, of whole blocks.
        ids: ``[*batch]``, int32 or int64. Row of the table for each output row, 0 or greater.
            On the CPU each is checked before anything is read (IndexError); on CUDA, where they
            are not, one out of range gives a row of zeros.
        format: One of ``"F32"``, ``"F16"``, ``"BF16"``, ``"Q8_0"``, ``"Q4_0"``, ``"Q4_1"``,
            ``"Q5_0"``, ``"Q5_1"``, ``"Q2_K"``, ``"Q3_K"``, ``"Q4_K"``, ``"Q5_K"``, ``"Q6_K"``,
            ``"IQ4_NL"``, ``"MXFP4"``, ``"IQ2_XXS"``. Name of the blocks' format, for a uint8
            table.
        packed: Whether ``table`` is what ``pack_weight`` gave.
        rows: Rows of a packed table without its padding; ids end there.

    Returns:
        ``out``, ``[*batch, row_bytes//block_bytes*block]``, dtype of ``table`` or float32.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def gelu_mul(
    gate: ArrayLike, up: ArrayLike, *, approximate: Literal["none", "tanh"] = "none"
) -> Array:
    """GELU of the gate times up: the gated activation of a GeGLU layer.

    ``out = gate * (1 + erf(gate / sqrt(2))) / 2 * up``, or, with ``approximate='tanh'``, ``out =
    gate * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate**3))) / 2 * up``, computed in float32
    without the cancellation of these formulas at negative gates, and rounded once (Hendrycks and
    Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415). A gate of ``-inf`` counts as its
    limit, 0.

    Args:
        gate: ``[*batch, hidden]``, float32, float16 or bfloat16. What goes through the
            activation.
        up: ``[*batch, hidden]``, dtype of ``gate``. What it is multiplied with.
        approximate: One of ``"none"``, ``"tanh"``. Which of the two formulas.

    Returns:
        ``out``, ``[*batch, hidden]``, dtype of ``gate``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def kv_append(
    k_pages: ArrayLike, v_pages: ArrayLike, k: ArrayLike, v: ArrayLike, slots: ArrayLike
) -> tuple[Array, Array]:
    """Writes keys and values to entries of a paged cache, rounded to the pages' dtype.

    ``k_pages[p, :, :, e] = k[t]`` and ``v_pages[p, :, e, :] = v[t]`` for page ``p = slots[t] //
    32`` and entry ``e = slots[t] % 32``: keys are stored transposed, as paged_attention wants them.
    Nothing is written when a slot is refused. IndexError where a slot is outside the pages; on
    CUDA, where slots are not looked at before, such a token is left out, and of two alike any one
    may stay.

    Args:
        k_pages: ``[pages, kv_heads, head_dim, 32]``, float32, float16 or bfloat16. Keys of each
            page.
        v_pages: ``[pages, kv_heads, 32, head_dim]``, dtype of ``k_pages``. Values of each page.
        k: ``[tokens, kv_heads, head_dim]``, float32, float16 or bfloat16. Keys to write, one
            row per token.
        v: ``[tokens, kv_heads, head_dim]``, dtype of ``k``. Values to write.
        slots: ``[tokens]``, int64. Entry of each token, page * 32 + offset; no two alike.

    Returns:
        ``k_pages`` as the op leaves it. ``v_pages`` as the op leaves it.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def layer_norm(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, eps: float = 1e-05
) -> Array:
    """Layer normalisation of the last dimension.

    ``out = (x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps) * weight + bias``, computed in
    float32 (Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450).

    Args:
        x: ``[*batch, hidden]``, float32, float16 or bfloat16. Activations; may have no rows.
        weight: ``[hidden]``, dtype of ``x``. Gain of each element.
        bias: ``[hidden]``, dtype of ``x``. Added to each element.
        eps: Added to the variance; positive and finite as float32.

    Returns:
        ``out``, ``[*batch, hidden]``, dtype of ``x``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
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
) -> Array:
    """Product with a weight: ``out[..., i] = sum_k x[..., k] * weight[i, k] + bias[i]``.

    The weight is a matrix of floats of any of the dtypes, whatever that of ``x``; or, as uint8,
    rows of blocks of ``format`` as in a GGUF file; or such blocks in the tiled layout of
    ``pack_weight``, which is the fastest. Sums are float32, in one order that depends neither on
    the number of rows of ``x`` nor on the layout nor on the number of threads. For block formats
    each 32 elements of ``x`` are rounded to 8 bits under a common scale (16 bits for Q4_1 and
    Q5_1), as ggml does for Q8_0.

    On CUDA nothing is rounded to 8 bits, and ``packed`` is not supported (NotImplementedError). Up
    to 32 rows of ``x`` times blocks err as float32 sums do (2e-5 of ``sum_k |x[k] * weight[i, k]|``
    at most); of more, ``x`` and the weights are rounded to bfloat16, which errs by at most 2^-8 of
    that sum of magnitudes. More than 8 rows times a weight of floats of the dtype of ``x`` take
    cuBLASLt: torch's, pip's or the system's, or the library that the environment variable
    ``MY_LLM_FFI_CUBLASLT`` names (NotImplementedError where there is none); its first call on a
    device must not be inside the capture of a graph. There the order of sums, and so the last bits,
    may depend on the number of rows; elsewhere on which of these kernels is taken alone.

    Args:
        x: ``[*batch, cols]``, float32, float16 or bfloat16. Activations; may have no rows.
        weight: ``[n, row_bytes]``, float32, float16, bfloat16 or uint8. Rows of floats or, as
            uint8, of whole blocks.
        bias: ``[width]``, dtype of ``x``. Added to every row of the product.
        format: One of ``"F32"``, ``"F16"``, ``"BF16"``, ``"Q8_0"``, ``"Q4_0"``, ``"Q4_1"``,
            ``"Q5_0"``, ``"Q5_1"``, ``"Q2_K"``, ``"Q3_K"``, ``"Q4_K"``, ``"Q5_K"``, ``"Q6_K"``,
            ``"IQ4_NL"``, ``"MXFP4"``, ``"IQ2_XXS"``. Name of the blocks' format, for a uint8
            weight.
        packed: Whether ``weight`` is what ``pack_weight`` gave.
        rows: Rows of a packed weight without its padding.

    Returns:
        ``out``, ``[*batch, (rows or n)]``, dtype of ``x``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def log_softmax(x: ArrayLike, *, scale: float = 1.0, soft_cap: float | None = None) -> Array:
    """Logarithm of the softmax of the last dimension.

    ``out = y - log(sum(exp(y)))`` with ``y = scale * x``, or with ``y = soft_cap * tanh(scale * x /
    soft_cap)`` where a cap is given (as Gemma 2 has it, arXiv:2408.00118); the largest ``y`` of the
    row is subtracted first and all is computed in float32. Without a cap ``-inf`` stays ``-inf``,
    and a row of nothing but ``-inf`` or with ``+inf`` in it gives NaN; with one an infinity counts
    as ``soft_cap`` of its sign, so that masks belong behind it. NaN gives NaN.

    Args:
        x: ``[*batch, n]``, float32, float16 or bfloat16. Scores; may have no rows.
        scale: Multiplies every score; finite as float32.
        soft_cap: Bound that the scores approach; positive, as float32 too.

    Returns:
        ``out``, ``[*batch, n]``, dtype of ``x``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def mask_logits(
    logits: ArrayLike,
    bitmask: ArrayLike | None = None,
    mask_rows: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    ln_min_p: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """Masks, scales and cuts rows of logits in place, one row per sequence.

    In each row, first tokens that the bitmask forbids become -inf. Then the others are divided by
    the temperature; one below 1e-4 means greedy: the largest allowed logit stays as it is, of
    equals that of the lowest id, and all others become -inf. At last logits below the largest one
    plus `ln_min_p` become -inf (min-p: Nguyen et al., arXiv:2407.01082). Where a dtype cannot hold
    the quotient of the largest allowed logit, that logit is subtracted before the division, which
    changes no probability. Logits of +inf count as equal and share the whole mass. ``sample`` on
    rows that are scaled here takes temperature 1.

    ``mass`` is the part of ``softmax(logits / temperature)`` (``softmax(logits)`` where greedy) on
    the tokens that the bitmask allows, before min-p: 1 without a mask. ``status`` is 0 where all is
    well; 1 where the mask leaves no token whose logit is above -inf; 2 where the logits hold a NaN,
    allowed or not, or -inf only; 3, on CUDA alone, where `mask_rows`, `temperature` or `ln_min_p`
    is not what is expected, which on the CPU is a ValueError. Rows of a status but 0 are -inf
    everywhere and have mass 0.

    Args:
        logits: ``[rows, vocab]``, float32, float16 or bfloat16. Written in place.
        bitmask: ``[masks, words]``, int32. Bit ``i % 32``, the lowest first, of word ``i //
            32`` is 1 where token i is allowed; words for all tokens or more, bits past the last
            token are ignored. None: all are allowed.
        mask_rows: ``[rows]``, int32. Row of `bitmask` for each row of `logits`, -1 for none.
            None: row r has row r, and there are as many.
        temperature: ``[rows]``, float32. 0 or more and finite; None: 1.
        ln_min_p: ``[rows]``, float32. Logarithm of min-p: 0 or less, -inf for none; None: none.

    Returns:
        ``mass``, ``[rows]``, float32. ``status``, ``[rows]``, int32. ``logits`` as the op
        leaves it.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def pack_weight(
    weight: ArrayLike,
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
) -> Array:
    """A weight in the tiled layout that the CPU's matrix multiplication reads fastest.

    The same bytes in another order: groups of 16 rows (the last one padded with rows of zeros),
    each a run of tiles in which lanes are rows. ``linear`` and ``embedding_lookup`` take the result
    with ``packed=True`` and ``rows=`` the number of rows before padding, and give the same results
    bit for bit as with the weight itself. For CPUs alone: CUDA kernels of ``linear`` read the
    weight as it is best, and a CUDA tensor is refused (NotImplementedError).

    Args:
        weight: ``[rows, row_bytes]``, uint8. Rows of whole blocks, as in a GGUF file.
        format: One of ``"F32"``, ``"F16"``, ``"BF16"``, ``"Q8_0"``, ``"Q4_0"``, ``"Q4_1"``,
            ``"Q5_0"``, ``"Q5_1"``, ``"Q2_K"``, ``"Q3_K"``, ``"Q4_K"``, ``"Q5_K"``, ``"Q6_K"``,
            ``"IQ4_NL"``, ``"MXFP4"``, ``"IQ2_XXS"``. Name of the blocks' format.

    Returns:
        ``out``, ``[(rows+15)//16*16, row_bytes]``, uint8.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def paged_attention(
    q: ArrayLike,
    k_pages: ArrayLike,
    v_pages: ArrayLike,
    page_positions: ArrayLike,
    block_table: ArrayLike,
    token_row: ArrayLike,
    token_position: ArrayLike,
    windows: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    *,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Array:
    """Attention of tokens to the pages of a cache, prefill and decode in one call.

    Token t sees the filled entries of the pages in row ``token_row[t]`` of the block table whose
    position is at most ``token_position[t]``: ``softmax(scale * q @ k.T) @ v`` over them,
    accumulated in float32; query head ``i`` reads key head ``i // (heads // kv_heads)``. A token
    that sees nothing gets zeros. Tokens may be of any mix of sequences: a row's result does not
    depend on the others. It is fastest where tokens of one sequence stand together. Pages are those
    of Kwon et al., arXiv:2309.06180; one pass over them with running maximum and sum is Milakov and
    Gimelshein's, arXiv:1805.02867. IndexError where a row or a page lies outside its table.

    On CUDA the weights of 16-bit pages are rounded to their dtype where q has it too, and the
    values in tables are not checked: a row or page that is not there holds nothing. Every GPU takes
    a head_dim of up to 2000; one that its shared memory has no room for is refused
    (NotImplementedError).

    Args:
        q: ``[tokens, heads, head_dim]``, float32, float16 or bfloat16. Queries, one row per
            token; heads is a multiple of kv_heads.
        k_pages: ``[pages, kv_heads, head_dim, 32]``, float32, float16 or bfloat16. Keys of each
            page, transposed, as kv_append writes them.
        v_pages: ``[pages, kv_heads, 32, head_dim]``, dtype of ``k_pages``. Values of each page.
        page_positions: ``[pages, 32]``, int32. Position in its sequence of each entry of a
            page; negative where empty.
        block_table: ``[rows, max_pages]``, int32. Pages of each sequence in order; -1 ends a
            row that has fewer.
        token_row: ``[tokens]``, int32. Row of the block table for each token.
        token_position: ``[tokens]``, int32. Position of each token; it sees its own.
        windows: ``[tokens]``, int32. A window for each token in place of ``window``; 0 means
            all before.
        sinks: ``[tokens]``, int32. Token t sees the positions below ``sinks[t]`` too, of those
            before it, though they lie outside its window.
        scale: Factor of the scores; None means 1 / sqrt(head_dim).
        window: Sees position j only where ``token_position[t] - j < window``; None means all
            before.
        soft_cap: c of ``c * tanh(score / c)``, which bounds the scaled scores; None means no
            bound.

    Returns:
        ``out``, ``[tokens, heads, head_dim]``, dtype of ``q``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def quantize_q8_0(x: ArrayLike) -> Array:
    """Rows of floats in the format Q8_0: blocks of 32 bytes and a float16 scale.

    ``scale = max(abs(block)) / 127`` and ``q = round(block / scale)``, ties away from zero,
    computed in float32: bit for bit as ggml and PyPI's ``gguf`` quantize. A block with a NaN or an
    infinity gets it as its scale.

    Args:
        x: ``[rows, cols]``, float32, float16 or bfloat16. Rows of whole blocks of 32; may have
            no rows.

    Returns:
        ``out``, ``[rows, cols//32*34]``, uint8.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def rms_norm(x: ArrayLike, weight: ArrayLike, *, eps: float = 1e-06) -> Array:
    """Root-mean-square normalisation of the last dimension.

    ``out[..., i] = x[..., i] * weight[i] / sqrt(mean(x**2) + eps)``, accumulated in float32 (Zhang
    and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467).

    Args:
        x: ``[*batch, hidden]``, float32, float16 or bfloat16. Activations; may have no rows.
        weight: ``[hidden]``, dtype of ``x``. Gain of each element.
        eps: Added to the mean square; positive and finite as float32.

    Returns:
        ``out``, ``[*batch, hidden]``, dtype of ``x``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def rope(
    q: ArrayLike,
    k: ArrayLike,
    positions: ArrayLike,
    freq_factors: ArrayLike | None = None,
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
) -> tuple[Array, Array]:
    """Rotary position embedding of queries and keys, in place.

    Pair ``i`` of every head turns by ``position * f[i]``, ``f[i] = base**(-2 * i / rotary_dims)``
    (Su et al., "RoFormer", arXiv:2104.09864). It is ``(x[i], x[i + rotary_dims / 2])``, as GPT-NeoX
    and Hugging Face's Llama have it, or ``(x[2 * i], x[2 * i + 1])`` when ``interleaved``. Angles
    are reduced in float64, the rotation is float32, rounded once.

    ``scaling='linear'`` divides every frequency by ``factor`` (position interpolation, Chen et al.,
    arXiv:2306.15595). ``scaling='yarn'`` does so for pairs that turn less than ``beta_slow`` times
    in ``original_context`` positions, keeps those that turn more than ``beta_fast`` times, and goes
    linearly from one to the other between: over the pair indices ``floor(c(beta_fast))`` to
    ``ceil(c(beta_slow))``, ``c(b) = rotary_dims * log(original_context / (2 * pi * b)) / (2 *
    log(base))``, held within 0 and ``rotary_dims - 1`` (Peng et al., "YaRN", arXiv:2309.00071; the
    indices and their rounding as Hugging Face transformers and llama.cpp have them).

    Args:
        q: ``[tokens, heads, head_dim]``, float32, float16 or bfloat16. Queries of each token.
        k: ``[tokens, key_heads, head_dim]``, dtype of ``q``. Keys of each token.
        positions: ``[tokens]``, int32 or int64. Position of each token; may be negative.
        freq_factors: ``[pairs]``, float32. Divides the frequency of each pair, ``rotary_dims /
            2`` of them (Llama 3.1, LongRoPE).
        rotary_dims: Dimensions of a head that turn, its first ones; even; ``None`` is all.
        interleaved: Whether a pair is two neighbours.
        base: Greater than 1.
        scaling: One of ``"none"``, ``"linear"``, ``"yarn"``. How frequencies are scaled for
            contexts longer than the model was trained with.
        factor: Positive; longer context over original one; 1 with ``scaling='none'``.
        original_context: Context the model was trained with; with ``scaling='yarn'``, and only
            there.
        beta_fast: Turns from which a pair keeps its frequency.
        beta_slow: Turns up to which a frequency is divided by ``factor``; positive, at most
            ``beta_fast``.
        attention_factor: Multiplies sine and cosine; positive; ``None`` is ``0.1 * log(factor)
            + 1`` for yarn with a factor above 1, else 1.

    Returns:
        ``q`` as the op leaves it. ``k`` as the op leaves it.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def sample(
    logits: ArrayLike,
    uniform: ArrayLike,
    temperature: ArrayLike | None = None,
    top_k: ArrayLike | None = None,
    top_p: ArrayLike | None = None,
    min_p: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Draws one token for each row, by uniform numbers that the caller draws.

    In each row the logits are divided by the temperature; then `top_k` keeps the k best tokens,
    `top_p` the fewest best ones whose share of what top_k left reaches it (Holtzman et al.,
    arXiv:1904.09751), and `min_p` those at least min_p times as probable as the best one (Nguyen et
    al., arXiv:2407.01082). Of what is left the token is drawn at which the sum of the probabilities
    exceeds `uniform`, in falling order of probability where top_k or top_p ranks the row (equals by
    id, the lowest first), in the order of ids where not. One number always gives the same token,
    whatever stands in other rows and on any number of threads.

    NaN counts as -inf; logits of +inf share all the probability. A row without a logit above -inf
    gives id -1 and log-probability -inf. On CUDA, where the numbers of other arguments are not
    looked at before, a row with a bad one gives id -1 and log-probability NaN. ``logprobs`` are
    those of ``log_softmax(logits)`` as given, before the temperature and the filters, as vLLM and
    OpenAI's API report them.

    Args:
        logits: ``[rows, vocab]``, float32, float16 or bfloat16. At least one token; penalties,
            bias and masks are already applied.
        uniform: ``[rows]``, float32. From 0 to below 1.
        temperature: ``[rows]``, float32. 0 or more and finite; 0 takes the best token; None: 1.
        top_k: ``[rows]``, int32. Below 1 for all, also where None.
        top_p: ``[rows]``, float32. Above 0 and up to 1, 1 for all, also where None.
        min_p: ``[rows]``, float32. From 0 to 1, 0 for all, also where None.

    Returns:
        ``ids``, ``[rows]``, int32. ``logprobs``, ``[rows]``, float32.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def silu_mul(gate: ArrayLike, up: ArrayLike) -> Array:
    """SiLU of the gate times up: the gated activation of a SwiGLU layer.

    ``out = gate / (1 + exp(-gate)) * up``, computed in float32 and rounded once (Shazeer, "GLU
    Variants Improve Transformer", arXiv:2002.05202). A gate of ``-inf`` counts as its limit, 0.

    Args:
        gate: ``[*batch, hidden]``, float32, float16 or bfloat16. What goes through the
            activation.
        up: ``[*batch, hidden]``, dtype of ``gate``. What it is multiplied with.

    Returns:
        ``out``, ``[*batch, hidden]``, dtype of ``gate``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def softmax(x: ArrayLike, *, scale: float = 1.0, soft_cap: float | None = None) -> Array:
    """Softmax of the last dimension.

    ``out = exp(y) / sum(exp(y))`` with ``y = scale * x``, or with ``y = soft_cap * tanh(scale * x /
    soft_cap)`` where a cap is given (as Gemma 2 has it, arXiv:2408.00118); the largest ``y`` of the
    row is subtracted first and all is computed in float32. Without a cap ``-inf`` gives 0, and a
    row of nothing but ``-inf`` or with ``+inf`` in it gives NaN; with one an infinity counts as
    ``soft_cap`` of its sign, so that masks belong behind it. NaN gives NaN.

    Args:
        x: ``[*batch, n]``, float32, float16 or bfloat16. Scores; may have no rows.
        scale: Multiplies every score; finite as float32.
        soft_cap: Bound that the scores approach; positive, as float32 too.

    Returns:
        ``out``, ``[*batch, n]``, dtype of ``x``.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """

def top_k(x: ArrayLike, *, k: int) -> tuple[Array, Array]:
    """The k largest elements of each row, the largest first, and their indices.

    Of equals, 0 and -0 too, the lowest index comes first. NaN comes last, after -inf.

    Args:
        x: ``[*batch, n]``, float32, float16 or bfloat16. At least k elements a row.
        k: How many; 0 or more.

    Returns:
        ``values``, ``[*batch, k]``, dtype of ``x``. ``ids``, ``[*batch, k]``, int32.

    Raises:
        ValueError: A shape or an option does not fit; the message names the argument.
        TypeError: A dtype or type is wrong, or an option is traced.
        NotImplementedError: JAX differentiates an input: there is no derivative.
        jax.errors.JaxRuntimeError: A value is wrong or there is no kernel for the device: with
            the message of the op, when the result is waited for.
    """
