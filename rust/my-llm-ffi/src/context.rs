//! One user's state over a model: sequences, decode, logits.

use std::path::Path;

use crate::any::{Any, Arg};
use crate::error::{Error, Result};
use crate::model::{LoraAdapter, Model};
use crate::object::{invoke, object_type};
use crate::owned_tensor::Tensor;
use crate::vocab::{path_argument, token_array, Token};

object_type! {
    /// Tokens of any mix of sequences, computed by one `Context::decode`.
    pub Batch = "my_llm_ffi.Batch"
}

// SAFETY: one thread at a time, any one.
unsafe impl Send for Batch {}

impl Batch {
    /// An empty batch.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn new() -> Result<Self> {
        invoke!(Batch, "create")?.to()
    }

    /// Adds one token at a position of the sequences that store it; `logits`: whether its row is
    /// wanted.
    ///
    /// # Errors
    /// What the library throws.
    pub fn add(
        &mut self,
        token: Token,
        position: i64,
        sequences: &[i64],
        logits: bool,
    ) -> Result<()> {
        let sequences = Any::array(sequences.iter().copied())?;
        let place = (position.into(), Arg::from(&sequences));
        invoke!(Batch, "add", self.arg(), token.into(), place.0, place.1, logits.into())?.to()
    }

    /// Removes all tokens.
    ///
    /// # Errors
    /// What the library throws.
    pub fn clear(&mut self) -> Result<()> {
        invoke!(Batch, "clear", self.arg())?.to()
    }

    /// Number of tokens.
    ///
    /// # Errors
    /// What the library throws.
    pub fn size(&self) -> Result<usize> {
        invoke!(Batch, "size", self.arg())?.to()
    }
}

/// Width of the numbers in a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvDtype {
    /// 16 bits.
    #[default]
    F16,
    /// 32 bits.
    F32,
}

impl KvDtype {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// How a context is made; `..Default::default()` fills the rest.
#[derive(Debug, Clone)]
pub struct ContextOptions<'a> {
    /// Tokens that a sequence can hold, and that all can hold together; None: the training length.
    pub n_ctx: Option<usize>,
    /// Number of sequences.
    pub n_seq_max: usize,
    /// Tokens of one forward pass; longer batches run as several.
    pub n_batch: usize,
    /// Numbers in the KV cache.
    pub kv_dtype: KvDtype,
    /// Keep the hidden rows of each decode (`Context::embeddings`).
    pub embeddings: bool,
    /// Adapters for all tokens, added in this order, each with its scale.
    pub lora: &'a [(&'a LoraAdapter, f64)],
    /// Base of the rotary embedding; None: the model's.
    pub rope_freq_base: Option<f64>,
    /// Factor of positions; None: the model's.
    pub rope_freq_scale: Option<f64>,
}

impl Default for ContextOptions<'_> {
    fn default() -> Self {
        Self {
            n_ctx: None,
            n_seq_max: 1,
            n_batch: 512,
            kv_dtype: KvDtype::F16,
            embeddings: false,
            lora: &[],
            rope_freq_base: None,
            rope_freq_scale: None,
        }
    }
}

