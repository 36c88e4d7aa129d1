//! LLM kernels, models and an executor in Rust: a safe client of `libmy_llm_ffi.so` over the C ABI
//! of Apache tvm-ffi. Nothing is linked: the library is loaded at run time ([`load`]), from the
//! installed Python wheel or any other folder. No Python runs.
//!
//! - [`ops`]: kernels on your own slices, one function for each op, made from its declaration.
//! - [`Model`], [`Vocab`], [`Context`], [`Batch`], [`Sampler`], [`Generation`]: one user, full
//!   control.
//! - [`Executor`], [`Request`], [`Response`]: many requests over one model.
//! - [`Plan`]: calls of ops, loaded from a file or built here, run without a compiler.
//! - [`Function`], [`Any`], [`Object`]: everything else in the registry, by its name.
//!
//! ```
//! use my_llm_ffi::{ops, TensorView, TensorViewMut};
//!
//! # fn main() -> my_llm_ffi::Result<()> {
//! let x = [3.0f32, 4.0, 0.0, 5.0];
//! let weight = [1.0f32, 1.0];
//! let mut out = [0.0f32; 4];
//! ops::rms_norm(
//!     &TensorView::new(&x, &[2, 2])?,
//!     &TensorView::from(&weight),
//!     &mut TensorViewMut::new(&mut out, &[2, 2])?,
//!     ops::RmsNormOptions::default(),
//! )?;
//! assert!((out[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-5);
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//! [`Model`], [`Vocab`], [`LoraAdapter`] and [`Executor`] are `Send` and `Sync`. [`Context`],
//! [`Batch`], [`Sampler`], [`StreamDecoder`], [`Generation`] and [`Plan`] are `Send`: any thread may use them,
//! one at a time.
//!
//! One slice cannot be read and written in one call, and a context is not shared:
//!
//! ```compile_fail,E0502
//! # use my_llm_ffi::{ops, TensorView, TensorViewMut};
//! let mut x = [1.0f32];
//! let (read, mut write) = (TensorView::from(&x), TensorViewMut::from(&mut x));
//! ops::softmax(&read, &mut write, Default::default());
//! ```
//!
//! ```compile_fail,E0277
//! fn shared(context: &my_llm_ffi::Context) {
//!     std::thread::scope(|scope| scope.spawn(|| context.n_ctx()).join());
//! }
//! ```
//!
//! # Errors
//! Every call returns [`Error`]: the kind and message that Python gets. After `close` that is the
//! library's `ValueError`. A panic in a callback becomes the caller's error and unwinds through no
//! C++.

#![warn(clippy::undocumented_unsafe_blocks)]

extern crate self as my_llm_ffi; // generated code names this crate as yours does

mod any;
mod context;
mod element;
mod error;
mod executor;
mod from_any;
mod function;
mod generation;
mod library;
mod model;
mod object;
pub mod op_call;
pub mod ops;
mod owned_tensor;
mod plan;
mod request;
mod response;
mod sampler;
mod sys;
mod tensor;
mod vocab;
mod walkthrough;

pub use any::{Any, Arg};
pub use context::{Batch, Context, ContextOptions, KvDtype};
pub use element::{DataType, Device, Element, BF16, F16};
pub use error::{Error, Result};
pub use executor::{Callbacks, Executor, MaskEntry, ResponseStream};
pub use from_any::{Bytes, FromAny};
pub use function::{Args, CachedFunction, Function};
pub use generation::{FinishReason, Generation, GenerationOptions, Timings, Tokens};
pub use library::{library_path, load, load_from};
pub use model::{LoadOptions, LoraAdapter, Model, ModelConfig};
pub use object::Object;
pub use owned_tensor::Tensor;
pub use plan::{Plan, PlanArgument, PlanBuilder, PlanInput, PlanValue, Size};
pub use request::{EarlyStopping, ExecutorConfig, Pooling, Request, SchedulerPolicy};
pub use response::{ExecutorStats, Response, TokenLogprobs};
pub use sampler::{Sampler, SamplingParams, Stage};
pub use sys::DlManagedTensorVersioned;
pub use tensor::{Lowered, TensorView, TensorViewMut, MAX_DIMS};
pub use vocab::{StreamDecoder, Token, TokenizeOptions, Vocab};
pub use walkthrough::{add_one, build_info, log, set_log_callback, version, IntPair};

/// The guide's examples are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide_rust.md")]
struct Guide;
