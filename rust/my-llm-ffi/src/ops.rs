//! The ops, made by scripts/generate from the declarations: do not edit.
//!
//! Each takes its tensors as its signature lists them, then the outputs, then its options. All
//! memory is the caller's; a tensor that is written to is borrowed mutably. Where an output may be
//! the memory of an input, `…_in_…` does that. Shapes, strides, dtypes, devices and values are
//! checked by the library, whose error names the argument.
//!
//! `..Default::default()` fills the options that are not named: others may come.

#![allow(clippy::derivable_impls, clippy::too_many_arguments)]
#![allow(non_camel_case_types, unused_imports)]

use my_llm_ffi::op_call::{Call, Choice, UnknownChoice, Value};
use my_llm_ffi::{Any, Arg, CachedFunction, Result, TensorView, TensorViewMut};

/// The choices of an option `Format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `F32`
    F32,
    /// `F16`
    F16,
    /// `BF16`
    BF16,
    /// `Q8_0`
    Q8_0,
    /// `Q4_0`
    Q4_0,
    /// `Q4_1`
    Q4_1,
    /// `Q5_0`
    Q5_0,
    /// `Q5_1`
    Q5_1,
    /// `Q2_K`
    Q2_K,
    /// `Q3_K`
    Q3_K,
    /// `Q4_K`
    Q4_K,
    /// `Q5_K`
    Q5_K,
    /// `Q6_K`
    Q6_K,
    /// `IQ4_NL`
    IQ4_NL,
    /// `MXFP4`
    MXFP4,
    /// `IQ2_XXS`
    IQ2_XXS,
}

impl Format {
    /// As the library has it.
    pub fn as_str(self) -> &'static str {
        self.terminated().trim_end_matches('\0')
    }

    fn terminated(self) -> &'static str {
        match self {
            Self::F32 => "F32\0",
            Self::F16 => "F16\0",
            Self::BF16 => "BF16\0",
            Self::Q8_0 => "Q8_0\0",
            Self::Q4_0 => "Q4_0\0",
            Self::Q4_1 => "Q4_1\0",
            Self::Q5_0 => "Q5_0\0",
            Self::Q5_1 => "Q5_1\0",
            Self::Q2_K => "Q2_K\0",
            Self::Q3_K => "Q3_K\0",
            Self::Q4_K => "Q4_K\0",
            Self::Q5_K => "Q5_K\0",
            Self::Q6_K => "Q6_K\0",
            Self::IQ4_NL => "IQ4_NL\0",
            Self::MXFP4 => "MXFP4\0",
            Self::IQ2_XXS => "IQ2_XXS\0",
        }
    }
}

impl Choice for Format {
    const NAMES: &'static [&'static str] = &[
        "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K",
        "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "IQ2_XXS",
    ];
}

impl std::str::FromStr for Format {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "F32" => Ok(Self::F32),
            "F16" => Ok(Self::F16),
            "BF16" => Ok(Self::BF16),
            "Q8_0" => Ok(Self::Q8_0),
            "Q4_0" => Ok(Self::Q4_0),
            "Q4_1" => Ok(Self::Q4_1),
            "Q5_0" => Ok(Self::Q5_0),
            "Q5_1" => Ok(Self::Q5_1),
            "Q2_K" => Ok(Self::Q2_K),
            "Q3_K" => Ok(Self::Q3_K),
            "Q4_K" => Ok(Self::Q4_K),
            "Q5_K" => Ok(Self::Q5_K),
            "Q6_K" => Ok(Self::Q6_K),
            "IQ4_NL" => Ok(Self::IQ4_NL),
            "MXFP4" => Ok(Self::MXFP4),
            "IQ2_XXS" => Ok(Self::IQ2_XXS),
            _ => Err(UnknownChoice),
        }
    }
}

impl From<Format> for Arg<'static> {
    fn from(choice: Format) -> Self {
        Arg::terminated(choice.terminated())
    }
}

/// The choices of an option `Approximate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Approximate {
    /// `none`
    None,
    /// `tanh`
    Tanh,
}

impl Approximate {
    /// As the library has it.
    pub fn as_str(self) -> &'static str {
        self.terminated().trim_end_matches('\0')
    }

    fn terminated(self) -> &'static str {
        match self {
            Self::None => "none\0",
            Self::Tanh => "tanh\0",
        }
    }
}

impl Choice for Approximate {
    const NAMES: &'static [&'static str] = &["none", "tanh"];
}

impl std::str::FromStr for Approximate {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "none" => Ok(Self::None),
            "tanh" => Ok(Self::Tanh),
            _ => Err(UnknownChoice),
        }
    }
}

impl From<Approximate> for Arg<'static> {
    fn from(choice: Approximate) -> Self {
        Arg::terminated(choice.terminated())
    }
}

/// The choices of an option `Scaling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scaling {
    /// `none`
    None,
    /// `linear`
    Linear,
    /// `yarn`
    Yarn,
}

impl Scaling {
    /// As the library has it.
    pub fn as_str(self) -> &'static str {
        self.terminated().trim_end_matches('\0')
    }

    fn terminated(self) -> &'static str {
        match self {
            Self::None => "none\0",
            Self::Linear => "linear\0",
            Self::Yarn => "yarn\0",
        }
    }
}

impl Choice for Scaling {
    const NAMES: &'static [&'static str] = &["none", "linear", "yarn"];
}

impl std::str::FromStr for Scaling {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "none" => Ok(Self::None),
            "linear" => Ok(Self::Linear),
            "yarn" => Ok(Self::Yarn),
            _ => Err(UnknownChoice),
        }
    }
}

impl From<Scaling> for Arg<'static> {
    fn from(choice: Scaling) -> Self {
        Arg::terminated(choice.terminated())
    }
}

static ADD_RMS_NORM_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.add_rms_norm");

/// Options of [`add_rms_norm`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AddRmsNormOptions {
    /// Added to the mean square; positive and finite as float32.
    pub eps: f64,
}

impl Default for AddRmsNormOptions {
    fn default() -> Self {
        Self { eps: 1e-06 }
    }
}

/// Adds to the residual stream, then root-mean-square normalisation of it.
///
/// `residual += x`, rounded to its dtype, then `out = rms_norm(residual, weight, eps)`: the end
/// of one layer and the begin of the next in one walk over memory.
///
/// - `x`: `[*batch, hidden]`, float32, float16 or bfloat16. What the layer adds; may have no
///   rows.
/// - `residual`: `[*batch, hidden]`, dtype of `x`, written in place. The stream, written in
///   place.
/// - `weight`: `[hidden]`, dtype of `x`. Gain of each element.
/// - `out`: `[*batch, hidden]`, dtype of `x`; may be `x` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn add_rms_norm(
    x: &TensorView<'_>,
    residual: &mut TensorViewMut<'_>,
    weight: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
    options: AddRmsNormOptions,
) -> Result<()> {
    let x = x.lower();
    let residual = residual.lower();
    let weight = weight.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        ADD_RMS_NORM_FUNCTION.run(&[
            x.arg(),
            residual.arg(),
            weight.arg(),
            out.arg(),
            options.eps.into(),
        ])
    }
}

/// \[`add_rms_norm`\] whose output is `x` itself.
///
/// - `x`: `[*batch, hidden]`, float32, float16 or bfloat16. What the layer adds; may have no
///   rows.
/// - `residual`: `[*batch, hidden]`, dtype of `x`, written in place. The stream, written in
///   place.
/// - `weight`: `[hidden]`, dtype of `x`. Gain of each element.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn add_rms_norm_in_x(
    x: &mut TensorViewMut<'_>,
    residual: &mut TensorViewMut<'_>,
    weight: &TensorView<'_>,
    options: AddRmsNormOptions,
) -> Result<()> {
    let x = x.lower();
    let residual = residual.lower();
    let weight = weight.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        ADD_RMS_NORM_FUNCTION.run(&[
            x.arg(),
            residual.arg(),
            weight.arg(),
            x.arg(),
            options.eps.into(),
        ])
    }
}

