"""What an executor is asked and what it answers: `Request`, `Response`, `ExecutorConfig`."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .arrays import shared_or_copied
from .checks import as_count, as_flag, as_number, as_utf8
from .generation import FinishReason
from .sampling import SamplingParams

if TYPE_CHECKING:
    from .guided_grammars import Guided


class SchedulerPolicy(enum.IntEnum):
    """What is admitted while others run."""

    MAX_UTILIZATION = 0
    GUARANTEED_NO_EVICT = 1


class EarlyStopping(enum.IntEnum):
    """When a beam search ends before ``max_new_tokens``.

    As many answers as beams are finished, and: no running one is better at its present length
    (HEURISTIC), nothing more (FIRST), no running one can become better at any length (NEVER).
    """

    HEURISTIC = 0
    FIRST = 1
    NEVER = 2


@dataclass(frozen=True)
class ExecutorConfig:
    """How an executor works.

    Args:
        max_batch_size: Sequences in one step.
        max_num_tokens: Tokens in one step; None: as many as take about 100 ms.
        max_queue_size: Requests that may wait; also, finished ones that nobody has read yet.
        scheduler_policy: MAX_UTILIZATION admits what fits now; where the KV cache is full, the
            request that is last in rank begins again later. GUARANTEED_NO_EVICT admits only what
            fits to its end.
        enable_chunked_prefill: Long prompts are computed in parts between the others' tokens.
        enable_prefix_cache: Prompts that begin alike are computed once.
        kv_cache_tokens: Entries of the KV cache, over all sequences; None: half of the free
            memory, as far as ``max_batch_size`` sequences can need it. It is taken as it fills.
        kv_cache_memory_fraction: Instead, a part of the free memory.
        max_sequence_length: Tokens of prompt and answer; None: the training length.
        kv_dtype: ``"f16"`` or ``"f32"``.
        attention_window: Positions that a token sees, itself among them, where a request says
            nothing; 0: all.
        sink_tokens: First positions that are seen beyond the window, likewise.
        queue_deadline_ms: How long a request may wait for its start, likewise; None: for ever.
        priority_aging_ms: A wait that counts as much as a priority higher by 1.
        max_pending_responses: Of a streaming request that nobody reads; one more cancels it.
        n_post_processor_threads: Threads that call the logits post-processor.
        post_processor_timeout_ms: A call that takes longer ends its requests with ERROR.
    """

    max_batch_size: int = 128
    max_num_tokens: int | None = None
    max_queue_size: int = 1024
    scheduler_policy: SchedulerPolicy = SchedulerPolicy.MAX_UTILIZATION
    enable_chunked_prefill: bool = True
    enable_prefix_cache: bool = True
    kv_cache_tokens: int | None = None
    kv_cache_memory_fraction: float | None = None
    max_sequence_length: int | None = None
    kv_dtype: str = "f16"
    attention_window: int = 0
    sink_tokens: int = 0
    queue_deadline_ms: float | None = None
    priority_aging_ms: float = 10_000.0
    max_pending_responses: int = 1024
    n_post_processor_threads: int = 1
    post_processor_timeout_ms: float = 10_000.0


@dataclass(frozen=True)
class Request:
    """One prompt and what is wanted of it. ``None`` means: not given.

    Args:
        tokens: The prompt's ids; ``n_vocab + i`` stands for row i of ``prompt_table``.
        max_new_tokens: At most so many tokens; 0 computes the prompt alone.
        sampling: None: always the best token.
        streaming: Tokens are delivered as they come instead of at the end.
        num_return_sequences: Answers to this prompt, each with draws of its own.
        best_of: Answers to sample, of which the ``num_return_sequences`` with the best mean
            log-probability are delivered.
        beam_width: More than 1: beam search instead of sampling, at most 16.
        length_penalty: Of beams: score = sum of log-probabilities / length ** length_penalty.
        early_stopping: When a beam search ends.
        stop_token_ids: Tokens that end an answer beside the model's own end tokens.
        stop_words: Strings that end an answer; they are not part of ``text``.
        ignore_eos: The model's end tokens end nothing.
        min_tokens: Tokens before which no end token is chosen.
        logprobs: Log-probabilities of each token and of so many best ones; 0: none.
        prompt_logprobs: The same for the prompt's tokens after the first.
        priority: Higher ones go first, and take the place of lower ones that run.
        queue_deadline_ms: The request times out if it has not begun by then.
        deadline_ms: Likewise if it has not ended.
        client_id: Comes back in every response.
        lora: Name of a loaded adapter.
        prompt_table: Rows of float32 ``[rows, n_embd]`` in place of token embeddings; copied.
        attention_window: Positions that a token sees, itself among them; 0: all.
        sink_tokens: First positions that are seen beyond the window.
        cache_salt: Only requests with the same one share what was computed of their prompts.
        use_logits_post_processor: The executor's post-processor masks each token.
        guided: A grammar that the answer follows; the executor's post-processor must be a
            `GuidedDecoding`.
        pooling: ``"mean"``, ``"last"`` or ``"cls"``: an embedding instead of an answer.
        normalize: The embedding has length 1.
    """

    tokens: Sequence[int]
    max_new_tokens: int = 128
    sampling: SamplingParams | None = None
    streaming: bool = False
    num_return_sequences: int = 1
    best_of: int | None = None
    beam_width: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = EarlyStopping.HEURISTIC
    stop_token_ids: Sequence[int] = ()
    stop_words: Sequence[str] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int = 0
    prompt_logprobs: int = 0
    priority: float = 0.0
    queue_deadline_ms: float | None = None
    deadline_ms: float | None = None
    client_id: int = 0
    lora: str | None = None
    prompt_table: Any = None
    attention_window: int | None = None
    sink_tokens: int | None = None
    cache_salt: str | None = None
    use_logits_post_processor: bool = False
    guided: Guided | None = None
    pooling: str | None = None
    normalize: bool = True


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of one token, of the logits as the model gave them.

    Before penalties, bias, mask and temperature. ``best`` holds (token, log-probability), the
    best first.
    """

    logprob: float
    best: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Response:
    """What came of a sequence since its last response.

    Attributes:
        request_id: What `Executor.enqueue_request` returned.
        client_id: As the request has it.
        sequence_index: Of the request's answers; ranked ones begin with the best.
        tokens: New tokens, without the one that ended the answer.
        text: Their text as far as it is sure: never half a character, nothing of a stop word.
        logprobs: Of the new tokens, where wanted.
        prompt_logprobs: Of the prompt's tokens after the first, where wanted.
        cumulative_logprob: Sum over the answer, its end token included; 0 unless log-probabilities
            or a ranking were wanted.
        embedding: float32 ``[1, n_embd]`` (DLPack) of a request with ``pooling``.
        cached_tokens: Of the prompt, found computed.
        mask_fraction: Probability that the last mask left.
        finish_reason: NOT_FINISHED before the sequence's last response.
        error: Why it was not completed.
        is_sequence_final: The last one of the sequence.
        is_request_final: The last one of the request.
    """

    request_id: int
    client_id: int
    sequence_index: int
    tokens: list[int]
    text: str
    logprobs: list[TokenLogprobs]
    prompt_logprobs: list[TokenLogprobs]
    cumulative_logprob: float
    embedding: Any
    cached_tokens: int
    mask_fraction: float
    finish_reason: FinishReason
    error: str
    is_sequence_final: bool
    is_request_final: bool

    @classmethod
    def from_native(cls, raw: Any) -> Response:
        """Reads a registered object."""
        return cls(
            raw.request_id,
            raw.client_id,
            raw.sequence_index,
            list(raw.tokens),
            raw.text,
            _logprobs(raw.logprobs),
            _logprobs(raw.prompt_logprobs),
            raw.cumulative_logprob,
            raw.embedding,
            raw.cached_tokens,
            raw.mask_fraction,
            FinishReason(raw.finish_reason),
            raw.error,
            raw.is_sequence_final,
            raw.is_request_final,
        )


