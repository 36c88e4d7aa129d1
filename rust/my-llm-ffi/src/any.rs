//! Values of any type, as they cross the border: `Any` is owned, `Arg` is lent.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;

use crate::error::{check, Error, Result};
use crate::from_any::FromAny;
use crate::function::{CachedFunction, Function};
use crate::library::{api, loaded_api};
use crate::object::{Object, TypeKey};
use crate::sys::{index, ByteArray, RawAny, SeqCell, ShapeCell, HEADER_BYTES};

/// A value that belongs to whoever holds it: None, a number, a text, a container, an object.
pub struct Any {
    raw: RawAny,
}

impl Any {
    /// No value.
    pub const NONE: Self = Self { raw: RawAny::NONE };

    /// # Safety
    /// A reference to the object inside, if there is one, belongs to the caller.
    pub(crate) unsafe fn from_owned(raw: RawAny) -> Self {
        Self { raw }
    }

    /// What a call returned. Pointers to memory of somebody else are refused: nothing would say how
    /// long they are good.
    ///
    /// # Safety
    /// As `from_owned`.
    #[inline]
    pub(crate) unsafe fn returned(raw: RawAny) -> Result<Self> {
        // SAFETY: the caller says so.
        let value = unsafe { Self::from_owned(raw) };
        match raw.type_index {
            index::NONE | index::FIRST_OBJECT.. => Ok(value),
            index::OPAQUE_POINTER | index::DL_TENSOR | index::RAW_STR => {
                Err(value.mismatch("a value that owns what it refers to"))
            }
            _ => Ok(value),
        }
    }

    /// # Safety
    /// The value is alive.
    pub(crate) unsafe fn copy_of(view: &RawAny) -> Result<Self> {
        let mut raw = RawAny::NONE;
        // SAFETY: the caller says so; what it writes is ours.
        unsafe {
            check((api()?.to_owned)(view, &mut raw))?;
            Self::returned(raw)
        }
    }

    pub(crate) fn raw(&self) -> &RawAny {
        &self.raw
    }

    pub(crate) fn into_raw(self) -> RawAny {
        std::mem::ManuallyDrop::new(self).raw
    }

