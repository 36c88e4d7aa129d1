//! From logits to tokens.

use crate::any::{Any, Arg};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::object::{invoke, object_type};
use crate::tensor::TensorView;
use crate::vocab::Token;

/// One stage of a sampler.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Stage {
    /// Makes tokens that were seen less likely.
    Penalties {
        /// Over prompt and answer, > 0; 1 changes nothing.
        repetition: f64,
        /// Subtracted per occurrence.
        frequency: f64,
        /// Subtracted once.
        presence: f64,
        /// Tokens that are looked at; -1: all.
        last_n: i64,
    },
    /// Added to logits by token.
    LogitBias(Vec<(Token, f64)>),
    /// Divides logits; 0 takes the best token.
    Temperature(f64),
    /// Keep the k best.
    TopK(i64),
    /// Keep the smallest set of this probability.
    TopP(f64),
    /// Keep tokens with so many times the best one's probability.
    MinP(f64),
    /// Keep the most typical tokens of this probability.
    TypicalP(f64),
    /// Draw, with numbers of a seed; None: a fresh one.
    Draw(Option<u64>),
}

/// How a request is sampled, always in this order: penalties, logit bias, temperature, top-k,
/// typical-p, top-p, min-p, draw. None leaves a stage out.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides logits, >= 0; 0 takes the best token.
    pub temperature: f64,
    /// Keep the k best, >= 1.
    pub top_k: Option<i64>,
    /// Keep the smallest set of probability p, 0 < p <= 1.
    pub top_p: Option<f64>,
    /// Keep tokens with p times the best one's probability, 0 <= p <= 1.
    pub min_p: Option<f64>,
    /// Keep the most typical tokens of probability p, 0 < p <= 1.
    pub typical_p: Option<f64>,
    /// Of the draws; None: a fresh one.
    pub seed: Option<u64>,
    /// Over prompt and answer, > 0; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Subtracted per occurrence.
    pub frequency_penalty: f64,
    /// Subtracted once.
    pub presence_penalty: f64,
    /// Tokens that penalties look at; -1: all.
    pub penalty_last_n: i64,
    /// Added to logits by token.
    pub logit_bias: Vec<(Token, f64)>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            typical_p: None,
            seed: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: -1,
            logit_bias: vec![],
        }
    }
}

impl SamplingParams {
    /// What a sampler of these parameters is made of.
    pub fn stages(&self) -> Vec<Stage> {
        let mut stages = vec![];
        let penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty);
        if penalties != (1.0, 0.0, 0.0) {
            let (repetition, frequency, presence) = penalties;
            let last_n = self.penalty_last_n;
            stages.push(Stage::Penalties { repetition, frequency, presence, last_n });
        }
        if !self.logit_bias.is_empty() {
            stages.push(Stage::LogitBias(self.logit_bias.clone()));
        }
        stages.push(Stage::Temperature(self.temperature));
        stages.extend(self.top_k.map(Stage::TopK));
        stages.extend(self.typical_p.map(Stage::TypicalP));
        stages.extend(self.top_p.map(Stage::TopP));
        stages.extend(self.min_p.map(Stage::MinP));
        stages.push(Stage::Draw(self.seed));
        stages
    }
}

/// The library takes the 64 bits of a seed as a signed number.
pub(crate) fn seed_bits(seed: u64) -> i64 {
    i64::from_ne_bytes(seed.to_ne_bytes())
}

pub(crate) fn bias_map(bias: &[(Token, f64)]) -> Result<Any> {
    let pairs: Vec<(Any, Any)> =
        bias.iter().map(|(token, value)| (Any::from(*token), Any::from(*value))).collect();
    Any::map_of(&pairs)
}

object_type! {
    /// Stages, applied in the order in which they were added. Used by one thread at a time.
    pub Sampler = "my_llm_ffi.Sampler"
}

// SAFETY: one thread at a time, any one.
unsafe impl Send for Sampler {}