fn call_add_rms_norm(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((4, 1), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("residual", tensors.next())?;
    let t2 = call.given("weight", tensors.next())?;
    let t3 = call.given("out", tensors.next())?;
    let options = AddRmsNormOptions { eps: Call::float(call, "eps", &values[0])? };
    add_rms_norm(&t0.view(), t1, &t2.view(), t3, options)
}

static APPLY_PENALTIES_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.apply_penalties");

/// Makes tokens that were seen less likely, in place.
///
/// For each token of a row of `tokens`, first `logit / repetition` if the logit is positive, else
/// `logit * repetition`, once however often it was seen (Keskar et al., arXiv:1909.05858); then
/// `logit - count * frequency - presence`, as OpenAI's API defines these two. Computed in float64
/// and rounded once. Other logits keep their bits. Engines that count the prompt for one penalty
/// and not for another call this twice.
///
/// - `logits`: `[rows, vocab]`, float32, float16 or bfloat16, written in place. Written in
///   place.
/// - `tokens`: `[rows, seen]`, int32. What was seen, in any order; each is in the vocabulary,
///   or -1 as padding. On CUDA, where they are not looked at before, others are passed over too.
/// - `repetition`: `[rows]`, float32. Above 0 and finite, 1 for none, also where None.
/// - `frequency`: `[rows]`, float32. Per occurrence; finite, 0 for none, also where None;
///   negative ones make it more likely.
/// - `presence`: `[rows]`, float32. Once; finite, 0 for none, also where None; negative ones
///   make it more likely.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn apply_penalties(
    logits: &mut TensorViewMut<'_>,
    tokens: &TensorView<'_>,
    repetition: Option<&TensorView<'_>>,
    frequency: Option<&TensorView<'_>>,
    presence: Option<&TensorView<'_>>,
) -> Result<()> {
    let logits = logits.lower();
    let tokens = tokens.lower();
    let repetition = repetition.map(|t| t.lower());
    let frequency = frequency.map(|t| t.lower());
    let presence = presence.map(|t| t.lower());
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        APPLY_PENALTIES_FUNCTION.run(&[
            logits.arg(),
            tokens.arg(),
            repetition.as_ref().map(|t| t.arg()).into(),
            frequency.as_ref().map(|t| t.arg()).into(),
            presence.as_ref().map(|t| t.arg()).into(),
        ])
    }
}

fn call_apply_penalties(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((5, 0), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("logits", tensors.next())?;
    let t1 = call.given("tokens", tensors.next())?;
    let t2 = call.perhaps(tensors.next()).map(|t| t.view());
    let t3 = call.perhaps(tensors.next()).map(|t| t.view());
    let t4 = call.perhaps(tensors.next()).map(|t| t.view());
    apply_penalties(t0, &t1.view(), t2.as_ref(), t3.as_ref(), t4.as_ref())
}

static APPLY_TOKEN_BITMASK_FUNCTION: CachedFunction =
    CachedFunction::new("my_llm_ffi.apply_token_bitmask");

/// Sets logits of tokens that a bitmask forbids to -inf, in place.
///
/// - `logits`: `[rows, vocab]`, float32, float16 or bfloat16, written in place. Written in
///   place.
/// - `bitmask`: `[masks, words]`, int32. Bit `i % 32`, the lowest first, of word `i // 32`
///   is 1 where token i is allowed; words for all tokens or more, bits past the last token are
///   ignored.
/// - `mask_rows`: `[rows]`, int32. Row of `bitmask` for each row of `logits`, -1 for none.
///   None: row r has row r, and there are as many. On CUDA, where they are not looked at before,
///   one that is out of range forbids all.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn apply_token_bitmask(
    logits: &mut TensorViewMut<'_>,
    bitmask: &TensorView<'_>,
    mask_rows: Option<&TensorView<'_>>,
) -> Result<()> {
    let logits = logits.lower();
    let bitmask = bitmask.lower();
    let mask_rows = mask_rows.map(|t| t.lower());
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        APPLY_TOKEN_BITMASK_FUNCTION.run(&[
            logits.arg(),
            bitmask.arg(),
            mask_rows.as_ref().map(|t| t.arg()).into(),
        ])
    }
}

fn call_apply_token_bitmask(
    call: Call<'_>,
    tensors: Tensors<'_, '_>,
    values: &[Value],
) -> Result<()> {
    call.check_count((3, 0), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("logits", tensors.next())?;
    let t1 = call.given("bitmask", tensors.next())?;
    let t2 = call.perhaps(tensors.next()).map(|t| t.view());
    apply_token_bitmask(t0, &t1.view(), t2.as_ref())
}

static ARGMAX_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.argmax");

/// Index of the largest element of each row.
///
/// The lowest index wins a tie. NaN never wins, unlike in torch and NumPy; a row of NaN alone gives
/// 0.
///
/// - `x`: `[*batch, n]`, float32, float16 or bfloat16. At least one element a row.
/// - `out`: `[*batch]`, int32.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn argmax(x: &TensorView<'_>, out: &mut TensorViewMut<'_>) -> Result<()> {
    let x = x.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { ARGMAX_FUNCTION.run(&[x.arg(), out.arg()]) }
}

fn call_argmax(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((2, 0), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("out", tensors.next())?;
    argmax(&t0.view(), t1)
}

static ATTENTION_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.attention");

/// Options of [`attention`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Factor of the scores; None means 1 / sqrt(head_dim).
    pub scale: Option<f64>,
    /// Whether a query sees no key after its position.
    pub causal: bool,
    /// A query sees key j only where `abs(p - j) < window`: with causal, at most that many keys,
    /// its own among them. None means all.
    pub window: Option<i64>,
    /// c of `c * tanh(score / c)`, which bounds the scaled scores; None means no bound.
    pub soft_cap: Option<f64>,
}

impl Default for AttentionOptions {
    fn default() -> Self {
        Self { scale: None, causal: true, window: None, soft_cap: None }
    }
}

/// Softmax attention of queries to keys, of one sequence or of many packed ones.
///
/// `softmax(scale * q @ k.T) @ v` over the keys that a query sees, accumulated in float32; query
/// head `i` reads key head `i // (heads // kv_heads)`. In a sequence of n queries and m keys,
/// query i stands at position `p = m - n + i`, so that the last query stands at the last key;
/// causal, it sees the keys `j <= p`. A query that sees no key gets zeros. A row's result depends
/// on its own sequence alone, not on the other rows or the number of threads (running maximum and
/// sum as in Milakov and Gimelshein, "Online normalizer calculation for softmax",
/// arXiv:1805.02867).
///
/// On CUDA the weights of 16-bit inputs are rounded to their dtype, and the values of cu_q and cu_k
/// are not checked: a bound outside the rows is moved into them. Every GPU takes a head_dim of up
/// to 2000; one that its shared memory has no room for is refused (NotImplementedError).
///
/// - `q`: `[queries, heads, head_dim]`, float32, float16 or bfloat16. Queries; heads is a
///   multiple of kv_heads.
/// - `k`: `[keys, kv_heads, head_dim]`, dtype of `q`. Keys.
/// - `v`: `[keys, kv_heads, head_dim]`, dtype of `q`. Values.
/// - `cu_q`: `[bounds]`, int32. Packed sequences: sequence s has the queries `cu_q[s]` to
///   `cu_q[s + 1] - 1`. Goes with cu_k; None means one sequence.
/// - `cu_k`: `[bounds]`, int32. The same for keys and values.
/// - `out`: `[queries, heads, head_dim]`, dtype of `q`; may be `q` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn attention(
    q: &TensorView<'_>,
    k: &TensorView<'_>,
    v: &TensorView<'_>,
    cu_q: Option<&TensorView<'_>>,
    cu_k: Option<&TensorView<'_>>,
    out: &mut TensorViewMut<'_>,
    options: AttentionOptions,
) -> Result<()> {
    let q = q.lower();
    let k = k.lower();
    let v = v.lower();
    let cu_q = cu_q.map(|t| t.lower());
    let cu_k = cu_k.map(|t| t.lower());
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        ATTENTION_FUNCTION.run(&[
            q.arg(),
            k.arg(),
            v.arg(),
            cu_q.as_ref().map(|t| t.arg()).into(),
            cu_k.as_ref().map(|t| t.arg()).into(),
            out.arg(),
            options.scale.into(),
            options.causal.into(),
            options.window.into(),
            options.soft_cap.into(),
        ])
    }
}

