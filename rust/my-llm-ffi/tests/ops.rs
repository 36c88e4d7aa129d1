//! Generated functions: results against float64, errors, in place, by name.

use my_llm_ffi::op_call::Value;
use my_llm_ffi::{ops, Arg, DataType, Error, Function, TensorView, TensorViewMut, BF16, F16};

/// Numbers without a pattern, in -1 … 1.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn rms_norm_f64(x: &[f32], weight: &[f32], eps: f64) -> Vec<f64> {
    let rows = x.chunks(weight.len()).flat_map(|row| {
        let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (mean + eps).sqrt();
        row.iter().zip(weight).map(move |(v, w)| f64::from(*v) * scale * f64::from(*w))
    });
    rows.collect()
}

fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*g) - e).abs() <= tolerance, "element {i}: {g} instead of {e}");
    }
}

#[test]
fn rms_norm_is_right_at_odd_sizes() {
    for (rows, hidden) in [(1, 1), (3, 7), (2, 64), (1, 65), (0, 4)] {
        let (x, weight) = (noise(rows * hidden), noise(hidden + 1)[1..].to_vec());
        let mut out = vec![f32::NAN; rows * hidden];
        ops::rms_norm(
            &TensorView::new(&x, &[rows, hidden]).unwrap(),
            &TensorView::from(&weight),
            &mut TensorViewMut::new(&mut out, &[rows, hidden]).unwrap(),
            ops::RmsNormOptions { eps: 1e-3 },
        )
        .unwrap();
        assert_close(&out, &rms_norm_f64(&x, &weight, 1e-3), 1e-5);
    }
}

#[test]
fn the_default_options_are_those_of_the_declaration() {
    assert_eq!(ops::RmsNormOptions::default().eps, 1e-6);
    let rope = ops::RopeOptions::default();
    assert_eq!((rope.base, rope.interleaved, rope.scaling), (10000.0, false, ops::Scaling::None));
    assert_eq!(rope.original_context, None);
}

#[test]
fn sixteen_bit_numbers_and_in_place() {
    let mut halves: Vec<F16> = [1.0f32, 2.0, 3.0].map(F16::from_f32).to_vec();
    let mut brains: Vec<BF16> = [1.0f32, 2.0, 3.0].map(BF16::from_f32).to_vec();
    let options = ops::SoftmaxOptions::default();
    ops::softmax_in_x(&mut TensorViewMut::from(&mut halves), options).unwrap();
    ops::softmax_in_x(&mut TensorViewMut::from(&mut brains), options).unwrap();
    let expected = [0.09003057, 0.24472847, 0.66524096];
    for (i, e) in expected.iter().enumerate() {
        assert!((halves[i].to_f32() - e).abs() < 1e-3, "{halves:?}");
        assert!((brains[i].to_f32() - e).abs() < 1e-2, "{brains:?}");
    }
}

#[test]
fn in_place_gives_the_bits_of_the_other_way() {
    let (gate, up) = (noise(33), noise(66)[33..].to_vec());
    let mut out = vec![0.0f32; 33];
    let (g, u) = (TensorView::from(&gate), TensorView::from(&up));
    ops::silu_mul(&g, &u, &mut TensorViewMut::from(&mut out)).unwrap();
    let (mut in_gate, mut in_up) = (gate.clone(), up.clone());
    ops::silu_mul_in_gate(&mut TensorViewMut::from(&mut in_gate), &u).unwrap();
    ops::silu_mul_in_up(&g, &mut TensorViewMut::from(&mut in_up)).unwrap();
    assert_eq!(out, in_gate);
    assert_eq!(out, in_up);
}

