//! Values, objects, errors and callbacks across the border.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use my_llm_ffi::{
    Any, Arg, Bytes, Error, Function, IntPair, Object, Result, TensorView, TensorViewMut,
};

fn call(name: &str, arguments: &[Arg<'_>]) -> Result<Any> {
    // SAFETY: no tensor is among the arguments.
    unsafe { Function::get(&format!("my_llm_ffi.{name}"))?.call(arguments) }
}

fn raise(kind: &str, message: &str) -> Error {
    let (kind, message) = (Any::text(kind).unwrap(), Any::text(message).unwrap());
    call("raise_error", &[Arg::from(&kind), Arg::from(&message)]).unwrap_err()
}

#[test]
fn texts_arrays_tuples_and_maps_cross() {
    let parts = Any::array(&["a", "", "a longer one: ü"].map(|t| Any::text(t).unwrap())).unwrap();
    let comma = Any::text(", ").unwrap();
    let joined: String =
        call("join_strings", &[Arg::from(&parts), Arg::from(&comma)]).unwrap().to().unwrap();
    assert_eq!(joined, "a, , a longer one: ü");

    let pair = Any::array([Arg::from(1i64), Arg::from(true)]).unwrap();
    let swapped: Vec<Any> = call("swap_pair", &[Arg::from(&pair)]).unwrap().to().unwrap();
    assert_eq!(format!("{swapped:?}"), "[true, 1]");

    let map = Any::map([("one", Any::from(1i64)), ("two", Any::from(2i64))]).unwrap();
    let back: BTreeMap<String, i64> =
        call("call_with", &[Arg::from(&identity()), Arg::from(&map)]).unwrap().to().unwrap();
    assert_eq!(back, BTreeMap::from([("one".into(), 1), ("two".into(), 2)]));
    let inverted = call("invert_dict", &[Arg::from(&map)]).unwrap();
    assert_eq!(inverted.type_name(), "ffi.Map");
    let twice = Any::map([("a", Any::from(1i64)), ("b", Any::from(1i64))]).unwrap();
    let error = call("invert_dict", &[Arg::from(&twice)]).unwrap_err();
    assert_eq!(error.to_string(), "ValueError: invert_dict: the value 1 occurs twice");
}

fn identity() -> Function {
    Function::new(|args| args.get(0)).unwrap()
}

#[test]
fn values_of_another_type_are_refused() {
    assert_eq!(
        Any::from(1.5).to::<i64>().unwrap_err().to_string(),
        "TypeError: a value is float, expected int"
    );
    assert!(Any::from(1i64).to::<String>().is_err());
    assert!(Any::text("x").unwrap().to::<Bytes>().is_ok());
    assert!(Any::bytes(b"x").unwrap().to::<String>().is_err());
    assert_eq!(Any::from(-1i64).to::<usize>().unwrap_err().kind(), "OverflowError");
    assert_eq!(Any::NONE.to::<Option<i64>>().unwrap(), None);
    assert!(Any::NONE.to::<Object>().is_err() && Any::NONE.to::<Function>().is_err());
    assert!(Any::from(1i64).to::<()>().is_err() && Any::from(1i64).to::<Vec<i64>>().is_err());
    assert!(
        Any::from(1i64).to::<IntPair>().is_err() && Any::from(identity()).to::<IntPair>().is_err()
    );
    let pair = as_object(&IntPair::new(1, 2).unwrap());
    assert_eq!(Any::from(pair).to::<IntPair>().unwrap().second().unwrap(), 2);
}

fn as_object(pair: &IntPair) -> Object {
    call("call_with", &[Arg::from(&identity()), Arg::from(pair)]).unwrap().to().unwrap()
}

#[test]
fn fields_and_methods_of_an_object() {
    let mut pair = IntPair::new(1, 2).unwrap();
    pair.set_first(10).unwrap();
    pair.set_second(20).unwrap();
    assert_eq!((pair.first().unwrap(), pair.second().unwrap()), (10, 20));
    assert_eq!((pair.get_first().unwrap(), IntPair::static_get_second(&pair).unwrap()), (10, 20));

    assert!(format!("{pair:?}").starts_with("my_llm_ffi.IntPair(0x"));
    let mut object = as_object(&IntPair::new(5, 6).unwrap());
    // SAFETY: no tensor is among the arguments.
    let first: i64 = unsafe { object.call("get_first", &[]) }.unwrap().to().unwrap();
    assert_eq!(first, 5);
    assert_eq!(
        object.set_field("first", &Any::text("x").unwrap()).unwrap_err().kind(),
        "TypeError"
    );
    assert_eq!(
        object.field("third").unwrap_err().to_string(),
        "AttributeError: my_llm_ffi.IntPair has no \"third\""
    );
    // SAFETY: as above.
    assert_eq!(unsafe { object.call("third", &[]) }.unwrap_err().kind(), "AttributeError");
    let other = object.clone();
    drop(object);
    assert_eq!(other.field("second").unwrap().to::<i64>().unwrap(), 6);
}

#[test]
fn errors_keep_kind_message_and_frames() {
    for kind in ["ValueError", "NotImplementedError", "KeyboardInterrupt", "SomethingElse"] {
        let error = raise(kind, "boom: ü");
        assert_eq!((error.kind(), error.message()), (kind, "boom: ü"));
        assert!(error.traceback().contains("extension.cc"), "{error:?}");
        assert!(format!("{error:?}").starts_with(&format!("{kind}: boom: ü\n")));
    }
    let memory = raise("InternalError", "std::bad_alloc");
    assert_eq!(memory.kind(), "MemoryError");
    assert_eq!(raise("InternalError", "other").kind(), "InternalError");
    assert_eq!(Function::get("my_llm_ffi.nothing").unwrap_err().kind(), "ValueError");
    assert_eq!(call("version", &[Arg::from(1i64)]).unwrap_err().kind(), "TypeError");
}

#[test]
fn an_error_of_a_callback_comes_out_as_itself() {
    let fails = Function::new(|args| {
        let number: i64 = args.get(0)?;
        Err(Error::new("KeyError", format!("no {number}")))
    });
    let error = call("call_with", &[Arg::from(&fails.unwrap()), 7i64.into()]).unwrap_err();
    assert_eq!(error.to_string(), "KeyError: no 7");
    let missing = Function::new(|args| args.get::<Any>(3)).unwrap();
    let error = call("call_with", &[Arg::from(&missing), 7i64.into()]).unwrap_err();
    assert_eq!(error.to_string(), "TypeError: a callback got 1 arguments, expected 4");
}

/// A value whose drop panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn a_panic_becomes_an_error() {
    let error_of = |function: &Function| {
        call("call_with", &[Arg::from(function), 1i64.into()]).unwrap_err().to_string()
    };
    let with_text = Function::new(|_| panic!("out of {}", "cheese")).unwrap();
    assert_eq!(error_of(&with_text), "RuntimeError: a callback in Rust panicked: out of cheese");
    let literal = Function::new(|_| panic!("plain")).unwrap();
    assert_eq!(error_of(&literal), "RuntimeError: a callback in Rust panicked: plain");
    let without = Function::new(|_| std::panic::panic_any(Bomb)).unwrap();
    assert_eq!(error_of(&without), "RuntimeError: a callback in Rust panicked: without a text");
    let bomb = Bomb;
    let dropped = Function::new(move |_| {
        let _ = &bomb;
        Ok(Any::NONE)
    });
    drop(dropped.unwrap()); // its panic ends here
}

