//! Vocabularies: text to token ids and back.

use std::path::Path;

use crate::any::{Any, Arg};
use crate::error::Result;
use crate::from_any::Bytes;
use crate::object::{invoke, object_type};

/// An id of the vocabulary.
pub type Token = i32;

object_type! {
    /// The vocabulary of a model: immutable, usable from any thread at once.
    pub Vocab = "my_llm_ffi.Vocab"
}

// SAFETY: the library's object is immutable.
unsafe impl Send for Vocab {}
// SAFETY: as above.
unsafe impl Sync for Vocab {}

/// How `Vocab::tokenize_with` reads a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizeOptions {
    /// Put the begin and end tokens where the model asks for them.
    pub add_special: bool,
    /// Control tokens that are spelled out (`<|im_start|>`) become their ids.
    pub parse_special: bool,
}

impl Default for TokenizeOptions {
    fn default() -> Self {
        Self { add_special: true, parse_special: false }
    }
}

pub(crate) fn path_argument(path: &Path) -> Result<Any> {
    use std::os::unix::ffi::OsStrExt;
    Any::bytes(path.as_os_str().as_bytes())
}

pub(crate) fn token_array(tokens: &[Token]) -> Result<Any> {
    Any::array(tokens.iter().copied())
}

fn lossy(bytes: Bytes) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

impl Vocab {
    /// Reads the vocabulary of a GGUF file, with or without tensors.
    ///
    /// # Errors
    /// `OSError` where the file cannot be read; `ValueError` where it is not GGUF or contradicts
    /// itself; `NotImplementedError` for a tokenizer that is not known here.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path_argument(path.as_ref())?;
        invoke!(Vocab, "from_file", Arg::from(&path))?.to()
    }

    /// Splits a text into tokens, with the begin and end tokens where the model asks for them;
    /// control tokens that it spells are text.
    ///
    /// # Errors
    /// What the library throws.
    pub fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        self.tokenize_with(text, TokenizeOptions::default())
    }

    /// Splits a text into tokens.
    ///
    /// # Errors
    /// What the library throws.
    pub fn tokenize_with(&self, text: &str, options: TokenizeOptions) -> Result<Vec<Token>> {
        let text = Any::bytes(text.as_bytes())?;
        let (add, parse) = (options.add_special, options.parse_special);
        invoke!(Vocab, "tokenize", self.arg(), Arg::from(&text), add.into(), parse.into())?.to()
    }

    /// Joins tokens to a text; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// `IndexError` where an id is out of range.
    pub fn detokenize(&self, tokens: &[Token], skip_special: bool) -> Result<String> {
        let ids = token_array(tokens)?;
        let arguments = (Arg::from(&ids), Arg::from(skip_special));
        invoke!(Vocab, "detokenize", self.arg(), arguments.0, arguments.1)?.to().map(lossy)
    }

    /// A decoder for tokens that come one by one, as an answer continues its prompt.
    ///
    /// # Errors
    /// What the library throws.
    pub fn decoder(&self, skip_special: bool) -> Result<StreamDecoder> {
        invoke!(Vocab, "decoder", self.arg(), skip_special.into(), false.into())?.to()
    }

    /// The bytes that a token stands for in running text.
    ///
    /// # Errors
    /// `IndexError` where the id is out of range.
    pub fn piece(&self, token: Token) -> Result<Vec<u8>> {
        invoke!(Vocab, "piece", self.arg(), token.into())?.to().map(|bytes: Bytes| bytes.0)
    }

    /// Whether the token ends generation.
    ///
    /// # Errors
    /// `IndexError` where the id is out of range.
    pub fn is_eog(&self, token: Token) -> Result<bool> {
        invoke!(Vocab, "is_eog", self.arg(), token.into())?.to()
    }

    /// Number of tokens.
    ///
    /// # Errors
    /// What the library throws.
    pub fn size(&self) -> Result<usize> {
        invoke!(Vocab, "size", self.arg())?.to()
    }

    /// The token that begins a text, if there is one.
    ///
    /// # Errors
    /// What the library throws.
    pub fn bos_id(&self) -> Result<Option<Token>> {
        invoke!(Vocab, "bos_id", self.arg())?.to()
    }

    /// The token that ends a text, if there is one.
    ///
    /// # Errors
    /// What the library throws.
    pub fn eos_id(&self) -> Result<Option<Token>> {
        invoke!(Vocab, "eos_id", self.arg())?.to()
    }

    /// Whether a text begins with the begin token.
    ///
    /// # Errors
    /// What the library throws.
    pub fn add_bos(&self) -> Result<bool> {
        invoke!(Vocab, "add_bos", self.arg())?.to()
    }

    /// Name of the kind of tokenizer, as the file has it.
    ///
    /// # Errors
    /// What the library throws.
    pub fn model(&self) -> Result<String> {
        invoke!(Vocab, "model", self.arg())?.to()
    }

    /// The Jinja2 template of the file, empty when it has none.
    ///
    /// # Errors
    /// What the library throws.
    pub fn chat_template(&self) -> Result<String> {
        invoke!(Vocab, "chat_template", self.arg())?.to().map(lossy)
    }
}

object_type! {
    /// Turns tokens into text as they come, never splitting a character.
    pub StreamDecoder = "my_llm_ffi.StreamDecoder"
}

// SAFETY: one thread at a time, any one.
unsafe impl Send for StreamDecoder {}

impl StreamDecoder {
    /// Adds a token and returns the text that is complete with it, often empty.
    ///
    /// # Errors
    /// `IndexError` where the id is out of range.
    pub fn push(&mut self, token: Token) -> Result<String> {
        invoke!(StreamDecoder, "push", self.arg(), token.into())?.to()
    }

    /// What is left; an unfinished character becomes U+FFFD.
    ///
    /// # Errors
    /// What the library throws.
    pub fn finish(&mut self) -> Result<String> {
        invoke!(StreamDecoder, "finish", self.arg())?.to()
    }
}
