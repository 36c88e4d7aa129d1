//! Many requests over one model: continuous batching on a thread of the library.

use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use crate::any::{Any, Arg};
use crate::error::Result;
use crate::function::Function;
use crate::model::Model;
use crate::object::{invoke, object_type, Object};
use crate::owned_tensor::Tensor;
use crate::request::{ExecutorConfig, Request};
use crate::response::{ExecutorStats, Response};
use crate::vocab::{path_argument, token_array, Token};

object_type! {
    /// The library's object of a `MaskEntry`.
    pub(crate) RawEntry = "my_llm_ffi.MaskEntry"
}

/// One sequence in a call of a logits post-processor; it ends with the call.
#[derive(Debug)]
pub struct MaskEntry<'a> {
    raw: RawEntry,
    mask: Tensor,
    call: PhantomData<&'a mut ()>,
}

impl MaskEntry<'_> {
    fn new(raw: RawEntry) -> Result<Self> {
        let mask = invoke!(RawEntry, "bitmask", raw.arg())?.to()?;
        Ok(Self { raw, mask, call: PhantomData })
    }

    /// Of the request.
    ///
    /// # Errors
    /// `RuntimeError` once the call timed out; the same for all methods.
    pub fn request_id(&self) -> Result<i64> {
        invoke!(RawEntry, "request_id", self.raw.arg())?.to()
    }

    /// As the request has it.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn client_id(&self) -> Result<i64> {
        invoke!(RawEntry, "client_id", self.raw.arg())?.to()
    }

    /// Which of the request's answers.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn sequence_index(&self) -> Result<usize> {
        invoke!(RawEntry, "sequence_index", self.raw.arg())?.to()
    }

    /// Tokens of the answer that are new since the last call for this sequence.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn tokens(&self) -> Result<Vec<Token>> {
        invoke!(RawEntry, "tokens", self.raw.arg())?.to()
    }

    /// The mask, all bits set at first: bit i % 32 of word i / 32 allows token i.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn bitmask(&mut self) -> Result<&mut [i32]> {
        // SAFETY: during the call the memory is the callback's alone, and this entry is the one
        // reference that the callback has to it.
        unsafe { self.mask.as_mut_slice_unchecked() }
    }

    /// Forbids all tokens but these.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn allow_only(&mut self, tokens: &[Token]) -> Result<()> {
        let words = self.bitmask()?;
        words.fill(0);
        for token in tokens {
            let bit = usize::try_from(*token).unwrap_or(usize::MAX);
            if let Some(word) = words.get_mut(bit / 32) {
                *word |= 1 << (bit % 32);
            }
        }
        Ok(())
    }

    /// Probability that the last mask left.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn mask_fraction(&self) -> Result<f64> {
        invoke!(RawEntry, "mask_fraction", self.raw.arg())?.to()
    }

    /// Whether the sequence is over; nothing will be sampled.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn is_final(&self) -> Result<bool> {
        invoke!(RawEntry, "is_final", self.raw.arg())?.to()
    }

    /// Of the next draw.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn temperature(&self) -> Result<f64> {
        invoke!(RawEntry, "temperature", self.raw.arg())?.to()
    }

    /// Sets the temperature of the next draw.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn set_temperature(&mut self, value: f64) -> Result<()> {
        invoke!(RawEntry, "set_temperature", self.raw.arg(), value.into())?.to()
    }

    /// Logarithm of min_p of the next draw; negative infinity: none.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn ln_min_p(&self) -> Result<f64> {
        invoke!(RawEntry, "ln_min_p", self.raw.arg())?.to()
    }

    /// Sets the logarithm of min_p of the next draw.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn set_ln_min_p(&mut self, value: f64) -> Result<()> {
        invoke!(RawEntry, "set_ln_min_p", self.raw.arg(), value.into())?.to()
    }

    /// The tokens that follow, whatever the logits say.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn force(&mut self, tokens: &[Token]) -> Result<()> {
        let tokens = token_array(tokens)?;
        invoke!(RawEntry, "force", self.raw.arg(), Arg::from(&tokens))?.to()
    }

    /// What was forced.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn forced_tokens(&self) -> Result<Vec<Token>> {
        invoke!(RawEntry, "forced_tokens", self.raw.arg())?.to()
    }

    /// Ends this sequence with an error of this text; others go on.
    ///
    /// # Errors
    /// As `request_id`.
    pub fn fail(&mut self, text: &str) -> Result<()> {
        let text = Any::text(text)?;
        invoke!(RawEntry, "fail", self.raw.arg(), Arg::from(&text))?.to()
    }
}

