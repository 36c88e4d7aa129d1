//! What an executor answers: `Response`, `ExecutorStats`.

use std::collections::BTreeMap;

use crate::any::Any;
use crate::error::Result;
use crate::generation::FinishReason;
use crate::model::take;
use crate::object::Object;
use crate::owned_tensor::Tensor;
use crate::vocab::Token;

/// Log-probabilities of one token, of the logits as the model gave them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprobs {
    /// Of the token itself.
    pub logprob: f64,
    /// Tokens and their log-probabilities, the best first.
    pub best: Vec<(Token, f64)>,
}

/// What came of a sequence since its last response. It owns what it says.
#[derive(Debug)]
#[non_exhaustive]
pub struct Response {
    /// What `Executor::enqueue` returned.
    pub request_id: i64,
    /// As the request has it.
    pub client_id: i64,
    /// Of the request's answers; ranked ones begin with the best.
    pub sequence_index: usize,
    /// New tokens, without the one that ended the answer.
    pub tokens: Vec<Token>,
    /// Their text as far as it is sure: never half a character, nothing of a stop word.
    pub text: String,
    /// Of the new tokens, where wanted.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of the prompt's tokens after the first, where wanted.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Sum over the answer; 0 unless log-probabilities or a ranking were wanted.
    pub cumulative_logprob: f64,
    /// float32 `[1, n_embd]` of a request with `pooling`.
    pub embedding: Option<Tensor>,
    /// Of the prompt, found computed.
    pub cached_tokens: usize,
    /// Probability that the last mask left.
    pub mask_fraction: f64,
    /// `NotFinished` before the sequence's last response.
    pub finish_reason: FinishReason,
    /// Why it was not completed; empty otherwise.
    pub error: String,
    /// The last one of the sequence.
    pub is_sequence_final: bool,
    /// The last one of the request.
    pub is_request_final: bool,
}

impl Response {
    pub(crate) fn from_object(raw: &Object) -> Result<Self> {
        let reason: i64 = raw.field("finish_reason")?.to()?;
        Ok(Self {
            request_id: raw.field("request_id")?.to()?,
            client_id: raw.field("client_id")?.to()?,
            sequence_index: raw.field("sequence_index")?.to()?,
            tokens: raw.field("tokens")?.to()?,
            text: raw.field("text")?.to()?,
            logprobs: logprobs(raw.field("logprobs")?)?,
            prompt_logprobs: logprobs(raw.field("prompt_logprobs")?)?,
            cumulative_logprob: raw.field("cumulative_logprob")?.to()?,
            embedding: raw.field("embedding")?.to()?,
            cached_tokens: raw.field("cached_tokens")?.to()?,
            mask_fraction: raw.field("mask_fraction")?.to()?,
            finish_reason: reason.into(),
            error: raw.field("error")?.to()?,
            is_sequence_final: raw.field("is_sequence_final")?.to()?,
            is_request_final: raw.field("is_request_final")?.to()?,
        })
    }
}

/// Of each token (log-probability, ids of the best, their log-probabilities).
fn logprobs(raw: Any) -> Result<Vec<TokenLogprobs>> {
    let tokens: Vec<Vec<Any>> = raw.to()?;
    tokens.into_iter().map(token_logprobs).collect()
}

fn token_logprobs(parts: Vec<Any>) -> Result<TokenLogprobs> {
    let mut parts = parts.into_iter();
    let mut next = || parts.next().unwrap_or(Any::NONE);
    let logprob = next().to()?;
    let (ids, values): (Vec<Token>, Vec<f64>) = (next().to()?, next().to()?);
    Ok(TokenLogprobs { logprob, best: ids.into_iter().zip(values).collect() })
}

macro_rules! stats {
    ($($(#[$attribute:meta])* $name:ident: $type:ty,)*) => {
        /// Figures of an executor: now, and since the start (docs/guide_executor.md).
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub struct ExecutorStats {
            $($(#[$attribute])* pub $name: $type,)*
        }

        impl ExecutorStats {
            pub(crate) fn from_any(raw: Any) -> Result<Self> {
                let mut values: BTreeMap<String, Any> = raw.to()?;
                Ok(Self { $($name: take(&mut values, stringify!($name))?,)* })
            }
        }
    };
}

stats! {
    /// Requests that wait.
    waiting: usize,
    /// Requests that run.
    running: usize,
    /// Requests with answers that nobody has read.
    unread: usize,
    /// Blocks of the KV cache.
    blocks_total: usize,
    /// Blocks that a sequence uses.
    blocks_used: usize,
    /// Blocks that hold nothing.
    blocks_free: usize,
    /// Blocks that are kept for prompts to come.
    blocks_cached: usize,
    /// Tokens in one step.
    max_num_tokens: usize,
    /// Steps so far.
    steps: u64,
    /// Requests so far.
    requests: u64,
    /// Requests that are over.
    requests_finished: u64,
    /// Sequences that were set back.
    preemptions: u64,
    /// Tokens of prompts.
    prompt_tokens: u64,
    /// Tokens of prompts that were found computed.
    cached_prompt_tokens: u64,
    /// Tokens of answers.
    generated_tokens: u64,
    /// Tokens that went through the model.
    computed_tokens: u64,
    /// Tokens that the prefix cache was asked for.
    prefix_tokens_looked_up: u64,
    /// Tokens that it had.
    prefix_tokens_hit: u64,
    /// Time in the model.
    forward_seconds: f64,
    /// Time in steps.
    step_seconds: f64,
    /// Time of steps that computed prompts.
    prefill_seconds: f64,
    /// Time of the others.
    decode_seconds: f64,
    /// Tokens of steps that computed prompts.
    prefill_tokens: u64,
    /// Tokens of the others.
    decode_tokens: u64,
    /// Histogram of the time to the first token.
    time_to_first_token_counts: Vec<u64>,
    /// Sum of it.
    time_to_first_token_seconds: f64,
    /// Histogram of the time between tokens.
    time_between_tokens_counts: Vec<u64>,
    /// Sum of it.
    time_between_tokens_seconds: f64,
}
