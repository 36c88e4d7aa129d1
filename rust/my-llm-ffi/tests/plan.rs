//! Plans: built, run, saved, loaded, refused.

use my_llm_ffi::{
    Any, Element, Plan, PlanArgument, PlanBuilder, PlanInput, Size, Tensor, TensorView,
    TensorViewMut,
};

const FUNCTION: &str = "my_llm_ffi.rms_norm";

/// y = rms_norm(x, weight), with rows of four.
fn plan(parameter: bool) -> Plan {
    let mut builder = PlanBuilder::new().unwrap();
    let rows = [Size::Named("n"), Size::Fixed(4)];
    let x = builder.input("x", f32::DTYPE, &rows).unwrap();
    let weight = match parameter {
        true => builder.parameter("weight", f32::DTYPE, &[4.into()]).unwrap(),
        false => {
            let values = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[4]).unwrap();
            builder.constant("weight", values).unwrap()
        }
    };
    let y = builder.buffer(f32::DTYPE, &rows).unwrap();
    let arguments = [(&x).into(), (&weight).into(), (&y).into(), PlanArgument::Float(1e-6)];
    builder.call(FUNCTION, &arguments).unwrap();
    builder.output("y", &y).unwrap();
    builder.build().unwrap()
}

fn run(plan: &mut Plan, x: &[f32]) -> my_llm_ffi::Result<Vec<f32>> {
    let shape = [x.len() / 4, 4];
    let mut y = vec![0.0f32; x.len()];
    plan.run(
        &mut [PlanInput::Read(TensorView::new(x, &shape)?)],
        &mut [TensorViewMut::new(&mut y, &shape)?],
    )?;
    Ok(y)
}

#[test]
fn a_plan_runs_is_saved_and_runs_again() {
    let mut plan = plan(false);
    let x = [1.0f32, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0];
    let y = run(&mut plan, &x).unwrap();
    assert!((y[3] - 4.0).abs() < 1e-4 && (y[4] - 1.0).abs() < 1e-4, "{y:?}");
    assert_eq!(plan.n_calls().unwrap(), 1);
    let inputs = plan.inputs().unwrap();
    assert_eq!((inputs[0].name().unwrap(), inputs[0].dtype().unwrap()), ("x".into(), f32::DTYPE));
    assert_eq!(inputs[0].shape().unwrap(), ["n", "4"]);
    assert!(!inputs[0].is_written().unwrap());
    assert_eq!(plan.outputs().unwrap()[0].name().unwrap(), "y");

    let path = std::env::temp_dir().join(format!("my_llm_ffi_plan_{}", std::process::id()));
    plan.save(&path).unwrap();
    let mut loaded = Plan::load(&path, &[]).unwrap();
    assert_eq!(run(&mut loaded, &x).unwrap(), y);
    std::fs::write(&path, b"no plan").unwrap();
    assert_eq!(Plan::load(&path, &[]).unwrap_err().kind(), "ValueError");
    std::fs::remove_file(&path).unwrap();
    assert!(Plan::load(&path, &[]).is_err());
}

#[test]
fn parameters_are_bound() {
    let mut plan = plan(true);
    assert_eq!(plan.parameters().unwrap()[0].name().unwrap(), "weight");
    assert_eq!(run(&mut plan, &[1.0; 4]).unwrap_err().kind(), "ValueError");
    plan.bind("weight", Tensor::from_slice(&[5.0f32; 4], &[4]).unwrap()).unwrap();
    assert!((run(&mut plan, &[1.0; 4]).unwrap()[0] - 5.0).abs() < 1e-4);
    let wrong = Tensor::from_slice(&[5.0f32; 3], &[3]).unwrap();
    let refused = plan.bind("weight", wrong).and_then(|()| run(&mut plan, &[1.0; 4]).map(drop));
    assert_eq!(refused.unwrap_err().kind(), "ValueError");
    let unknown = Tensor::from_slice(&[5.0f32; 4], &[4]).unwrap();
    assert!(plan.bind("nothing", unknown).is_err());
}

#[test]
fn what_is_written_must_be_lent_for_it() {
    let mut builder = PlanBuilder::new().unwrap();
    let x = builder.input("x", f32::DTYPE, &[1.into(), 4.into()]).unwrap();
    let seen = builder.input("seen", i32::DTYPE, &[1.into(), 1.into()]).unwrap();
    let none = PlanArgument::None;
    let arguments = [(&x).into(), (&seen).into(), none, none, none];
    builder.call("my_llm_ffi.apply_penalties", &arguments).unwrap();
    builder.output("x", &x).unwrap();
    let mut plan = builder.build().unwrap();
    let (mut x, seen) = ([1.0f32; 4], [0i32]);
    let seen = TensorView::new(&seen, &[1, 1]).unwrap();
    let lent = TensorView::new(&x, &[1, 4]).unwrap();
    let error = plan.run(&mut [lent.into(), seen.into()], &mut []).unwrap_err();
    assert_eq!(error.message(), "plan: x is written to, and was lent to be read");
    let lent = TensorViewMut::new(&mut x, &[1, 4]).unwrap();
    plan.run(&mut [lent.into(), seen.into()], &mut []).unwrap();
    assert!(plan.run(&mut [], &mut []).is_err());
}

#[test]
fn a_parameter_that_is_written_is_the_plans_alone() {
    let mut builder = PlanBuilder::new().unwrap();
    let logits = builder.parameter("logits", f32::DTYPE, &[1.into(), 4.into()]).unwrap();
    let seen = builder.input("seen", i32::DTYPE, &[1.into(), 1.into()]).unwrap();
    let (penalties, none) = (Tensor::from_slice(&[2.0f32], &[1]).unwrap(), PlanArgument::None);
    let penalties = builder.constant("penalties", penalties).unwrap();
    let arguments = [(&logits).into(), (&seen).into(), (&penalties).into(), none, none];
    builder.call("my_llm_ffi.apply_penalties", &arguments).unwrap();
    let mut plan = builder.build().unwrap();
    let shared = Any::from(Tensor::from_slice(&[1.0f32; 4], &[1, 4]).unwrap());
    let other = shared.object().unwrap();
    let error = plan.bind("logits", shared.to().unwrap()).unwrap_err();
    assert_eq!(error.kind(), "BufferError");
    assert_eq!(error.message(), "plan: logits is written to, while others refer to it");
    drop(other);
    plan.bind("logits", Tensor::from_slice(&[1.0f32; 4], &[1, 4]).unwrap()).unwrap();
    let seen = TensorView::new(&[0i32], &[1, 1]).unwrap();
    plan.run(&mut [seen.into()], &mut []).unwrap();
}
