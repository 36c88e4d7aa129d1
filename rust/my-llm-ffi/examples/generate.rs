//! A GGUF file to text, printed as it comes. Counterpart: examples/cpp/generate.cc.
//!
//! ```text
//! cargo run --release --example generate -- MODEL.gguf [PROMPT]
//! ```

use std::io::Write;

use my_llm_ffi::{Error, GenerationOptions, LoadOptions, Model, SamplingParams};

fn run() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or_else(|| {
        Error::new("ValueError", "usage: generate MODEL.gguf [PROMPT] (the model is missing)")
    })?;
    let prompt = arguments.next().unwrap_or_else(|| "The capital of France is".to_string());

    let model = Model::load_with_progress(path, &LoadOptions::default(), |fraction| {
        eprint!("\rloading {:3.0} %", fraction * 100.0);
        true
    })?;
    eprintln!();

    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    let options = GenerationOptions {
        max_new_tokens: 32,
        sampling: Some(sampling),
        stop: vec!["\n\n".to_string()],
        ..Default::default()
    };
    let mut generation = model.stream(&prompt, options)?;
    print!("{prompt}");
    for piece in generation.by_ref() {
        print!("{}", piece?);
        let _ = std::io::stdout().flush();
    }
    println!();

    let timings = generation.timings()?;
    let rate = timings.generated_tokens as f64 / timings.generated_seconds.max(1e-9);
    eprintln!(
        "{:?}: {} tokens, {rate:.1}/s",
        generation.finish_reason()?,
        generation.tokens()?.len()
    );
    Ok(())
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
