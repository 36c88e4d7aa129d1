//! Asks Python, where it is there, in which folders the libraries are. Nothing is linked.
//!
//! `MY_LLM_FFI_PYTHON` names the interpreter; empty, nobody is asked.

use std::process::{Command, Stdio};

fn folder(python: &str, module: &str) -> Option<String> {
    let mut command = Command::new(python);
    command.args(["-m", module, "--libdir"]).stderr(Stdio::null());
    let output = command.output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().last()?.trim();
    (!line.is_empty()).then(|| line.to_string())
}

fn main() {
    for name in ["MY_LLM_FFI_PYTHON", "VIRTUAL_ENV", "PYTHONPATH", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let named = std::env::var("MY_LLM_FFI_PYTHON").ok();
    let interpreters = match &named {
        Some(name) if name.is_empty() => vec![],
        Some(name) => vec![name.as_str()],
        None => vec!["python3", "python"],
    };
    for (module, variable) in [
        ("my_llm_ffi.config", "MY_LLM_FFI_BUILD_LIBDIR"),
        ("tvm_ffi.config", "MY_LLM_FFI_BUILD_TVM_LIBDIR"),
    ] {
        let found = interpreters.iter().find_map(|python| folder(python, module));
        println!("cargo:rustc-env={variable}={}", found.unwrap_or_default());
    }
}