#[test]
fn callbacks_come_from_threads_of_the_library() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let function = Function::new(move |args| {
        counted.fetch_add(1, Ordering::Relaxed);
        let (thread, i): (i64, i64) = (args.get(0)?, args.get(1)?);
        if i == 99 {
            panic!("thread {thread}");
        }
        Ok(Any::from(i))
    })
    .unwrap();
    let run = |n: i64| call("call_from_threads", &[Arg::from(&function), 8i64.into(), n.into()]);
    assert_eq!(run(99).unwrap().to::<i64>().unwrap(), 8 * 98 * 99 / 2);
    assert!(run(100).unwrap_err().message().contains("a callback in Rust panicked: thread"));
    drop(function);
    assert_eq!(calls.load(Ordering::Relaxed), 8 * 99 + 8 * 100);
    assert_eq!(Arc::strong_count(&calls), 1, "the closure is gone with the function");
}

#[test]
fn borrowed_memory_does_not_outlive_its_call() {
    let mut x = [1.0f32];
    let view = &mut TensorViewMut::from(&mut x);
    let lowered = view.lower();
    let echo = Function::new(|args| {
        // A tensor that is not owned cannot become a value.
        assert_eq!(args.get::<Any>(0).unwrap_err().kind(), "TypeError");
        Ok(Any::NONE)
    });
    // SAFETY: nothing is written.
    unsafe { echo.unwrap().call(&[lowered.arg()]) }.unwrap();
}

#[test]
fn log_messages_arrive() {
    let seen = Arc::new(Mutex::new(vec![]));
    let sink = Arc::clone(&seen);
    my_llm_ffi::set_log_callback(Some(move |level: &str, message: &str| {
        sink.lock().unwrap().push(format!("{level} {message}"));
    }))
    .unwrap();
    my_llm_ffi::log("warning", "hot").unwrap();
    my_llm_ffi::set_log_callback(None::<fn(&str, &str)>).unwrap();
    my_llm_ffi::log("warning", "unheard").unwrap();
    assert_eq!(*seen.lock().unwrap(), ["warning hot"]);
    assert_eq!(my_llm_ffi::log("loud", "x").unwrap_err().kind(), "ValueError");
}

#[test]
fn the_walk_through() {
    let mut y = [0.0f32; 2];
    my_llm_ffi::add_one(&TensorView::from(&[1.0f32, 2.0]), &mut TensorViewMut::from(&mut y))
        .unwrap();
    assert_eq!(y, [2.0, 3.0]);
    let info = my_llm_ffi::build_info().unwrap();
    assert_eq!(info["version"], my_llm_ffi::version().unwrap());
}