/// \[`attention`\] whose output is `q` itself.
///
/// - `q`: `[queries, heads, head_dim]`, float32, float16 or bfloat16. Queries; heads is a
///   multiple of kv_heads.
/// - `k`: `[keys, kv_heads, head_dim]`, dtype of `q`. Keys.
/// - `v`: `[keys, kv_heads, head_dim]`, dtype of `q`. Values.
/// - `cu_q`: `[bounds]`, int32. Packed sequences: sequence s has the queries `cu_q[s]` to
///   `cu_q[s + 1] - 1`. Goes with cu_k; None means one sequence.
/// - `cu_k`: `[bounds]`, int32. The same for keys and values.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn attention_in_q(
    q: &mut TensorViewMut<'_>,
    k: &TensorView<'_>,
    v: &TensorView<'_>,
    cu_q: Option<&TensorView<'_>>,
    cu_k: Option<&TensorView<'_>>,
    options: AttentionOptions,
) -> Result<()> {
    let q = q.lower();
    let k = k.lower();
    let v = v.lower();
    let cu_q = cu_q.map(|t| t.lower());
    let cu_k = cu_k.map(|t| t.lower());
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        ATTENTION_FUNCTION.run(&[
            q.arg(),
            k.arg(),
            v.arg(),
            cu_q.as_ref().map(|t| t.arg()).into(),
            cu_k.as_ref().map(|t| t.arg()).into(),
            q.arg(),
            options.scale.into(),
            options.causal.into(),
            options.window.into(),
            options.soft_cap.into(),
        ])
    }
}

fn call_attention(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((6, 4), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("q", tensors.next())?;
    let t1 = call.given("k", tensors.next())?;
    let t2 = call.given("v", tensors.next())?;
    let t3 = call.perhaps(tensors.next()).map(|t| t.view());
    let t4 = call.perhaps(tensors.next()).map(|t| t.view());
    let t5 = call.given("out", tensors.next())?;
    let options = AttentionOptions {
        scale: call.optional("scale", &values[0], Call::float)?,
        causal: Call::flag(call, "causal", &values[1])?,
        window: call.optional("window", &values[2], Call::int)?,
        soft_cap: call.optional("soft_cap", &values[3], Call::float)?,
    };
    attention(&t0.view(), &t1.view(), &t2.view(), t3.as_ref(), t4.as_ref(), t5, options)
}

static DEQUANTIZE_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.dequantize");

/// Weights of a block format as floats.
///
/// The blocks are those of GGUF files (ggml's quantization formats), in float32 bit for bit as
/// PyPI's `gguf` reads them; into a 16-bit `out` the same numbers, rounded to nearest even.
///
/// - `weight`: `[rows, row_bytes]`, uint8. Rows of whole blocks.
/// - `out`: `[rows, row_bytes//block_bytes*block]`, float32, float16 or bfloat16.
/// - `format`: Name of the format.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn dequantize(
    weight: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
    format: Format,
) -> Result<()> {
    let weight = weight.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { DEQUANTIZE_FUNCTION.run(&[weight.arg(), out.arg(), format.into()]) }
}

fn call_dequantize(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((2, 1), (tensors.len(), values.len()))?;
    if !call.knows::<Format>(&values[0]) {
        return call.as_given(&DEQUANTIZE_FUNCTION, tensors, values);
    }
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("weight", tensors.next())?;
    let t1 = call.given("out", tensors.next())?;
    dequantize(&t0.view(), t1, Call::choice::<Format>(call, "format", &values[0])?)
}

static EMBEDDING_LOOKUP_FUNCTION: CachedFunction =
    CachedFunction::new("my_llm_ffi.embedding_lookup");

/// Options of [`embedding_lookup`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingLookupOptions {
    /// Name of the blocks' format, for a uint8 table.
    pub format: Option<Format>,
    /// Whether `table` is what `pack_weight` gave.
    pub packed: bool,
    /// Rows of a packed table without its padding; ids end there.
    pub rows: Option<i64>,
}

impl Default for EmbeddingLookupOptions {
    fn default() -> Self {
        Self { format: None, packed: false, rows: None }
    }
}

/// Rows of a table: `out[..., :] = table[ids[...], :]`.
///
/// A table of floats gives rows of its own dtype, or of float32 where `out` is that. A uint8
/// table holds blocks of `format` and gives float32 rows, dequantized on the way.
///
/// - `table`: `[n, row_bytes]`, float32, float16, bfloat16 or uint8. Rows of floats or, as
///   uint8, of whole blocks.
/// - `ids`: `[*batch]`, int32 or int64. Row of the table for each output row, 0 or greater. On
///   the CPU each is checked before anything is read (IndexError); on CUDA, where they are not,
///   one out of range gives a row of zeros.
/// - `out`: `[*batch, row_bytes//block_bytes*block]`, dtype of `table` or float32.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn embedding_lookup(
    table: &TensorView<'_>,
    ids: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
    options: EmbeddingLookupOptions,
) -> Result<()> {
    let table = table.lower();
    let ids = ids.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        EMBEDDING_LOOKUP_FUNCTION.run(&[
            table.arg(),
            ids.arg(),
            out.arg(),
            options.format.into(),
            options.packed.into(),
            options.rows.into(),
        ])
    }
}

fn call_embedding_lookup(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((3, 3), (tensors.len(), values.len()))?;
    if !call.knows::<Format>(&values[0]) {
        return call.as_given(&EMBEDDING_LOOKUP_FUNCTION, tensors, values);
    }
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("table", tensors.next())?;
    let t1 = call.given("ids", tensors.next())?;
    let t2 = call.given("out", tensors.next())?;
    let options = EmbeddingLookupOptions {
        format: call.optional("format", &values[0], Call::choice::<Format>)?,
        packed: Call::flag(call, "packed", &values[1])?,
        rows: call.optional("rows", &values[2], Call::int)?,
    };
    embedding_lookup(&t0.view(), &t1.view(), t2, options)
}

static GELU_MUL_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.gelu_mul");

/// Options of [`gelu_mul`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeluMulOptions {
    /// Which of the two formulas.
    pub approximate: Approximate,
}

impl Default for GeluMulOptions {
    fn default() -> Self {
        Self { approximate: Approximate::None }
    }
}

/// GELU of the gate times up: the gated activation of a GeGLU layer.
///
/// `out = gate * (1 + erf(gate / sqrt(2))) / 2 * up`, or, with `approximate='tanh'`, `out =
/// gate * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate**3))) / 2 * up`, computed in float32
/// without the cancellation of these formulas at negative gates, and rounded once (Hendrycks and
/// Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415). A gate of `-inf` counts as its
/// limit, 0.
///
/// - `gate`: `[*batch, hidden]`, float32, float16 or bfloat16. What goes through the
///   activation.
/// - `up`: `[*batch, hidden]`, dtype of `gate`. What it is multiplied with.
/// - `out`: `[*batch, hidden]`, dtype of `gate`; may be `gate` or `up` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn gelu_mul(
    gate: &TensorView<'_>,
    up: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
    options: GeluMulOptions,
) -> Result<()> {
    let gate = gate.lower();
    let up = up.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { GELU_MUL_FUNCTION.run(&[gate.arg(), up.arg(), out.arg(), options.approximate.into()]) }
}

/// \[`gelu_mul`\] whose output is `gate` itself.
///
/// - `gate`: `[*batch, hidden]`, float32, float16 or bfloat16. What goes through the
///   activation.
/// - `up`: `[*batch, hidden]`, dtype of `gate`. What it is multiplied with.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn gelu_mul_in_gate(
    gate: &mut TensorViewMut<'_>,
    up: &TensorView<'_>,
    options: GeluMulOptions,
) -> Result<()> {
    let gate = gate.lower();
    let up = up.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        GELU_MUL_FUNCTION.run(&[gate.arg(), up.arg(), gate.arg(), options.approximate.into()])
    }
}

/// \[`gelu_mul`\] whose output is `up` itself.
///
/// - `gate`: `[*batch, hidden]`, float32, float16 or bfloat16. What goes through the
///   activation.
/// - `up`: `[*batch, hidden]`, dtype of `gate`. What it is multiplied with.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn gelu_mul_in_up(
    gate: &TensorView<'_>,
    up: &mut TensorViewMut<'_>,
    options: GeluMulOptions,
) -> Result<()> {
    let gate = gate.lower();
    let up = up.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { GELU_MUL_FUNCTION.run(&[gate.arg(), up.arg(), up.arg(), options.approximate.into()]) }
}

fn call_gelu_mul(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((3, 1), (tensors.len(), values.len()))?;
    if !call.knows::<Approximate>(&values[0]) {
        return call.as_given(&GELU_MUL_FUNCTION, tensors, values);
    }
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("gate", tensors.next())?;
    let t1 = call.given("up", tensors.next())?;
    let t2 = call.given("out", tensors.next())?;
    let options = GeluMulOptions {
        approximate: Call::choice::<Approximate>(call, "approximate", &values[0])?,
    };
    gelu_mul(&t0.view(), &t1.view(), t2, options)
}

static KV_APPEND_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.kv_append");

