//! Functions: those of the registry, and closures of Rust that others call.

use std::any::Any as Payload;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};

use crate::any::{Any, Arg};
use crate::error::{check, Error, Result};
use crate::from_any::FromAny;
use crate::library::api;
use crate::object::Object;
use crate::sys::{ByteArray, FunctionCell, Handle, RawAny};
use crate::tensor::TensorViewMut;

/// A function of the registry, or a closure. May be called from any thread, as everything in the
/// registry may.
#[derive(Clone)]
pub struct Function {
    object: Object,
}

// SAFETY: references are counted atomically, and tvm-ffi's functions may be called from any thread;
// a closure of Rust is `Send + Sync`, and one of Python takes Python's lock.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// # Safety
    /// The object is a function.
    pub(crate) unsafe fn from_object(object: Object) -> Self {
        Self { object }
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    pub(crate) fn into_object(self) -> Object {
        self.object
    }

    /// The registered function of a name: `my_llm_ffi.version`.
    ///
    /// # Errors
    /// `ValueError` where there is none; `ImportError` where the library is not there.
    pub fn get(name: &str) -> Result<Self> {
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: a text that lives during the call; the reference that it writes is ours.
        unsafe {
            check((api()?.function_get)(&ByteArray::of(name.as_bytes()), &mut handle))?;
            if handle.is_null() {
                return Err(Error::value(format!("there is no registered function {name}")));
            }
            Ok(Self::from_object(Object::from_owned(handle)))
        }
    }

    /// Registers it under a name, for every language in the process.
    ///
    /// A kernel of an op goes under `my_llm_ffi.<op>.<device>`.
    ///
    /// # Errors
    /// `RuntimeError` where the name is taken and `replace` is false.
    pub fn register(&self, name: &str, replace: bool) -> Result<()> {
        let name = ByteArray::of(name.as_bytes());
        // SAFETY: a text and a function that live during the call.
        check(unsafe { (api()?.function_set)(&name, self.object.handle(), c_int::from(replace)) })
    }

    /// Calls it.
    ///
    /// # Safety
    /// What the function does with tensors among the arguments is what they were lent for: it writes
    /// to no memory of a `TensorView`, nor to a tensor of which somebody holds a slice, and keeps no
    /// pointer to memory that was lent. For a function without tensors there is nothing to see to.
    ///
    /// # Errors
    /// What it throws.
    #[inline]
    pub unsafe fn call(&self, arguments: &[Arg<'_>]) -> Result<Any> {
        let mut result = RawAny::NONE;
        let handle = self.object.handle();
        // SAFETY: the cell behind a function's header says how it is called; `Arg` is a `RawAny`,
        // whose referents live during the call; the result is ours.
        unsafe {
            let cell: *const FunctionCell = self.object.contents();
            let safe_call = (*cell).safe_call;
            let (first, count) = (arguments.as_ptr().cast::<RawAny>(), arguments.len() as i32);
            check(safe_call(handle.cast(), first, count, &mut result))?;
            Any::returned(result)
        }
    }

    /// Calls a function of which this crate knows that it writes to no tensor that it is given.
    pub(crate) fn call_known(&self, arguments: &[Arg<'_>]) -> Result<Any> {
        // SAFETY: the caller has read it.
        unsafe { self.call(arguments) }
    }

    /// A function that calls a closure, for those who take a callback.
    ///
    /// It may be called from any thread, from several at once. An error that it returns, or a
    /// panic, becomes the caller's error.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn new(closure: impl Fn(&Args<'_>) -> Result<Any> + Send + Sync + 'static) -> Result<Self> {
        let boxed: Box<Closure> = Box::new(Box::new(closure));
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the box is given away, and `free` takes it back once nobody refers to the
        // function; the reference that it writes is ours.
        unsafe {
            let api = api()?;
            let state: *mut c_void = Box::into_raw(boxed).cast();
            let status = (api.function_create)(state, call_closure, free_closure, &mut handle);
            if status != 0 {
                free_closure(state);
            }
            check(status)?;
            Ok(Self::from_object(Object::from_owned(handle)))
        }
    }

    /// Calls `body` with a function that calls `closure`; afterwards the function only throws, so
    /// that the closure may borrow.
    pub(crate) fn lend<R>(
        closure: &mut (dyn FnMut(&Args<'_>) -> Result<Any> + Send),
        body: impl FnOnce(&Function) -> R,
    ) -> Result<R> {
        /// Takes the closure back, whatever happens.
        struct Loan(Arc<Mutex<Option<&'static mut Borrowed>>>);
        impl Drop for Loan {
            fn drop(&mut self) {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        // SAFETY: `Loan` removes the reference before it ends, and waits for a call that runs.
        let lent: &'static mut Borrowed = unsafe { std::mem::transmute(closure) };
        let loan = Loan(Arc::new(Mutex::new(Some(lent))));
        let shared = Arc::clone(&loan.0);
        let function = Self::new(move |args| {
            let mut slot = match shared.try_lock() {
                Ok(slot) => slot,
                Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new("RuntimeError", "the callback is running already"))
                }
            };
            match slot.as_mut() {
                Some(closure) => closure(args),
                None => Err(Error::new("RuntimeError", "the callback's call is over")),
            }
        })?;
        Ok(body(&function))
    }
}

type Closure = Box<dyn Fn(&Args<'_>) -> Result<Any> + Send + Sync>;
type Borrowed = dyn FnMut(&Args<'_>) -> Result<Any> + Send;

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.object, f)
    }
}

/// Called by others: nothing may unwind out of it.
unsafe extern "C" fn call_closure(
    state: *mut c_void,
    first: *const RawAny,
    count: i32,
    result: *mut RawAny,
) -> c_int {
    let run = || {
        // SAFETY: `state` is the box of `Function::new`; the arguments live during the call.
        let (closure, items) = unsafe {
            let count = usize::try_from(count).unwrap_or(0);
            let items = if count == 0 { &[] } else { std::slice::from_raw_parts(first, count) };
            (&*state.cast::<Closure>(), items)
        };
        closure(&Args { items })
    };
    let outcome = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome,
        Err(payload) => Err(panic_error(payload)),
    };
    match outcome {
        Ok(value) => {
            // SAFETY: the caller's slot, which holds nothing yet; the value becomes the caller's.
            unsafe { result.write(value.into_raw()) };
            0
        }
        Err(error) => {
            error.raise();
            -1
        }
    }
}

unsafe extern "C" fn free_closure(state: *mut c_void) {
    // SAFETY: `state` is the box of `Function::new`, given back once.
    let closure = unsafe { Box::from_raw(state.cast::<Closure>()) };
    // A panic in what it captured has no caller to go to.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(move || drop(closure))) {
        std::mem::forget(payload);
    }
}

fn panic_error(payload: Box<dyn Payload + Send>) -> Error {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_string(),
        (None, Some(text)) => text.clone(),
        (None, None) => "without a text".to_string(),
    };
    std::mem::forget(payload); // dropping it could panic again
    Error::new("RuntimeError", format!("a callback in Rust panicked: {text}"))
}

