//! Views of tensors: slices with a shape. Counterpart: `owned_tensor.rs`.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;

use crate::any::Arg;
use crate::element::{DataType, Device, Element};
use crate::error::{Error, Result};
use crate::sys::{index, DlTensor, RawAny};

/// Most dimensions that a view has; no op has more than five.
pub const MAX_DIMS: usize = 8;

/// Shape and strides, in elements.
#[derive(Clone, Copy)]
struct Layout {
    ndim: usize,
    shape: [i64; MAX_DIMS],
    strides: [i64; MAX_DIMS],
}

impl Layout {
    fn dense(shape: &[usize]) -> Result<Self> {
        let mut layout = Self { ndim: shape.len(), shape: [0; MAX_DIMS], strides: [0; MAX_DIMS] };
        if shape.len() > MAX_DIMS {
            let text =
                format!("a shape has {} dimensions, expected at most {MAX_DIMS}", shape.len());
            return Err(Error::value(text));
        }
        let mut stride = 1i64;
        for (i, size) in shape.iter().enumerate().rev() {
            let size = i64::try_from(*size).map_err(|_| too_large(shape))?;
            (layout.shape[i], layout.strides[i]) = (size, stride);
            stride = stride.checked_mul(size.max(1)).ok_or_else(|| too_large(shape))?;
        }
        Ok(layout)
    }

    #[inline]
    fn row(count: usize) -> Self {
        let mut layout = Self { ndim: 1, shape: [0; MAX_DIMS], strides: [0; MAX_DIMS] };
        (layout.shape[0], layout.strides[0]) = (count as i64, 1); // no slice has 2^63 elements
        layout
    }

    fn strided(shape: &[usize], strides: &[usize]) -> Result<Self> {
        let mut layout = Self::dense(shape)?;
        if strides.len() != shape.len() {
            let text =
                format!("shape {shape:?} has strides {strides:?}, expected one per dimension");
            return Err(Error::value(text));
        }
        for (to, from) in layout.strides.iter_mut().zip(strides) {
            *to = i64::try_from(*from).map_err(|_| too_large(strides))?;
        }
        Ok(layout)
    }

    fn shape(&self) -> &[i64] {
        &self.shape[..self.ndim]
    }

    fn strides(&self) -> &[i64] {
        &self.strides[..self.ndim]
    }

    /// Elements from the first to the end of the last one.
    fn span(&self) -> Result<usize> {
        if self.shape().contains(&0) {
            return Ok(0);
        }
        let mut last = 0i64;
        for (size, stride) in self.shape().iter().zip(self.strides()) {
            let step = (size - 1).checked_mul(*stride);
            last = step.and_then(|s| last.checked_add(s)).ok_or_else(|| too_large(self.shape()))?;
        }
        usize::try_from(last + 1).map_err(|_| too_large(self.shape()))
    }
}

fn too_large(shape: &[impl fmt::Debug]) -> Error {
    Error::value(format!("{shape:?} does not fit 64 bits"))
}

/// Memory that is read: a slice with a shape. Everything that lends memory becomes one.
///
/// ```
/// use my_llm_ffi::TensorView;
///
/// let x = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let matrix = TensorView::new(&x, &[2, 3])?;
/// assert_eq!(matrix.shape(), [2, 3]);
/// assert!(TensorView::new(&x, &[2, 2]).is_err());
/// # Ok::<(), my_llm_ffi::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    data: *mut c_void,
    dtype: DataType,
    device: Device,
    layout: Layout,
    lent: PhantomData<&'a ()>,
}

/// Memory that is written: a mutable slice with a shape.
pub struct TensorViewMut<'a> {
    view: TensorView<'a>,
    lent: PhantomData<&'a mut ()>,
}

// SAFETY: like `&[T]` of an `Element`, which is `Send` and `Sync`.
unsafe impl Send for TensorView<'_> {}
// SAFETY: as above.
unsafe impl Sync for TensorView<'_> {}
// SAFETY: like `&mut [T]` of an `Element`.
unsafe impl Send for TensorViewMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for TensorViewMut<'_> {}

