//! Tensors that own their memory: what the library returns, and what it is given to keep.
//! Counterpart: `tensor.rs`, views.

use std::fmt;

use crate::any::{Any, Arg};
use crate::element::{DataType, Device, Element};
use crate::error::{check, Error, Result};
use crate::from_any::FromAny;
use crate::function::CachedFunction;
use crate::library::api;
use crate::object::Object;
use crate::sys::{index, DlManagedTensorVersioned, Handle, RawAny};
use crate::tensor::{TensorView, TensorViewMut};

/// A tensor of the library's memory, which lives as long as anybody refers to it.
///
/// It is read by any number of threads; it is written to only while this is the one reference.
pub struct Tensor {
    object: Object,
}

// SAFETY: references are counted atomically, and whoever frees the memory last may be any thread.
unsafe impl Send for Tensor {}
// SAFETY: a shared reference only reads; the library writes to no tensor that somebody holds.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// A tensor of zeros on the CPU.
    ///
    /// # Errors
    /// `ValueError` where the shape is too large, `MemoryError` where there is no memory for it.
    pub fn zeros<T: Element>(shape: &[usize]) -> Result<Self> {
        let mut tensor = Self::uninitialized(T::DTYPE, shape)?;
        let raw = tensor.writable_view()?.lower_raw();
        let count: usize = shape.iter().product();
        // SAFETY: the library gave that many elements, and zeros are elements of any type.
        unsafe { std::ptr::write_bytes(raw.cast::<T>(), 0, count) };
        Ok(tensor)
    }

    /// A copy of a slice, with a shape.
    ///
    /// # Errors
    /// As `zeros`; `ValueError` where the slice has not so many elements.
    pub fn from_slice<T: Element>(data: &[T], shape: &[usize]) -> Result<Self> {
        TensorView::new(data, shape)?;
        let mut tensor = Self::zeros::<T>(shape)?;
        tensor.as_mut_slice::<T>()?.copy_from_slice(data);
        Ok(tensor)
    }

    fn uninitialized(dtype: DataType, shape: &[usize]) -> Result<Self> {
        static EMPTY: CachedFunction = CachedFunction::new("my_llm_ffi.empty");
        static SHAPE: CachedFunction = CachedFunction::new("ffi.Shape");
        // SAFETY: checks the shape, reads no memory.
        unsafe { TensorView::from_raw_parts(std::ptr::null(), dtype, Device::CPU, shape) }?;
        let bytes = shape.iter().try_fold(dtype.bytes(), |bytes, size| bytes.checked_mul(*size));
        if !bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok()) {
            return Err(Error::value(format!("{dtype}{shape:?} does not fit memory")));
        }
        let sizes: Vec<Arg<'_>> = shape.iter().map(|n| Arg::from(*n as i64)).collect();
        let sizes = SHAPE.call_known(&sizes)?;
        EMPTY.call_known(&[Arg::from(&sizes), Arg::from(dtype), Arg::from(Device::CPU)])?.to()
    }

    /// To be read, for as long as this reference to it is held.
    ///
    /// # Errors
    /// `ValueError` where it has more dimensions than a view.
    pub fn view(&self) -> Result<TensorView<'_>> {
        // SAFETY: the object is a tensor, which this reference keeps alive; nobody writes to it, as
        // the type says.
        unsafe { TensorView::of_dl(&*self.object.contents()) }
    }

    /// To be written to.
    ///
    /// # Errors
    /// `BufferError` where somebody else refers to it.
    pub fn view_mut(&mut self) -> Result<TensorViewMut<'_>> {
        if !self.is_unique() {
            let text = "a tensor cannot be written to while others refer to it";
            return Err(Error::new("BufferError", text));
        }
        self.writable_view()
    }

    /// Whether this is the one reference to it.
    pub(crate) fn is_unique(&self) -> bool {
        self.object.is_unique()
    }

    fn writable_view(&mut self) -> Result<TensorViewMut<'_>> {
        let raw = Arg::from(&self.object).raw;
        // SAFETY: the object is a tensor, to which this is the one reference.
        unsafe { TensorViewMut::of_argument(&raw) }
    }

    /// Sizes of the dimensions.
    ///
    /// # Errors
    /// As `view`.
    pub fn shape(&self) -> Result<Vec<usize>> {
        Ok(self.view()?.shape().iter().map(|n| *n as usize).collect())
    }

    /// Its elements.
    ///
    /// # Errors
    /// As of `TensorView::as_slice`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.view()?.as_slice()
    }

    /// Its elements, to be written to.
    ///
    /// # Errors
    /// `BufferError` where somebody else refers to it; as of `TensorView::as_slice`.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.view_mut()?.into_mut_slice()
    }

    /// # Safety
    /// Nobody else reads or writes the memory during the borrow.
    pub(crate) unsafe fn as_mut_slice_unchecked<T: Element>(&mut self) -> Result<&mut [T]> {
        self.writable_view()?.into_mut_slice()
    }

    /// One row of a matrix; counted from the end where it is negative.
    ///
    /// # Errors
    /// `IndexError` where there is no such row; as of `TensorView::as_slice`.
    pub fn row<T: Element>(&self, index: isize) -> Result<&[T]> {
        let view = self.view()?;
        let [rows, columns] = *view.shape() else {
            return Err(Error::value(format!("a tensor is {view:?}, expected [rows, columns]")));
        };
        let rows = rows as isize;
        let row = if index < 0 { index + rows } else { index };
        if row < 0 || row >= rows {
            return Err(Error::new("IndexError", format!("row {index} of {rows}")));
        }
        let columns = columns as usize;
        let first = row as usize * columns;
        Ok(&view.as_slice::<T>()?[first..first + columns])
    }

    /// Hands it to whoever speaks DLPack; the receiver calls the structure's deleter.
    ///
    /// # Errors
    /// What the library throws.
    pub fn into_dlpack(self) -> Result<*mut DlManagedTensorVersioned> {
        let mut managed = std::ptr::null_mut();
        // SAFETY: a tensor that is alive; the structure holds a reference of its own.
        check(unsafe { (api()?.tensor_to_dlpack)(self.object.handle(), &mut managed) })?;
        Ok(managed)
    }

    /// Takes a tensor over from whoever speaks DLPack, without a copy.
    ///
    /// # Safety
    /// The structure is valid, belongs to the caller, and nobody writes to its memory any more.
    ///
    /// # Errors
    /// What the library throws; the structure is the caller's then.
    pub unsafe fn from_dlpack(managed: *mut DlManagedTensorVersioned) -> Result<Self> {
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the caller says so; the reference that it writes is ours.
        unsafe {
            check((api()?.tensor_from_dlpack)(managed, 0, 0, &mut handle))?;
            Ok(Self { object: Object::from_owned(handle) })
        }
    }
}

impl FromAny for Tensor {
    fn from_any(value: Any) -> Result<Self> {
        if value.raw().type_index != index::TENSOR {
            let text = format!("a value is {}, expected a tensor", value.type_name());
            return Err(Error::wrong_type(text));
        }
        Ok(Self { object: value.into_object().expect("it is one") })
    }
}

impl From<Tensor> for Any {
    fn from(tensor: Tensor) -> Self {
        Self::from(tensor.object)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.view() {
            Ok(view) => fmt::Debug::fmt(&view, f),
            Err(error) => fmt::Display::fmt(&error, f),
        }
    }
}

impl From<DataType> for Arg<'_> {
    fn from(dtype: DataType) -> Self {
        let mut raw = RawAny::int(index::DATA_TYPE, 0);
        raw.value.dtype = dtype;
        Self::new(raw)
    }
}

impl From<Device> for Arg<'_> {
    fn from(device: Device) -> Self {
        let mut raw = RawAny::int(index::DEVICE, 0);
        raw.value.device = device;
        Self::new(raw)
    }
}
