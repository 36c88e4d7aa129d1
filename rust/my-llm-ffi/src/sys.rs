//! The C ABI of tvm-ffi (`tvm/ffi/c_api.h`, `dlpack/dlpack.h`): structures, type indices, and the
//! table of functions. Counterpart: `library.rs`, which fills the table.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::AtomicU64;

use crate::element::{DataType, Device};

pub(crate) type Handle = *mut RawObject;

/// What stands at the begin of every object.
#[repr(C)]
pub(crate) struct RawObject {
    /// Strong references in the lower 32 bits, weak ones in the upper.
    pub(crate) references: AtomicU64,
    pub(crate) type_index: i32,
    padding: u32,
    deleter: *mut c_void,
}

/// Bytes from the begin of an object to its own contents.
pub(crate) const HEADER_BYTES: usize = std::mem::size_of::<RawObject>();

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union Payload {
    pub(crate) int: i64,
    pub(crate) float: f64,
    pub(crate) pointer: *mut c_void,
    pub(crate) object: Handle,
    pub(crate) bytes: [u8; 8],
    pub(crate) dtype: DataType,
    pub(crate) device: Device,
}

/// A value of any type: owned (`Any`) or lent (`Arg`).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawAny {
    pub(crate) type_index: i32,
    /// Length of a small string; 0 for all other values.
    pub(crate) small_len: u32,
    pub(crate) value: Payload,
}

impl RawAny {
    pub(crate) const NONE: Self =
        Self { type_index: index::NONE, small_len: 0, value: Payload { int: 0 } };

    pub(crate) fn int(type_index: i32, value: i64) -> Self {
        Self { type_index, small_len: 0, value: Payload { int: value } }
    }

    pub(crate) fn pointer(type_index: i32, pointer: *mut c_void) -> Self {
        Self { type_index, value: Payload { pointer }, ..Self::NONE }
    }

    /// Whether it refers to an object whose references are counted.
    pub(crate) fn is_object(&self) -> bool {
        self.type_index >= index::FIRST_OBJECT
    }
}

pub(crate) mod index {
    //! `TVMFFITypeIndex`: the types that every library knows.
    pub(crate) const NONE: i32 = 0;
    pub(crate) const INT: i32 = 1;
    pub(crate) const BOOL: i32 = 2;
    pub(crate) const FLOAT: i32 = 3;
    pub(crate) const OPAQUE_POINTER: i32 = 4;
    pub(crate) const DATA_TYPE: i32 = 5;
    pub(crate) const DEVICE: i32 = 6;
    pub(crate) const DL_TENSOR: i32 = 7;
    pub(crate) const RAW_STR: i32 = 8;
    pub(crate) const SMALL_STR: i32 = 11;
    pub(crate) const SMALL_BYTES: i32 = 12;
    pub(crate) const FIRST_OBJECT: i32 = 64;
    pub(crate) const STR: i32 = 65;
    pub(crate) const BYTES: i32 = 66;
    pub(crate) const FUNCTION: i32 = 68;
    pub(crate) const SHAPE: i32 = 69;
    pub(crate) const TENSOR: i32 = 70;
    pub(crate) const ARRAY: i32 = 71;
    pub(crate) const MAP: i32 = 72;
    pub(crate) const LIST: i32 = 75;
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ByteArray {
    pub(crate) data: *const u8,
    pub(crate) size: usize,
}

impl ByteArray {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), size: bytes.len() }
    }

    /// # Safety
    /// The bytes live as long as `'a`.
    pub(crate) unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            return &[];
        }
        // SAFETY: the caller says so; the pointer is not null where there are bytes.
        unsafe { std::slice::from_raw_parts(self.data, self.size) }
    }
}

#[repr(C)]
pub(crate) struct ShapeCell {
    pub(crate) data: *const i64,
    pub(crate) size: usize,
}

#[repr(C)]
pub(crate) struct SeqCell {
    pub(crate) data: *const RawAny,
    pub(crate) size: i64,
}

#[repr(C)]
pub(crate) struct ErrorCell {
    pub(crate) kind: ByteArray,
    pub(crate) message: ByteArray,
    pub(crate) backtrace: ByteArray,
}

pub(crate) type SafeCall =
    unsafe extern "C" fn(*mut c_void, *const RawAny, i32, *mut RawAny) -> c_int;

