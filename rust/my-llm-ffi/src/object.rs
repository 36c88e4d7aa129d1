//! Objects of the library: counted references, methods and fields by name.

use std::ffi::c_int;
use std::fmt;
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::any::{Any, Arg};
use crate::error::{check, Error, Result};
use crate::function::Function;
use crate::library::{api, loaded_api};
use crate::sys::{
    ByteArray, FieldInfo, Handle, MethodInfo, RawAny, RawObject, TypeInfo, FIELD_SETTER_IS_OBJECT,
    FIELD_WRITABLE, HEADER_BYTES,
};

/// A counted reference to any object of the registry, for what has no type of its own here.
///
/// Neither `Send` nor `Sync`, because nothing is known of the object.
pub struct Object {
    handle: NonNull<RawObject>,
}

impl Object {
    /// # Safety
    /// The handle is of an object, and one reference to it belongs to the caller.
    pub(crate) unsafe fn from_owned(handle: Handle) -> Self {
        Self { handle: NonNull::new(handle).expect("an object that was just made") }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.as_ptr()
    }

    pub(crate) fn into_handle(self) -> Handle {
        std::mem::ManuallyDrop::new(self).handle()
    }

    pub(crate) fn type_index(&self) -> i32 {
        // SAFETY: the reference keeps the object alive.
        unsafe { self.handle.as_ref() }.type_index
    }

    /// What stands behind the header.
    pub(crate) fn contents<T>(&self) -> *mut T {
        // SAFETY: every object is larger than its header.
        unsafe { self.handle().cast::<u8>().add(HEADER_BYTES).cast() }
    }

    /// Whether nobody else refers to it, not even weakly.
    pub(crate) fn is_unique(&self) -> bool {
        // SAFETY: the reference keeps the object alive.
        let references = &unsafe { self.handle.as_ref() }.references;
        references.load(std::sync::atomic::Ordering::Acquire) == UNIQUE
    }

    /// Name of its type: `my_llm_ffi.Model`.
    pub fn type_key(&self) -> String {
        // SAFETY: every object has a type, whose information lives as long as the process.
        let key = unsafe { (*(loaded_api().type_info)(self.type_index())).type_key.as_slice() };
        String::from_utf8_lossy(key).into_owned()
    }

    /// Calls a method by its name.
    ///
    /// # Safety
    /// As of `Function::call`.
    ///
    /// # Errors
    /// `AttributeError` where its type has no such method; what the method throws.
    pub unsafe fn call(&self, method: &str, arguments: &[Arg<'_>]) -> Result<Any> {
        let function = find_method(self.type_index(), method)
            .ok_or_else(|| missing(&self.type_key(), method))?;
        let mut all = vec![Arg::from(self)];
        all.extend_from_slice(arguments);
        // SAFETY: the caller says so.
        unsafe { function.call(&all) }
    }

    /// Reads a field by its name.
    ///
    /// # Errors
    /// `AttributeError` where its type has no such field.
    pub fn field(&self, name: &str) -> Result<Any> {
        let info = self.field_info(name)?;
        let mut value = RawAny::NONE;
        // SAFETY: the getter is made for the field at this offset; what it gives is ours.
        unsafe {
            check((info.getter)(
                self.handle().cast::<u8>().offset(info.offset as isize).cast(),
                &mut value,
            ))?;
            Ok(Any::from_owned(value))
        }
    }

    /// Writes a field by its name.
    ///
    /// # Errors
    /// `AttributeError` where its type has no such field or it is read-only; `TypeError` where the
    /// value is of another type.
    pub fn set_field(&mut self, name: &str, value: &Any) -> Result<()> {
        let info = self.field_info(name)?;
        let writable = info.flags & FIELD_WRITABLE != 0 && info.flags & FIELD_SETTER_IS_OBJECT == 0;
        if !writable || info.setter.is_null() {
            let text = format!("{}.{name} is read-only", self.type_key());
            return Err(Error::new("AttributeError", text));
        }
        // SAFETY: without the flag, a setter is a function of this type, made for this field.
        unsafe {
            type Setter = unsafe extern "C" fn(*mut std::ffi::c_void, *const RawAny) -> c_int;
            let setter: Setter = std::mem::transmute(info.setter);
            let field = self.handle().cast::<u8>().offset(info.offset as isize).cast();
            check(setter(field, value.raw()))
        }
    }

    fn field_info(&self, name: &str) -> Result<&'static FieldInfo> {
        // SAFETY: types and what is registered for them live as long as the process.
        let found = unsafe {
            let info = &*(loaded_api().type_info)(self.type_index());
            entries(info.fields, info.n_fields)
                .iter()
                .find(|f| f.name.as_slice() == name.as_bytes())
        };
        found.ok_or_else(|| missing(&self.type_key(), name))
    }
}