/// What a callback is called with.
pub struct Args<'a> {
    items: &'a [RawAny],
}

impl<'a> Args<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn raw(&self, position: usize) -> Result<&'a RawAny> {
        let count = self.items.len();
        self.items.get(position).ok_or_else(|| {
            Error::wrong_type(format!(
                "a callback got {count} arguments, expected {}",
                position + 1
            ))
        })
    }

    /// One of them, as a Rust type.
    ///
    /// # Errors
    /// `TypeError` where it is of another type, or there are fewer.
    pub fn get<T: FromAny>(&self, position: usize) -> Result<T> {
        // SAFETY: arguments live during the call.
        unsafe { Any::copy_of(self.raw(position)?)? }.to()
    }

    /// One of them, a tensor of the caller's memory.
    ///
    /// # Safety
    /// No two views of the same memory are used at once where one of them is written to.
    ///
    /// # Errors
    /// `TypeError` where it is none; `ValueError` where it has more dimensions than a view.
    pub unsafe fn tensor(&self, position: usize) -> Result<TensorViewMut<'a>> {
        let raw = self.raw(position)?;
        // SAFETY: arguments live during the call; the caller answers for who writes.
        unsafe { TensorViewMut::of_argument(raw) }
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Args({})", self.items.len())
    }
}

/// A registered function that is looked up at its first call.
///
/// What generated functions are made of, in this crate and for ops of your own.
pub struct CachedFunction {
    name: &'static str,
    function: OnceLock<Function>,
}

impl CachedFunction {
    /// Of a registered name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, function: OnceLock::new() }
    }

    /// The function.
    ///
    /// # Errors
    /// As `Function::get`.
    #[inline]
    pub fn get(&self) -> Result<&Function> {
        match self.function.get() {
            Some(function) => Ok(function),
            None => self.find(),
        }
    }

    #[cold]
    fn find(&self) -> Result<&Function> {
        let found = Function::get(self.name)?;
        Ok(self.function.get_or_init(|| found))
    }

    /// Calls it and drops what it returns.
    ///
    /// # Safety
    /// As of `Function::call`.
    ///
    /// # Errors
    /// What it throws, and as `Function::get`.
    #[inline]
    pub unsafe fn run(&self, arguments: &[Arg<'_>]) -> Result<()> {
        // SAFETY: the caller says so.
        unsafe { self.get()?.call(arguments) }.map(drop)
    }

    pub(crate) fn call_known(&self, arguments: &[Arg<'_>]) -> Result<Any> {
        self.get()?.call_known(arguments)
    }
}

impl fmt::Debug for CachedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CachedFunction({})", self.name)
    }
}