/// Writes keys and values to entries of a paged cache, rounded to the pages' dtype.
///
/// `k_pages[p, :, :, e] = k[t]` and `v_pages[p, :, e, :] = v[t]` for page `p = slots[t] //
/// 32` and entry `e = slots\[t\] % 32`: keys are stored transposed, as paged_attention wants them.
/// Nothing is written when a slot is refused. IndexError where a slot is outside the pages; on
/// CUDA, where slots are not looked at before, such a token is left out, and of two alike any one
/// may stay.
///
/// - `k_pages`: `[pages, kv_heads, head_dim, 32]`, float32, float16 or bfloat16, written in
///   place. Keys of each page.
/// - `v_pages`: `[pages, kv_heads, 32, head_dim]`, dtype of `k_pages`, written in place.
///   Values of each page.
/// - `k`: `[tokens, kv_heads, head_dim]`, float32, float16 or bfloat16. Keys to write, one row
///   per token.
/// - `v`: `[tokens, kv_heads, head_dim]`, dtype of `k`. Values to write.
/// - `slots`: `[tokens]`, int64. Entry of each token, page * 32 + offset; no two alike.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn kv_append(
    k_pages: &mut TensorViewMut<'_>,
    v_pages: &mut TensorViewMut<'_>,
    k: &TensorView<'_>,
    v: &TensorView<'_>,
    slots: &TensorView<'_>,
) -> Result<()> {
    let k_pages = k_pages.lower();
    let v_pages = v_pages.lower();
    let k = k.lower();
    let v = v.lower();
    let slots = slots.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        KV_APPEND_FUNCTION.run(&[k_pages.arg(), v_pages.arg(), k.arg(), v.arg(), slots.arg()])
    }
}

fn call_kv_append(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((5, 0), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("k_pages", tensors.next())?;
    let t1 = call.given("v_pages", tensors.next())?;
    let t2 = call.given("k", tensors.next())?;
    let t3 = call.given("v", tensors.next())?;
    let t4 = call.given("slots", tensors.next())?;
    kv_append(t0, t1, &t2.view(), &t3.view(), &t4.view())
}

static LAYER_NORM_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.layer_norm");

/// Options of [`layer_norm`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNormOptions {
    /// Added to the variance; positive and finite as float32.
    pub eps: f64,
}

impl Default for LayerNormOptions {
    fn default() -> Self {
        Self { eps: 1e-05 }
    }
}

/// Layer normalisation of the last dimension.
///
/// `out = (x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps) * weight + bias`, computed in
/// float32 (Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450).
///
/// - `x`: `[*batch, hidden]`, float32, float16 or bfloat16. Activations; may have no rows.
/// - `weight`: `[hidden]`, dtype of `x`. Gain of each element.
/// - `bias`: `[hidden]`, dtype of `x`. Added to each element.
/// - `out`: `[*batch, hidden]`, dtype of `x`; may be `x` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn layer_norm(
    x: &TensorView<'_>,
    weight: &TensorView<'_>,
    bias: Option<&TensorView<'_>>,
    out: &mut TensorViewMut<'_>,
    options: LayerNormOptions,
) -> Result<()> {
    let x = x.lower();
    let weight = weight.lower();
    let bias = bias.map(|t| t.lower());
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        LAYER_NORM_FUNCTION.run(&[
            x.arg(),
            weight.arg(),
            bias.as_ref().map(|t| t.arg()).into(),
            out.arg(),
            options.eps.into(),
        ])
    }
}

/// \[`layer_norm`\] whose output is `x` itself.
///
/// - `x`: `[*batch, hidden]`, float32, float16 or bfloat16. Activations; may have no rows.
/// - `weight`: `[hidden]`, dtype of `x`. Gain of each element.
/// - `bias`: `[hidden]`, dtype of `x`. Added to each element.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn layer_norm_in_x(
    x: &mut TensorViewMut<'_>,
    weight: &TensorView<'_>,
    bias: Option<&TensorView<'_>>,
    options: LayerNormOptions,
) -> Result<()> {
    let x = x.lower();
    let weight = weight.lower();
    let bias = bias.map(|t| t.lower());
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        LAYER_NORM_FUNCTION.run(&[
            x.arg(),
            weight.arg(),
            bias.as_ref().map(|t| t.arg()).into(),
            x.arg(),
            options.eps.into(),
        ])
    }
}

fn call_layer_norm(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((4, 1), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("weight", tensors.next())?;
    let t2 = call.perhaps(tensors.next()).map(|t| t.view());
    let t3 = call.given("out", tensors.next())?;
    let options = LayerNormOptions { eps: Call::float(call, "eps", &values[0])? };
    layer_norm(&t0.view(), &t1.view(), t2.as_ref(), t3, options)
}

static LINEAR_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.linear");

/// Options of [`linear`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearOptions {
    /// Name of the blocks' format, for a uint8 weight.
    pub format: Option<Format>,
    /// Whether `weight` is what `pack_weight` gave.
    pub packed: bool,
    /// Rows of a packed weight without its padding.
    pub rows: Option<i64>,
}

impl Default for LinearOptions {
    fn default() -> Self {
        Self { format: None, packed: false, rows: None }
    }
}

/// Product with a weight: `out[..., i] = sum_k x[..., k] * weight[i, k] + bias[i]`.
///
/// The weight is a matrix of floats of any of the dtypes, whatever that of `x`; or, as uint8,
/// rows of blocks of `format` as in a GGUF file; or such blocks in the tiled layout of
/// `pack_weight`, which is the fastest. Sums are float32, in one order that depends neither on
/// the number of rows of `x` nor on the layout nor on the number of threads. For block formats
/// each 32 elements of `x` are rounded to 8 bits under a common scale (16 bits for Q4_1 and
/// Q5_1), as ggml does for Q8_0.
///
/// On CUDA nothing is rounded to 8 bits, and `packed` is not supported (NotImplementedError). Up
/// to 32 rows of `x` times blocks err as float32 sums do (2e-5 of `sum_k |x[k] * weight[i, k]|`
/// at most); of more, `x` and the weights are rounded to bfloat16, which errs by at most 2^-8 of
/// that sum of magnitudes. More than 8 rows times a weight of floats of the dtype of `x` take
/// cuBLASLt: torch's, pip's or the system's, or the library that the environment variable
/// `MY_LLM_FFI_CUBLASLT` names (NotImplementedError where there is none); its first call on a
/// device must not be inside the capture of a graph. There the order of sums, and so the last bits,
/// may depend on the number of rows; elsewhere on which of these kernels is taken alone.
///
/// - `x`: `[*batch, cols]`, float32, float16 or bfloat16. Activations; may have no rows.
/// - `weight`: `[n, row_bytes]`, float32, float16, bfloat16 or uint8. Rows of floats or, as
///   uint8, of whole blocks.
/// - `bias`: `[width]`, dtype of `x`. Added to every row of the product.
/// - `out`: `[*batch, (rows or n)]`, dtype of `x`.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn linear(
    x: &TensorView<'_>,
    weight: &TensorView<'_>,
    bias: Option<&TensorView<'_>>,
    out: &mut TensorViewMut<'_>,
    options: LinearOptions,
) -> Result<()> {
    let x = x.lower();
    let weight = weight.lower();
    let bias = bias.map(|t| t.lower());
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        LINEAR_FUNCTION.run(&[
            x.arg(),
            weight.arg(),
            bias.as_ref().map(|t| t.arg()).into(),
            out.arg(),
            options.format.into(),
            options.packed.into(),
            options.rows.into(),
        ])
    }
}

fn call_linear(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((4, 3), (tensors.len(), values.len()))?;
    if !call.knows::<Format>(&values[0]) {
        return call.as_given(&LINEAR_FUNCTION, tensors, values);
    }
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("weight", tensors.next())?;
    let t2 = call.perhaps(tensors.next()).map(|t| t.view());
    let t3 = call.given("out", tensors.next())?;
    let options = LinearOptions {
        format: call.optional("format", &values[0], Call::choice::<Format>)?,
        packed: Call::flag(call, "packed", &values[1])?,
        rows: call.optional("rows", &values[2], Call::int)?,
    };
    linear(&t0.view(), &t1.view(), t2.as_ref(), t3, options)
}

static LOG_SOFTMAX_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.log_softmax");

/// Options of [`log_softmax`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogSoftmaxOptions {
    /// Multiplies every score; finite as float32.
    pub scale: f64,
    /// Bound that the scores approach; positive, as float32 too.
    pub soft_cap: Option<f64>,
}

impl Default for LogSoftmaxOptions {
    fn default() -> Self {
        Self { scale: 1.0, soft_cap: None }
    }
}

