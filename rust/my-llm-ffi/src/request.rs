//! What an executor is asked: `Request`, `ExecutorConfig`.

use crate::any::Any;
use crate::context::{count, KvDtype};
use crate::error::Result;
use crate::owned_tensor::Tensor;
use crate::sampler::{bias_map, seed_bits, SamplingParams};
use crate::vocab::{token_array, Token};

/// When a beam search ends before `max_new_tokens`: as many answers as beams are finished, and …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// … no running one is better at its present length.
    #[default]
    Heuristic,
    /// … nothing more.
    First,
    /// … no running one can become better at any length.
    Never,
}

/// What is admitted while others run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchedulerPolicy {
    /// What fits now; where the KV cache is full, the last request in rank begins again later.
    #[default]
    MaxUtilization,
    /// Only what fits to its end.
    GuaranteedNoEvict,
}

/// How the rows of an embedding request are pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all rows.
    Mean,
    /// The last row.
    Last,
    /// The first row.
    Cls,
}

impl Pooling {
    fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Last => "last",
            Self::Cls => "cls",
        }
    }
}

/// One prompt and what is wanted of it; `..Default::default()` fills the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt; `n_vocab + i` stands for row i of `prompt_table`.
    pub tokens: Vec<Token>,
    /// At most so many tokens; 0 computes the prompt alone.
    pub max_new_tokens: usize,
    /// None: always the best token.
    pub sampling: Option<SamplingParams>,
    /// Tokens are delivered as they come instead of at the end.
    pub streaming: bool,
    /// Answers to this prompt, each with draws of its own.
    pub num_return_sequences: usize,
    /// Answers to sample, of which the best `num_return_sequences` are delivered.
    pub best_of: Option<usize>,
    /// More than 1: beam search instead of sampling, at most 16.
    pub beam_width: usize,
    /// Of beams: score = sum of log-probabilities / length ** length_penalty.
    pub length_penalty: f64,
    /// When a beam search ends.
    pub early_stopping: EarlyStopping,
    /// Tokens that end an answer beside the model's own end tokens.
    pub stop_token_ids: Vec<Token>,
    /// Strings that end an answer; they are not part of the text.
    pub stop_words: Vec<String>,
    /// The model's end tokens end nothing.
    pub ignore_eos: bool,
    /// Tokens before which no end token is chosen.
    pub min_tokens: usize,
    /// Log-probabilities of each token and of so many best ones; 0: none.
    pub logprobs: usize,
    /// The same for the prompt's tokens after the first.
    pub prompt_logprobs: usize,
    /// Higher ones go first, and take the place of lower ones that run.
    pub priority: f64,
    /// The request times out if it has not begun by then.
    pub queue_deadline_ms: Option<f64>,
    /// Likewise if it has not ended.
    pub deadline_ms: Option<f64>,
    /// Comes back in every response.
    pub client_id: i64,
    /// Name of a loaded adapter.
    pub lora: Option<String>,
    /// Rows of float32 `[rows, n_embd]` in place of token embeddings; copied.
    pub prompt_table: Option<(Vec<f32>, usize)>,
    /// Positions that a token sees, itself among them; 0: all.
    pub attention_window: Option<usize>,
    /// First positions that are seen beyond the window.
    pub sink_tokens: Option<usize>,
    /// Only requests with the same one share what was computed of their prompts.
    pub cache_salt: Option<String>,
    /// The executor's post-processor masks each token.
    pub use_logits_post_processor: bool,
    /// An embedding instead of an answer.
    pub pooling: Option<Pooling>,
    /// The embedding has length 1.
    pub normalize: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            tokens: vec![],
            max_new_tokens: 128,
            sampling: None,
            streaming: false,
            num_return_sequences: 1,
            best_of: None,
            beam_width: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            stop_token_ids: vec![],
            stop_words: vec![],
            ignore_eos: false,
            min_tokens: 0,
            logprobs: 0,
            prompt_logprobs: 0,
            priority: 0.0,
            queue_deadline_ms: None,
            deadline_ms: None,
            client_id: 0,
            lora: None,
            prompt_table: None,
            attention_window: None,
            sink_tokens: None,
            cache_salt: None,
            use_logits_post_processor: false,
            pooling: None,
            normalize: true,
        }
    }
}