#[test]
fn several_outputs_optional_tensors_and_required_options() {
    let x = [3.0f32, 1.0, 2.0, -1.0];
    let (mut values, mut ids) = ([0.0f32; 2], [0i32; 2]);
    ops::top_k(
        &TensorView::from(&x),
        &mut TensorViewMut::from(&mut values),
        &mut TensorViewMut::from(&mut ids),
        2,
    )
    .unwrap();
    assert_eq!((values, ids), ([3.0, 2.0], [0, 2]));

    let (weight, bias) = ([1.0f32; 4], [0.5f32; 4]);
    let mut out = [0.0f32; 4];
    let (x, weight, bias) =
        (TensorView::from(&x), TensorView::from(&weight), TensorView::from(&bias));
    let options = ops::LayerNormOptions::default();
    ops::layer_norm(&x, &weight, None, &mut TensorViewMut::from(&mut out), options).unwrap();
    assert!(out.iter().sum::<f32>().abs() < 1e-5);
    ops::layer_norm(&x, &weight, Some(&bias), &mut TensorViewMut::from(&mut out), options).unwrap();
    assert!((out.iter().sum::<f32>() - 2.0).abs() < 1e-5);
}

#[test]
fn blocks_of_a_format_are_read() {
    // One block of Q8_0: the scale as a half, then 32 bytes.
    let mut block = F16::from_f32(0.5).0.to_le_bytes().to_vec();
    block.extend((0..32).map(|i| i as u8));
    let mut out = [0.0f32; 32];
    ops::dequantize(
        &TensorView::new(&block, &[1, 34]).unwrap(),
        &mut TensorViewMut::new(&mut out, &[1, 32]).unwrap(),
        ops::Format::Q8_0,
    )
    .unwrap();
    assert_eq!(out[31], 15.5);
    assert_eq!("IQ2_XXS".parse::<ops::Format>().unwrap().as_str(), "IQ2_XXS");
    assert!("Q9".parse::<ops::Format>().is_err());
}

fn refusal(x: TensorView<'_>, weight: TensorView<'_>, n: usize, eps: f64) -> Error {
    let mut out = vec![0.0f32; n];
    let options = ops::RmsNormOptions { eps };
    ops::rms_norm(&x, &weight, &mut TensorViewMut::from(&mut out), options).expect_err("refused")
}

#[test]
fn the_library_says_what_is_wrong() {
    let (x, doubles) = ([0.0f32; 8], [0.0f64; 4]);
    let row = TensorView::from(&x[..4]);
    let short = refusal(row, TensorView::from(&x[..3]), 4, 1e-6);
    assert_eq!(
        short.to_string(),
        "ValueError: rms_norm: weight has shape [3], expected [hidden=4 (from x)]"
    );
    assert!(short.traceback().contains("signature.cc"), "{short:?}");
    let dtype = refusal(TensorView::from(&doubles), row, 4, 1e-6);
    assert_eq!((dtype.kind(), dtype.message().contains("x is float64")), ("TypeError", true));
    assert_eq!(refusal(row, row, 5, 1e-6).kind(), "ValueError");
    assert!(refusal(row, row, 4, f64::NAN).message().contains("eps"));
    let every_other = TensorView::strided(&x, &[4], &[2]).unwrap();
    assert!(refusal(every_other, row, 4, 1e-6).message().contains("contiguous"));
    // SAFETY: refused before anybody reads it.
    let gpu = unsafe {
        let (data, device) = (x.as_ptr().cast(), my_llm_ffi::Device::cuda(0));
        TensorView::from_raw_parts(data, DataType::new(2, 32), device, &[4]).unwrap()
    };
    assert_eq!(refusal(gpu, row, 4, 1e-6).kind(), "ValueError");
}

