//! Models, contexts, samplers, generations, over the tiny model that the environment variable
//! MY_LLM_FFI_TINY_MODEL names: what `python tests/smoke.py --write PATH` writes.

mod tiny;

use my_llm_ffi::{
    Batch, Bytes, ContextOptions, Error, Executor, ExecutorConfig, FinishReason, Generation,
    GenerationOptions, KvDtype, LoadOptions, LoraAdapter, Model, Sampler, SamplingParams, Stage,
    Token, TokenizeOptions, Vocab,
};
use tiny::{context, greedy, load, PROMPT};

fn options(max_new_tokens: usize) -> GenerationOptions {
    GenerationOptions { max_new_tokens, ..Default::default() }
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let error = Model::load("/nowhere/model.gguf").unwrap_err();
    assert!(error.message().contains("/nowhere/model.gguf"), "{error}");
    assert!(["OSError", "FileNotFoundError"].contains(&error.kind()), "{error}");
    let folder = Model::load("/").unwrap_err();
    assert!(folder.message().contains('/'), "{folder}");
    assert!(Vocab::from_file(file!()).is_err());
}

#[test]
fn a_model_says_what_it_is() {
    let Some(model) = load() else { return };
    let config = model.config().unwrap();
    assert_eq!(config.architecture, "llama");
    assert_eq!(config.n_vocab, model.vocab().unwrap().size().unwrap());
    assert_eq!(model.n_threads().unwrap(), 0, "all");
    let path = tiny::path().unwrap();
    assert_eq!(model.file_bytes().unwrap(), std::fs::metadata(path).unwrap().len());
    let keys = model.metadata_keys().unwrap();
    assert!(keys.contains(&"general.architecture".to_string()));
    let text: Bytes = model.metadata("general.architecture").unwrap().to().unwrap();
    assert_eq!(text.0, b"llama");
    assert_eq!(model.metadata("nothing").unwrap_err().kind(), "KeyError");
    assert!(format!("{model:?}").starts_with("my_llm_ffi.Model"));
}

#[test]
fn loading_tells_how_far_it_is() {
    let Some(path) = tiny::path() else { return };
    let mut seen = vec![];
    let options = LoadOptions { n_threads: Some(1), mmap: false, ..Default::default() };
    let model = Model::load_with_progress(&path, &options, |fraction| {
        seen.push(fraction);
        true
    });
    assert_eq!(model.unwrap().n_threads().unwrap(), 1);
    assert_eq!(seen.last(), Some(&1.0));
    let stopped = Model::load_with_progress(&path, &options, |_| false).unwrap_err();
    assert_eq!(stopped.kind(), "RuntimeError");
    let panicked = Model::load_with_progress(&path, &options, |_| panic!("stop")).unwrap_err();
    assert!(panicked.message().contains("panicked: stop"), "{panicked}");
    let none = LoadOptions { n_threads: Some(0), ..options };
    assert_eq!(
        Model::load_with(&path, &none).unwrap_err().message(),
        "n_threads is 0, expected a count >= 1 or None"
    );
}

#[test]
fn a_vocabulary_goes_there_and_back() {
    let Some(path) = tiny::path() else { return };
    let vocab = Vocab::from_file(path).unwrap();
    let ids = vocab.tokenize(PROMPT).unwrap();
    assert!(vocab.detokenize(&ids, true).unwrap().contains(PROMPT));
    let plain = TokenizeOptions { add_special: false, ..Default::default() };
    let bare = vocab.tokenize_with(PROMPT, plain).unwrap();
    assert!(bare.len() <= ids.len());
    let mut decoder = vocab.decoder(true).unwrap();
    let mut text = String::new();
    for id in &bare {
        text += &decoder.push(*id).unwrap();
    }
    text += &decoder.finish().unwrap();
    assert!(text.contains(PROMPT), "{text:?}");
    assert_eq!(vocab.piece(-1).unwrap_err().kind(), "IndexError");
    assert_eq!(vocab.is_eog(1 << 30).unwrap_err().kind(), "IndexError");
    let eos = vocab.eos_id().unwrap();
    assert!(eos.map_or(true, |id| vocab.is_eog(id).unwrap()));
    assert!(vocab.bos_id().is_ok() && vocab.add_bos().is_ok() && vocab.chat_template().is_ok());
    assert!(!vocab.model().unwrap().is_empty());
}

#[test]
fn a_vocabulary_is_used_by_many_threads() {
    let Some(model) = load() else { return };
    let vocab = model.vocab().unwrap();
    let expected = vocab.tokenize(PROMPT).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(vocab.tokenize(PROMPT).unwrap(), expected);
                }
            });
        }
    });
}