impl ContextOptions<'_> {
    /// What the library takes 0 for is not given here: None says it.
    fn check(&self) -> Result<()> {
        if self.n_ctx == Some(0) {
            return Err(Error::value("n_ctx is 0, expected a count >= 1 or None"));
        }
        let rope =
            [("rope_freq_base", self.rope_freq_base), ("rope_freq_scale", self.rope_freq_scale)];
        for (name, value) in rope {
            match value {
                Some(v) if !(v > 0.0 && v.is_finite()) => {
                    let text = format!("{name} is {v:?}, expected a finite number > 0 or None");
                    return Err(Error::value(text));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

object_type! {
    /// Sequences in a paged KV cache over a model.
    ///
    /// It may move between threads, and is used by one at a time.
    pub Context = "my_llm_ffi.Context"
}

// SAFETY: one thread at a time, any one.
unsafe impl Send for Context {}

pub(crate) fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Context {
    pub(crate) fn new(model: &Model, o: &ContextOptions<'_>) -> Result<Self> {
        o.check()?;
        let kv_dtype = Any::text(o.kv_dtype.name())?;
        let adapters = Any::array(o.lora.iter().map(|(adapter, _)| adapter.arg()))?;
        let scales = Any::array(o.lora.iter().map(|(_, scale)| *scale))?;
        invoke!(
            Model,
            "context",
            model.arg(),
            count(o.n_ctx.unwrap_or(0)).into(),
            count(o.n_seq_max).into(),
            count(o.n_batch).into(),
            Arg::from(&kv_dtype),
            o.rope_freq_base.unwrap_or(0.0).into(),
            o.rope_freq_scale.unwrap_or(0.0).into(),
            o.embeddings.into(),
            Arg::from(&adapters),
            Arg::from(&scales),
        )?
        .to()
    }

    /// Computes a batch and stores its tokens in their sequences. On an error they are as before.
    ///
    /// # Errors
    /// `ValueError` where the batch is empty, a token, sequence or position is out of range or not
    /// after the last of its sequence; `RuntimeError` where the cache is full.
    pub fn decode(&mut self, batch: &Batch) -> Result<()> {
        invoke!(Context, "decode", self.arg(), batch.arg())?.to()
    }

    /// Continues sequence 0 with tokens; keeps the logits of the last one.
    ///
    /// # Errors
    /// As `decode`.
    pub fn decode_tokens(&mut self, tokens: &[Token]) -> Result<()> {
        let tokens = token_array(tokens)?;
        invoke!(Context, "decode_tokens", self.arg(), Arg::from(&tokens))?.to()
    }

    /// `[n_outputs, n_vocab]` float32 of the last decode; not written again while it is held.
    ///
    /// # Errors
    /// `RuntimeError` where nothing was decoded yet, or the last decode failed.
    pub fn logits(&self) -> Result<Tensor> {
        invoke!(Context, "logits", self.arg())?.to()
    }

    /// `[tokens, n_embd]` float32: the last hidden row of each token of the last decode.
    ///
    /// # Errors
    /// `ValueError` where the context was made without `embeddings`; as `logits`.
    pub fn embeddings(&self) -> Result<Tensor> {
        invoke!(Context, "embeddings", self.arg())?.to()
    }

    /// Tokens that a sequence can hold.
    ///
    /// # Errors
    /// `ValueError` after `close`.
    pub fn n_ctx(&self) -> Result<usize> {
        invoke!(Context, "n_ctx", self.arg())?.to()
    }

    /// Number of sequences.
    ///
    /// # Errors
    /// `ValueError` after `close`.
    pub fn n_seq_max(&self) -> Result<usize> {
        invoke!(Context, "n_seq_max", self.arg())?.to()
    }

    /// Removes the tokens of a sequence with `p0 <= position < p1`; no `p1`: to the end.
    ///
    /// # Errors
    /// `ValueError` where there is no such sequence or range.
    pub fn seq_remove(&mut self, seq: i64, p0: i64, p1: Option<i64>) -> Result<()> {
        invoke!(Context, "seq_remove", self.arg(), seq.into(), p0.into(), p1.into())?.to()
    }

    /// Lets `dst` hold the tokens of `src` in a range too, after its own; memory is shared.
    ///
    /// # Errors
    /// `ValueError` where the range begins before the end of `dst`.
    pub fn seq_copy(&mut self, src: i64, dst: i64, p0: i64, p1: Option<i64>) -> Result<()> {
        let range = (p0.into(), p1.into());
        invoke!(Context, "seq_copy", self.arg(), src.into(), dst.into(), range.0, range.1)?.to()
    }

    /// Empties all other sequences.
    ///
    /// # Errors
    /// `ValueError` where there is no such sequence.
    pub fn seq_keep(&mut self, seq: i64) -> Result<()> {
        invoke!(Context, "seq_keep", self.arg(), seq.into())?.to()
    }

    /// Adds `delta` to the positions in a range; their keys are rotated to match.
    ///
    /// # Errors
    /// `ValueError` where a position would be negative or taken twice.
    pub fn seq_shift(&mut self, seq: i64, p0: i64, p1: Option<i64>, delta: i64) -> Result<()> {
        let range = (p0.into(), p1.into());
        invoke!(Context, "seq_shift", self.arg(), seq.into(), range.0, range.1, delta.into())?.to()
    }

    /// The first and the last position of a sequence, None when it is empty.
    ///
    /// # Errors
    /// `ValueError` where there is no such sequence.
    pub fn seq_positions(&self, seq: i64) -> Result<Option<(i64, i64)>> {
        let found: Option<Vec<i64>> =
            invoke!(Context, "seq_positions", self.arg(), seq.into())?.to()?;
        Ok(found.and_then(|pair| Some((*pair.first()?, *pair.get(1)?))))
    }

    /// Number of tokens of a sequence.
    ///
    /// # Errors
    /// `ValueError` where there is no such sequence.
    pub fn seq_count(&self, seq: i64) -> Result<usize> {
        invoke!(Context, "seq_count", self.arg(), seq.into())?.to()
    }

    /// Empties all sequences.
    ///
    /// # Errors
    /// `ValueError` after `close`.
    pub fn clear(&mut self) -> Result<()> {
        invoke!(Context, "clear", self.arg())?.to()
    }

    /// Writes positions, keys and values of one sequence, or of all, to a file.
    ///
    /// # Errors
    /// `OSError` where the file cannot be written.
    pub fn save_state(&mut self, path: impl AsRef<Path>, seq: Option<i64>) -> Result<()> {
        let path = path_argument(path.as_ref())?;
        invoke!(Context, "save_state", self.arg(), Arg::from(&path), seq.into())?.to()
    }

    /// Replaces sequences by those of a file; with `seq`, its only one becomes `seq`.
    ///
    /// # Errors
    /// `OSError` where the file cannot be read; `ValueError` where it is no state of this model, or
    /// does not fit; the context is unchanged then.
    pub fn load_state(&mut self, path: impl AsRef<Path>, seq: Option<i64>) -> Result<()> {
        let path = path_argument(path.as_ref())?;
        invoke!(Context, "load_state", self.arg(), Arg::from(&path), seq.into())?.to()
    }

    /// Frees the cache. Tensors that came from `logits` stay valid; every other call is an error
    /// from now on.
    ///
    /// # Errors
    /// What the library throws.
    pub fn close(&mut self) -> Result<()> {
        invoke!(Context, "close", self.arg())?.to()
    }
}
