//! What values of the library become in Rust. Counterpart: `any.rs`.

use std::collections::BTreeMap;

use crate::any::Any;
use crate::element::DataType;
use crate::error::{Error, Result};
use crate::function::Function;
use crate::object::Object;
use crate::sys::index;

/// A Rust type that a value of the library can become.
pub trait FromAny: Sized {
    /// Converts.
    ///
    /// # Errors
    /// `TypeError` where the value is of another type.
    fn from_any(value: Any) -> Result<Self>;
}

impl FromAny for Any {
    fn from_any(value: Any) -> Result<Self> {
        Ok(value)
    }
}

impl FromAny for () {
    fn from_any(value: Any) -> Result<Self> {
        match value.raw().type_index {
            index::NONE => Ok(()),
            _ => Err(value.mismatch("None")),
        }
    }
}

impl FromAny for i64 {
    fn from_any(value: Any) -> Result<Self> {
        match value.raw().type_index {
            // SAFETY: both are integers.
            index::INT | index::BOOL => Ok(unsafe { value.raw().value.int }),
            _ => Err(value.mismatch("int")),
        }
    }
}

macro_rules! from_integer {
    ($($type:ty),*) => {
        $(
            impl FromAny for $type {
                fn from_any(value: Any) -> Result<Self> {
                    let number = i64::from_any(value)?;
                    Self::try_from(number).map_err(|_| {
                        Error::new(
                            "OverflowError",
                            format!(concat!("{} is no ", stringify!($type)), number),
                        )
                    })
                }
            }
        )*
    };
}

from_integer!(i32, u32, usize, u64);

impl FromAny for f64 {
    fn from_any(value: Any) -> Result<Self> {
        // SAFETY: the type says which of the fields it is.
        unsafe {
            match value.raw().type_index {
                index::FLOAT => Ok(value.raw().value.float),
                index::INT | index::BOOL => Ok(value.raw().value.int as f64),
                _ => Err(value.mismatch("float")),
            }
        }
    }
}

impl FromAny for bool {
    fn from_any(value: Any) -> Result<Self> {
        match value.raw().type_index {
            // SAFETY: both are integers.
            index::BOOL | index::INT => Ok(unsafe { value.raw().value.int } != 0),
            _ => Err(value.mismatch("bool")),
        }
    }
}

impl FromAny for String {
    fn from_any(value: Any) -> Result<Self> {
        match value.as_bytes() {
            Some(bytes) if value.is_text() => Ok(String::from_utf8_lossy(bytes).into_owned()),
            _ => Err(value.mismatch("str")),
        }
    }
}

/// Bytes, or a text's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl FromAny for Bytes {
    fn from_any(value: Any) -> Result<Self> {
        match value.as_bytes() {
            Some(bytes) => Ok(Self(bytes.to_vec())),
            None => Err(value.mismatch("bytes")),
        }
    }
}

impl FromAny for DataType {
    fn from_any(value: Any) -> Result<Self> {
        match value.raw().type_index {
            // SAFETY: the type says which of the fields it is.
            index::DATA_TYPE => Ok(unsafe { value.raw().value.dtype }),
            _ => Err(value.mismatch("dtype")),
        }
    }
}

impl FromAny for Object {
    fn from_any(value: Any) -> Result<Self> {
        match value.raw().is_object() {
            true => Ok(value.into_object().expect("it is one")),
            false => Err(value.mismatch("an object")),
        }
    }
}

impl FromAny for Function {
    fn from_any(value: Any) -> Result<Self> {
        match value.raw().type_index {
            index::FUNCTION => {
                let object = value.into_object().expect("a function is an object");
                // SAFETY: the object is a function.
                Ok(unsafe { Function::from_object(object) })
            }
            _ => Err(value.mismatch("a function")),
        }
    }
}

impl<T: FromAny> FromAny for Option<T> {
    fn from_any(value: Any) -> Result<Self> {
        match value.is_none() {
            true => Ok(None),
            false => T::from_any(value).map(Some),
        }
    }
}

impl<T: FromAny> FromAny for Vec<T> {
    /// From an array, a list or, for integers, a shape.
    fn from_any(value: Any) -> Result<Self> {
        if let Some(numbers) = value.as_shape() {
            return numbers.iter().map(|n| T::from_any(Any::from(*n))).collect();
        }
        match value.items() {
            Some(items) => items?.into_iter().map(T::from_any).collect(),
            None => Err(value.mismatch("an array")),
        }
    }
}

impl<T: FromAny> FromAny for BTreeMap<String, T> {
    fn from_any(value: Any) -> Result<Self> {
        if value.raw().type_index != index::MAP {
            return Err(value.mismatch("a map"));
        }
        let pairs = value.pairs()?;
        pairs.into_iter().map(|(key, value)| Ok((key.to()?, value.to()?))).collect()
    }
}