/// A view as the C ABI has it; points into the view.
pub struct Lowered<'a> {
    raw: DlTensor,
    lent: PhantomData<&'a ()>,
}

impl Lowered<'_> {
    /// The argument for it.
    #[inline]
    pub fn arg(&self) -> Arg<'_> {
        let pointer = std::ptr::addr_of!(self.raw) as *mut c_void;
        Arg::new(RawAny::pointer(index::DL_TENSOR, pointer))
    }
}

impl fmt::Debug for Lowered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lowered({})", self.raw.dtype)
    }
}

impl<'a> TensorView<'a> {
    /// A slice with a shape, the last dimension contiguous.
    ///
    /// # Errors
    /// `ValueError` where the slice has not so many elements.
    pub fn new<T: Element>(data: &'a [T], shape: &[usize]) -> Result<Self> {
        let layout = Layout::dense(shape)?;
        let span = layout.span()?;
        if span != data.len() {
            return Err(Error::value(format!(
                "shape {shape:?} has {span} elements, the slice has {}",
                data.len()
            )));
        }
        Ok(Self::of_parts(data.as_ptr().cast(), T::DTYPE, layout))
    }

    /// A slice with a shape and strides, in elements.
    ///
    /// # Errors
    /// `ValueError` where an element would be outside of the slice.
    pub fn strided<T: Element>(data: &'a [T], shape: &[usize], strides: &[usize]) -> Result<Self> {
        let layout = Layout::strided(shape, strides)?;
        let span = layout.span()?;
        if span > data.len() {
            return Err(Error::value(format!(
                "shape {shape:?} with strides {strides:?} reaches over {span} elements, the slice \
                 has {}",
                data.len()
            )));
        }
        Ok(Self::of_parts(data.as_ptr().cast(), T::DTYPE, layout))
    }

    /// Memory anywhere, a GPU's too.
    ///
    /// # Safety
    /// The memory has so many elements of this dtype, and is not written to before `'a` ends.
    ///
    /// # Errors
    /// `ValueError` where the shape has too many dimensions, or is too large.
    pub unsafe fn from_raw_parts(
        data: *const c_void,
        dtype: DataType,
        device: Device,
        shape: &[usize],
    ) -> Result<Self> {
        let layout = Layout::dense(shape)?;
        Ok(Self { device, ..Self::of_parts(data, dtype, layout) })
    }

    #[inline]
    fn of_parts(data: *const c_void, dtype: DataType, layout: Layout) -> Self {
        Self { data: data as *mut c_void, dtype, device: Device::CPU, layout, lent: PhantomData }
    }

    /// # Safety
    /// The tensor lives as long as `'a`.
    pub(crate) unsafe fn of_dl(tensor: &DlTensor) -> Result<Self> {
        let ndim = usize::try_from(tensor.ndim).unwrap_or(0);
        // SAFETY: shape and strides have so many numbers; both may be null where there are none.
        let (shape, strides) = unsafe {
            match ndim {
                0 => (&[][..], &[][..]),
                _ if tensor.strides.is_null() => {
                    (std::slice::from_raw_parts(tensor.shape, ndim), &[][..])
                }
                _ => (
                    std::slice::from_raw_parts(tensor.shape, ndim),
                    std::slice::from_raw_parts(tensor.strides, ndim),
                ),
            }
        };
        let sizes: Vec<usize> = shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect();
        let mut layout = Layout::dense(&sizes)?;
        if strides.len() == ndim {
            layout.strides[..ndim].copy_from_slice(strides);
        }
        // SAFETY: the offset stays within the tensor's memory.
        let data = unsafe { tensor.data.cast::<u8>().add(tensor.byte_offset as usize) };
        Ok(Self { device: tensor.device, ..Self::of_parts(data.cast(), tensor.dtype, layout) })
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[i64] {
        self.layout.shape()
    }

    /// Elements from one to the next, of each dimension.
    pub fn strides(&self) -> &[i64] {
        self.layout.strides()
    }

    /// Its dtype.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Where its memory is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.shape().contains(&0)
    }

