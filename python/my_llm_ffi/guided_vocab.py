"""What llguidance needs of a vocabulary. Counterparts: guided.py, guided_grammars.py."""

from __future__ import annotations

import importlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .vocab import Vocab

if TYPE_CHECKING:
    from types import ModuleType

    from .model import Model

# TokenType of src/text/vocab.h.
_UNKNOWN, _CONTROL, _UNUSED, _BYTE = 2, 3, 5, 6
_KINDS = ("llama", "gpt2")  # SPM and BPE: their pieces joined are the text, byte for byte
# Characters that hardly stand in a vocabulary, but as bytes.
_SEPARATORS = (*range(1, 9), *range(14, 32))

# By the Model or Vocab it was built for; nothing in a GuideVocab refers to that one.
_shared: weakref.WeakKeyDictionary[Model | Vocab, GuideVocab] = weakref.WeakKeyDictionary()
_shared_lock = threading.Lock()


def import_llguidance() -> ModuleType:
    """Imports llguidance, which is needed by what is guided and by nothing else.

    Raises:
        ImportError: It is not installed; says how to install it.
    """
    try:
        return importlib.import_module("llguidance")
    except ImportError as error:
        raise ImportError(
            "guided decoding needs llguidance 1.9 or later, on Python 3.10 or later: "
            "pip install 'my-llm-ffi[guided]'"
        ) from error


class GuideVocab:
    """A vocabulary as llguidance sees it: its trie of pieces, its end tokens, how it tokenizes.

    Building one takes some tenths of a second for 150,000 tokens, so a model's is built once
    (`shared`), however many engines use it.

    Raises:
        ImportError: llguidance is not installed.
        NotImplementedError: Text and pieces of this kind of tokenizer do not agree.
        ValueError: No token of the vocabulary ends an answer.
    """

    def __init__(self, vocab: Vocab) -> None:
        llguidance = import_llguidance()
        kind = str(vocab._handle.model())
        if kind not in _KINDS:
            raise NotImplementedError(
                f"model: guided decoding with a {kind!r} tokenizer; expected one of {_KINDS}"
            )
        self.size = vocab.size
        eos = vocab.eos_id
        self.end_ids = [t for t in range(self.size) if vocab._handle.is_eog(t)]
        if eos is not None and eos in self.end_ids:  # llguidance takes the first as the usual one
            self.end_ids.remove(eos)
            self.end_ids.insert(0, eos)
        if not self.end_ids:
            raise ValueError("model: its vocabulary has no token that ends an answer")
        self.tokenizer: Any = llguidance.LLTokenizer(
            _Callbacks(vocab, self.end_ids[0]), eos_token=self.end_ids
        )

    @property
    def mask_words(self) -> int:
        """Number of 32-bit words of a mask."""
        return (self.size + 31) // 32

    @staticmethod
    def shared(model: Model | Vocab) -> GuideVocab:
        """Returns the one of this very model or vocabulary, built if it is the first time.

        Raises:
            TypeError: ``model`` is neither.
        """
        vocab = getattr(model, "vocab", model)
        if not isinstance(vocab, Vocab):
            raise TypeError(f"model is {type(model).__name__}, expected a Model or a Vocab")
        with _shared_lock:
            known = _shared.get(model)
            if known is None:
                known = _shared[model] = GuideVocab(vocab)
            return known


class _Callbacks:
    """What LLTokenizer reads and calls; the names are llguidance's."""

    is_tokenizer_wrapper = True

    def __init__(self, vocab: Vocab, eos: int) -> None:
        self._handle = vocab._handle
        pieces = [bytes(self._handle.piece(token)) for token in range(vocab.size)]
        types = [int(self._handle.type(token)) for token in range(vocab.size)]
        self.tokens = [
            b"" if kind == _UNUSED else piece  # nothing: never allowed, never looked for
            for piece, kind in zip(pieces, types)
        ]
        self.special_token_ids = [
            token for token, kind in enumerate(types) if kind in (_UNKNOWN, _CONTROL)
        ]
        self.eos_token_id = eos
        self.bos_token_id = vocab.bos_id
        spm = str(self._handle.model()) == "llama"
        self._before = _separator(pieces, types) if spm else b""
        self._n_before = len(self._tokenize(self._before))

    def __call__(self, text: str) -> list[int]:
        """Tokenizes text that continues other text."""
        return self._tokenize(self._before + text.encode())[self._n_before :]

    def _tokenize(self, text: bytes) -> list[int]:
        return list(self._handle.tokenize(text, False, False))


def _separator(pieces: list[bytes], types: list[int]) -> bytes:
    """What to put before a text so that an SPM tokenizer puts no space there.

    It puts one at the begin of a text, but the text here continues an answer. A character that is
    in no piece takes that space and is never merged with what follows.
    """
    for code in _SEPARATORS:
        byte = bytes([code])
        if not any(byte in piece for piece, kind in zip(pieces, types) if kind != _BYTE):
            return byte
    raise NotImplementedError(
        "model: guided decoding with a vocabulary whose pieces hold every control character"
    )