/// Logarithm of the softmax of the last dimension.
///
/// `out = y - log(sum(exp(y)))` with `y = scale * x`, or with `y = soft_cap * tanh(scale * x /
/// soft_cap)` where a cap is given (as Gemma 2 has it, arXiv:2408.00118); the largest `y` of the
/// row is subtracted first and all is computed in float32. Without a cap `-inf` stays `-inf`,
/// and a row of nothing but `-inf` or with `+inf` in it gives NaN; with one an infinity counts
/// as `soft_cap` of its sign, so that masks belong behind it. NaN gives NaN.
///
/// - `x`: `[*batch, n]`, float32, float16 or bfloat16. Scores; may have no rows.
/// - `out`: `[*batch, n]`, dtype of `x`; may be `x` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn log_softmax(
    x: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
    options: LogSoftmaxOptions,
) -> Result<()> {
    let x = x.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        LOG_SOFTMAX_FUNCTION.run(&[
            x.arg(),
            out.arg(),
            options.scale.into(),
            options.soft_cap.into(),
        ])
    }
}

/// \[`log_softmax`\] whose output is `x` itself.
///
/// - `x`: `[*batch, n]`, float32, float16 or bfloat16. Scores; may have no rows.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn log_softmax_in_x(x: &mut TensorViewMut<'_>, options: LogSoftmaxOptions) -> Result<()> {
    let x = x.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        LOG_SOFTMAX_FUNCTION.run(&[x.arg(), x.arg(), options.scale.into(), options.soft_cap.into()])
    }
}

fn call_log_softmax(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((2, 2), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("out", tensors.next())?;
    let options = LogSoftmaxOptions {
        scale: Call::float(call, "scale", &values[0])?,
        soft_cap: call.optional("soft_cap", &values[1], Call::float)?,
    };
    log_softmax(&t0.view(), t1, options)
}

static MASK_LOGITS_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.mask_logits");

/// Masks, scales and cuts rows of logits in place, one row per sequence.
///
/// In each row, first tokens that the bitmask forbids become -inf. Then the others are divided by
/// the temperature; one below 1e-4 means greedy: the largest allowed logit stays as it is, of
/// equals that of the lowest id, and all others become -inf. At last logits below the largest one
/// plus `ln_min_p` become -inf (min-p: Nguyen et al., arXiv:2407.01082). Where a dtype cannot hold
/// the quotient of the largest allowed logit, that logit is subtracted before the division, which
/// changes no probability. Logits of +inf count as equal and share the whole mass. `sample` on
/// rows that are scaled here takes temperature 1.
///
/// `mass` is the part of `softmax(logits / temperature)` (`softmax(logits)` where greedy) on
/// the tokens that the bitmask allows, before min-p: 1 without a mask. `status` is 0 where all is
/// well; 1 where the mask leaves no token whose logit is above -inf; 2 where the logits hold a NaN,
/// allowed or not, or -inf only; 3, on CUDA alone, where `mask_rows`, `temperature` or `ln_min_p`
/// is not what is expected, which on the CPU is a ValueError. Rows of a status but 0 are -inf
/// everywhere and have mass 0.
///
/// - `logits`: `[rows, vocab]`, float32, float16 or bfloat16, written in place. Written in
///   place.
/// - `bitmask`: `[masks, words]`, int32. Bit `i % 32`, the lowest first, of word `i // 32`
///   is 1 where token i is allowed; words for all tokens or more, bits past the last token are
///   ignored. None: all are allowed.
/// - `mask_rows`: `[rows]`, int32. Row of `bitmask` for each row of `logits`, -1 for none.
///   None: row r has row r, and there are as many.
/// - `temperature`: `[rows]`, float32. 0 or more and finite; None: 1.
/// - `ln_min_p`: `[rows]`, float32. Logarithm of min-p: 0 or less, -inf for none; None: none.
/// - `mass`: `[rows]`, float32.
/// - `status`: `[rows]`, int32.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn mask_logits(
    logits: &mut TensorViewMut<'_>,
    bitmask: Option<&TensorView<'_>>,
    mask_rows: Option<&TensorView<'_>>,
    temperature: Option<&TensorView<'_>>,
    ln_min_p: Option<&TensorView<'_>>,
    mass: &mut TensorViewMut<'_>,
    status: &mut TensorViewMut<'_>,
) -> Result<()> {
    let logits = logits.lower();
    let bitmask = bitmask.map(|t| t.lower());
    let mask_rows = mask_rows.map(|t| t.lower());
    let temperature = temperature.map(|t| t.lower());
    let ln_min_p = ln_min_p.map(|t| t.lower());
    let mass = mass.lower();
    let status = status.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        MASK_LOGITS_FUNCTION.run(&[
            logits.arg(),
            bitmask.as_ref().map(|t| t.arg()).into(),
            mask_rows.as_ref().map(|t| t.arg()).into(),
            temperature.as_ref().map(|t| t.arg()).into(),
            ln_min_p.as_ref().map(|t| t.arg()).into(),
            mass.arg(),
            status.arg(),
        ])
    }
}

fn call_mask_logits(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((7, 0), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("logits", tensors.next())?;
    let t1 = call.perhaps(tensors.next()).map(|t| t.view());
    let t2 = call.perhaps(tensors.next()).map(|t| t.view());
    let t3 = call.perhaps(tensors.next()).map(|t| t.view());
    let t4 = call.perhaps(tensors.next()).map(|t| t.view());
    let t5 = call.given("mass", tensors.next())?;
    let t6 = call.given("status", tensors.next())?;
    mask_logits(t0, t1.as_ref(), t2.as_ref(), t3.as_ref(), t4.as_ref(), t5, t6)
}

static PACK_WEIGHT_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.pack_weight");

/// A weight in the tiled layout that the CPU's matrix multiplication reads fastest.
///
/// The same bytes in another order: groups of 16 rows (the last one padded with rows of zeros),
/// each a run of tiles in which lanes are rows. `linear` and `embedding_lookup` take the result
/// with `packed=True` and `rows=` the number of rows before padding, and give the same results
/// bit for bit as with the weight itself. For CPUs alone: CUDA kernels of `linear` read the
/// weight as it is best, and a CUDA tensor is refused (NotImplementedError).
///
/// - `weight`: `[rows, row_bytes]`, uint8. Rows of whole blocks, as in a GGUF file.
/// - `out`: `[(rows+15)//16*16, row_bytes]`, uint8.
/// - `format`: Name of the blocks' format.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn pack_weight(
    weight: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
    format: Format,
) -> Result<()> {
    let weight = weight.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { PACK_WEIGHT_FUNCTION.run(&[weight.arg(), out.arg(), format.into()]) }
}

fn call_pack_weight(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((2, 1), (tensors.len(), values.len()))?;
    if !call.knows::<Format>(&values[0]) {
        return call.as_given(&PACK_WEIGHT_FUNCTION, tensors, values);
    }
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("weight", tensors.next())?;
    let t1 = call.given("out", tensors.next())?;
    pack_weight(&t0.view(), t1, Call::choice::<Format>(call, "format", &values[0])?)
}

static PAGED_ATTENTION_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.paged_attention");

/// Options of [`paged_attention`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PagedAttentionOptions {
    /// Factor of the scores; None means 1 / sqrt(head_dim).
    pub scale: Option<f64>,
    /// Sees position j only where `token_position[t] - j < window`; None means all before.
    pub window: Option<i64>,
    /// c of `c * tanh(score / c)`, which bounds the scaled scores; None means no bound.
    pub soft_cap: Option<f64>,
}

impl Default for PagedAttentionOptions {
    fn default() -> Self {
        Self { scale: None, window: None, soft_cap: None }
    }
}