#[repr(C)]
pub(crate) struct FunctionCell {
    pub(crate) safe_call: SafeCall,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct DlTensor {
    pub(crate) data: *mut c_void,
    pub(crate) device: Device,
    pub(crate) ndim: i32,
    pub(crate) dtype: DataType,
    pub(crate) shape: *const i64,
    pub(crate) strides: *const i64,
    pub(crate) byte_offset: u64,
}

#[repr(C)]
pub(crate) struct FieldInfo {
    pub(crate) name: ByteArray,
    doc: ByteArray,
    metadata: ByteArray,
    pub(crate) flags: i64,
    size: i64,
    alignment: i64,
    pub(crate) offset: i64,
    pub(crate) getter: unsafe extern "C" fn(*mut c_void, *mut RawAny) -> c_int,
    pub(crate) setter: *mut c_void,
    default: RawAny,
    static_type_index: i32,
}

pub(crate) const FIELD_WRITABLE: i64 = 1 << 0;
pub(crate) const FIELD_SETTER_IS_OBJECT: i64 = 1 << 11;

#[repr(C)]
pub(crate) struct MethodInfo {
    pub(crate) name: ByteArray,
    doc: ByteArray,
    metadata: ByteArray,
    flags: i64,
    pub(crate) method: RawAny,
}

#[repr(C)]
pub(crate) struct TypeInfo {
    type_index: i32,
    type_depth: i32,
    pub(crate) type_key: ByteArray,
    ancestors: *const c_void,
    type_key_hash: u64,
    pub(crate) n_fields: i32,
    pub(crate) n_methods: i32,
    pub(crate) fields: *const FieldInfo,
    pub(crate) methods: *const MethodInfo,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

/// A `DLManagedTensorVersioned` of DLPack, of which only its owner needs to know the inside.
#[repr(C)]
pub struct DlManagedTensorVersioned {
    opaque: [u8; 0],
}

/// The structure of functions, and the names under which the library has them.
macro_rules! api {
    ($($field:ident = $symbol:literal: fn($($arg:ty),*) $(-> $result:ty)?;)*) => {
        pub(crate) struct Api {
            $(pub(crate) $field: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl Api {
            /// # Safety
            /// `find` returns addresses of the functions of tvm-ffi's C ABI.
            pub(crate) unsafe fn fill<E>(
                find: impl Fn(&'static str) -> Result<*mut c_void, E>,
            ) -> Result<Self, E> {
                Ok(Self {
                    // SAFETY: the symbols have these types in `tvm/ffi/c_api.h`.
                    $($field: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) $(-> $result)?>(
                            find(concat!($symbol, "\0"))?,
                        )
                    },)*
                })
            }
        }
    };
}

api! {
    version = "TVMFFIGetVersion": fn(*mut Version);
    inc_ref = "TVMFFIObjectIncRef": fn(Handle) -> c_int;
    dec_ref = "TVMFFIObjectDecRef": fn(Handle) -> c_int;
    type_index = "TVMFFITypeKeyToIndex": fn(*const ByteArray, *mut i32) -> c_int;
    type_info = "TVMFFIGetTypeInfo": fn(i32) -> *const TypeInfo;
    function_create = "TVMFFIFunctionCreate":
        fn(*mut c_void, SafeCall, unsafe extern "C" fn(*mut c_void), *mut Handle) -> c_int;
    function_get = "TVMFFIFunctionGetGlobal": fn(*const ByteArray, *mut Handle) -> c_int;
    function_set = "TVMFFIFunctionSetGlobal": fn(*const ByteArray, Handle, c_int) -> c_int;
    to_owned = "TVMFFIAnyViewToOwnedAny": fn(*const RawAny, *mut RawAny) -> c_int;
    error_take = "TVMFFIErrorMoveFromRaised": fn(*mut Handle);
    error_raise = "TVMFFIErrorSetRaised": fn(Handle);
    error_raise_text = "TVMFFIErrorSetRaisedFromCStr": fn(*const c_char, *const c_char);
    error_create = "TVMFFIErrorCreate":
        fn(*const ByteArray, *const ByteArray, *const ByteArray, *mut Handle) -> c_int;
    string = "TVMFFIStringFromByteArray": fn(*const ByteArray, *mut RawAny) -> c_int;
    bytes = "TVMFFIBytesFromByteArray": fn(*const ByteArray, *mut RawAny) -> c_int;
    tensor_from_dlpack = "TVMFFITensorFromDLPackVersioned":
        fn(*mut DlManagedTensorVersioned, i32, i32, *mut Handle) -> c_int;
    tensor_to_dlpack = "TVMFFITensorToDLPackVersioned":
        fn(Handle, *mut *mut DlManagedTensorVersioned) -> c_int;
}
