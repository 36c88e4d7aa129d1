"""Vocabularies: text to token ids and back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from . import _ffi_api
from .checks import as_count, as_ids, as_path, as_utf8


class StreamDecoder(_ffi_api.Wrapper):
    """Turns ids into text as they come, never splitting a character. Made by `Vocab.decoder`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def push(self, token: int) -> str:
        """Adds a token and returns the text that is complete with it, often empty.

        Raises:
            IndexError: The id is out of range.
        """
        return str(self._handle.push(as_count("token", token)))

    def finish(self) -> str:
        """Returns what is left; an unfinished character becomes U+FFFD."""
        return str(self._handle.finish())


class Vocab(_ffi_api.Wrapper):
    """The vocabulary of a model: immutable, usable from any thread at once.

    Comes from `Model.vocab` or `Vocab.from_file`.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def from_file(cls, path: str | bytes | os.PathLike[Any]) -> Vocab:
        """Reads the vocabulary of a GGUF file, with or without tensors.

        Raises:
            OSError: The file cannot be read.
            TypeError: ``path`` is no path.
            ValueError: It is not a GGUF file, or its vocabulary contradicts itself.
            NotImplementedError: The kind of tokenizer is not known here.
        """
        return cls(_ffi_api.Vocab.from_file(as_path("path", path)))

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Splits text into token ids.

        Args:
            text: Any text; what is not in the vocabulary is written in bytes.
            add_special: Put the begin and end tokens where the model asks for them.
            parse_special: Control tokens that are spelled out (``<|im_start|>``) become their ids.

        Raises:
            TypeError: ``text`` is no string.
            ValueError: It holds a lone surrogate, such as ``open(…, errors="surrogateescape")``
                makes of a byte that is not UTF-8.
        """
        utf8 = as_utf8("text", text)
        return list(self._handle.tokenize(utf8, bool(add_special), bool(parse_special)))

    def detokenize(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Joins token ids to text; bytes that are not UTF-8 become U+FFFD.

        Raises:
            IndexError: An id is out of range.
        """
        tokens = as_ids("ids", ids, expected="token ids")
        raw: bytes = self._handle.detokenize(tokens, bool(skip_special))
        return raw.decode("utf-8", "replace")

    def decoder(self, *, skip_special: bool = False, at_start: bool = False) -> StreamDecoder:
        """Returns a decoder for ids that come one by one.

        Args:
            skip_special: Leave control tokens out.
            at_start: The first id begins a text, as for `detokenize`, which takes the space off
                that some vocabularies put in front. Otherwise it continues one, as an answer
                continues its prompt.
        """
        return StreamDecoder(self._handle.decoder(bool(skip_special), bool(at_start)))

    def piece(self, token: int) -> bytes:
        """Returns the bytes that a token stands for in running text.

        Raises:
            IndexError: The id is out of range.
        """
        return bytes(self._handle.piece(as_count("token", token)))

    def is_eog(self, token: int) -> bool:
        """Whether the token ends generation.

        Raises:
            IndexError: The id is out of range.
        """
        return bool(self._handle.is_eog(as_count("token", token)))

    def __len__(self) -> int:
        return self.size

    @property
    def size(self) -> int:
        """Number of tokens."""
        return int(self._handle.size())

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, if there is one."""
        value: int | None = self._handle.bos_id()
        return value

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, if there is one."""
        value: int | None = self._handle.eos_id()
        return value

    @property
    def chat_template(self) -> str:
        """The Jinja2 template of the file, empty when it has none."""
        raw: bytes = self._handle.chat_template()
        return raw.decode("utf-8", "replace")