/// What an executor calls on its own threads.
#[derive(Debug, Clone, Default)]
pub struct Callbacks {
    post_processor: Option<Function>,
    on_step: Option<Function>,
}

impl Callbacks {
    /// Nothing is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls a logits post-processor once per step, for the requests that ask for it, while the
    /// forward pass runs. An error that it returns, or a panic, ends these requests.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn post_processor(
        mut self,
        process: impl Fn(&mut [MaskEntry<'_>]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        self.post_processor = Some(Function::new(move |args| {
            let raw: Vec<RawEntry> = args.get(0)?;
            let entries: Result<Vec<MaskEntry<'_>>> = raw.into_iter().map(MaskEntry::new).collect();
            process(&mut entries?)?;
            Ok(Any::NONE)
        })?);
        Ok(self)
    }

    /// Calls a function after each step, on the engine's thread.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn on_step(mut self, tell: impl Fn(ExecutorStats) + Send + Sync + 'static) -> Result<Self> {
        self.on_step = Some(Function::new(move |args| {
            tell(ExecutorStats::from_any(args.get(0)?)?);
            Ok(Any::NONE)
        })?);
        Ok(self)
    }
}

object_type! {
    /// Runs many requests at once: one step computes a token of each, and parts of new prompts.
    ///
    /// May be used from any thread, and from its own callbacks but for what waits for the engine.
    /// Dropped, it is shut down without draining.
    pub Executor = "my_llm_ffi.Executor"
}

// SAFETY: the library's executor takes its own locks in every method.
unsafe impl Send for Executor {}
// SAFETY: as above.
unsafe impl Sync for Executor {}

/// Who gets the responses of a request: anybody who awaits, or whoever asks for its id.
const ANYBODY: i64 = 0;
const OWNER: i64 = 1;

impl Executor {
    /// Starts an executor over a model, which stays loaded as long as it runs.
    ///
    /// # Errors
    /// `ValueError` where a field is out of its range; `MemoryError` where the KV cache does not
    /// fit.
    pub fn new(model: &Model, config: &ExecutorConfig) -> Result<Self> {
        Self::with_callbacks(model, config, &Callbacks::new())
    }

