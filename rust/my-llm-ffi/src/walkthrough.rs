//! Version, build information, log messages, and the walk-through of tvm-ffi's packaging guide.

use std::collections::BTreeMap;

use crate::any::{Any, Arg};
use crate::error::Result;
use crate::function::{CachedFunction, Function};
use crate::object::{invoke, object_type};
use crate::tensor::{TensorView, TensorViewMut};

/// Version of the library that was loaded.
///
/// # Errors
/// `ImportError` where the library is not there.
pub fn version() -> Result<String> {
    static VERSION: CachedFunction = CachedFunction::new("my_llm_ffi.version");
    VERSION.call_known(&[])?.to()
}

/// What the library is and what it found on this machine: version, cpu_level, cuda, compiler …
///
/// # Errors
/// `ValueError` where the environment variable MY_LLM_FFI_CPU names an unknown level.
pub fn build_info() -> Result<BTreeMap<String, String>> {
    static BUILD_INFO: CachedFunction = CachedFunction::new("my_llm_ffi.build_info");
    BUILD_INFO.call_known(&[])?.to()
}

/// Hands the library's messages to `callback(level, message)`; None silences it again.
///
/// One callback serves the process, Python and C++ alike. It may be called from any thread, from
/// several at once.
///
/// # Errors
/// `ImportError` where the library is not there.
pub fn set_log_callback(
    callback: Option<impl Fn(&str, &str) + Send + Sync + 'static>,
) -> Result<()> {
    static SET: CachedFunction = CachedFunction::new("my_llm_ffi.set_log_callback");
    let function = match callback {
        Some(tell) => Some(Function::new(move |args| {
            let (level, message): (String, String) = (args.get(0)?, args.get(1)?);
            tell(&level, &message);
            Ok(Any::NONE)
        })?),
        None => None,
    };
    SET.call_known(&[Arg::from(function.as_ref())])?.to()
}

/// Hands a message to whoever set a log callback: `debug`, `info`, `warning` or `error`.
///
/// # Errors
/// `ValueError` for another level.
pub fn log(level: &str, message: &str) -> Result<()> {
    static LOG: CachedFunction = CachedFunction::new("my_llm_ffi.log");
    let (level, message) = (Any::text(level)?, Any::text(message)?);
    LOG.call_known(&[Arg::from(&level), Arg::from(&message)])?.to()
}

/// `y = x + 1` over float32 vectors on the CPU.
///
/// # Errors
/// `ValueError` or `TypeError` naming the argument.
pub fn add_one(x: &TensorView<'_>, y: &mut TensorViewMut<'_>) -> Result<()> {
    static ADD_ONE: CachedFunction = CachedFunction::new("my_llm_ffi.add_one");
    let (x, y) = (x.lower(), y.lower());
    // SAFETY: it writes to y alone.
    unsafe { ADD_ONE.run(&[x.arg(), y.arg()]) }
}

object_type! {
    /// Two integers in an object of C++, which every language shares by reference: neither `Send`
    /// nor `Sync`, because nothing guards them.
    ///
    /// ```
    /// # fn main() -> my_llm_ffi::Result<()> {
    /// let mut pair = my_llm_ffi::IntPair::new(1, 2)?;
    /// pair.set_first(40)?;
    /// assert_eq!(pair.get_first()? + my_llm_ffi::IntPair::static_get_second(&pair)?, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub IntPair = "my_llm_ffi.IntPair"
}

impl IntPair {
    /// A pair.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn new(first: i64, second: i64) -> Result<Self> {
        static MAKE: CachedFunction = CachedFunction::new("ffi.MakeObjectFromPackedArgs");
        let names = (Any::text("first")?, Any::text("second")?);
        crate::library::load()?;
        let index = Arg::from(Self::key().index()?);
        let first = [index, Arg::from(&names.0), first.into()];
        let second = [Arg::from(&names.1), second.into()];
        MAKE.call_known(&[first.as_slice(), second.as_slice()].concat())?.to()
    }

    /// The first number, read as a field.
    ///
    /// # Errors
    /// What the library throws.
    pub fn first(&self) -> Result<i64> {
        self.object.field("first")?.to()
    }

    /// The second number, read as a field.
    ///
    /// # Errors
    /// What the library throws.
    pub fn second(&self) -> Result<i64> {
        self.object.field("second")?.to()
    }

    /// Writes the first number.
    ///
    /// # Errors
    /// What the library throws.
    pub fn set_first(&mut self, value: i64) -> Result<()> {
        self.object.set_field("first", &value.into())
    }

    /// Writes the second number.
    ///
    /// # Errors
    /// What the library throws.
    pub fn set_second(&mut self, value: i64) -> Result<()> {
        self.object.set_field("second", &value.into())
    }

    /// The first number, through a method of C++.
    ///
    /// # Errors
    /// What the library throws.
    pub fn get_first(&self) -> Result<i64> {
        invoke!(IntPair, "get_first", self.arg())?.to()
    }

    /// The second number of a pair, through a static method of C++.
    ///
    /// # Errors
    /// What the library throws.
    pub fn static_get_second(pair: &Self) -> Result<i64> {
        invoke!(IntPair, "static_get_second", pair.arg())?.to()
    }
}
