//! An op on buffers of your own: no copy, no Python. Counterpart: examples/cpp/ops.cc.
//!
//! ```text
//! cargo run --example ops
//! ```

use my_llm_ffi::{ops, Result, TensorView, TensorViewMut, BF16};

fn main() -> Result<()> {
    println!("my_llm_ffi {}", my_llm_ffi::version()?);

    // A slice and a shape are a tensor.
    let x: Vec<f32> = (0..8).map(|i| i as f32).collect();
    let weight = [1.0f32; 4];
    let mut out = vec![0.0f32; 8];
    ops::rms_norm(
        &TensorView::new(&x, &[2, 4])?,
        &TensorView::from(&weight),
        &mut TensorViewMut::new(&mut out, &[2, 4])?,
        ops::RmsNormOptions { eps: 1e-5 },
    )?;
    println!("rms_norm {out:?}");

    // In place, of 16-bit numbers.
    let mut row: Vec<BF16> = [1.0, 2.0, 3.0].map(BF16::from_f32).to_vec();
    ops::softmax_in_x(&mut TensorViewMut::from(&mut row), ops::SoftmaxOptions::default())?;
    println!("softmax  {row:?}");

    // What is wrong is an error of the library, which names the argument.
    let short = [1.0f32; 3];
    let refused = ops::rms_norm(
        &TensorView::new(&x, &[2, 4])?,
        &TensorView::from(&short),
        &mut TensorViewMut::new(&mut out, &[2, 4])?,
        ops::RmsNormOptions::default(),
    );
    println!("{}", refused.expect_err("a weight of 3 for rows of 4"));
    Ok(())
}