    fn is_contiguous(&self) -> bool {
        let mut stride = 1;
        for (size, actual) in self.shape().iter().zip(self.strides()).rev() {
            if *size != 1 && *actual != stride {
                return false;
            }
            stride *= size;
        }
        true
    }

    /// Its elements.
    ///
    /// # Errors
    /// `TypeError` where they are of another dtype; `ValueError` where they are not contiguous;
    /// `BufferError` where the memory is not the CPU's.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T]> {
        if self.dtype != T::DTYPE {
            return Err(Error::wrong_type(format!(
                "a tensor is {}, expected {}",
                self.dtype,
                T::DTYPE
            )));
        }
        if !self.device.is_cpu() {
            let text = format!("a tensor is on a device of type {}", self.device.device_type);
            return Err(Error::new("BufferError", text + ", expected the CPU"));
        }
        if self.is_empty() {
            return Ok(&[]);
        }
        if !self.is_contiguous() {
            return Err(Error::value("a tensor is not contiguous"));
        }
        if self.data as usize % std::mem::align_of::<T>() != 0 {
            return Err(Error::value(format!("a tensor is not aligned for {}", self.dtype)));
        }
        // SAFETY: so many elements of this type, readable and unchanged during 'a.
        Ok(unsafe { std::slice::from_raw_parts(self.data.cast::<T>(), self.layout.span()?) })
    }

    /// As the C ABI has it.
    #[inline]
    pub fn lower(&self) -> Lowered<'_> {
        Lowered {
            raw: DlTensor {
                data: self.data,
                device: self.device,
                ndim: self.layout.ndim as i32,
                dtype: self.dtype,
                shape: self.layout.shape.as_ptr(),
                strides: self.layout.strides.as_ptr(),
                byte_offset: 0,
            },
            lent: PhantomData,
        }
    }
}

impl<'a> TensorViewMut<'a> {
    /// A mutable slice with a shape, the last dimension contiguous.
    ///
    /// # Errors
    /// `ValueError` where the slice has not so many elements.
    pub fn new<T: Element>(data: &'a mut [T], shape: &[usize]) -> Result<Self> {
        let pointer = data.as_mut_ptr();
        // The pointer of the mutable slice is kept: one of a shared slice could not be written to.
        let checked = TensorView::new(&*data, shape)?;
        Ok(Self::of(TensorView { data: pointer.cast(), ..checked }))
    }

    /// Bytes that hold elements of any dtype.
    ///
    /// # Errors
    /// `ValueError` where there are not so many bytes, or they are not aligned for the dtype.
    pub fn from_bytes(data: &'a mut [u8], dtype: DataType, shape: &[usize]) -> Result<Self> {
        let layout = Layout::dense(shape)?;
        let expected = layout.span()?.checked_mul(dtype.bytes());
        if expected != Some(data.len()) {
            return Err(Error::value(format!(
                "shape {shape:?} of {dtype} does not have the slice's {} bytes",
                data.len()
            )));
        }
        if data.as_ptr() as usize % dtype.bytes().clamp(1, 16) != 0 && !data.is_empty() {
            return Err(Error::value(format!("the slice is not aligned for {dtype}")));
        }
        let view = TensorView::of_parts(std::ptr::null(), dtype, layout);
        Ok(Self::of(TensorView { data: data.as_mut_ptr().cast(), ..view }))
    }