/// Attention of tokens to the pages of a cache, prefill and decode in one call.
///
/// Token t sees the filled entries of the pages in row `token_row[t]` of the block table whose
/// position is at most `token_position[t]`: `softmax(scale * q @ k.T) @ v` over them,
/// accumulated in float32; query head `i` reads key head `i // (heads // kv_heads)`. A token
/// that sees nothing gets zeros. Tokens may be of any mix of sequences: a row's result does not
/// depend on the others. It is fastest where tokens of one sequence stand together. Pages are those
/// of Kwon et al., arXiv:2309.06180; one pass over them with running maximum and sum is Milakov and
/// Gimelshein's, arXiv:1805.02867. IndexError where a row or a page lies outside its table.
///
/// On CUDA the weights of 16-bit pages are rounded to their dtype where q has it too, and the
/// values in tables are not checked: a row or page that is not there holds nothing. Every GPU takes
/// a head_dim of up to 2000; one that its shared memory has no room for is refused
/// (NotImplementedError).
///
/// - `q`: `[tokens, heads, head_dim]`, float32, float16 or bfloat16. Queries, one row per
///   token; heads is a multiple of kv_heads.
/// - `k_pages`: `[pages, kv_heads, head_dim, 32]`, float32, float16 or bfloat16. Keys of each
///   page, transposed, as kv_append writes them.
/// - `v_pages`: `[pages, kv_heads, 32, head_dim]`, dtype of `k_pages`. Values of each page.
/// - `page_positions`: `[pages, 32]`, int32. Position in its sequence of each entry of a page;
///   negative where empty.
/// - `block_table`: `[rows, max_pages]`, int32. Pages of each sequence in order; -1 ends a row
///   that has fewer.
/// - `token_row`: `[tokens]`, int32. Row of the block table for each token.
/// - `token_position`: `[tokens]`, int32. Position of each token; it sees its own.
/// - `windows`: `[tokens]`, int32. A window for each token in place of `window`; 0 means all
///   before.
/// - `sinks`: `[tokens]`, int32. Token t sees the positions below `sinks[t]` too, of those
///   before it, though they lie outside its window.
/// - `out`: `[tokens, heads, head_dim]`, dtype of `q`; may be `q` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn paged_attention(
    q: &TensorView<'_>,
    k_pages: &TensorView<'_>,
    v_pages: &TensorView<'_>,
    page_positions: &TensorView<'_>,
    block_table: &TensorView<'_>,
    token_row: &TensorView<'_>,
    token_position: &TensorView<'_>,
    windows: Option<&TensorView<'_>>,
    sinks: Option<&TensorView<'_>>,
    out: &mut TensorViewMut<'_>,
    options: PagedAttentionOptions,
) -> Result<()> {
    let q = q.lower();
    let k_pages = k_pages.lower();
    let v_pages = v_pages.lower();
    let page_positions = page_positions.lower();
    let block_table = block_table.lower();
    let token_row = token_row.lower();
    let token_position = token_position.lower();
    let windows = windows.map(|t| t.lower());
    let sinks = sinks.map(|t| t.lower());
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        PAGED_ATTENTION_FUNCTION.run(&[
            q.arg(),
            k_pages.arg(),
            v_pages.arg(),
            page_positions.arg(),
            block_table.arg(),
            token_row.arg(),
            token_position.arg(),
            windows.as_ref().map(|t| t.arg()).into(),
            sinks.as_ref().map(|t| t.arg()).into(),
            out.arg(),
            options.scale.into(),
            options.window.into(),
            options.soft_cap.into(),
        ])
    }
}

/// \[`paged_attention`\] whose output is `q` itself.
///
/// - `q`: `[tokens, heads, head_dim]`, float32, float16 or bfloat16. Queries, one row per
///   token; heads is a multiple of kv_heads.
/// - `k_pages`: `[pages, kv_heads, head_dim, 32]`, float32, float16 or bfloat16. Keys of each
///   page, transposed, as kv_append writes them.
/// - `v_pages`: `[pages, kv_heads, 32, head_dim]`, dtype of `k_pages`. Values of each page.
/// - `page_positions`: `[pages, 32]`, int32. Position in its sequence of each entry of a page;
///   negative where empty.
/// - `block_table`: `[rows, max_pages]`, int32. Pages of each sequence in order; -1 ends a row
///   that has fewer.
/// - `token_row`: `[tokens]`, int32. Row of the block table for each token.
/// - `token_position`: `[tokens]`, int32. Position of each token; it sees its own.
/// - `windows`: `[tokens]`, int32. A window for each token in place of `window`; 0 means all
///   before.
/// - `sinks`: `[tokens]`, int32. Token t sees the positions below `sinks[t]` too, of those
///   before it, though they lie outside its window.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn paged_attention_in_q(
    q: &mut TensorViewMut<'_>,
    k_pages: &TensorView<'_>,
    v_pages: &TensorView<'_>,
    page_positions: &TensorView<'_>,
    block_table: &TensorView<'_>,
    token_row: &TensorView<'_>,
    token_position: &TensorView<'_>,
    windows: Option<&TensorView<'_>>,
    sinks: Option<&TensorView<'_>>,
    options: PagedAttentionOptions,
) -> Result<()> {
    let q = q.lower();
    let k_pages = k_pages.lower();
    let v_pages = v_pages.lower();
    let page_positions = page_positions.lower();
    let block_table = block_table.lower();
    let token_row = token_row.lower();
    let token_position = token_position.lower();
    let windows = windows.map(|t| t.lower());
    let sinks = sinks.map(|t| t.lower());
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        PAGED_ATTENTION_FUNCTION.run(&[
            q.arg(),
            k_pages.arg(),
            v_pages.arg(),
            page_positions.arg(),
            block_table.arg(),
            token_row.arg(),
            token_position.arg(),
            windows.as_ref().map(|t| t.arg()).into(),
            sinks.as_ref().map(|t| t.arg()).into(),
            q.arg(),
            options.scale.into(),
            options.window.into(),
            options.soft_cap.into(),
        ])
    }
}

fn call_paged_attention(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((10, 3), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("q", tensors.next())?;
    let t1 = call.given("k_pages", tensors.next())?;
    let t2 = call.given("v_pages", tensors.next())?;
    let t3 = call.given("page_positions", tensors.next())?;
    let t4 = call.given("block_table", tensors.next())?;
    let t5 = call.given("token_row", tensors.next())?;
    let t6 = call.given("token_position", tensors.next())?;
    let t7 = call.perhaps(tensors.next()).map(|t| t.view());
    let t8 = call.perhaps(tensors.next()).map(|t| t.view());
    let t9 = call.given("out", tensors.next())?;
    let options = PagedAttentionOptions {
        scale: call.optional("scale", &values[0], Call::float)?,
        window: call.optional("window", &values[1], Call::int)?,
        soft_cap: call.optional("soft_cap", &values[2], Call::float)?,
    };
    paged_attention(
        &t0.view(),
        &t1.view(),
        &t2.view(),
        &t3.view(),
        &t4.view(),
        &t5.view(),
        &t6.view(),
        t7.as_ref(),
        t8.as_ref(),
        t9,
        options,
    )
}

static QUANTIZE_Q8_0_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.quantize_q8_0");

/// Rows of floats in the format Q8_0: blocks of 32 bytes and a float16 scale.
///
/// `scale = max(abs(block)) / 127` and `q = round(block / scale)`, ties away from zero,
/// computed in float32: bit for bit as ggml and PyPI's `gguf` quantize. A block with a NaN or an
/// infinity gets it as its scale.
///
/// - `x`: `[rows, cols]`, float32, float16 or bfloat16. Rows of whole blocks of 32; may have no
///   rows.
/// - `out`: `[rows, cols//32*34]`, uint8.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn quantize_q8_0(x: &TensorView<'_>, out: &mut TensorViewMut<'_>) -> Result<()> {
    let x = x.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { QUANTIZE_Q8_0_FUNCTION.run(&[x.arg(), out.arg()]) }
}

fn call_quantize_q8_0(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((2, 0), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("out", tensors.next())?;
    quantize_q8_0(&t0.view(), t1)
}

static RMS_NORM_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.rms_norm");

/// Options of [`rms_norm`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNormOptions {
    /// Added to the mean square; positive and finite as float32.
    pub eps: f64,
}

impl Default for RmsNormOptions {
    fn default() -> Self {
        Self { eps: 1e-06 }
    }
}

/// Root-mean-square normalisation of the last dimension.
///
/// `out[..., i] = x[..., i] * weight[i] / sqrt(mean(x**2) + eps)`, accumulated in float32 (Zhang
/// and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467).
///
/// - `x`: `[*batch, hidden]`, float32, float16 or bfloat16. Activations; may have no rows.
/// - `weight`: `[hidden]`, dtype of `x`. Gain of each element.
/// - `out`: `[*batch, hidden]`, dtype of `x`; may be `x` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn rms_norm(
    x: &TensorView<'_>,
    weight: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
    options: RmsNormOptions,
) -> Result<()> {
    let x = x.lower();
    let weight = weight.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { RMS_NORM_FUNCTION.run(&[x.arg(), weight.arg(), out.arg(), options.eps.into()]) }
}

/// \[`rms_norm`\] whose output is `x` itself.
///
/// - `x`: `[*batch, hidden]`, float32, float16 or bfloat16. Activations; may have no rows.
/// - `weight`: `[hidden]`, dtype of `x`. Gain of each element.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn rms_norm_in_x(
    x: &mut TensorViewMut<'_>,
    weight: &TensorView<'_>,
    options: RmsNormOptions,
) -> Result<()> {
    let x = x.lower();
    let weight = weight.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { RMS_NORM_FUNCTION.run(&[x.arg(), weight.arg(), x.arg(), options.eps.into()]) }
}

