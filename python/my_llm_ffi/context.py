"""One user's state over a model: sequences, decode, logits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from . import _ffi_api
from .checks import as_count, as_ids, as_path, as_range


class Batch(_ffi_api.Wrapper):
    """Tokens of any mix of sequences, computed by one `Context.decode`. One thread at a time."""

    def __init__(self) -> None:
        self._handle: Any = _ffi_api.Batch.create()

    def add(
        self, token: int, position: int, seq_ids: Iterable[int] = (0,), logits: bool = False
    ) -> None:
        """Adds one token.

        Args:
            token: Its id.
            position: Its position, after the last of every sequence it belongs to.
            seq_ids: The sequences that store it; it sees the past of the first one.
            logits: Whether its row of logits is wanted.
        """
        sequences = as_ids("seq_ids", seq_ids, expected="sequence ids")
        token, position = as_count("token", token), as_count("position", position)
        self._handle.add(token, position, sequences, bool(logits))

    def clear(self) -> None:
        """Removes all tokens."""
        self._handle.clear()

    def __len__(self) -> int:
        return int(self._handle.size())


class Context(_ffi_api.Wrapper):
    """Sequences in a paged KV cache over a model. Made by `Model.context`.

    Used from one thread at a time: a call that comes while another runs raises ``RuntimeError``
    and changes nothing. After `close` every call raises ``ValueError``.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def decode(self, batch: Batch | Iterable[int]) -> None:
        """Computes tokens and stores them in their sequences.

        On any exception, Ctrl-C included, the sequences are as they were before.

        Args:
            batch: A `Batch`; or token ids, which continue sequence 0 and give the logits of the
                last one.

        Raises:
            ValueError: The batch is empty; a token, sequence or position is out of range; a
                position is not after the last of its sequence; more tokens than ``n_ctx``.
            RuntimeError: The cache is full, or another thread uses this context.
        """
        if isinstance(batch, Batch):
            self._handle.decode(batch._handle)
        else:
            self._handle.decode_tokens(as_ids("batch", batch, expected="a Batch or token ids"))

    @property
    def logits(self) -> Any:
        """``[n_outputs, n_vocab]`` float32 of the last decode, a DLPack object on its memory.

        Rows stand in the order of the batch. The memory is not written again while anybody holds
        it.

        Raises:
            RuntimeError: Nothing was decoded yet, or the last decode failed.
        """
        return self._handle.logits()

    @property
    def embeddings(self) -> Any:
        """``[tokens, n_embd]`` float32: the last hidden row of each token of the last decode.

        Normed, as the head reads it; rows stand in the order of the batch and are kept as those of
        `logits`.

        Raises:
            ValueError: The context was made without ``embeddings=True``.
            RuntimeError: Nothing was decoded yet, or the last decode failed.
        """
        return self._handle.embeddings()

    @property
    def n_ctx(self) -> int:
        """Tokens that a sequence can hold."""
        return int(self._handle.n_ctx())

    @property
    def n_seq_max(self) -> int:
        """Number of sequences."""
        return int(self._handle.n_seq_max())

    def seq_remove(self, seq: int, p0: int = 0, p1: int | None = None) -> None:
        """Removes the tokens of a sequence with ``p0 <= position < p1``; no ``p1``: to the end."""
        self._handle.seq_remove(as_count("seq", seq), *as_range(p0, p1))

    def seq_copy(self, src: int, dst: int, p0: int = 0, p1: int | None = None) -> None:
        """Lets ``dst`` hold the tokens of ``src`` in a range too, after its own; memory is shared.

        Raises:
            ValueError: The range begins before the end of ``dst``.
        """
        source, target = as_count("src", src), as_count("dst", dst)
        self._handle.seq_copy(source, target, *as_range(p0, p1))

    def seq_keep(self, seq: int) -> None:
        """Empties all other sequences."""
        self._handle.seq_keep(as_count("seq", seq))

    def seq_shift(self, seq: int, p0: int, p1: int | None, delta: int) -> None:
        """Adds ``delta`` to the positions in a range; their keys are rotated to match.

        Raises:
            ValueError: A position would be negative or taken twice.
        """
        span, by = as_range(p0, p1), as_count("delta", delta)
        self._handle.seq_shift(as_count("seq", seq), *span, by)

    def seq_positions(self, seq: int) -> tuple[int, int] | None:
        """Returns the first and the last position of a sequence, None when it is empty."""
        positions = self._handle.seq_positions(as_count("seq", seq))
        return None if positions is None else (int(positions[0]), int(positions[1]))

    def clear(self) -> None:
        """Empties all sequences."""
        self._handle.clear()

    def save_state(self, path: str | bytes | os.PathLike[Any], seq: int | None = None) -> None:
        """Writes positions, keys and values of one sequence, or of all, to a file.

        Raises:
            OSError: The file cannot be written, or is no regular file.
        """
        file = as_path("path", path)
        self._handle.save_state(file, None if seq is None else as_count("seq", seq))

    def load_state(self, path: str | bytes | os.PathLike[Any], seq: int | None = None) -> None:
        """Replaces sequences by those of a file; with ``seq``, its only one becomes ``seq``.

        Raises:
            OSError: The file cannot be read, or is no regular file.
            ValueError: It is not a state of this model, its rope settings, adapters and
                ``kv_dtype``, or does not fit.
            RuntimeError: Sequences that are not replaced leave too few pages. A state of all
                sequences always fits a context of the same size: what shared memory when it was
                saved shares it again. After any error the context is unchanged.
        """
        file = as_path("path", path)
        self._handle.load_state(file, None if seq is None else as_count("seq", seq))

    def close(self) -> None:
        """Frees the cache. Arrays that came from `logits` stay valid."""
        self._handle.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