    /// Starts an executor that calls functions of yours.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_callbacks(
        model: &Model,
        config: &ExecutorConfig,
        callbacks: &Callbacks,
    ) -> Result<Self> {
        let config = config.to_map()?;
        let process = Arg::from(callbacks.post_processor.as_ref());
        let tell = Arg::from(callbacks.on_step.as_ref());
        invoke!(Executor, "create", model.arg(), Arg::from(&config), process, tell)?.to()
    }

    /// Whether the queue has room; others may take it, and answers that nobody read fill it.
    ///
    /// # Errors
    /// What the library throws.
    pub fn can_enqueue(&self) -> Result<bool> {
        invoke!(Executor, "can_enqueue", self.arg())?.to()
    }

    /// Enqueues a request and returns its id.
    ///
    /// # Errors
    /// `ValueError` where a field is out of its range, or the request can never fit the KV cache;
    /// `KeyError` where `lora` is not loaded; `RuntimeError` where the queue is full, or the
    /// executor is shut down.
    pub fn enqueue(&self, request: &Request) -> Result<i64> {
        self.enqueue_for(request, ANYBODY)
    }

    fn enqueue_for(&self, request: &Request, audience: i64) -> Result<i64> {
        let request = request.to_map()?;
        invoke!(Executor, "enqueue", self.arg(), Arg::from(&request), audience.into())?.to()
    }

    /// Waits for responses and returns those that are there. Each is returned once, whoever waits.
    ///
    /// `timeout`: nothing after so long; None: as long as something is in flight. `request_id`:
    /// only of this request; None: of any.
    ///
    /// # Errors
    /// `ValueError` where the id was never given.
    pub fn await_responses(
        &self,
        timeout: Option<Duration>,
        request_id: Option<i64>,
    ) -> Result<Vec<Response>> {
        self.await_for(timeout, request_id, ANYBODY)
    }

    fn await_for(
        &self,
        timeout: Option<Duration>,
        request_id: Option<i64>,
        audience: i64,
    ) -> Result<Vec<Response>> {
        let timeout = Arg::from(timeout.map(|t| t.as_secs_f64() * 1000.0));
        let (id, audience) = (request_id.into(), audience.into());
        let raw: Vec<Object> =
            invoke!(Executor, "await_responses", self.arg(), timeout, id, audience)?.to()?;
        raw.iter().map(Response::from_object).collect()
    }

    /// Enqueues a request at once and iterates over its responses; leaving cancels it.
    ///
    /// # Errors
    /// As `enqueue`.
    pub fn stream(&self, request: &Request) -> Result<ResponseStream<'_>> {
        let id = self.enqueue_for(request, OWNER)?;
        Ok(ResponseStream { executor: self, id, ready: vec![].into_iter(), over: false })
    }

    /// Ends a request before the next step; false when it is over already.
    ///
    /// # Errors
    /// `ValueError` where the id was never given.
    pub fn cancel(&self, request_id: i64) -> Result<bool> {
        invoke!(Executor, "cancel", self.arg(), request_id.into())?.to()
    }

    /// Cancels a request and drops its responses, those that wait and those to come.
    ///
    /// # Errors
    /// `ValueError` where the id was never given.
    pub fn forget(&self, request_id: i64) -> Result<()> {
        invoke!(Executor, "forget", self.arg(), request_id.into())?.to()
    }

    /// Figures: now, and since the start.
    ///
    /// # Errors
    /// What the library throws.
    pub fn stats(&self) -> Result<ExecutorStats> {
        ExecutorStats::from_any(invoke!(Executor, "stats", self.arg())?)
    }

    /// Loads an adapter from a GGUF file, for requests with `lora: Some(name)`.
    ///
    /// # Errors
    /// `OSError` where the file cannot be read; `ValueError` where it is no adapter for this model,
    /// or the name is in use.
    pub fn load_lora(&self, name: &str, path: impl AsRef<Path>) -> Result<()> {
        let (name, path) = (Any::text(name)?, path_argument(path.as_ref())?);
        invoke!(Executor, "load_lora", self.arg(), Arg::from(&name), Arg::from(&path))?.to()
    }

    /// Forgets an adapter; requests that use it go on.
    ///
    /// # Errors
    /// `KeyError` for an unknown name.
    pub fn unload_lora(&self, name: &str) -> Result<()> {
        let name = Any::text(name)?;
        invoke!(Executor, "unload_lora", self.arg(), Arg::from(&name))?.to()
    }

    /// Ends the engine and frees its memory; what it has answered can still be awaited. `drain`:
    /// first finish what was enqueued.
    ///
    /// # Errors
    /// `RuntimeError` from one of the executor's callbacks.
    pub fn shutdown(&self, drain: bool) -> Result<()> {
        invoke!(Executor, "shutdown", self.arg(), drain.into())?.to()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Refused in a callback of its own; the library then ends the engine by itself.
        let _ = self.shutdown(false);
    }
}

/// The responses of one request, until its last one. Dropped before, it cancels the request.
#[derive(Debug)]
pub struct ResponseStream<'a> {
    executor: &'a Executor,
    id: i64,
    ready: std::vec::IntoIter<Response>,
    over: bool,
}

impl ResponseStream<'_> {
    /// Id of the request.
    pub fn request_id(&self) -> i64 {
        self.id
    }
}

impl Iterator for ResponseStream<'_> {
    type Item = Result<Response>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            if let Some(response) = self.ready.next() {
                self.over = response.is_request_final;
                return Some(Ok(response));
            }
            match self.executor.await_for(None, Some(self.id), OWNER) {
                Ok(responses) if responses.is_empty() => self.over = true,
                Ok(responses) => self.ready = responses.into_iter(),
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Drop for ResponseStream<'_> {
    fn drop(&mut self) {
        if !self.over {
            // Shut down meanwhile: then there is nothing to cancel.
            let _ = self.executor.forget(self.id);
        }
    }
}
