"""Models: load a GGUF file, generate text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable, Literal, overload

from . import _ffi_api
from .base import call_relaying
from .checks import as_count, as_ids, as_number, as_path, as_utf8, goes_on
from .context import Context
from .generation import Generation, TextStream
from .lora import LoraUse, lora_uses
from .sampling import Sampler, SamplingParams
from .vocab import Vocab


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a model."""

    architecture: str
    name: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    norm_eps: float
    rope_base: float
    rope_freq_scale: float
    rope_dims: int


class Metadata(_ffi_api.Wrapper, Mapping[str, Any]):
    """Everything that the file says of itself, read when it is asked for."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._keys = [_text(key) for key in handle.metadata_keys()]

    def __getitem__(self, key: str) -> Any:
        try:
            raw = key.encode()
        except (AttributeError, UnicodeEncodeError):  # no string, or none that a file can hold
            raise KeyError(key) from None
        return _plain(self._handle.metadata(raw))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return _text(bytes(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _stop_strings(stop: str | Sequence[str]) -> list[bytes]:
    if isinstance(stop, (bytes, bytearray, Mapping)) or not isinstance(stop, Iterable):
        raise TypeError(f"stop is {type(stop).__name__}, expected a string or strings")
    stops = [stop] if isinstance(stop, str) else list(stop)
    for item in stops:
        if not isinstance(item, str):
            raise TypeError(f"stop: {type(item).__name__} is not a string")
    return [as_utf8("stop", item) for item in stops]


class Model(_ffi_api.Wrapper):
    """A model loaded from a GGUF file: immutable, shared by any number of contexts and threads.

    Args:
        path: The file; of split files any part.
        n_threads: CPU threads of its kernels; None: all that this process may use.
        device: Only ``"cpu"``.
        repack: Tile the weights once at load, which makes matrix products fast; False keeps the
            file's pages, which several processes then share.
        mmap: Map the file instead of reading it.
        mlock: Keep the mapped file in memory.
        progress: Called with the fraction loaded; returning False (or NumPy's) cancels.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a valid GGUF model; the message says what is wrong and where.
        NotImplementedError: Its architecture, tokenizer or a tensor type is not supported.
        RuntimeError: ``progress`` cancelled the load, or mlock failed.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[Any],
        *,
        n_threads: int | None = None,
        device: str = "cpu",
        repack: bool = True,
        mmap: bool = True,
        mlock: bool = False,
        progress: Callable[[float], bool | None] | None = None,
    ) -> None:
        if device != "cpu":
            raise NotImplementedError(f"device is {device!r}: models run on 'cpu' in this version")
        if n_threads is not None and as_count("n_threads", n_threads) < 1:
            raise ValueError(f"n_threads is {n_threads}, expected a count >= 1 or None")
        if progress is not None and not callable(progress):
            raise TypeError(f"progress is {type(progress).__name__}, expected a callable or None")
        file, threads = as_path("path", path), n_threads or 0

        def load(callback: Any) -> Any:
            return _ffi_api.Model.load(
                file, threads, bool(repack), bool(mmap), bool(mlock), callback
            )

        if progress is None:
            self._handle = load(None)
        else:
            self._handle = call_relaying(load, lambda fraction: goes_on(progress(fraction)))

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants."""
        return ModelConfig(**dict(self._handle.config().items()))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Everything that the file says of itself."""
        return Metadata(self._handle)

    @property
    def vocab(self) -> Vocab:
        """The vocabulary."""
        return Vocab(self._handle.vocab())

    def context(
        self,
        *,
        n_ctx: int | None = None,
        n_seq_max: int = 1,
        n_batch: int = 512,
        kv_dtype: str = "f16",
        embeddings: bool = False,
        lora: LoraUse | Iterable[LoraUse] = (),
        rope_freq_base: float | None = None,
        rope_freq_scale: float | None = None,
    ) -> Context:
        """Makes a context: sequences with a KV cache of their own.

        Args:
            n_ctx: Tokens that a sequence can hold, and that all can hold together; None: the
                training length. Memory is taken as it is filled.
            n_seq_max: Number of sequences.
            n_batch: Tokens of one forward pass; longer batches run as several.
            kv_dtype: ``"f16"`` or ``"f32"``.
            embeddings: Keep the hidden rows of each decode (`Context.embeddings`).
            lora: Adapters for all tokens of the context, added in this order: a path, a
                `LoraAdapter`, or a pair of one of these and a scale; one, or several of them. What
                is loaded once as a `LoraAdapter` is shared by contexts.
            rope_freq_base: Base of the rotary embedding; None: the model's.
            rope_freq_scale: Factor of positions; None: the model's.

        Raises:
            ValueError: An argument is out of its range, or a file in ``lora`` is no adapter for
                this model.
            NotImplementedError: As `LoraAdapter`.
            OSError: A file in ``lora`` cannot be read.
        """
        if n_ctx is not None and as_count("n_ctx", n_ctx) < 1:
            raise ValueError(f"n_ctx is {n_ctx}, expected a count >= 1 or None")
        rope = {"rope_freq_base": rope_freq_base, "rope_freq_scale": rope_freq_scale}
        for name, value in rope.items():
            if value is not None and not 0 < as_number(name, value) < math.inf:
                raise ValueError(f"{name} is {value}, expected a finite number > 0 or None")
        n_seq_max, n_batch = as_count("n_seq_max", n_seq_max), as_count("n_batch", n_batch)
        if not isinstance(kv_dtype, str):
            raise TypeError(f"kv_dtype is {type(kv_dtype).__name__}, expected 'f16' or 'f32'")
        base, scale = rope_freq_base or 0.0, rope_freq_scale or 0.0  # 0: the model's
        adapters, scales = lora_uses(lora, self)
        handle = self._handle.context(
            n_ctx or 0,
            n_seq_max,
            n_batch,
            kv_dtype,
            base,
            scale,
            bool(embeddings),
            adapters,
            scales,
        )
        return Context(handle)

    def embed(
        self, texts: str | Iterable[str], *, pooling: str | None = None, normalize: bool = True
    ) -> Any:
        """Vectors of texts: their tokens' last hidden rows, pooled.

        A text's vector does not depend on the others.

        Args:
            texts: One text or several; control tokens that they spell are text.
            pooling: ``"mean"`` of all rows, ``"cls"`` (the first) or ``"last"``; None: what the
                file says (``pooling_type``), or the mean.
            normalize: Scale each vector to length 1.

        Returns:
            ``[texts, n_embd]`` float32, a DLPack object.

        Raises:
            ValueError: A text has no tokens or more than the training length, or ``pooling`` is
                none of these.
            NotImplementedError: The file's own pooling is none of these.
        """
        if pooling is not None and not isinstance(pooling, str):
            raise TypeError(f"pooling is {type(pooling).__name__}, expected a name or None")
        given = [texts] if isinstance(texts, str) else list(texts)
        for text in given:
            if not isinstance(text, str):
                raise TypeError(f"texts: {type(text).__name__} is not a string")
            as_utf8("texts", text)
        vocab = self.vocab
        ids = [vocab.tokenize(text) for text in given]
        return self._handle.embed(ids, pooling, bool(normalize))

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: str | Sequence[str] = (),
        n_ctx: int | None = None,
    ) -> TextStream:
        """Continues a prompt, piece by piece.

        Args:
            prompt: Text, or token ids.
            max_new_tokens: At most so many tokens.
            sampling: None: always the best token.
            stop: Strings that end the generation; they are not part of the text.
            n_ctx: Tokens of prompt and answer together; None: as needed, up to the training
                length.

        Returns:
            An iterator over pieces of text; its ``result`` is the `Generation`.

        Raises:
            ValueError: The prompt is empty or longer than the context, or an argument is out of
                its range.
        """
        ids = self._prompt_ids(prompt)
        stops = _stop_strings(stop)
        max_new_tokens = as_count("max_new_tokens", max_new_tokens)
        if sampling is not None and not isinstance(sampling, SamplingParams):
            raise TypeError(f"sampling is {type(sampling).__name__}, expected SamplingParams")
        sampler = Sampler.greedy() if sampling is None else Sampler.from_params(sampling)
        if n_ctx is None:
            n_ctx = min(max(1, len(ids) + max(0, max_new_tokens)), self.config.n_ctx_train)
        context = self.context(n_ctx=n_ctx)
        handle = _ffi_api.Generation.create(
            context._handle, sampler._handle, ids, max_new_tokens, stops
        )
        return TextStream(handle)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: str | Sequence[str] = (),
        n_ctx: int | None = None,
    ) -> Generation:
        """Continues a prompt to the end; arguments as in `stream`."""
        return self.stream(
            prompt, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop, n_ctx=n_ctx
        ).finish()

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        stream: Literal[False] = False,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: str | Sequence[str] = (),
        n_ctx: int | None = None,
    ) -> Generation: ...

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        stream: Literal[True],
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: str | Sequence[str] = (),
        n_ctx: int | None = None,
    ) -> TextStream: ...

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        stream: bool,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: str | Sequence[str] = (),
        n_ctx: int | None = None,
    ) -> Generation | TextStream: ...

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        stream: bool = False,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: str | Sequence[str] = (),
        n_ctx: int | None = None,
    ) -> Generation | TextStream:
        """Answers a conversation through a chat template.

        Control tokens are those of the template: what a message spells (``<|im_end|>``) is text.

        Args:
            messages: ``{"role": …, "content": …}``, oldest first.
            tools: Descriptions of functions, for templates that know them.
            template: Jinja2 source; None: the file's. It is run in the same sandbox.
            stream: Return a stream of pieces instead of the whole answer.
            max_new_tokens: As in `stream`, like the arguments after it.
            sampling: As in `stream`.
            stop: As in `stream`.
            n_ctx: As in `stream`.

        Raises:
            TypeError: An argument or a message has the wrong type; it is named.
            ValueError: There is no template, or it fails on these messages, or it looks for
                a control token in messages that spell one.
        """
        from .chat import render_chat
        from .chat_guard import render_guarded

        vocab = self.vocab

        def spelled(token: int | None) -> str:
            return "" if token is None else vocab.piece(token).decode("utf-8", "replace")

        def render(messages: Any, tools: Any) -> str:
            return render_chat(
                vocab.chat_template if template is None else template,
                messages,
                tools=tools,
                bos_token=spelled(vocab.bos_id),
                eos_token=spelled(vocab.eos_id),
            )

        control = [token.decode("utf-8", "replace") for token in vocab._handle.control_tokens()]
        text, plain_at = render_guarded(render, messages, tools, control)
        # A begin token that the template wrote is not added again.
        prompt = as_utf8("messages: the prompt made of them", text)
        ids = list(vocab._handle.tokenize_guarded(prompt, True, plain_at))
        pieces = self.stream(
            ids, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop, n_ctx=n_ctx
        )
        return pieces if stream else pieces.finish()

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            return as_ids("prompt", prompt, expected="text or token ids")
        if not prompt:
            raise ValueError("prompt is empty")
        as_utf8(
            "prompt", prompt
        )  # by its own name, and not by that of an argument of the vocabulary
        return self.vocab.tokenize(prompt, add_special=True, parse_special=True)

    def close(self) -> None:
        """Frees the weights.

        What computes with them, contexts that are there included, and `metadata`, which is the
        file's, raise ``ValueError`` from here on. `config` and `vocab` stay.
        """
        self._handle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