/// One strong reference, and the weak one that all strong ones have together.
const UNIQUE: u64 = (1 << 32) | 1;

impl Clone for Object {
    fn clone(&self) -> Self {
        // SAFETY: one more reference to an object that is alive.
        unsafe { (loaded_api().inc_ref)(self.handle()) };
        Self { handle: self.handle }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: gives back the reference that belongs to this value.
        unsafe { (loaded_api().dec_ref)(self.handle()) };
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:p})", self.type_key(), self.handle)
    }
}

fn missing(type_key: &str, name: &str) -> Error {
    Error::new("AttributeError", format!("{type_key} has no \"{name}\""))
}

/// # Safety
/// The pointer is to so many entries that live as long as the process.
unsafe fn entries<T>(first: *const T, count: i32) -> &'static [T] {
    match usize::try_from(count) {
        // SAFETY: the caller says so.
        Ok(count) if count > 0 && !first.is_null() => unsafe {
            std::slice::from_raw_parts(first, count)
        },
        _ => &[],
    }
}

fn find_method(type_index: i32, name: &str) -> Option<Function> {
    // SAFETY: types and what is registered for them live as long as the process.
    unsafe {
        let info: *const TypeInfo = (loaded_api().type_info)(type_index);
        let info = info.as_ref()?;
        let methods: &[MethodInfo] = entries(info.methods, info.n_methods);
        let found = methods.iter().find(|m| m.name.as_slice() == name.as_bytes())?;
        Any::copy_of(&found.method).ok()?.to().ok()
    }
}

/// The index of a registered type.
pub(crate) fn type_index_of(key: &str) -> Result<i32> {
    let mut found = 0;
    // SAFETY: a text that lives during the call, and a number that it writes.
    check(unsafe { (api()?.type_index)(&ByteArray::of(key.as_bytes()), &mut found) })?;
    Ok(found)
}

/// A type of the registry that is looked up once.
pub(crate) struct TypeKey {
    pub(crate) name: &'static str,
    index: OnceLock<i32>,
}

impl TypeKey {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, index: OnceLock::new() }
    }

    pub(crate) fn index(&self) -> Result<i32> {
        match self.index.get() {
            Some(index) => Ok(*index),
            None => type_index_of(self.name).map(|index| *self.index.get_or_init(|| index)),
        }
    }
}

/// A method that is looked up once.
pub(crate) struct Method {
    name: &'static str,
    function: OnceLock<Function>,
}

impl Method {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, function: OnceLock::new() }
    }

    pub(crate) fn call(&self, key: &TypeKey, arguments: &[Arg<'_>]) -> Result<Any> {
        let function = match self.function.get() {
            Some(function) => function,
            None => {
                let found = find_method(key.index()?, self.name)
                    .ok_or_else(|| missing(key.name, self.name))?;
                self.function.get_or_init(|| found)
            }
        };
        function.call_known(arguments)
    }
}

/// A structure around an object of one registered type.
macro_rules! object_type {
    ($(#[$attribute:meta])* $visibility:vis $name:ident = $key:literal) => {
        $(#[$attribute])*
        $visibility struct $name {
            object: $crate::object::Object,
        }

        impl $name {
            pub(crate) fn key() -> &'static $crate::object::TypeKey {
                static KEY: $crate::object::TypeKey = $crate::object::TypeKey::new($key);
                &KEY
            }

            #[allow(dead_code)]
            pub(crate) fn arg(&self) -> $crate::any::Arg<'_> {
                $crate::any::Arg::from(&self.object)
            }
        }

        impl<'a> From<&'a $name> for $crate::any::Arg<'a> {
            fn from(value: &'a $name) -> Self {
                value.arg()
            }
        }

        impl $crate::from_any::FromAny for $name {
            fn from_any(value: $crate::any::Any) -> $crate::error::Result<Self> {
                Ok(Self { object: value.into_object_of(Self::key())? })
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.object, f)
            }
        }
    };
}

/// Calls a method of an object's type: `invoke!(Model, "close", self.arg())`.
macro_rules! invoke {
    ($type:ident, $method:literal $(, $argument:expr)* $(,)?) => {{
        static METHOD: $crate::object::Method = $crate::object::Method::new($method);
        METHOD.call($type::key(), &[$($argument),*])
    }};
}

pub(crate) use {invoke, object_type};