    /// A text.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn text(text: &str) -> Result<Self> {
        let mut raw = RawAny::NONE;
        // SAFETY: a text that lives during the call; what it writes is ours.
        unsafe {
            check((api()?.string)(&ByteArray::of(text.as_bytes()), &mut raw))?;
            Ok(Self::from_owned(raw))
        }
    }

    /// Bytes.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn bytes(bytes: &[u8]) -> Result<Self> {
        let mut raw = RawAny::NONE;
        // SAFETY: bytes that live during the call; what it writes is ours.
        unsafe {
            check((api()?.bytes)(&ByteArray::of(bytes), &mut raw))?;
            Ok(Self::from_owned(raw))
        }
    }

    /// An array of values.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn array<'a, T: Into<Arg<'a>>>(items: impl IntoIterator<Item = T>) -> Result<Self> {
        static ARRAY: CachedFunction = CachedFunction::new("ffi.Array");
        let items: Vec<Arg<'a>> = items.into_iter().map(Into::into).collect();
        ARRAY.call_known(&items)
    }

    /// A map from names to values.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn map<'a>(items: impl IntoIterator<Item = (&'a str, Any)>) -> Result<Self> {
        let items: Result<Vec<(Any, Any)>> =
            items.into_iter().map(|(key, value)| Ok((Any::text(key)?, value))).collect();
        Self::map_of(&items?)
    }

    pub(crate) fn map_of(items: &[(Any, Any)]) -> Result<Self> {
        static MAP: CachedFunction = CachedFunction::new("ffi.Map");
        let flat: Vec<Arg<'_>> =
            items.iter().flat_map(|(key, value)| [Arg::from(key), Arg::from(value)]).collect();
        MAP.call_known(&flat)
    }

    /// Whether there is no value.
    pub fn is_none(&self) -> bool {
        self.raw.type_index == index::NONE
    }

    /// As a Rust type.
    ///
    /// # Errors
    /// `TypeError` where it is of another type.
    pub fn to<T: FromAny>(self) -> Result<T> {
        T::from_any(self)
    }

    /// Name of its type, for messages.
    pub fn type_name(&self) -> String {
        match self.raw.type_index {
            index::NONE => "None".to_string(),
            index::INT => "int".to_string(),
            index::BOOL => "bool".to_string(),
            index::FLOAT => "float".to_string(),
            index::DATA_TYPE => "dtype".to_string(),
            index::DEVICE => "Device".to_string(),
            index::DL_TENSOR => "DLTensor*".to_string(),
            index::SMALL_STR | index::RAW_STR | index::STR => "str".to_string(),
            index::SMALL_BYTES | index::BYTES => "bytes".to_string(),
            _ if self.raw.is_object() => self.object().map_or_else(String::new, |o| o.type_key()),
            other => format!("type {other}"),
        }
    }

    /// The object inside, one more reference to it; None where it is none.
    pub fn object(&self) -> Option<Object> {
        if !self.raw.is_object() {
            return None;
        }
        // SAFETY: this value keeps the object alive; the new reference is the result's.
        unsafe {
            let handle = self.raw.value.object;
            (loaded_api().inc_ref)(handle);
            Some(Object::from_owned(handle))
        }
    }

    pub(crate) fn into_object(self) -> Option<Object> {
        if !self.raw.is_object() {
            return None;
        }
        // SAFETY: the reference of this value becomes the result's.
        unsafe { Some(Object::from_owned(self.into_raw().value.object)) }
    }

    pub(crate) fn into_object_of(self, key: &TypeKey) -> Result<Object> {
        if self.raw.type_index == key.index()? {
            return Ok(self.into_object().expect("types of the registry are objects"));
        }
        Err(self.mismatch(key.name))
    }

    pub(crate) fn mismatch(&self, expected: &str) -> Error {
        Error::wrong_type(format!("a value is {}, expected {expected}", self.type_name()))
    }

    /// The contents of an object of a known type.
    ///
    /// # Safety
    /// The value is an object whose contents begin with a `T`.
    unsafe fn contents<T>(&self) -> &T {
        // SAFETY: the caller says so, and this value keeps the object alive.
        unsafe { &*self.raw.value.object.cast::<u8>().add(HEADER_BYTES).cast() }
    }

    /// The bytes of a text or of bytes.
    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        match self.raw.type_index {
            index::SMALL_STR | index::SMALL_BYTES => {
                // SAFETY: small ones have their bytes inside.
                let bytes: &[u8; 8] = unsafe { &self.raw.value.bytes };
                bytes.get(..self.raw.small_len as usize)
            }
            // SAFETY: these objects hold a pointer and a length.
            index::STR | index::BYTES => Some(unsafe { self.contents::<ByteArray>().as_slice() }),
            _ => None,
        }
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self.raw.type_index, index::SMALL_STR | index::STR)
    }

    /// The items of an array or a list.
    pub(crate) fn items(&self) -> Option<Result<Vec<Any>>> {
        if !matches!(self.raw.type_index, index::ARRAY | index::LIST) {
            return None;
        }
        // SAFETY: both begin with this cell, whose items live while the container does.
        let items = unsafe {
            let cell: &SeqCell = self.contents();
            match usize::try_from(cell.size) {
                Ok(size) if size > 0 => std::slice::from_raw_parts(cell.data, size),
                _ => &[],
            }
        };
        // SAFETY: as above.
        Some(items.iter().map(|item| unsafe { Any::copy_of(item) }).collect())
    }

    /// The numbers of a shape.
    pub(crate) fn as_shape(&self) -> Option<&[i64]> {
        if self.raw.type_index != index::SHAPE {
            return None;
        }
        // SAFETY: a shape begins with this cell, whose numbers live while it does.
        unsafe {
            let cell: &ShapeCell = self.contents();
            if cell.size == 0 {
                return Some(&[]);
            }
            Some(std::slice::from_raw_parts(cell.data, cell.size))
        }
    }

    /// Keys and values of a map.
    pub(crate) fn pairs(&self) -> Result<Vec<(Any, Any)>> {
        static ITERATE: CachedFunction = CachedFunction::new("ffi.MapForwardIterFunctor");
        static SIZE: CachedFunction = CachedFunction::new("ffi.MapSize");
        let map = [Arg::from(self)];
        let size: i64 = SIZE.call_known(&map)?.to()?;
        let walk: Function = ITERATE.call_known(&map)?.to()?;
        let mut pairs = Vec::new();
        for _ in 0..size {
            let (key, value) =
                (walk.call_known(&[Arg::from(0)])?, walk.call_known(&[Arg::from(1)])?);
            pairs.push((key, value));
            walk.call_known(&[Arg::from(2)])?;
        }
        Ok(pairs)
    }
}