#[test]
fn a_batch_and_single_tokens_give_the_same_logits() {
    let Some(model) = load() else { return };
    let ids = model.vocab().unwrap().tokenize(PROMPT).unwrap();
    let mut single = context(&model);
    for id in &ids {
        single.decode_tokens(&[*id]).unwrap();
    }
    let two = ContextOptions { n_ctx: Some(64), n_seq_max: 2, ..Default::default() };
    let mut batched = model.context(&two).unwrap();
    let mut batch = Batch::new().unwrap();
    for (i, id) in ids.iter().enumerate() {
        batch.add(*id, i as i64, &[0, 1], i + 1 == ids.len()).unwrap();
    }
    assert_eq!(batch.size().unwrap(), ids.len());
    batched.decode(&batch).unwrap();
    let (one, many) = (single.logits().unwrap(), batched.logits().unwrap());
    assert_eq!(one.row::<f32>(-1).unwrap(), many.row::<f32>(0).unwrap());
    assert_eq!(many.shape().unwrap(), [1, model.config().unwrap().n_vocab]);

    let last = ids.len() as i64 - 1;
    assert_eq!(batched.seq_positions(1).unwrap(), Some((0, last)));
    batched.seq_remove(1, 0, None).unwrap();
    assert_eq!(batched.seq_positions(1).unwrap(), None);
    batched.seq_copy(0, 1, 0, Some(1)).unwrap();
    batched.seq_shift(1, 0, None, 3).unwrap();
    assert_eq!(
        (batched.seq_positions(1).unwrap(), batched.seq_count(1).unwrap()),
        (Some((3, 3)), 1)
    );
    batched.seq_keep(0).unwrap();
    assert_eq!(batched.seq_count(1).unwrap(), 0);
    batched.clear().unwrap();
    assert_eq!((batched.n_ctx().unwrap(), batched.n_seq_max().unwrap()), (64, 2));
    batch.clear().unwrap();
    assert_eq!(batched.decode(&batch).unwrap_err().kind(), "ValueError");
    assert_eq!(batched.logits().unwrap_err().kind(), "RuntimeError");
    assert_eq!(many.row::<f32>(0).unwrap().len(), model.config().unwrap().n_vocab);
}

#[test]
fn a_state_is_saved_and_loaded() {
    let Some(model) = load() else { return };
    let path = std::env::temp_dir().join(format!("my_llm_ffi_state_{}", std::process::id()));
    let ids = model.vocab().unwrap().tokenize(PROMPT).unwrap();
    let (mut first, mut second) = (context(&model), context(&model));
    first.decode_tokens(&ids).unwrap();
    first.save_state(&path, Some(0)).unwrap();
    second.load_state(&path, Some(0)).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(second.seq_positions(0).unwrap(), first.seq_positions(0).unwrap());
    first.decode_tokens(&[1]).unwrap();
    second.decode_tokens(&[1]).unwrap();
    let (a, b) = (first.logits().unwrap(), second.logits().unwrap());
    assert_eq!(a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
    assert!(second.load_state(&path, None).is_err());
}

#[test]
fn embeddings_and_options_of_a_context() {
    let Some(model) = load() else { return };
    let options = ContextOptions { embeddings: true, kv_dtype: KvDtype::F32, ..Default::default() };
    let mut context = model.context(&options).unwrap();
    context.decode_tokens(&[1, 2]).unwrap();
    let n_embd = model.config().unwrap().n_embd;
    assert_eq!(context.embeddings().unwrap().shape().unwrap(), [2, n_embd]);
    let vectors = model.embed(&[vec![1, 2], vec![3]], Some("mean"), true).unwrap();
    assert_eq!(vectors.shape().unwrap(), [2, n_embd]);
    let length: f32 = vectors.row::<f32>(1).unwrap().iter().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-4);
    assert!(model.embed(&[[1]], Some("median"), true).is_err());
    let zero = ContextOptions { n_ctx: Some(0), ..Default::default() };
    assert_eq!(model.context(&zero).unwrap_err().kind(), "ValueError");
    let nan = ContextOptions { rope_freq_base: Some(f64::NAN), ..Default::default() };
    assert!(model.context(&nan).unwrap_err().message().contains("rope_freq_base"));
    assert!(LoraAdapter::load(&model, "/nowhere").is_err());
}

#[test]
fn samplers_have_stages() {
    let Some(_) = tiny::path() else { return };
    let logits = [0.0f32, 3.0, 1.0, 2.0];
    assert_eq!(Sampler::greedy().unwrap().sample_logits(&logits).unwrap(), 1);
    let stages = [
        Stage::LogitBias(vec![(0, 10.0)]),
        Stage::Temperature(0.5),
        Stage::TopK(2),
        Stage::Draw(Some(u64::MAX)),
    ];
    let mut sampler = Sampler::new(&stages).unwrap();
    let likely = sampler.probabilities(&logits).unwrap();
    assert_eq!(likely.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1]);
    assert!((likely.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-6);
    sampler.accept(1).unwrap();
    sampler.reset().unwrap();
    let wrong = SamplingParams { top_p: Some(2.0), ..Default::default() };
    assert!(Sampler::from_params(&wrong).unwrap_err().message().contains("top_p"));
    let wrong = SamplingParams { penalty_last_n: -2, ..Default::default() };
    assert!(Sampler::from_params(&wrong).unwrap_err().message().contains("penalty_last_n"));
    let all = SamplingParams {
        top_k: Some(3),
        top_p: Some(0.9),
        min_p: Some(0.1),
        typical_p: Some(0.9),
        frequency_penalty: 0.1,
        seed: Some(1),
        ..Default::default()
    };
    assert_eq!(all.stages().len(), 7);
    Sampler::from_params(&all).unwrap().sample_logits(&logits).unwrap();
    assert_eq!(sampler.sample_logits(&[]).unwrap_err().kind(), "ValueError");
    assert_eq!(sampler.accept(-1).unwrap_err().kind(), "ValueError");
}