def _logprobs(raw: Any) -> list[TokenLogprobs]:
    return [
        TokenLogprobs(logprob, list(zip(list(ids), list(values)))) for logprob, ids, values in raw
    ]


_NUMBERS = {
    "length_penalty",
    "priority",
    "queue_deadline_ms",
    "deadline_ms",
    "kv_cache_memory_fraction",
    "priority_aging_ms",
    "post_processor_timeout_ms",
}
_FLAGS = {
    "streaming",
    "ignore_eos",
    "use_logits_post_processor",
    "normalize",
    "enable_chunked_prefill",
    "enable_prefix_cache",
}
_TEXTS = {"lora", "cache_salt", "kv_dtype", "pooling"}


def _plain(structure: str, name: str, value: Any) -> Any:
    """A field's value as the library takes it; TypeError naming it."""
    where = f"{structure}: {name}"
    if name in _NUMBERS:
        return as_number(where, value)
    if name in _TEXTS:
        as_utf8(where, value)
        return value
    if name in _FLAGS:
        return as_flag(where, value)
    return as_count(where, value)


def _ids(name: str, values: Any) -> list[int]:
    if isinstance(values, (str, bytes, bytearray, Mapping)) or not hasattr(values, "__iter__"):
        raise TypeError(f"request: {name} is {type(values).__name__}, expected token ids")
    return [as_count(f"request: {name}", value) for value in values]


def _words(values: Any) -> list[bytes]:
    if isinstance(values, (str, bytes, bytearray)) or not hasattr(values, "__iter__"):
        raise TypeError(f"request: stop_words is {type(values).__name__}, expected strings")
    return [as_utf8("request: stop_words", value) for value in values]


def _sampling(params: Any) -> dict[str, Any]:
    if params is None:
        return {"temperature": 0.0}
    if not isinstance(params, SamplingParams):
        raise TypeError(f"request: sampling is {type(params).__name__}, expected SamplingParams")
    values = {f.name: getattr(params, f.name) for f in fields(params)}
    return {name: value for name, value in values.items() if value is not None}


def check_request(request: Any) -> None:
    """TypeError for what is no request."""
    if not isinstance(request, Request):
        raise TypeError(f"request is {type(request).__name__}, expected Request")


def request_values(request: Any) -> dict[str, Any]:
    """A request as the library takes it.

    Raises:
        TypeError: A field is of the wrong type; it is named.
        ValueError: Likewise of the wrong value, where the library does not check it.
    """
    check_request(request)
    values = _sampling(request.sampling)
    for item in fields(request):
        name, value = item.name, getattr(request, item.name)
        if value is None or name in ("sampling", "guided"):
            continue
        if name in ("tokens", "stop_token_ids"):
            values[name] = _ids(name, value)
        elif name == "stop_words":
            values[name] = _words(value)
        elif name == "prompt_table":
            values[name] = shared_or_copied("request", name, value)
        else:
            values[name] = _plain("request", name, value)
    return values


def config_values(config: Any) -> dict[str, Any]:
    """A configuration as the library takes it; errors as of `request_values`."""
    if not isinstance(config, ExecutorConfig):
        raise TypeError(f"config is {type(config).__name__}, expected ExecutorConfig")
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {n: _plain("executor", n, v) for n, v in values.items() if v is not None}