fn call_rms_norm(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((3, 1), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("weight", tensors.next())?;
    let t2 = call.given("out", tensors.next())?;
    let options = RmsNormOptions { eps: Call::float(call, "eps", &values[0])? };
    rms_norm(&t0.view(), &t1.view(), t2, options)
}

static ROPE_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.rope");

/// Options of [`rope`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeOptions {
    /// Dimensions of a head that turn, its first ones; even; `None` is all.
    pub rotary_dims: Option<i64>,
    /// Whether a pair is two neighbours.
    pub interleaved: bool,
    /// Greater than 1.
    pub base: f64,
    /// How frequencies are scaled for contexts longer than the model was trained with.
    pub scaling: Scaling,
    /// Positive; longer context over original one; 1 with `scaling='none'`.
    pub factor: f64,
    /// Context the model was trained with; with `scaling='yarn'`, and only there.
    pub original_context: Option<i64>,
    /// Turns from which a pair keeps its frequency.
    pub beta_fast: f64,
    /// Turns up to which a frequency is divided by `factor`; positive, at most `beta_fast`.
    pub beta_slow: f64,
    /// Multiplies sine and cosine; positive; `None` is `0.1 * log(factor) + 1` for yarn with a
    /// factor above 1, else 1.
    pub attention_factor: Option<f64>,
}

impl Default for RopeOptions {
    fn default() -> Self {
        Self {
            rotary_dims: None,
            interleaved: false,
            base: 10000.0,
            scaling: Scaling::None,
            factor: 1.0,
            original_context: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        }
    }
}

/// Rotary position embedding of queries and keys, in place.
///
/// Pair `i` of every head turns by `position * f[i]`, `f[i] = base**(-2 * i / rotary_dims)`
/// (Su et al., "RoFormer", arXiv:2104.09864). It is `(x[i], x[i + rotary_dims / 2])`, as GPT-NeoX
/// and Hugging Face's Llama have it, or `(x[2 * i], x[2 * i + 1])` when `interleaved`. Angles
/// are reduced in float64, the rotation is float32, rounded once.
///
/// `scaling='linear'` divides every frequency by `factor` (position interpolation, Chen et al.,
/// arXiv:2306.15595). `scaling='yarn'` does so for pairs that turn less than `beta_slow` times
/// in `original_context` positions, keeps those that turn more than `beta_fast` times, and goes
/// linearly from one to the other between: over the pair indices `floor(c(beta_fast))` to
/// `ceil(c(beta_slow))`, `c(b) = rotary_dims * log(original_context / (2 * pi * b)) / (2 *
/// log(base))`, held within 0 and `rotary_dims - 1` (Peng et al., "YaRN", arXiv:2309.00071; the
/// indices and their rounding as Hugging Face transformers and llama.cpp have them).
///
/// - `q`: `[tokens, heads, head_dim]`, float32, float16 or bfloat16, written in place. Queries
///   of each token.
/// - `k`: `[tokens, key_heads, head_dim]`, dtype of `q`, written in place. Keys of each
///   token.
/// - `positions`: `[tokens]`, int32 or int64. Position of each token; may be negative.
/// - `freq_factors`: `[pairs]`, float32. Divides the frequency of each pair, `rotary_dims /
///   2` of them (Llama 3.1, LongRoPE).
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn rope(
    q: &mut TensorViewMut<'_>,
    k: &mut TensorViewMut<'_>,
    positions: &TensorView<'_>,
    freq_factors: Option<&TensorView<'_>>,
    options: RopeOptions,
) -> Result<()> {
    let q = q.lower();
    let k = k.lower();
    let positions = positions.lower();
    let freq_factors = freq_factors.map(|t| t.lower());
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        ROPE_FUNCTION.run(&[
            q.arg(),
            k.arg(),
            positions.arg(),
            freq_factors.as_ref().map(|t| t.arg()).into(),
            options.rotary_dims.into(),
            options.interleaved.into(),
            options.base.into(),
            options.scaling.into(),
            options.factor.into(),
            options.original_context.into(),
            options.beta_fast.into(),
            options.beta_slow.into(),
            options.attention_factor.into(),
        ])
    }
}

fn call_rope(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((4, 9), (tensors.len(), values.len()))?;
    if !call.knows::<Scaling>(&values[3]) {
        return call.as_given(&ROPE_FUNCTION, tensors, values);
    }
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("q", tensors.next())?;
    let t1 = call.given("k", tensors.next())?;
    let t2 = call.given("positions", tensors.next())?;
    let t3 = call.perhaps(tensors.next()).map(|t| t.view());
    let options = RopeOptions {
        rotary_dims: call.optional("rotary_dims", &values[0], Call::int)?,
        interleaved: Call::flag(call, "interleaved", &values[1])?,
        base: Call::float(call, "base", &values[2])?,
        scaling: Call::choice::<Scaling>(call, "scaling", &values[3])?,
        factor: Call::float(call, "factor", &values[4])?,
        original_context: call.optional("original_context", &values[5], Call::int)?,
        beta_fast: Call::float(call, "beta_fast", &values[6])?,
        beta_slow: Call::float(call, "beta_slow", &values[7])?,
        attention_factor: call.optional("attention_factor", &values[8], Call::float)?,
    };
    rope(t0, t1, &t2.view(), t3.as_ref(), options)
}

static SAMPLE_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.sample");

/// Draws one token for each row, by uniform numbers that the caller draws.
///
/// In each row the logits are divided by the temperature; then `top_k` keeps the k best tokens,
/// `top_p` the fewest best ones whose share of what top_k left reaches it (Holtzman et al.,
/// arXiv:1904.09751), and `min_p` those at least min_p times as probable as the best one (Nguyen et
/// al., arXiv:2407.01082). Of what is left the token is drawn at which the sum of the probabilities
/// exceeds `uniform`, in falling order of probability where top_k or top_p ranks the row (equals by
/// id, the lowest first), in the order of ids where not. One number always gives the same token,
/// whatever stands in other rows and on any number of threads.
///
/// NaN counts as -inf; logits of +inf share all the probability. A row without a logit above -inf
/// gives id -1 and log-probability -inf. On CUDA, where the numbers of other arguments are not
/// looked at before, a row with a bad one gives id -1 and log-probability NaN. `logprobs` are
/// those of `log_softmax(logits)` as given, before the temperature and the filters, as vLLM and
/// OpenAI's API report them.
///
/// - `logits`: `[rows, vocab]`, float32, float16 or bfloat16. At least one token; penalties,
///   bias and masks are already applied.
/// - `uniform`: `[rows]`, float32. From 0 to below 1.
/// - `temperature`: `[rows]`, float32. 0 or more and finite; 0 takes the best token; None: 1.
/// - `top_k`: `[rows]`, int32. Below 1 for all, also where None.
/// - `top_p`: `[rows]`, float32. Above 0 and up to 1, 1 for all, also where None.
/// - `min_p`: `[rows]`, float32. From 0 to 1, 0 for all, also where None.
/// - `ids`: `[rows]`, int32.
/// - `logprobs`: `[rows]`, float32.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn sample(
    logits: &TensorView<'_>,
    uniform: &TensorView<'_>,
    temperature: Option<&TensorView<'_>>,
    top_k: Option<&TensorView<'_>>,
    top_p: Option<&TensorView<'_>>,
    min_p: Option<&TensorView<'_>>,
    ids: &mut TensorViewMut<'_>,
    logprobs: &mut TensorViewMut<'_>,
) -> Result<()> {
    let logits = logits.lower();
    let uniform = uniform.lower();
    let temperature = temperature.map(|t| t.lower());
    let top_k = top_k.map(|t| t.lower());
    let top_p = top_p.map(|t| t.lower());
    let min_p = min_p.map(|t| t.lower());
    let ids = ids.lower();
    let logprobs = logprobs.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        SAMPLE_FUNCTION.run(&[
            logits.arg(),
            uniform.arg(),
            temperature.as_ref().map(|t| t.arg()).into(),
            top_k.as_ref().map(|t| t.arg()).into(),
            top_p.as_ref().map(|t| t.arg()).into(),
            min_p.as_ref().map(|t| t.arg()).into(),
            ids.arg(),
            logprobs.arg(),
        ])
    }
}

