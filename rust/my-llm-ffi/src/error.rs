//! Errors of the library, of any language that it called, and of this crate.

use std::ffi::c_int;
use std::fmt;

use crate::library::loaded_api;
use crate::sys::{ByteArray, ErrorCell, Handle, HEADER_BYTES};

/// What every call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: a kind as Python names it (`ValueError`, `OSError` …), a message that names the
/// argument, and the frames of C++ where it was thrown, the innermost last.
///
/// Returned from a callback, it reaches whoever called the library with the same kind and message.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    kind: String,
    message: String,
    traceback: String,
}

impl Error {
    /// An error of any kind; a name that Python does not know arrives there as `RuntimeError`.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), traceback: String::new() }
    }

    /// `ValueError`, `TypeError`, `RuntimeError`, `OSError` …
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The text, without the kind.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Frames of C++, one a line; empty where the error was made by Rust.
    pub fn traceback(&self) -> &str {
        &self.traceback
    }

    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self::new("ValueError", message)
    }

    pub(crate) fn wrong_type(message: impl Into<String>) -> Self {
        Self::new("TypeError", message)
    }

    /// Takes the error that the last call of this thread left.
    #[cold]
    pub(crate) fn take() -> Self {
        let api = loaded_api();
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: writes one pointer, of which we own a reference.
        unsafe { (api.error_take)(&mut handle) };
        if handle.is_null() {
            return Self::new("InternalError", "a call failed and left no error");
        }
        // SAFETY: an error's cell stands behind its header, and lives until the reference is given
        // back.
        let error = unsafe {
            let cell = &*handle.cast::<u8>().add(HEADER_BYTES).cast::<ErrorCell>();
            let error = Self {
                kind: text(cell.kind),
                message: text(cell.message),
                traceback: reversed(&text(cell.backtrace)),
            };
            (api.dec_ref)(handle);
            error
        };
        error.explained()
    }

    /// What tvm-ffi says of an allocation that failed inside C++ is an internal error.
    fn explained(self) -> Self {
        if self.kind != "InternalError" || self.message != "std::bad_alloc" {
            return self;
        }
        Self {
            kind: "MemoryError".to_string(),
            message: "the system has no memory left for what this call needs".to_string(),
            traceback: self.traceback,
        }
    }

    /// Leaves it to whoever called this thread's callback.
    pub(crate) fn raise(&self) {
        let api = loaded_api();
        let (kind, message) = (self.kind.as_bytes(), self.message.as_bytes());
        let traceback = reversed(&self.traceback);
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: three texts that live during the call; the reference that it gives is given back
        // once the error is set.
        unsafe {
            let status = (api.error_create)(
                &ByteArray::of(kind),
                &ByteArray::of(message),
                &ByteArray::of(traceback.as_bytes()),
                &mut handle,
            );
            if status != 0 {
                let kind = b"RuntimeError\0";
                let message = b"a callback failed, and there was no memory to say why\0";
                (api.error_raise_text)(kind.as_ptr().cast(), message.as_ptr().cast());
                return;
            }
            (api.error_raise)(handle);
            (api.dec_ref)(handle);
        }
    }
}

/// # Safety
/// The bytes are alive.
unsafe fn text(bytes: ByteArray) -> String {
    // SAFETY: the caller says so.
    String::from_utf8_lossy(unsafe { bytes.as_slice() }).into_owned()
}

/// tvm-ffi writes the innermost frame first.
fn reversed(frames: &str) -> String {
    let lines: Vec<&str> = frames.lines().rev().collect();
    lines.join("\n")
}

/// The error of a status that is not 0.
#[inline]
pub(crate) fn check(status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(Error::take())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)?;
        if self.traceback.is_empty() {
            return Ok(());
        }
        write!(f, "\n{}", self.traceback)
    }
}

impl std::error::Error for Error {}