impl Sampler {
    /// A sampler of these stages.
    ///
    /// # Errors
    /// `ValueError` where a parameter is out of its range; it is named.
    pub fn new(stages: &[Stage]) -> Result<Self> {
        let mut sampler: Self = invoke!(Sampler, "create")?.to()?;
        for stage in stages {
            sampler.add(stage)?;
        }
        Ok(sampler)
    }

    /// Always takes the best token.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn greedy() -> Result<Self> {
        Self::new(&[])
    }

    /// A fresh sampler with the stages of `params` in their fixed order.
    ///
    /// # Errors
    /// `ValueError` where a parameter is out of its range; it is named.
    pub fn from_params(params: &SamplingParams) -> Result<Self> {
        let last_n = params.penalty_last_n;
        if last_n < -1 {
            let text = format!("penalty_last_n is {last_n}, expected a count, or -1 for all");
            return Err(Error::value(text));
        }
        Self::new(&params.stages())
    }

    /// Adds a stage after the others.
    ///
    /// # Errors
    /// `ValueError` where a parameter is out of its range; it is named.
    pub fn add(&mut self, stage: &Stage) -> Result<()> {
        let this = self.arg();
        let done = match stage {
            Stage::Penalties { repetition, frequency, presence, last_n } => {
                let (r, f, p) = ((*repetition).into(), (*frequency).into(), (*presence).into());
                invoke!(Sampler, "add_penalties", this, r, f, p, (*last_n).into())
            }
            Stage::LogitBias(bias) => {
                let bias = bias_map(bias)?;
                invoke!(Sampler, "add_logit_bias", this, Arg::from(&bias))
            }
            Stage::Temperature(t) => invoke!(Sampler, "add_temperature", this, (*t).into()),
            Stage::TopK(k) => invoke!(Sampler, "add_top_k", this, (*k).into()),
            Stage::TopP(p) => invoke!(Sampler, "add_top_p", this, (*p).into()),
            Stage::MinP(p) => invoke!(Sampler, "add_min_p", this, (*p).into()),
            Stage::TypicalP(p) => invoke!(Sampler, "add_typical_p", this, (*p).into()),
            Stage::Draw(seed) => invoke!(Sampler, "add_draw", this, seed.map(seed_bits).into()),
        };
        done?.to()
    }

    /// Samples row `index` of the context's logits, counted from the end where it is negative, and
    /// accepts the token.
    ///
    /// # Errors
    /// `IndexError` where the last decode gave no such row; `ValueError` where no token is left.
    pub fn sample(&mut self, context: &Context, index: i64) -> Result<Token> {
        invoke!(Sampler, "sample", self.arg(), context.arg(), index.into())?.to()
    }

    /// Samples one row of logits, without accepting the token.
    ///
    /// # Errors
    /// `ValueError` where the row is empty, or no token is left.
    pub fn sample_logits(&mut self, logits: &[f32]) -> Result<Token> {
        let view = TensorView::from(logits);
        invoke!(Sampler, "sample_logits", self.arg(), view.lower().arg())?.to()
    }

    /// What a draw would choose from: tokens and probabilities, best first.
    ///
    /// # Errors
    /// As `sample_logits`.
    pub fn probabilities(&mut self, logits: &[f32]) -> Result<Vec<(Token, f64)>> {
        let view = TensorView::from(logits);
        let both: Vec<Any> =
            invoke!(Sampler, "probabilities", self.arg(), view.lower().arg())?.to()?;
        let mut both = both.into_iter();
        let mut next = || both.next().unwrap_or(Any::NONE);
        let (ids, values): (Vec<Token>, Vec<f64>) = (next().to()?, next().to()?);
        Ok(ids.into_iter().zip(values).collect())
    }

    /// Adds a token to the history that penalties look at.
    ///
    /// # Errors
    /// `ValueError` where the token is out of range.
    pub fn accept(&mut self, token: Token) -> Result<()> {
        invoke!(Sampler, "accept", self.arg(), token.into())?.to()
    }

    /// Forgets the history and starts the seed's numbers again.
    ///
    /// # Errors
    /// What the library throws.
    pub fn reset(&mut self) -> Result<()> {
        invoke!(Sampler, "reset", self.arg())?.to()
    }
}