impl Drop for Any {
    fn drop(&mut self) {
        if self.raw.is_object() {
            // SAFETY: gives back the reference that belongs to this value.
            unsafe { (loaded_api().dec_ref)(self.raw.value.object) };
        }
    }
}

impl fmt::Debug for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_bytes() {
            Some(bytes) if self.is_text() => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Some(bytes) => write!(f, "{bytes:?}"),
            // SAFETY: the type says which of the fields it is.
            None => unsafe {
                match self.raw.type_index {
                    index::INT => write!(f, "{}", self.raw.value.int),
                    index::BOOL => write!(f, "{}", self.raw.value.int != 0),
                    index::FLOAT => write!(f, "{:?}", self.raw.value.float),
                    _ => write!(f, "{}", self.type_name()),
                }
            },
        }
    }
}

/// A value that is lent for one call: a number, or a reference to something that lives longer.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Arg<'a> {
    pub(crate) raw: RawAny,
    lent: PhantomData<&'a ()>,
}

impl<'a> Arg<'a> {
    /// No value.
    pub const NONE: Self = Self::new(RawAny::NONE);

    pub(crate) const fn new(raw: RawAny) -> Self {
        Self { raw, lent: PhantomData }
    }

    /// A text of the program itself, without a copy; it ends with NUL.
    ///
    /// # Panics
    /// Where it does not.
    #[inline]
    pub fn terminated(text: &'static str) -> Self {
        assert!(text.ends_with('\0'), "a text of the program ends with NUL");
        Self::new(RawAny::pointer(index::RAW_STR, text.as_ptr() as *mut c_void))
    }
}

impl fmt::Debug for Arg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arg(type {})", self.raw.type_index)
    }
}

impl From<()> for Arg<'_> {
    fn from((): ()) -> Self {
        Self::NONE
    }
}

impl From<i64> for Arg<'_> {
    #[inline]
    fn from(value: i64) -> Self {
        Self::new(RawAny::int(index::INT, value))
    }
}

impl From<i32> for Arg<'_> {
    fn from(value: i32) -> Self {
        Self::from(i64::from(value))
    }
}

impl From<bool> for Arg<'_> {
    #[inline]
    fn from(value: bool) -> Self {
        Self::new(RawAny::int(index::BOOL, i64::from(value)))
    }
}

impl From<f64> for Arg<'_> {
    #[inline]
    fn from(value: f64) -> Self {
        let bits = i64::from_ne_bytes(value.to_ne_bytes());
        Self::new(RawAny::int(index::FLOAT, bits))
    }
}

impl<'a, T: Into<Arg<'a>>> From<Option<T>> for Arg<'a> {
    #[inline]
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::NONE, Into::into)
    }
}

impl<'a> From<&'a Object> for Arg<'a> {
    fn from(object: &'a Object) -> Self {
        Self::new(RawAny::pointer(object.type_index(), object.handle().cast()))
    }
}

impl<'a> From<&'a Function> for Arg<'a> {
    fn from(function: &'a Function) -> Self {
        Self::from(function.object())
    }
}

impl<'a> From<&'a Any> for Arg<'a> {
    fn from(value: &'a Any) -> Self {
        Self::new(value.raw)
    }
}

macro_rules! any_from {
    ($($type:ty),*) => {
        $(
            impl From<$type> for Any {
                fn from(value: $type) -> Self {
                    // Numbers and flags hold no reference.
                    Self { raw: Arg::from(value).raw }
                }
            }
        )*
    };
}

any_from!((), i64, i32, bool, f64);

impl From<Object> for Any {
    fn from(object: Object) -> Self {
        Self { raw: RawAny::pointer(object.type_index(), object.into_handle().cast()) }
    }
}

impl From<Function> for Any {
    fn from(function: Function) -> Self {
        Self::from(function.into_object())
    }
}
