//! Models: load a GGUF file, make contexts, generate.

use std::collections::BTreeMap;
use std::path::Path;

use crate::any::{Any, Arg};
use crate::context::{Context, ContextOptions};
use crate::error::{Error, Result};
use crate::from_any::Bytes;
use crate::function::Function;
use crate::generation::{Generation, GenerationOptions};
use crate::object::{invoke, object_type};
use crate::owned_tensor::Tensor;
use crate::sampler::Sampler;
use crate::vocab::{path_argument, token_array, Token, Vocab};

object_type! {
    /// A model loaded from a GGUF file: immutable, shared by any number of contexts and threads.
    ///
    /// ```no_run
    /// let model = my_llm_ffi::Model::load("model.gguf")?;
    /// for piece in model.stream("Why is the sky blue?", Default::default())? {
    ///     print!("{}", piece?);
    /// }
    /// # Ok::<(), my_llm_ffi::Error>(())
    /// ```
    pub Model = "my_llm_ffi.Model"
}

// SAFETY: the library's object is immutable, and `close` takes its lock.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

/// How `Model::load_with` reads a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// CPU threads of its kernels; None: all that this process may use.
    pub n_threads: Option<usize>,
    /// Tile the weights once at load, which makes matrix products fast; false keeps the file's
    /// pages, which several processes then share.
    pub repack: bool,
    /// Map the file instead of reading it.
    pub mmap: bool,
    /// Keep the mapped file in memory.
    pub mlock: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { n_threads: None, repack: true, mmap: true, mlock: false }
    }
}

impl LoadOptions {
    /// 0 is what the library takes for all.
    fn threads(&self) -> Result<Arg<'static>> {
        match self.n_threads {
            Some(0) => Err(Error::value("n_threads is 0, expected a count >= 1 or None")),
            Some(count) => Ok(Arg::from(i64::try_from(count).unwrap_or(i64::MAX))),
            None => Ok(Arg::from(0)),
        }
    }
}

/// Sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Name of the architecture: `llama`.
    pub architecture: String,
    /// The file's name of the model.
    pub name: String,
    /// Layers.
    pub n_layers: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Width of the feed-forward layers.
    pub n_ff: usize,
    /// Tokens of the vocabulary.
    pub n_vocab: usize,
    /// Tokens of a sequence in training.
    pub n_ctx_train: usize,
    /// Added to the mean square by the norms.
    pub norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_base: f64,
    /// Factor of positions.
    pub rope_freq_scale: f64,
    /// Elements of a head that are rotated.
    pub rope_dims: usize,
}

/// Takes a named value out of what the library answered.
pub(crate) fn take<T: crate::from_any::FromAny>(
    values: &mut BTreeMap<String, Any>,
    name: &str,
) -> Result<T> {
    match values.remove(name) {
        Some(value) => value.to(),
        None => Err(Error::new("KeyError", format!("the library's answer has no {name}"))),
    }
}

