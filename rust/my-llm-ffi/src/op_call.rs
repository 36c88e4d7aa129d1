//! Calls of ops by their names, with values that are known at run time only: what the generated
//! [`ops::call`](crate::ops::call) is made of. Counterpart: python/my_llm_ffi/bindings/rust.py.

use std::fmt;
use std::str::FromStr;

use crate::any::{Any, Arg};
use crate::error::{Error, Result};
use crate::function::CachedFunction;
use crate::tensor::{Lowered, TensorViewMut};

/// The value of an option.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not given.
    None,
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A flag.
    Bool(bool),
    /// A text, or one of some choices.
    Text(String),
}

impl Value {
    fn to_any(&self) -> Result<Any> {
        Ok(match self {
            Self::None => Any::NONE,
            Self::Int(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Bool(flag) => (*flag).into(),
            Self::Text(text) => Any::text(text)?,
        })
    }

    /// As every language's message names its type.
    fn type_name(&self) -> &'static str {
        match self {
            Self::None => "NoneType",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Bool(_) => "bool",
            Self::Text(_) => "str",
        }
    }
}

/// One of some texts.
pub trait Choice: FromStr<Err = UnknownChoice> {
    /// All of them, for messages.
    const NAMES: &'static [&'static str];
}

/// A text that is none of the choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownChoice;

impl fmt::Display for UnknownChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text is none of the choices")
    }
}

impl std::error::Error for UnknownChoice {}

/// An op that is called, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Its name.
    pub op: &'a str,
}

impl Call<'_> {
    fn mismatch(self, name: &str, value: &Value, expected: &str) -> Error {
        let (op, kind) = (self.op, value.type_name());
        Error::wrong_type(format!("{op}: {name} is {kind}, expected {expected}"))
    }

    /// Refuses other numbers of tensors and options than an op has.
    ///
    /// # Errors
    /// `TypeError` that says both.
    pub fn check_count(self, expected: (usize, usize), got: (usize, usize)) -> Result<()> {
        if expected == got {
            return Ok(());
        }
        Err(Error::wrong_type(format!(
            "{}: {} tensors and {} options are given, expected {} and {}",
            self.op, got.0, got.1, expected.0, expected.1
        )))
    }

    /// A tensor that must be given.
    ///
    /// # Errors
    /// `TypeError` where it is not.
    pub fn given<'t, 'v>(
        self,
        name: &str,
        tensor: Option<&'t mut Option<TensorViewMut<'v>>>,
    ) -> Result<&'t mut TensorViewMut<'v>> {
        let op = self.op;
        self.perhaps(tensor).ok_or_else(|| {
            Error::wrong_type(format!("{op}: {name} is NoneType, expected an array"))
        })
    }

    /// A tensor that may be missing.
    pub fn perhaps<'t, 'v>(
        self,
        tensor: Option<&'t mut Option<TensorViewMut<'v>>>,
    ) -> Option<&'t mut TensorViewMut<'v>> {
        tensor.and_then(Option::as_mut)
    }

    /// Whether a value is one of the choices, as far as it is a text.
    pub fn knows<T: Choice>(self, value: &Value) -> bool {
        !matches!(value, Value::Text(text) if text.parse::<T>().is_err())
    }

    /// Calls the function with the values as they are, so that it says what is wrong with them.
    ///
    /// # Errors
    /// What it throws.
    pub fn as_given(
        self,
        function: &CachedFunction,
        tensors: &mut [Option<TensorViewMut<'_>>],
        values: &[Value],
    ) -> Result<()> {
        let texts: Result<Vec<Any>> = values.iter().map(Value::to_any).collect();
        let texts = texts?;
        let lowered: Vec<_> =
            tensors.iter_mut().map(|t| t.as_mut().map(TensorViewMut::lower)).collect();
        let mut arguments: Vec<Arg<'_>> =
            lowered.iter().map(|t| t.as_ref().map(Lowered::arg).into()).collect();
        arguments.extend(texts.iter().map(Arg::from));
        // SAFETY: all the memory is lent mutably.
        unsafe { function.run(&arguments) }
    }

    /// A number.
    ///
    /// # Errors
    /// `TypeError` where it is none.
    pub fn float(self, name: &str, value: &Value) -> Result<f64> {
        match value {
            Value::Float(number) => Ok(*number),
            Value::Int(number) => Ok(*number as f64),
            _ => Err(self.mismatch(name, value, "a number")),
        }
    }

    /// An integer.
    ///
    /// # Errors
    /// `TypeError` where it is none.
    pub fn int(self, name: &str, value: &Value) -> Result<i64> {
        match value {
            Value::Int(number) => Ok(*number),
            _ => Err(self.mismatch(name, value, "an integer")),
        }
    }

    /// A flag.
    ///
    /// # Errors
    /// `TypeError` where it is none.
    pub fn flag(self, name: &str, value: &Value) -> Result<bool> {
        match value {
            Value::Bool(flag) => Ok(*flag),
            Value::Int(number) => Ok(*number != 0),
            _ => Err(self.mismatch(name, value, "a bool")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// `TypeError` where it is none.
    pub fn text(self, name: &str, value: &Value) -> Result<String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(self.mismatch(name, value, "a string")),
        }
    }

    /// One of some choices.
    ///
    /// # Errors
    /// `TypeError` where it is no text; `ValueError` where it is another one.
    pub fn choice<T: Choice>(self, name: &str, value: &Value) -> Result<T> {
        let text = self.text(name, value)?;
        text.parse().map_err(|UnknownChoice| {
            let names: Vec<String> = T::NAMES.iter().map(|n| format!("'{n}'")).collect();
            let (op, names) = (self.op, names.join(", "));
            Error::value(format!("{op}: {name} is \"{text}\", expected one of {names}"))
        })
    }

    /// None, or what `read` makes of it.
    ///
    /// # Errors
    /// `TypeError` naming None among what is expected.
    pub fn optional<T>(
        self,
        name: &str,
        value: &Value,
        read: impl Fn(Self, &str, &Value) -> Result<T>,
    ) -> Result<Option<T>> {
        if *value == Value::None {
            return Ok(None);
        }
        match read(self, name, value) {
            Err(error) if error.kind() == "TypeError" => {
                Err(Error::wrong_type(format!("{} or None", error.message())))
            }
            other => other.map(Some),
        }
    }

    /// The error for an op that is not among those that were generated.
    pub fn unknown(self) -> Error {
        Error::new("KeyError", self.op)
    }
}
