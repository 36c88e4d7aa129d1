//! Many requests at once, from several threads; a post-processor in Rust keeps the answers of one
//! of them to tokens that it chose. Counterpart: examples/cpp/serve.cc.
//!
//! ```text
//! cargo run --release --example serve -- MODEL.gguf [REQUESTS]
//! ```

use my_llm_ffi::{Callbacks, Error, Executor, ExecutorConfig, Model, Request, Token, Vocab};

/// Tokens whose text has nothing but digits and spaces.
fn digits(vocab: &Vocab) -> Result<Vec<Token>, Error> {
    let mut found = vec![];
    for token in 0..vocab.size()? as Token {
        let piece = vocab.piece(token)?;
        if !piece.is_empty() && piece.iter().all(|c| c.is_ascii_digit() || *c == b' ') {
            found.push(token);
        }
    }
    Ok(found)
}

fn request(vocab: &Vocab, index: usize) -> Result<Request, Error> {
    Ok(Request {
        tokens: vocab.tokenize(&format!("Number {index}: "))?,
        max_new_tokens: 8,
        streaming: true,
        client_id: index as i64,
        use_logits_post_processor: index % 2 == 1,
        ..Default::default()
    })
}

fn answer(executor: &Executor, vocab: &Vocab, index: usize) -> Result<String, Error> {
    let mut text = String::new();
    for response in executor.stream(&request(vocab, index)?)? {
        let response = response?;
        if !response.error.is_empty() {
            return Err(Error::new("RuntimeError", response.error));
        }
        text += &response.text;
    }
    Ok(text)
}

fn run() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or_else(|| {
        Error::new("ValueError", "usage: serve MODEL.gguf [REQUESTS] (the model is missing)")
    })?;
    let count = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(4);

    let model = Model::load(path)?;
    let vocab = model.vocab()?;
    let allowed = digits(&vocab)?;
    let callbacks = Callbacks::new().post_processor(move |entries| {
        for entry in entries.iter_mut() {
            if !entry.is_final()? {
                entry.allow_only(&allowed)?;
            }
        }
        Ok(())
    })?;
    let config = ExecutorConfig { kv_cache_tokens: Some(4096), ..Default::default() };
    let executor = Executor::with_callbacks(&model, &config, &callbacks)?;

    let answers: Result<Vec<String>, Error> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|i| (&executor, &vocab, i))
            .map(|(executor, vocab, i)| scope.spawn(move || answer(executor, vocab, i)))
            .collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    for (i, text) in answers?.iter().enumerate() {
        println!("{i}{}: {text:?}", if i % 2 == 1 { " (digits)" } else { "" });
    }
    let stats = executor.stats()?;
    println!(
        "{} requests, {} tokens in {} steps",
        stats.requests, stats.generated_tokens, stats.steps
    );
    executor.shutdown(true)
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
