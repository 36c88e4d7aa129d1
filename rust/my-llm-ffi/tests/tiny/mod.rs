//! The tiny model that tests share: its path is in the environment variable MY_LLM_FFI_TINY_MODEL.

#![allow(dead_code)] // no test file uses all of it

use std::path::PathBuf;

use my_llm_ffi::{Context, ContextOptions, Model, Sampler, Token};

/// The model's path; says that the test is skipped where there is none.
pub(crate) fn path() -> Option<PathBuf> {
    let path = std::env::var_os("MY_LLM_FFI_TINY_MODEL").filter(|path| !path.is_empty());
    if path.is_none() {
        eprintln!("skipped: MY_LLM_FFI_TINY_MODEL names no model");
    }
    path.map(PathBuf::from)
}

pub(crate) fn load() -> Option<Model> {
    path().map(|path| Model::load(path).unwrap())
}

pub(crate) const PROMPT: &str = "Hello, world";

pub(crate) fn context(model: &Model) -> Context {
    model.context(&ContextOptions { n_ctx: Some(64), ..Default::default() }).unwrap()
}

/// The best tokens, one decode a step.
pub(crate) fn greedy(model: &Model, prompt: &[Token], count: usize) -> Vec<Token> {
    let mut context = context(model);
    let mut sampler = Sampler::greedy().unwrap();
    context.decode_tokens(prompt).unwrap();
    let mut tokens = vec![];
    for _ in 0..count {
        let token = sampler.sample(&context, -1).unwrap();
        if model.vocab().unwrap().is_eog(token).unwrap() {
            break;
        }
        tokens.push(token);
        context.decode_tokens(&[token]).unwrap();
    }
    tokens
}