/// Fields of a structure as the library takes them; what is None is left out.
struct Fields(Vec<(&'static str, Any)>);

impl Fields {
    fn set(&mut self, name: &'static str, value: impl Into<Any>) {
        self.0.push((name, value.into()));
    }

    fn count(&mut self, name: &'static str, value: usize) {
        self.set(name, count(value));
    }

    fn some(&mut self, name: &'static str, value: Option<impl Into<Any>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    fn text(&mut self, name: &'static str, value: Option<&str>) -> Result<()> {
        self.some(name, value.map(Any::text).transpose()?);
        Ok(())
    }

    fn into_map(self) -> Result<Any> {
        Any::map(self.0)
    }
}

impl Request {
    /// As the library takes it.
    pub(crate) fn to_map(&self) -> Result<Any> {
        let mut fields = Fields(vec![]);
        self.add_sampling(&mut fields)?;
        self.add_shape_of_answer(&mut fields)?;
        self.add_scheduling(&mut fields)?;
        fields.into_map()
    }

    fn add_sampling(&self, f: &mut Fields) -> Result<()> {
        let Some(s) = &self.sampling else {
            f.set("temperature", 0.0);
            return Ok(());
        };
        f.set("temperature", s.temperature);
        f.some("top_k", s.top_k);
        f.some("top_p", s.top_p);
        f.some("min_p", s.min_p);
        f.some("typical_p", s.typical_p);
        f.some("seed", s.seed.map(seed_bits));
        f.set("repetition_penalty", s.repetition_penalty);
        f.set("frequency_penalty", s.frequency_penalty);
        f.set("presence_penalty", s.presence_penalty);
        f.set("penalty_last_n", s.penalty_last_n);
        f.set("logit_bias", bias_map(&s.logit_bias)?);
        Ok(())
    }

    fn add_shape_of_answer(&self, f: &mut Fields) -> Result<()> {
        f.set("tokens", token_array(&self.tokens)?);
        f.count("max_new_tokens", self.max_new_tokens);
        f.set("streaming", self.streaming);
        f.count("num_return_sequences", self.num_return_sequences);
        f.some("best_of", self.best_of.map(count));
        f.count("beam_width", self.beam_width);
        f.set("length_penalty", self.length_penalty);
        f.set("early_stopping", self.early_stopping as i64);
        f.set("stop_token_ids", token_array(&self.stop_token_ids)?);
        let words: Result<Vec<Any>> =
            self.stop_words.iter().map(|word| Any::bytes(word.as_bytes())).collect();
        f.set("stop_words", Any::array(&words?)?);
        f.set("ignore_eos", self.ignore_eos);
        f.count("min_tokens", self.min_tokens);
        f.count("logprobs", self.logprobs);
        f.count("prompt_logprobs", self.prompt_logprobs);
        f.text("pooling", self.pooling.map(Pooling::name))?;
        f.set("normalize", self.normalize);
        Ok(())
    }

    fn add_scheduling(&self, f: &mut Fields) -> Result<()> {
        f.set("priority", self.priority);
        f.some("queue_deadline_ms", self.queue_deadline_ms);
        f.some("deadline_ms", self.deadline_ms);
        f.set("client_id", self.client_id);
        f.text("lora", self.lora.as_deref())?;
        if let Some((rows, n_embd)) = &self.prompt_table {
            let n_rows = rows.len().checked_div(*n_embd).unwrap_or(0);
            f.set("prompt_table", Tensor::from_slice(rows, &[n_rows, *n_embd])?);
        }
        f.some("attention_window", self.attention_window.map(count));
        f.some("sink_tokens", self.sink_tokens.map(count));
        f.text("cache_salt", self.cache_salt.as_deref())?;
        f.set("use_logits_post_processor", self.use_logits_post_processor);
        Ok(())
    }
}

/// How an executor works; `..Default::default()` fills the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorConfig {
    /// Sequences in one step.
    pub max_batch_size: usize,
    /// Tokens in one step; None: as many as take about 100 ms.
    pub max_num_tokens: Option<usize>,
    /// Requests that may wait; also, finished ones that nobody has read yet.
    pub max_queue_size: usize,
    /// What is admitted while others run.
    pub scheduler_policy: SchedulerPolicy,
    /// Long prompts are computed in parts between the others' tokens.
    pub enable_chunked_prefill: bool,
    /// Prompts that begin alike are computed once.
    pub enable_prefix_cache: bool,
    /// Entries of the KV cache, over all sequences; None: half of the free memory at most.
    pub kv_cache_tokens: Option<usize>,
    /// Instead, a part of the free memory.
    pub kv_cache_memory_fraction: Option<f64>,
    /// Tokens of prompt and answer; None: the training length.
    pub max_sequence_length: Option<usize>,
    /// Numbers in the KV cache.
    pub kv_dtype: KvDtype,
    /// Positions that a token sees, itself among them, where a request says nothing; 0: all.
    pub attention_window: usize,
    /// First positions that are seen beyond the window, likewise.
    pub sink_tokens: usize,
    /// How long a request may wait for its start, likewise; None: for ever.
    pub queue_deadline_ms: Option<f64>,
    /// A wait that counts as much as a priority higher by 1.
    pub priority_aging_ms: f64,
    /// Of a streaming request that nobody reads; one more cancels it.
    pub max_pending_responses: usize,
    /// Threads that call the logits post-processor.
    pub n_post_processor_threads: usize,
    /// A call that takes longer ends its requests with an error.
    pub post_processor_timeout_ms: f64,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            max_batch_size: 128,
            max_num_tokens: None,
            max_queue_size: 1024,
            scheduler_policy: SchedulerPolicy::MaxUtilization,
            enable_chunked_prefill: true,
            enable_prefix_cache: true,
            kv_cache_tokens: None,
            kv_cache_memory_fraction: None,
            max_sequence_length: None,
            kv_dtype: KvDtype::F16,
            attention_window: 0,
            sink_tokens: 0,
            queue_deadline_ms: None,
            priority_aging_ms: 10_000.0,
            max_pending_responses: 1024,
            n_post_processor_threads: 1,
            post_processor_timeout_ms: 10_000.0,
        }
    }
}