impl Model {
    /// Loads a file; of split files any part.
    ///
    /// # Errors
    /// `OSError` where the file cannot be read; `ValueError` where it is no valid GGUF model;
    /// `NotImplementedError` where its architecture, tokenizer or a tensor type is not supported.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_with(path, &LoadOptions::default())
    }

    /// Loads a file, with options.
    ///
    /// # Errors
    /// As `load`; `RuntimeError` where mlock failed.
    pub fn load_with(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        Self::load_inner(path.as_ref(), options, None)
    }

    /// Loads a file and tells how far it is: `progress(fraction)` returns whether to go on.
    ///
    /// # Errors
    /// As `load_with`; `RuntimeError` where `progress` cancelled the load, or panicked.
    pub fn load_with_progress(
        path: impl AsRef<Path>,
        options: &LoadOptions,
        mut progress: impl FnMut(f64) -> bool + Send,
    ) -> Result<Self> {
        Function::lend(&mut |args| Ok(Any::from(progress(args.get(0)?))), |function| {
            Self::load_inner(path.as_ref(), options, Some(function))
        })?
    }

    fn load_inner(path: &Path, o: &LoadOptions, progress: Option<&Function>) -> Result<Self> {
        let (path, threads) = (path_argument(path)?, o.threads()?);
        let flags = (o.repack.into(), o.mmap.into(), o.mlock.into());
        let path = Arg::from(&path);
        invoke!(Model, "load", path, threads, flags.0, flags.1, flags.2, progress.into())?.to()
    }

    /// Sizes and constants.
    ///
    /// # Errors
    /// What the library throws.
    pub fn config(&self) -> Result<ModelConfig> {
        let mut values = invoke!(Model, "config", self.arg())?.to()?;
        Ok(ModelConfig {
            architecture: take(&mut values, "architecture")?,
            name: take(&mut values, "name")?,
            n_layers: take(&mut values, "n_layers")?,
            n_embd: take(&mut values, "n_embd")?,
            n_heads: take(&mut values, "n_heads")?,
            n_kv_heads: take(&mut values, "n_kv_heads")?,
            head_dim: take(&mut values, "head_dim")?,
            n_ff: take(&mut values, "n_ff")?,
            n_vocab: take(&mut values, "n_vocab")?,
            n_ctx_train: take(&mut values, "n_ctx_train")?,
            norm_eps: take(&mut values, "norm_eps")?,
            rope_base: take(&mut values, "rope_base")?,
            rope_freq_scale: take(&mut values, "rope_freq_scale")?,
            rope_dims: take(&mut values, "rope_dims")?,
        })
    }

    /// CPU threads of its kernels; 0: all that this process may use.
    ///
    /// # Errors
    /// What the library throws.
    pub fn n_threads(&self) -> Result<usize> {
        invoke!(Model, "n_threads", self.arg())?.to()
    }

    /// Bytes of its file.
    ///
    /// # Errors
    /// What the library throws.
    pub fn file_bytes(&self) -> Result<u64> {
        invoke!(Model, "file_bytes", self.arg())?.to()
    }

    /// Names of everything that the file says of itself, in its order.
    ///
    /// # Errors
    /// What the library throws.
    pub fn metadata_keys(&self) -> Result<Vec<String>> {
        let keys: Vec<Bytes> = invoke!(Model, "metadata_keys", self.arg())?.to()?;
        Ok(keys.iter().map(|key| String::from_utf8_lossy(&key.0).into_owned()).collect())
    }

    /// One thing that the file says of itself; texts come as `Bytes`.
    ///
    /// # Errors
    /// `KeyError` where it says nothing of this name.
    pub fn metadata(&self, key: &str) -> Result<Any> {
        let key = Any::bytes(key.as_bytes())?;
        invoke!(Model, "metadata", self.arg(), Arg::from(&key))
    }

    /// The vocabulary.
    ///
    /// # Errors
    /// What the library throws.
    pub fn vocab(&self) -> Result<Vocab> {
        invoke!(Model, "vocab", self.arg())?.to()
    }

    /// Makes a context: sequences with a KV cache of their own.
    ///
    /// # Errors
    /// `ValueError` where an option is out of its range, or the model is closed.
    pub fn context(&self, options: &ContextOptions<'_>) -> Result<Context> {
        Context::new(self, options)
    }

    /// Vectors of tokenized texts `[texts, n_embd]`: their last hidden rows, pooled.
    ///
    /// # Errors
    /// `ValueError` where a text has no tokens or more than the training length, or `pooling` is
    /// none of `mean`, `cls`, `last`.
    pub fn embed(
        &self,
        texts: &[impl AsRef<[Token]>],
        pooling: Option<&str>,
        normalize: bool,
    ) -> Result<Tensor> {
        let ids: Result<Vec<Any>> = texts.iter().map(|text| token_array(text.as_ref())).collect();
        let ids = Any::array(&ids?)?;
        let pooling = pooling.map(Any::text).transpose()?;
        let (ids, pooling) = (Arg::from(&ids), Arg::from(pooling.as_ref()));
        invoke!(Model, "embed", self.arg(), ids, pooling, normalize.into())?.to()
    }

    /// Continues a prompt, piece by piece; control tokens that it spells are text.
    ///
    /// # Errors
    /// `ValueError` where the prompt is empty or longer than the context, or an option is out of
    /// its range.
    pub fn stream(&self, prompt: &str, options: GenerationOptions) -> Result<Generation> {
        self.stream_tokens(&self.vocab()?.tokenize(prompt)?, options)
    }

    /// Continues a prompt that is tokens.
    ///
    /// # Errors
    /// As `stream`.
    pub fn stream_tokens(&self, prompt: &[Token], o: GenerationOptions) -> Result<Generation> {
        let sampler = match &o.sampling {
            Some(params) => Sampler::from_params(params)?,
            None => Sampler::greedy()?,
        };
        let n_ctx = match o.n_ctx {
            Some(n_ctx) => n_ctx,
            None => (prompt.len() + o.max_new_tokens).max(1).min(self.config()?.n_ctx_train),
        };
        let context = self.context(&ContextOptions { n_ctx: Some(n_ctx), ..Default::default() })?;
        Generation::new(context, sampler, prompt, &o)
    }

    /// Gives the weights back once no executor uses them. From now on every computation with the
    /// model is an error, of contexts that exist too.
    ///
    /// # Errors
    /// What the library throws.
    pub fn close(&self) -> Result<()> {
        invoke!(Model, "close", self.arg())?.to()
    }
}

object_type! {
    /// A LoRA adapter loaded for a model; any number of contexts and threads share it.
    pub LoraAdapter = "my_llm_ffi.LoraAdapter"
}

// SAFETY: the library's object is immutable.
unsafe impl Send for LoraAdapter {}
// SAFETY: as above.
unsafe impl Sync for LoraAdapter {}

impl LoraAdapter {
    /// Loads an adapter's GGUF file.
    ///
    /// # Errors
    /// `OSError` where the file cannot be read; `ValueError` where it is no adapter for this model.
    pub fn load(model: &Model, path: impl AsRef<Path>) -> Result<Self> {
        let path = path_argument(path.as_ref())?;
        invoke!(LoraAdapter, "load", model.arg(), Arg::from(&path))?.to()
    }

    /// Its scale is `alpha / rank`; 0: it is 1.
    ///
    /// # Errors
    /// What the library throws.
    pub fn alpha(&self) -> Result<f64> {
        invoke!(LoraAdapter, "alpha", self.arg())?.to()
    }

    /// How many matrices of the model it changes.
    ///
    /// # Errors
    /// What the library throws.
    pub fn n_matrices(&self) -> Result<usize> {
        invoke!(LoraAdapter, "n_matrices", self.arg())?.to()
    }
}