#[test]
fn ops_are_called_by_name() {
    assert!(ops::NAMES.contains(&"rms_norm"));
    let (mut x, mut weight, mut out) = ([3.0f32, 4.0], [1.0f32; 2], [0.0f32; 2]);
    {
        let mut tensors = [
            Some(TensorViewMut::from(&mut x)),
            Some(TensorViewMut::from(&mut weight)),
            Some(TensorViewMut::from(&mut out)),
        ];
        let mut call = |options: &[Value]| ops::call("rms_norm", &mut tensors, options);
        call(&[Value::Float(0.0625)]).unwrap();
        let text = call(&[Value::Text("x".into())]).unwrap_err();
        assert_eq!(text.to_string(), "TypeError: rms_norm: eps is str, expected a number");
        assert_eq!(call(&[]).unwrap_err().kind(), "TypeError");
    }
    assert!((out[0] - 3.0 / 12.5625f32.sqrt()).abs() < 1e-6);
    let missing = ops::call("rms_norm", &mut [None, None, None], &[Value::Int(1)]).unwrap_err();
    assert_eq!(missing.message(), "rms_norm: x is NoneType, expected an array");
    assert_eq!(ops::call("no_op", &mut [], &[]).unwrap_err().kind(), "KeyError");
}

#[test]
fn wrong_options_are_said_as_python_says_them() {
    let mut x = [0.0f32; 4];
    let mut call = |op: &str, options: &[Value]| {
        let tensor = Some(TensorViewMut::new(&mut x, &[1, 4]).unwrap());
        ops::call(op, &mut [tensor, None], options).unwrap_err().message().to_string()
    };
    let none = call("softmax", &[Value::Float(1.0), Value::Bool(true)]);
    assert!(none.starts_with("softmax: out is NoneType"), "{none}");
    let mut y = [0u8; 4];
    let mut z = [0.0f32; 4];
    let mut tensors = [
        Some(TensorViewMut::new(&mut y, &[1, 4]).unwrap()),
        Some(TensorViewMut::new(&mut z, &[1, 4]).unwrap()),
    ];
    let error = ops::call("dequantize", &mut tensors, &[Value::Text("Q9".into())]).unwrap_err();
    assert!(error
        .message()
        .starts_with("dequantize: format is \"Q9\", expected one of 'F32', 'F16'"));
    let error =
        ops::call("softmax", &mut tensors, &[Value::Int(1), Value::Bool(true)]).unwrap_err();
    assert_eq!(error.message(), "softmax: soft_cap is bool, expected a number or None");
}

#[test]
fn a_kernel_in_rust_fills_a_slot() {
    let twice = Function::new(|args| {
        // SAFETY: the op's checks refuse an output that overlaps its input.
        let (x, mut out) = unsafe { (args.tensor(0)?, args.tensor(1)?) };
        let by: f64 = args.get(2)?;
        for (to, from) in out.as_mut_slice::<f32>()?.iter_mut().zip(x.as_slice::<f32>()?) {
            *to = *from * by as f32;
        }
        Ok(().into())
    });
    twice.unwrap().register("my_llm_ffi.rust_scale.cpu", true).unwrap();
    declare_scale();
    let x = [1.0f32, 2.0];
    let mut out = [0.0f32; 2];
    let run = |x: &TensorView<'_>, out: &mut TensorViewMut<'_>| {
        let (x, out) = (x.lower(), out.lower());
        // SAFETY: it writes to out alone.
        unsafe { Function::get("my_llm_ffi.rust_scale")?.call(&[x.arg(), out.arg(), 3.0.into()]) }
    };
    run(&TensorView::from(&x), &mut TensorViewMut::from(&mut out)).unwrap();
    assert_eq!(out, [3.0, 6.0]);
    let refused = run(&TensorView::from(&x), &mut TensorViewMut::from(&mut [0.0f32; 3]));
    assert!(refused.unwrap_err().message().contains("rust_scale: out has shape [3]"));
}

fn declare_scale() {
    use my_llm_ffi::Any;
    let text = |t: &str| Any::text(t).unwrap();
    let signature = text("(x: T['n', 'f32'], *, by: float) -> T['n']");
    let (name, doc) = (text("rust_scale"), text("Scales."));
    let given = [&name, &signature, &doc].map(Arg::from);
    // SAFETY: no tensor is among the arguments.
    unsafe { Function::get("my_llm_ffi.declare_op").unwrap().call(&given) }.unwrap();
}