impl ExecutorConfig {
    /// As the library takes it.
    pub(crate) fn to_map(&self) -> Result<Any> {
        let mut f = Fields(vec![]);
        f.count("max_batch_size", self.max_batch_size);
        f.some("max_num_tokens", self.max_num_tokens.map(count));
        f.count("max_queue_size", self.max_queue_size);
        f.set("scheduler_policy", self.scheduler_policy as i64);
        f.set("enable_chunked_prefill", self.enable_chunked_prefill);
        f.set("enable_prefix_cache", self.enable_prefix_cache);
        f.some("kv_cache_tokens", self.kv_cache_tokens.map(count));
        f.some("kv_cache_memory_fraction", self.kv_cache_memory_fraction);
        f.some("max_sequence_length", self.max_sequence_length.map(count));
        f.text("kv_dtype", Some(self.kv_dtype.name()))?;
        f.count("attention_window", self.attention_window);
        f.count("sink_tokens", self.sink_tokens);
        f.some("queue_deadline_ms", self.queue_deadline_ms);
        f.set("priority_aging_ms", self.priority_aging_ms);
        f.count("max_pending_responses", self.max_pending_responses);
        f.count("n_post_processor_threads", self.n_post_processor_threads);
        f.set("post_processor_timeout_ms", self.post_processor_timeout_ms);
        f.into_map()
    }
}
