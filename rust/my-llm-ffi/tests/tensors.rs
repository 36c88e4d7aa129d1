//! Views of slices, tensors of the library.

use my_llm_ffi::{Any, DataType, Element, Tensor, TensorView, TensorViewMut, F16};

#[test]
fn a_view_has_the_shape_and_the_elements() {
    let x = [1i64, 2, 3, 4, 5, 6];
    let view = TensorView::new(&x, &[3, 1, 2]).unwrap();
    assert_eq!((view.shape(), view.strides()), (&[3, 1, 2][..], &[2, 2, 1][..]));
    assert_eq!(view.as_slice::<i64>().unwrap(), x);
    assert_eq!(format!("{view:?}"), "int64[3, 1, 2]");
    let scalar = TensorView::new(&x[..1], &[]).unwrap();
    assert_eq!(scalar.as_slice::<i64>().unwrap(), [1]);
    let none = TensorView::new(&x[..0], &[4, 0]).unwrap();
    assert!(none.is_empty() && none.as_slice::<i64>().unwrap().is_empty());
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let x = [0.0f32; 6];
    let error = TensorView::new(&x, &[2, 2]).unwrap_err();
    assert_eq!(error.to_string(), "ValueError: shape [2, 2] has 4 elements, the slice has 6");
    assert!(TensorView::new(&x, &[7]).is_err());
    assert!(TensorView::new(&x, &[usize::MAX, 2]).is_err());
    assert!(TensorView::new(&x[..0], &[usize::MAX, usize::MAX, 0]).is_err());
    assert!(TensorView::new(&x[..1], &[1; 9]).is_err());
    assert!(TensorView::strided(&x, &[2, 3], &[3, 1]).is_ok());
    assert!(TensorView::strided(&x, &[2, 3], &[4, 1]).is_err());
    assert!(TensorView::strided(&x, &[2], &[usize::MAX]).is_err());
    assert!(TensorView::strided(&x, &[2, 3], &[3]).is_err());
}

#[test]
fn elements_of_another_dtype_are_refused() {
    let mut x = [1.0f32, 2.0];
    let mut view = TensorViewMut::from(&mut x);
    assert_eq!(
        view.as_slice::<f64>().unwrap_err().to_string(),
        "TypeError: a tensor is float32, expected float64"
    );
    view.as_mut_slice::<f32>().unwrap()[0] = 5.0;
    view.reborrow().into_mut_slice::<f32>().unwrap()[1] = 6.0;
    assert_eq!(x, [5.0, 6.0]);
    let columns = TensorView::strided(&x, &[2, 1], &[1, 1]).unwrap();
    assert_eq!(columns.as_slice::<f32>().unwrap(), x);
    let spread = [0.0f32; 4];
    assert!(TensorView::strided(&spread, &[2], &[2]).unwrap().as_slice::<f32>().is_err());
}

#[test]
fn bytes_are_checked_for_size_and_alignment() {
    let mut words = [0u64; 2];
    // SAFETY: the bytes of the words.
    let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), 16) };
    let float = DataType::new(2, 32);
    TensorViewMut::from_bytes(bytes, float, &[4]).unwrap().as_mut_slice::<f32>().unwrap().fill(1.0);
    assert!(TensorViewMut::from_bytes(bytes, float, &[3]).is_err());
    assert!(TensorViewMut::from_bytes(&mut bytes[1..5], float, &[1]).is_err());
    assert!(TensorViewMut::from_bytes(&mut bytes[1..2], u8::DTYPE, &[1]).is_ok());
}

#[test]
fn a_tensor_owns_its_memory() {
    let mut tensor = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
    assert_eq!(tensor.shape().unwrap(), [2, 2]);
    tensor.as_mut_slice::<f32>().unwrap()[3] = 9.0;
    assert_eq!(tensor.row::<f32>(-1).unwrap(), [3.0, 9.0]);
    assert_eq!(tensor.row::<f32>(2).unwrap_err().kind(), "IndexError");
    let zeros = Tensor::zeros::<F16>(&[3]).unwrap();
    assert_eq!(zeros.as_slice::<F16>().unwrap(), [F16(0); 3]);
    assert!(Tensor::zeros::<f32>(&[1 << 60, 1 << 10]).is_err());
    let wraps = Tensor::zeros::<f64>(&[1 << 61]).unwrap_err(); // 2^64 bytes
    assert_eq!(wraps.to_string(), "ValueError: float64[2305843009213693952] does not fit memory");
    assert!(Tensor::from_slice(&[1.0f32], &[2]).is_err());
    assert_eq!(Tensor::zeros::<f32>(&[0, 5]).unwrap().as_slice::<f32>().unwrap(), []);
}

#[test]
fn a_shared_tensor_is_not_written_to() {
    let any = Any::from(Tensor::zeros::<f32>(&[2]).unwrap());
    let other = any.object().unwrap();
    let mut tensor: Tensor = any.to().unwrap();
    assert_eq!(tensor.as_mut_slice::<f32>().unwrap_err().kind(), "BufferError");
    drop(other);
    assert!(tensor.as_mut_slice::<f32>().is_ok());
}

#[test]
fn dlpack_goes_out_and_comes_back() {
    let tensor = Tensor::from_slice(&[1.0f32, 2.0], &[2]).unwrap();
    let address = tensor.as_slice::<f32>().unwrap().as_ptr();
    let managed = tensor.into_dlpack().unwrap();
    // SAFETY: it was made just now, and is nobody else's.
    let back = unsafe { Tensor::from_dlpack(managed) }.unwrap();
    assert_eq!(back.as_slice::<f32>().unwrap(), [1.0, 2.0]);
    assert_eq!(back.as_slice::<f32>().unwrap().as_ptr(), address);
}