fn call_sample(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((8, 0), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("logits", tensors.next())?;
    let t1 = call.given("uniform", tensors.next())?;
    let t2 = call.perhaps(tensors.next()).map(|t| t.view());
    let t3 = call.perhaps(tensors.next()).map(|t| t.view());
    let t4 = call.perhaps(tensors.next()).map(|t| t.view());
    let t5 = call.perhaps(tensors.next()).map(|t| t.view());
    let t6 = call.given("ids", tensors.next())?;
    let t7 = call.given("logprobs", tensors.next())?;
    sample(&t0.view(), &t1.view(), t2.as_ref(), t3.as_ref(), t4.as_ref(), t5.as_ref(), t6, t7)
}

static SILU_MUL_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.silu_mul");

/// SiLU of the gate times up: the gated activation of a SwiGLU layer.
///
/// `out = gate / (1 + exp(-gate)) * up`, computed in float32 and rounded once (Shazeer, "GLU
/// Variants Improve Transformer", arXiv:2002.05202). A gate of `-inf` counts as its limit, 0.
///
/// - `gate`: `[*batch, hidden]`, float32, float16 or bfloat16. What goes through the
///   activation.
/// - `up`: `[*batch, hidden]`, dtype of `gate`. What it is multiplied with.
/// - `out`: `[*batch, hidden]`, dtype of `gate`; may be `gate` or `up` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn silu_mul(
    gate: &TensorView<'_>,
    up: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    let gate = gate.lower();
    let up = up.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { SILU_MUL_FUNCTION.run(&[gate.arg(), up.arg(), out.arg()]) }
}

/// \[`silu_mul`\] whose output is `gate` itself.
///
/// - `gate`: `[*batch, hidden]`, float32, float16 or bfloat16. What goes through the
///   activation.
/// - `up`: `[*batch, hidden]`, dtype of `gate`. What it is multiplied with.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn silu_mul_in_gate(gate: &mut TensorViewMut<'_>, up: &TensorView<'_>) -> Result<()> {
    let gate = gate.lower();
    let up = up.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { SILU_MUL_FUNCTION.run(&[gate.arg(), up.arg(), gate.arg()]) }
}

/// \[`silu_mul`\] whose output is `up` itself.
///
/// - `gate`: `[*batch, hidden]`, float32, float16 or bfloat16. What goes through the
///   activation.
/// - `up`: `[*batch, hidden]`, dtype of `gate`. What it is multiplied with.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn silu_mul_in_up(gate: &TensorView<'_>, up: &mut TensorViewMut<'_>) -> Result<()> {
    let gate = gate.lower();
    let up = up.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { SILU_MUL_FUNCTION.run(&[gate.arg(), up.arg(), up.arg()]) }
}

fn call_silu_mul(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((3, 0), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("gate", tensors.next())?;
    let t1 = call.given("up", tensors.next())?;
    let t2 = call.given("out", tensors.next())?;
    silu_mul(&t0.view(), &t1.view(), t2)
}

static SOFTMAX_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.softmax");

/// Options of [`softmax`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxOptions {
    /// Multiplies every score; finite as float32.
    pub scale: f64,
    /// Bound that the scores approach; positive, as float32 too.
    pub soft_cap: Option<f64>,
}

impl Default for SoftmaxOptions {
    fn default() -> Self {
        Self { scale: 1.0, soft_cap: None }
    }
}

/// Softmax of the last dimension.
///
/// `out = exp(y) / sum(exp(y))` with `y = scale * x`, or with `y = soft_cap * tanh(scale * x /
/// soft_cap)` where a cap is given (as Gemma 2 has it, arXiv:2408.00118); the largest `y` of the
/// row is subtracted first and all is computed in float32. Without a cap `-inf` gives 0, and a
/// row of nothing but `-inf` or with `+inf` in it gives NaN; with one an infinity counts as
/// `soft_cap` of its sign, so that masks belong behind it. NaN gives NaN.
///
/// - `x`: `[*batch, n]`, float32, float16 or bfloat16. Scores; may have no rows.
/// - `out`: `[*batch, n]`, dtype of `x`; may be `x` itself.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn softmax(
    x: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
    options: SoftmaxOptions,
) -> Result<()> {
    let x = x.lower();
    let out = out.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        SOFTMAX_FUNCTION.run(&[x.arg(), out.arg(), options.scale.into(), options.soft_cap.into()])
    }
}

/// \[`softmax`\] whose output is `x` itself.
///
/// - `x`: `[*batch, n]`, float32, float16 or bfloat16. Scores; may have no rows.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn softmax_in_x(x: &mut TensorViewMut<'_>, options: SoftmaxOptions) -> Result<()> {
    let x = x.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe {
        SOFTMAX_FUNCTION.run(&[x.arg(), x.arg(), options.scale.into(), options.soft_cap.into()])
    }
}

fn call_softmax(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((2, 2), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("out", tensors.next())?;
    let options = SoftmaxOptions {
        scale: Call::float(call, "scale", &values[0])?,
        soft_cap: call.optional("soft_cap", &values[1], Call::float)?,
    };
    softmax(&t0.view(), t1, options)
}

static TOP_K_FUNCTION: CachedFunction = CachedFunction::new("my_llm_ffi.top_k");

/// The k largest elements of each row, the largest first, and their indices.
///
/// Of equals, 0 and -0 too, the lowest index comes first. NaN comes last, after -inf.
///
/// - `x`: `[*batch, n]`, float32, float16 or bfloat16. At least k elements a row.
/// - `values`: `[*batch, k]`, dtype of `x`.
/// - `ids`: `[*batch, k]`, int32.
/// - `k`: How many; 0 or more.
///
/// # Errors
/// `ValueError`, `TypeError`, `IndexError` or `NotImplementedError` of the library, naming the
/// argument; `ImportError` where the library is not there.
pub fn top_k(
    x: &TensorView<'_>,
    values: &mut TensorViewMut<'_>,
    ids: &mut TensorViewMut<'_>,
    k: i64,
) -> Result<()> {
    let x = x.lower();
    let values = values.lower();
    let ids = ids.lower();
    // SAFETY: it writes to what is borrowed mutably here, and to nothing else.
    unsafe { TOP_K_FUNCTION.run(&[x.arg(), values.arg(), ids.arg(), k.into()]) }
}

fn call_top_k(call: Call<'_>, tensors: Tensors<'_, '_>, values: &[Value]) -> Result<()> {
    call.check_count((3, 1), (tensors.len(), values.len()))?;
    let mut tensors = tensors.iter_mut();
    let t0 = call.given("x", tensors.next())?;
    let t1 = call.given("values", tensors.next())?;
    let t2 = call.given("ids", tensors.next())?;
    top_k(&t0.view(), t1, t2, Call::int(call, "k", &values[0])?)
}

/// Names of the ops.
pub const NAMES: &[&str] = &[
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
];

type Tensors<'t, 'v> = &'t mut [Option<TensorViewMut<'v>>];

/// Calls an op by its name.
///
/// - `tensors`: as the op's function takes them, the outputs last; None for an optional one.
/// - `values`: of all its options, in the order of its declaration.
///
/// # Errors
/// `KeyError` where there is no such op; `TypeError` where their number or a type is wrong; as of
/// the op's function.
pub fn call(op: &str, tensors: &mut [Option<TensorViewMut<'_>>], values: &[Value]) -> Result<()> {
    let call = Call { op };
    match op {
        "add_rms_norm" => call_add_rms_norm(call, tensors, values),
        "apply_penalties" => call_apply_penalties(call, tensors, values),
        "apply_token_bitmask" => call_apply_token_bitmask(call, tensors, values),
        "argmax" => call_argmax(call, tensors, values),
        "attention" => call_attention(call, tensors, values),
        "dequantize" => call_dequantize(call, tensors, values),
        "embedding_lookup" => call_embedding_lookup(call, tensors, values),
        "gelu_mul" => call_gelu_mul(call, tensors, values),
        "kv_append" => call_kv_append(call, tensors, values),
        "layer_norm" => call_layer_norm(call, tensors, values),
        "linear" => call_linear(call, tensors, values),
        "log_softmax" => call_log_softmax(call, tensors, values),
        "mask_logits" => call_mask_logits(call, tensors, values),
        "pack_weight" => call_pack_weight(call, tensors, values),
        "paged_attention" => call_paged_attention(call, tensors, values),
        "quantize_q8_0" => call_quantize_q8_0(call, tensors, values),
        "rms_norm" => call_rms_norm(call, tensors, values),
        "rope" => call_rope(call, tensors, values),
        "sample" => call_sample(call, tensors, values),
        "silu_mul" => call_silu_mul(call, tensors, values),
        "softmax" => call_softmax(call, tensors, values),
        "top_k" => call_top_k(call, tensors, values),
        _ => Err(call.unknown()),
    }
}
