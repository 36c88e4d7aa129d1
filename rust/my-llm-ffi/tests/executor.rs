//! Executors over the tiny model: requests, streams, callbacks, threads.

mod tiny;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use my_llm_ffi::{
    Callbacks, EarlyStopping, Error, Executor, ExecutorConfig, ExecutorStats, FinishReason, Model,
    Pooling, Request, Response, SamplingParams, Token,
};
use tiny::{greedy, load, PROMPT};

fn small() -> ExecutorConfig {
    ExecutorConfig { kv_cache_tokens: Some(1024), max_batch_size: 8, ..Default::default() }
}

fn request(model: &Model, text: &str) -> Request {
    let tokens = model.vocab().unwrap().tokenize(text).unwrap();
    Request { tokens, max_new_tokens: 8, ..Default::default() }
}

/// All responses of a request.
fn await_all(executor: &Executor, id: i64) -> Vec<Response> {
    let mut all = vec![];
    while all.last().map_or(true, |r: &Response| !r.is_request_final) {
        let some = executor.await_responses(Some(Duration::from_secs(60)), Some(id)).unwrap();
        assert!(!some.is_empty(), "the request never ends");
        all.extend(some);
    }
    all
}

/// Figures once nothing is left to do: a response is delivered before its step ends.
fn settled(executor: &Executor) -> ExecutorStats {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = executor.stats().unwrap();
        if stats.waiting + stats.running == 0 {
            return stats;
        }
        assert!(Instant::now() < deadline, "the executor never comes to rest");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_executor_gives_the_tokens_of_a_context() {
    let Some(model) = load() else { return };
    let expected = greedy(&model, &request(&model, PROMPT).tokens, 8);
    let executor = Executor::new(&model, &small()).unwrap();
    assert!(executor.can_enqueue().unwrap());
    let wanted =
        Request { logprobs: 2, prompt_logprobs: 1, client_id: 5, ..request(&model, PROMPT) };
    let id = executor.enqueue(&wanted).unwrap();
    let responses = await_all(&executor, id);
    let tokens: Vec<Token> = responses.iter().flat_map(|r| r.tokens.clone()).collect();
    assert_eq!(tokens, expected);
    let last = responses.last().unwrap();
    assert_eq!((last.request_id, last.client_id, last.sequence_index), (id, 5, 0));
    assert!(last.is_sequence_final && last.error.is_empty() && last.embedding.is_none());
    let first = &responses[0].logprobs[0];
    assert_eq!((first.best.len(), first.best[0].0), (2, expected[0]));
    assert!(first.logprob <= 0.0 && last.cumulative_logprob < 0.0);
    assert_eq!(responses[0].prompt_logprobs.len(), wanted.tokens.len() - 1);
    let stats = settled(&executor);
    assert_eq!((stats.requests, stats.requests_finished), (1, 1));
    assert_eq!(stats.time_to_first_token_counts.iter().sum::<u64>(), 1);
    assert!(executor.await_responses(None, None).unwrap().is_empty());
}

#[test]
fn every_field_of_a_request_arrives() {
    let Some(model) = load() else { return };
    let executor = Executor::new(&model, &small()).unwrap();
    let sampled = Request {
        sampling: Some(SamplingParams {
            top_k: Some(5),
            top_p: Some(0.9),
            min_p: Some(0.01),
            typical_p: Some(0.99),
            seed: Some(u64::MAX),
            logit_bias: vec![(3, -1.0)],
            repetition_penalty: 1.1,
            ..Default::default()
        }),
        num_return_sequences: 2,
        best_of: Some(3),
        stop_token_ids: vec![4],
        stop_words: vec!["zzz".into()],
        ignore_eos: true,
        min_tokens: 1,
        priority: 1.5,
        queue_deadline_ms: Some(60_000.0),
        deadline_ms: Some(60_000.0),
        attention_window: Some(0),
        sink_tokens: Some(0),
        cache_salt: Some("mine".into()),
        ..request(&model, PROMPT)
    };
    let done = await_all(&executor, executor.enqueue(&sampled).unwrap());
    assert_eq!(done.iter().filter(|r| r.is_sequence_final).count(), 2);
    let beams = Request {
        beam_width: 2,
        num_return_sequences: 2,
        length_penalty: 0.5,
        early_stopping: EarlyStopping::First,
        ..request(&model, PROMPT)
    };
    assert!(!await_all(&executor, executor.enqueue(&beams).unwrap()).is_empty());
    let pooled =
        Request { pooling: Some(Pooling::Last), max_new_tokens: 0, ..request(&model, PROMPT) };
    let vector = await_all(&executor, executor.enqueue(&pooled).unwrap());
    let embedding = vector[0].embedding.as_ref().expect("a vector");
    assert_eq!(embedding.shape().unwrap(), [1, model.config().unwrap().n_embd]);
    let config = model.config().unwrap();
    let row = vec![0.01f32; config.n_embd];
    let table = Request {
        tokens: vec![1, config.n_vocab as Token],
        prompt_table: Some((row, config.n_embd)),
        ..request(&model, PROMPT)
    };
    assert!(await_all(&executor, executor.enqueue(&table).unwrap())[0].error.is_empty());
}

#[test]
fn wrong_requests_are_refused() {
    let Some(model) = load() else { return };
    let executor = Executor::new(&model, &small()).unwrap();
    let refusal = |request: Request| executor.enqueue(&request).unwrap_err();
    let base = || request(&model, PROMPT);
    assert_eq!(refusal(Request { tokens: vec![], ..base() }).kind(), "ValueError");
    assert!(refusal(Request { beam_width: 99, ..base() }).message().contains("beam_width"));
    assert_eq!(refusal(Request { lora: Some("none".into()), ..base() }).kind(), "KeyError");
    assert!(refusal(Request { best_of: Some(0), ..base() }).message().contains("best_of is 0"));
    let table = Request { prompt_table: Some((vec![0.0; 3], 2)), ..base() };
    assert_eq!(refusal(table).kind(), "ValueError");
    assert_eq!(executor.cancel(99).unwrap_err().kind(), "ValueError");
    assert_eq!(executor.unload_lora("none").unwrap_err().kind(), "KeyError");
    assert!(executor.load_lora("x", "/nowhere").is_err());
    let wrong = ExecutorConfig { max_batch_size: 0, ..small() };
    assert!(Executor::new(&model, &wrong).unwrap_err().message().contains("max_batch_size"));
}

#[test]
fn streams_end_or_are_left() {
    let Some(model) = load() else { return };
    let executor = Executor::new(&model, &small()).unwrap();
    let streaming = Request { streaming: true, ignore_eos: true, ..request(&model, PROMPT) };
    let all: Vec<Response> =
        executor.stream(&streaming).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(all.iter().map(|r| r.tokens.len()).sum::<usize>(), 8);
    assert_eq!(all.last().unwrap().finish_reason, FinishReason::Length);
    let long = Request { max_new_tokens: 400, ..streaming };
    let mut left = executor.stream(&long).unwrap();
    assert!(left.request_id() > 0 && !left.next().unwrap().unwrap().is_request_final);
    drop(left);
    let id = executor.enqueue(&long).unwrap();
    assert!(executor.cancel(id).unwrap());
    assert_eq!(await_all(&executor, id).last().unwrap().finish_reason, FinishReason::Cancelled);
    executor.shutdown(false).unwrap();
    assert_eq!(executor.enqueue(&long).unwrap_err().kind(), "RuntimeError");
    assert!(executor.stream(&long).is_err());
}

#[test]
fn eight_threads_share_an_executor() {
    let Some(model) = load() else { return };
    let executor = Executor::new(&model, &small()).unwrap();
    let alone: Vec<Vec<Token>> =
        (0..8).map(|i| greedy(&model, &request(&model, &format!("text {i}")).tokens, 8)).collect();
    std::thread::scope(|scope| {
        for (i, expected) in alone.iter().enumerate() {
            let (executor, model) = (&executor, &model);
            scope.spawn(move || {
                let wanted = Request { streaming: true, ..request(model, &format!("text {i}")) };
                let got: Result<Vec<Response>, Error> = executor.stream(&wanted).unwrap().collect();
                let tokens: Vec<Token> =
                    got.unwrap().iter().flat_map(|r| r.tokens.clone()).collect();
                assert_eq!(&tokens, expected, "request {i}");
            });
        }
    });
}

#[test]
fn a_post_processor_masks_forces_and_fails() {
    let Some(model) = load() else { return };
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&steps);
    let finals = Arc::new(Mutex::new(vec![]));
    let ended = Arc::clone(&finals);
    let callbacks = Callbacks::new()
        .post_processor(move |entries| {
            for entry in entries {
                if entry.is_final()? {
                    ended.lock().unwrap().push(entry.client_id()?);
                    continue;
                }
                assert!(entry.bitmask()?.iter().all(|word| *word == -1));
                match entry.client_id()? {
                    1 => entry.allow_only(&[65, 66])?,
                    2 => entry.force(&[67, 68])?,
                    3 => entry.fail("not this one")?,
                    4 => return Err(Error::new("KeyError", "from Rust")),
                    5 => panic!("in Rust"),
                    _ => entry.set_temperature(entry.temperature()? * 2.0)?,
                }
            }
            Ok(())
        })
        .unwrap()
        .on_step(move |stats| {
            counted.store(stats.steps as usize, Ordering::Relaxed);
        })
        .unwrap();
    let executor = Executor::with_callbacks(&model, &small(), &callbacks).unwrap();
    let run = |client_id| {
        let wanted = Request {
            client_id,
            use_logits_post_processor: true,
            ignore_eos: true,
            max_new_tokens: 4,
            ..request(&model, PROMPT)
        };
        let responses = await_all(&executor, executor.enqueue(&wanted).unwrap());
        let tokens: Vec<Token> = responses.iter().flat_map(|r| r.tokens.clone()).collect();
        (tokens, responses.last().unwrap().error.clone(), responses.last().unwrap().finish_reason)
    };
    let (tokens, error, _) = run(1);
    assert!(error.is_empty() && tokens.iter().all(|t| [65, 66].contains(t)), "{tokens:?} {error}");
    assert_eq!(run(2).0, [67, 68, 67, 68]);
    assert!(run(3).1.contains("not this one"));
    let (_, error, reason) = run(4);
    assert!(error.contains("from Rust") && reason == FinishReason::Error, "{error}");
    assert!(run(5).1.contains("a callback in Rust panicked: in Rust"));
    assert_eq!(run(6).0.len(), 4);
    executor.shutdown(true).unwrap();
    assert!(steps.load(Ordering::Relaxed) > 0);
    assert!(finals.lock().unwrap().contains(&1));
}

#[test]
fn a_dropped_executor_lets_its_callbacks_go() {
    let Some(model) = load() else { return };
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    let callbacks = Callbacks::new().on_step(move |_| drop(Arc::clone(&inside))).unwrap();
    let executor = Executor::with_callbacks(&model, &small(), &callbacks).unwrap();
    executor.enqueue(&request(&model, PROMPT)).unwrap();
    drop(callbacks);
    assert_eq!(Arc::strong_count(&held), 2);
    drop(executor);
    assert_eq!(Arc::strong_count(&held), 1);
}
