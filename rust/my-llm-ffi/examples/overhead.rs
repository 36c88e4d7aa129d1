//! What a call costs, in nanoseconds: medians of many runs, on one row of one number.
//!
//! ```text
//! cargo run --release --example overhead
//! ```

use std::hint::black_box;
use std::time::Instant;

use my_llm_ffi::{ops, Arg, Function, Result, TensorView, TensorViewMut};

const RUNS: usize = 201;
const CALLS: usize = 20_000;

/// Nanoseconds of one call.
fn measure(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut all = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let begin = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        all.push(begin.elapsed().as_secs_f64() * 1e9 / CALLS as f64);
    }
    all.sort_by(f64::total_cmp);
    Ok(all[RUNS / 2])
}

fn main() -> Result<()> {
    let (x, weight) = ([2.0f32], [3.0f32]);
    let mut out = [0.0f32];

    let client = measure(|| {
        let (x, weight) = (TensorView::from(black_box(&x)), TensorView::from(black_box(&weight)));
        ops::rms_norm(&x, &weight, &mut TensorViewMut::from(&mut out), Default::default())
    })?;
    assert!((out[0] - 3.0).abs() < 1e-5, "{out:?}");

    // The same function with arguments that were made before: all that is left is the C ABI.
    let function = Function::get("my_llm_ffi.rms_norm")?;
    let (x, weight) = (TensorView::from(&x), TensorView::from(&weight));
    let mut out = TensorViewMut::from(&mut out);
    let (x, weight, out) = (x.lower(), weight.lower(), out.lower());
    let arguments = [x.arg(), weight.arg(), out.arg(), Arg::from(1e-6)];
    // SAFETY: it writes to out alone.
    let bare = measure(|| unsafe { function.call(black_box(&arguments)) }.map(drop))?;

    println!("ops::rms_norm on one number  {client:6.1} ns");
    println!("the same, arguments made     {bare:6.1} ns");
    println!("views, checks of Rust        {:6.1} ns", client - bare);
    Ok(())
}