#[test]
fn text_and_tokens_are_those_of_single_steps() {
    let Some(model) = load() else { return };
    let vocab = model.vocab().unwrap();
    let prompt = vocab.tokenize(PROMPT).unwrap();
    let expected = greedy(&model, &prompt, 8);
    let mut generation = model.stream(PROMPT, options(8)).unwrap();
    let pieces: Vec<String> = generation.by_ref().collect::<Result<_, _>>().unwrap();
    assert!(pieces.iter().all(|piece| !piece.is_empty()));
    assert_eq!(generation.tokens().unwrap(), expected);
    assert!(matches!(
        generation.finish_reason().unwrap(),
        FinishReason::Length | FinishReason::EndId
    ));
    let timings = generation.timings().unwrap();
    assert_eq!(timings.prompt_tokens, prompt.len());
    assert!(generation.next().is_none(), "it stays at its end");

    let tokens: Result<Vec<Token>, Error> =
        model.stream(PROMPT, options(8)).unwrap().into_tokens().collect();
    assert_eq!(tokens.unwrap(), expected);
    let mut whole = model.stream_tokens(&prompt, options(8)).unwrap();
    assert_eq!(whole.finish().unwrap(), pieces.concat());
    assert!(whole.into_context().n_ctx().unwrap() >= prompt.len() + 8);
}

#[test]
fn stop_words_and_seeds_are_heeded() {
    let Some(model) = load() else { return };
    let text = model.stream(PROMPT, options(12)).unwrap().finish().unwrap();
    let stop: String = text.chars().skip(1).take(1).collect();
    let stopping = GenerationOptions { stop: vec![stop.clone()], ..options(12) };
    let mut generation = model.stream(PROMPT, stopping).unwrap();
    assert!(!generation.finish().unwrap().contains(&stop));
    assert_eq!(generation.finish_reason().unwrap(), FinishReason::StopWords);

    let drawn = |seed| {
        let sampling = SamplingParams { seed: Some(seed), ..Default::default() };
        let options = GenerationOptions { sampling: Some(sampling), ..options(16) };
        model.stream(PROMPT, options).unwrap().finish().unwrap()
    };
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
    let empty = GenerationOptions { stop: vec![String::new()], ..options(1) };
    assert_eq!(model.stream(PROMPT, empty).unwrap_err().kind(), "ValueError");
    assert_eq!(model.stream_tokens(&[], options(1)).unwrap_err().kind(), "ValueError");
    let sampler = Sampler::greedy().unwrap();
    assert!(Generation::new(context(&model), sampler, &[1 << 30], &options(1)).is_err());
}

#[test]
fn what_is_closed_says_so() {
    let Some(model) = load() else { return };
    let mut context = context(&model);
    context.decode_tokens(&[1]).unwrap();
    let logits = context.logits().unwrap();
    context.close().unwrap();
    for error in [
        context.decode_tokens(&[1]).unwrap_err(),
        context.logits().unwrap_err(),
        context.n_ctx().unwrap_err(),
        context.clear().unwrap_err(),
        Sampler::greedy().unwrap().sample(&context, -1).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "ValueError: this Context is closed");
    }
    assert!(!logits.as_slice::<f32>().unwrap().is_empty(), "what came of it stays");
    context.close().unwrap();

    let mut used = tiny::context(&model);
    model.close().unwrap();
    let context = model.context(&ContextOptions::default()).map(drop);
    for error in [used.decode_tokens(&[1]).unwrap_err(), context.unwrap_err()] {
        assert_eq!(error.to_string(), "ValueError: this Model is closed");
    }
    assert!(Executor::new(&model, &ExecutorConfig::default()).is_err());
}

#[test]
fn contexts_move_between_threads() {
    let Some(model) = load() else { return };
    let prompt = model.vocab().unwrap().tokenize(PROMPT).unwrap();
    let expected = greedy(&model, &prompt, 4);
    let mut context = context(&model);
    let logits = std::thread::spawn(move || {
        context.decode_tokens(&prompt).unwrap();
        (context.logits().unwrap(), context)
    })
    .join()
    .unwrap();
    let mut sampler = Sampler::greedy().unwrap();
    assert_eq!(sampler.sample(&logits.1, -1).unwrap(), expected[0]);
    assert_eq!(sampler.sample_logits(logits.0.row::<f32>(-1).unwrap()).unwrap(), expected[0]);
}
