//! One prompt continued token by token: iterators over pieces of text, and over tokens.

use std::collections::VecDeque;

use crate::any::{Any, Arg};
use crate::context::{count, Context};
use crate::error::Result;
use crate::model::take;
use crate::object::{invoke, object_type};
use crate::sampler::{Sampler, SamplingParams};
use crate::vocab::{token_array, Token};

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// It goes on.
    NotFinished,
    /// An end token came.
    EndId,
    /// A stop string came.
    StopWords,
    /// As many tokens as were wanted, or as fit.
    Length,
    /// Somebody cancelled it.
    Cancelled,
    /// Its deadline passed.
    TimedOut,
    /// It failed.
    Error,
    /// What a newer library says.
    Other(i64),
}

impl From<i64> for FinishReason {
    fn from(number: i64) -> Self {
        match number {
            0 => Self::NotFinished,
            1 => Self::EndId,
            2 => Self::StopWords,
            3 => Self::Length,
            4 => Self::Cancelled,
            5 => Self::TimedOut,
            6 => Self::Error,
            other => Self::Other(other),
        }
    }
}

/// How a prompt is continued; `..Default::default()` fills the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// At most so many tokens.
    pub max_new_tokens: usize,
    /// None: always the best token.
    pub sampling: Option<SamplingParams>,
    /// Strings that end the generation; they are not part of the text.
    pub stop: Vec<String>,
    /// Tokens of prompt and answer together; None: as needed, up to the training length.
    pub n_ctx: Option<usize>,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self { max_new_tokens: 128, sampling: None, stop: vec![], n_ctx: None }
    }
}

/// Where the time went. The first generated token comes out of the prompt's pass, so that
/// `generated_tokens` counts the steps after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of the prompt's pass.
    pub prompt_seconds: f64,
    /// Steps after the first token.
    pub generated_tokens: usize,
    /// Of these.
    pub generated_seconds: f64,
}

object_type! {
    /// The library's object of a `Generation`.
    pub(crate) Raw = "my_llm_ffi.Generation"
}

/// One prompt that is being continued: an iterator over pieces of text, never empty and never half
/// a character. After an error it can go on where it was.
#[derive(Debug)]
pub struct Generation {
    raw: Raw,
    context: Context,
}

// SAFETY: one thread at a time, any one.
unsafe impl Send for Generation {}

impl Generation {
    /// Continues `prompt` in sequence 0 of a context; of `options`, `sampling` and `n_ctx` say
    /// nothing here.
    ///
    /// # Errors
    /// `ValueError` where the prompt is empty, longer than the context or has a token out of range,
    /// or a stop string is empty.
    pub fn new(
        context: Context,
        sampler: Sampler,
        prompt: &[Token],
        options: &GenerationOptions,
    ) -> Result<Self> {
        let prompt = token_array(prompt)?;
        let stops: Result<Vec<Any>> =
            options.stop.iter().map(|word| Any::bytes(word.as_bytes())).collect();
        let stops = Any::array(&stops?)?;
        let raw = invoke!(
            Raw,
            "create",
            context.arg(),
            sampler.arg(),
            Arg::from(&prompt),
            count(options.max_new_tokens).into(),
            Arg::from(&stops),
        )?
        .to()?;
        Ok(Self { raw, context })
    }

    /// The tokens so far, without the end token.
    ///
    /// # Errors
    /// What the library throws.
    pub fn tokens(&self) -> Result<Vec<Token>> {
        invoke!(Raw, "tokens", self.raw.arg())?.to()
    }

    /// Why it ended, or that it goes on.
    ///
    /// # Errors
    /// What the library throws.
    pub fn finish_reason(&self) -> Result<FinishReason> {
        let number: i64 = invoke!(Raw, "finish_reason", self.raw.arg())?.to()?;
        Ok(number.into())
    }

    /// Where the time went so far.
    ///
    /// # Errors
    /// What the library throws.
    pub fn timings(&self) -> Result<Timings> {
        let mut values = invoke!(Raw, "timings", self.raw.arg())?.to()?;
        Ok(Timings {
            prompt_tokens: take(&mut values, "prompt_tokens")?,
            prompt_seconds: take(&mut values, "prompt_seconds")?,
            generated_tokens: take(&mut values, "generated_tokens")?,
            generated_seconds: take(&mut values, "generated_seconds")?,
        })
    }

    /// Generates to the end and returns the text that was left.
    ///
    /// # Errors
    /// The first error of a step.
    pub fn finish(&mut self) -> Result<String> {
        self.collect()
    }

    /// An iterator over tokens instead of text. Begins with the first one, whatever was read as
    /// text before.
    pub fn into_tokens(self) -> Tokens {
        Tokens { generation: self, ready: VecDeque::new(), seen: 0, over: false }
    }

    /// The context, which holds prompt and answer.
    pub fn into_context(self) -> Context {
        self.context
    }
}

impl Iterator for Generation {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        invoke!(Raw, "next", self.raw.arg()).and_then(Any::to).transpose()
    }
}

/// The tokens of a generation, as they come.
#[derive(Debug)]
pub struct Tokens {
    generation: Generation,
    ready: VecDeque<Token>,
    seen: usize,
    over: bool,
}

impl Tokens {
    /// The generation, to ask for the rest.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// A piece of text may stand for several tokens, and the last tokens for none.
    fn advance(&mut self) -> Result<()> {
        while self.ready.is_empty() && !self.over {
            let tokens = self.generation.tokens()?;
            self.ready.extend(&tokens[self.seen..]);
            self.seen = tokens.len();
            if self.ready.is_empty() {
                self.over = self.generation.next().transpose()?.is_none();
                if self.over {
                    let tokens = self.generation.tokens()?;
                    self.ready.extend(&tokens[self.seen..]);
                    self.seen = tokens.len();
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Tokens {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(()) => self.ready.pop_front().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}