    /// Memory anywhere, a GPU's too.
    ///
    /// # Safety
    /// The memory has so many elements of this dtype, and nobody else uses it before `'a` ends.
    ///
    /// # Errors
    /// `ValueError` where the shape has too many dimensions, or is too large.
    pub unsafe fn from_raw_parts(
        data: *mut c_void,
        dtype: DataType,
        device: Device,
        shape: &[usize],
    ) -> Result<Self> {
        // SAFETY: the caller says more than that.
        Ok(Self::of(unsafe { TensorView::from_raw_parts(data, dtype, device, shape) }?))
    }

    fn of(view: TensorView<'a>) -> Self {
        Self { view, lent: PhantomData }
    }

    /// # Safety
    /// The argument lives as long as `'a`; nobody else uses the memory meanwhile.
    pub(crate) unsafe fn of_argument(raw: &RawAny) -> Result<Self> {
        // SAFETY: the type says what the pointer is to.
        let tensor: *const DlTensor = unsafe {
            match raw.type_index {
                index::DL_TENSOR => raw.value.pointer.cast(),
                index::TENSOR => raw.value.object.cast::<u8>().add(crate::sys::HEADER_BYTES).cast(),
                other => {
                    return Err(Error::wrong_type(format!(
                        "a value is of type {other}, expected a tensor"
                    )))
                }
            }
        };
        // SAFETY: the caller says so.
        Ok(Self::of(unsafe { TensorView::of_dl(&*tensor) }?))
    }

    /// To be read.
    pub fn view(&self) -> TensorView<'_> {
        self.view
    }

    /// The same memory, lent for shorter.
    pub fn reborrow(&mut self) -> TensorViewMut<'_> {
        TensorViewMut::of(self.view)
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[i64] {
        self.view.shape()
    }

    /// Its dtype.
    pub fn dtype(&self) -> DataType {
        self.view.dtype
    }

    /// Its elements.
    ///
    /// # Errors
    /// As of `TensorView::as_slice`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.view.as_slice()
    }

    /// Its elements, to be written.
    ///
    /// # Errors
    /// As of `TensorView::as_slice`.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        let count = self.view.as_slice::<T>()?.len();
        if count == 0 {
            return Ok(&mut []);
        }
        // SAFETY: checked just now; the memory is this view's alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.view.data.cast::<T>(), count) })
    }

    /// The same for as long as the memory is lent.
    pub fn into_mut_slice<T: Element>(mut self) -> Result<&'a mut [T]> {
        let slice: *mut [T] = self.as_mut_slice::<T>()?;
        // SAFETY: the view is gone, and its memory is lent for 'a.
        Ok(unsafe { &mut *slice })
    }

    pub(crate) fn lower_raw(&mut self) -> *mut c_void {
        self.view.data
    }

    /// As the C ABI has it, to be written.
    #[inline]
    pub fn lower(&mut self) -> Lowered<'_> {
        self.view.lower()
    }
}

impl<'a, T: Element> From<&'a [T]> for TensorView<'a> {
    #[inline]
    fn from(data: &'a [T]) -> Self {
        Self::of_parts(data.as_ptr().cast(), T::DTYPE, Layout::row(data.len()))
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for TensorView<'a> {
    fn from(data: &'a Vec<T>) -> Self {
        Self::from(data.as_slice())
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for TensorView<'a> {
    fn from(data: &'a [T; N]) -> Self {
        Self::from(data.as_slice())
    }
}

impl<'a, T: Element> From<&'a mut [T]> for TensorViewMut<'a> {
    #[inline]
    fn from(data: &'a mut [T]) -> Self {
        let layout = Layout::row(data.len());
        Self::of(TensorView::of_parts(data.as_mut_ptr().cast::<c_void>(), T::DTYPE, layout))
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for TensorViewMut<'a> {
    fn from(data: &'a mut Vec<T>) -> Self {
        Self::from(data.as_mut_slice())
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for TensorViewMut<'a> {
    fn from(data: &'a mut [T; N]) -> Self {
        Self::from(data.as_mut_slice())
    }
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape())
    }
}

impl fmt::Debug for TensorViewMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.view, f)
    }
}
