"""Fields of requests and configurations: what is refused, each by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.handles import Model
from reference.serving import Executor, answer, settled

NAN, INF = float("nan"), float("inf")
N_VOCAB, N_EMBD, N_CTX = 355, 64, 512
Bad = tuple[Any, type[Exception]]

COUNT: list[Bad] = [
    (-1, ValueError), (2**40, ValueError), (2**70, OverflowError), (-(2**70), OverflowError),
    (1.0, TypeError), (NAN, TypeError), (INF, TypeError), ("1", TypeError), (True, TypeError),
    ([], TypeError), (np.float32(1), TypeError),
]  # fmt: skip
AT_LEAST_ONE: list[Bad] = [*COUNT, (0, ValueError)]
NUMBER: list[Bad] = [
    (NAN, ValueError), (INF, ValueError), (-INF, ValueError), (10**400, OverflowError),
    ("1", TypeError), (True, TypeError), ([], TypeError), (1j, TypeError),
]  # fmt: skip
TIME: list[Bad] = [*NUMBER, (-1, ValueError), (-1e-9, ValueError)]
FLAG: list[Bad] = [(1, TypeError), (0, TypeError), ("yes", TypeError), (1.0, TypeError)]
TEXT: list[Bad] = [(5, TypeError), (b"x", TypeError), (["x"], TypeError), ("\ud800", ValueError)]
IDS: list[Bad] = [
    ("12", TypeError), (b"12", TypeError), (5, TypeError), ({1: 2}, TypeError),
    ([True], TypeError), ([1.0], TypeError), ([None], TypeError), (["1"], TypeError),
    ([[1]], TypeError), ([-1], ValueError), ([N_VOCAB], ValueError), ([2**31], ValueError),
    ([2**70], OverflowError),
]  # fmt: skip


def table(rows: int = 3, width: int = N_EMBD) -> np.ndarray:
    """Rows that a prompt could have."""
    return np.ones((rows, width), np.float32)


def with_value(value: float) -> np.ndarray:
    """A table with one bad number."""
    bad = table()
    bad[1, 2] = value
    return bad


REQUEST: dict[str, list[Bad]] = {
    "tokens": [*IDS, ([], ValueError), (None, ValueError), ([1] * (N_CTX + 1), ValueError),
               ([1] * N_CTX, ValueError)],
    "max_new_tokens": COUNT,
    "sampling": [("greedy", TypeError), ({"top_k": 1}, TypeError), (5, TypeError)],
    "streaming": FLAG,
    "num_return_sequences": [*AT_LEAST_ONE, (9, ValueError)],
    "best_of": [*AT_LEAST_ONE, (9, ValueError)],
    "beam_width": [*AT_LEAST_ONE, (9, ValueError), (17, ValueError)],
    "length_penalty": NUMBER,
    "early_stopping": [*COUNT, (3, ValueError)],
    "stop_token_ids": [*IDS, ([1] * 101, ValueError)],
    "stop_words": [("word", TypeError), (b"word", TypeError), (5, TypeError), ([b"x"], TypeError),
                   ([1], TypeError), ([None], TypeError), ([""], ValueError),
                   (["\udc80"], ValueError), (["x"] * 65, ValueError), (["x" * 4097], ValueError)],
    "ignore_eos": FLAG,
    "min_tokens": [*COUNT, (129, ValueError)],
    "logprobs": [*COUNT, (101, ValueError)],
    "prompt_logprobs": [*COUNT, (101, ValueError)],
    "priority": NUMBER,
    "queue_deadline_ms": TIME,
    "deadline_ms": TIME,
    "client_id": [(2**70, OverflowError), (1.0, TypeError), (True, TypeError), ("1", TypeError)],
    "lora": [*TEXT, ("unknown", KeyError), ("", KeyError)],
    "prompt_table": [([[1.0]], TypeError), ("x", TypeError), (5, TypeError),
                     (table().astype(np.float64), TypeError), (table().astype(np.int32), TypeError),
                     (table().astype(np.float16), TypeError), (table()[0], ValueError),
                     (table()[None], ValueError), (table(0), ValueError),
                     (table(3, N_EMBD - 1), ValueError), (table(3, N_EMBD + 1), ValueError),
                     (table(N_EMBD, 3).T, ValueError), (table()[::2], ValueError),
                     (with_value(NAN), ValueError), (with_value(INF), ValueError)],
    "attention_window": COUNT,
    "sink_tokens": COUNT,
    "cache_salt": TEXT,
    "use_logits_post_processor": [*FLAG, (True, ValueError)],
    "guided": [("{}", ValueError), (object(), ValueError)],
    "pooling": [("max", ValueError), ("", ValueError), (1, TypeError), (True, TypeError),
                ([], TypeError), (b"mean", TypeError)],
    "normalize": FLAG,
}  # fmt: skip

CONFIG: dict[str, list[Bad]] = {
    "max_batch_size": AT_LEAST_ONE,
    "max_num_tokens": AT_LEAST_ONE,
    "max_queue_size": AT_LEAST_ONE,
    "scheduler_policy": [*COUNT, (2, ValueError)],
    "enable_chunked_prefill": FLAG,
    "enable_prefix_cache": FLAG,
    "kv_cache_tokens": AT_LEAST_ONE,
    "kv_cache_memory_fraction": [*NUMBER, (0, ValueError), (-0.5, ValueError), (1.01, ValueError)],
    "max_sequence_length": AT_LEAST_ONE,
    "kv_dtype": [("f8", ValueError), ("", ValueError), ("float16", ValueError), (16, TypeError),
                 (b"f16", TypeError), ("\ud800", ValueError)],
    "attention_window": COUNT,
    "sink_tokens": COUNT,
    "queue_deadline_ms": TIME,
    "priority_aging_ms": [*TIME, (0, ValueError)],
    "max_pending_responses": AT_LEAST_ONE,
    "n_post_processor_threads": AT_LEAST_ONE,
    "post_processor_timeout_ms": [*TIME, (0, ValueError)],
}  # fmt: skip


def cases(fields: dict[str, list[Bad]]) -> list[Any]:
    """One test per field and bad value."""
    return [
        pytest.param(name, value, kind, id=f"{name}-{number}")
        for name, bad in fields.items()
        for number, (value, kind) in enumerate(bad)
    ]


@pytest.fixture(scope="module")
def shared(llm: ModuleType, model: Model) -> Any:
    with llm.Executor(model, llm.ExecutorConfig(max_batch_size=8)) as executor:
        yield executor


def refused(llm: ModuleType, executor: Executor, name: str, kind: type[Exception], **fields: Any):
    """The request raises an error that names the field, and leaves nothing behind."""
    before = executor.stats()["waiting"]
    with pytest.raises(kind, match=rf"\b{name}") as caught:
        executor.enqueue_request(llm.Request(**{"tokens": [1, 2, 3], **fields}))
    # OverflowError of Python's own conversions says what it is about.
    assert type(caught.value) is kind
    assert executor.stats()["waiting"] == before


@pytest.mark.parametrize(("name", "value", "kind"), cases(REQUEST))
def test_request(
    llm: ModuleType, shared: Executor, name: str, value: Any, kind: type[Exception]
) -> None:
    said = {"tokens": "token", "stop_token_ids": "stop_token_id", "stop_words": "stop.word"}
    refused(llm, shared, said.get(name, name), kind, **{name: value})


@pytest.mark.parametrize(("name", "value", "kind"), cases(CONFIG))
def test_config(
    llm: ModuleType, model: Model, name: str, value: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=rf"\b{name}\b"):
        llm.Executor(model, llm.ExecutorConfig(**{name: value}))


def test_every_field_is_tested(llm: ModuleType) -> None:
    assert set(REQUEST) == {field.name for field in dataclasses.fields(llm.Request)}
    assert set(CONFIG) == {field.name for field in dataclasses.fields(llm.ExecutorConfig)}


SAMPLING = {
    "temperature": [NAN, INF, -1, 1e300],
    "top_k": [0, -1],
    "top_p": [NAN, INF, 0, -0.1, 1.1],
    "min_p": [NAN, INF, -0.1, 1.1],
    "typical_p": [NAN, INF, 0, -0.1, 1.1],
    "repetition_penalty": [NAN, INF, 0, -1, 1e39],
    "frequency_penalty": [NAN, INF, -1e300],
    "presence_penalty": [NAN, INF, 1e300],
    "penalty_last_n": [-2],
    "logit_bias": [{-1: 1.0}, {N_VOCAB: 1.0}, {1: NAN}, {1: INF}, {1: 1e300}],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, bad in SAMPLING.items() for value in bad]
)
def test_sampling(llm: ModuleType, shared: Executor, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        shared.enqueue_request(
            llm.Request(tokens=[1], sampling=llm.SamplingParams(**{name: value}))
        )


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"best_of": 4, "streaming": True}, "best_of"),
        ({"best_of": 1, "num_return_sequences": 2}, "best_of"),
        ({"beam_width": 4, "streaming": True}, "beam search"),
        ({"beam_width": 4, "best_of": 4}, "beam_width"),
        ({"beam_width": 4, "stop_words": ["x"]}, "stop_words"),
        ({"beam_width": 4, "logprobs": 1}, "logprobs"),
        ({"beam_width": 2, "num_return_sequences": 3}, "num_return_sequences"),
        ({"beam_width": 2, "max_new_tokens": 0}, "max_new_tokens"),
        ({"length_penalty": 0.5}, "length_penalty"),
        ({"pooling": "mean", "streaming": True}, "stream"),
        ({"pooling": "mean", "logprobs": 1}, "logprobs"),
        ({"pooling": "mean", "stop_words": ["x"]}, "stop_words"),
        ({"pooling": "mean", "stop_token_ids": [3]}, "stop_token_ids"),
        ({"pooling": "mean", "min_tokens": 1}, "min_tokens"),
        ({"cache_salt": "x" * 257}, "the bytes of cache_salt"),
        ({"lora": "x" * 257}, "the bytes of lora"),
        ({"pooling": "mean", "num_return_sequences": 2}, "num_return_sequences"),
        ({"pooling": "mean", "num_return_sequences": 2, "best_of": 4}, "num_return_sequences"),
        ({"pooling": "mean", "best_of": 4}, "best_of"),
        ({"pooling": "mean", "beam_width": 4}, "beam_width"),
        ({"max_new_tokens": 3, "min_tokens": 4}, "min_tokens"),
        ({"tokens": [N_VOCAB + 3], "prompt_table": table(3)}, "token"),
    ],
)
def test_contradiction(
    llm: ModuleType, shared: Executor, fields: dict[str, Any], names: str
) -> None:
    refused(llm, shared, names, ValueError, **fields)


@pytest.mark.parametrize(
    "sampling", [{"top_k": 4}, {"top_p": 0.5}, {"min_p": 0.1}, {"typical_p": 0.5}]
)
def test_beams_draw_nothing(llm: ModuleType, shared: Executor, sampling: dict[str, Any]) -> None:
    given = llm.SamplingParams(**sampling)
    refused(llm, shared, next(iter(sampling)), ValueError, beam_width=2, sampling=given)


def test_fields_nobody_knows(llm: ModuleType, model: Model, shared: Executor) -> None:
    with pytest.raises(TypeError, match="n_beams"):
        llm.Request(tokens=[1], n_beams=2)
    with pytest.raises(TypeError, match="host_cache_size"):
        llm.ExecutorConfig(host_cache_size=1)
    api = llm.executor._ffi_api.Executor
    with pytest.raises(ValueError, match='executor: there is no field "host_cache_size"'):
        api.create(model._handle, {"host_cache_size": 1}, None, None)
    with pytest.raises(ValueError, match='request: there is no field "n_beams"'):
        shared._handle.enqueue({"tokens": [1], "n_beams": 2}, 0)


def test_wrong_objects(llm: ModuleType, model: Model, shared: Executor) -> None:
    for request in (None, [1], {"tokens": [1]}, llm.ExecutorConfig()):
        with pytest.raises(TypeError, match="request"):
            shared.enqueue_request(request)
    with pytest.raises(TypeError, match="config"):
        llm.Executor(model, {"max_batch_size": 1})
    with pytest.raises(TypeError, match="model"):
        llm.Executor("model.gguf")
    with pytest.raises(TypeError, match="logits_post_processor"):
        llm.Executor(model, logits_post_processor=5)
    with pytest.raises(TypeError, match="on_step"):
        llm.Executor(model, on_step="print")


@pytest.mark.parametrize(
    ("value", "kind"),
    [("1", TypeError), (True, TypeError), (NAN, ValueError), ([], TypeError)],
)
def test_await_timeout(shared: Executor, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="timeout_ms"):
        shared.await_responses(value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [("1", TypeError), (True, TypeError), (1.0, TypeError), (-1, ValueError), (10**9, ValueError),
     (2**70, OverflowError)],
)  # fmt: skip
def test_request_id(shared: Executor, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="request_id"):
        shared.await_responses(0, value)
    with pytest.raises(kind, match="request_id"):
        shared.cancel_request(value)


def test_none_means_not_given(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    ex = executor()
    bare = llm.Request(tokens=[5, 6], max_new_tokens=4)
    given = {"tokens": [5, 6], "max_new_tokens": 4}
    nothing = {
        field.name: None for field in dataclasses.fields(llm.Request) if field.name not in given
    }
    assert answer(ex, llm.Request(**given, **nothing)).tokens == answer(ex, bare).tokens


def test_none_in_a_configuration(llm: ModuleType, model: Model) -> None:
    nothing = {field.name: None for field in dataclasses.fields(llm.ExecutorConfig)}
    with llm.Executor(model, llm.ExecutorConfig(**nothing)) as ex:
        assert len(answer(ex, llm.Request(tokens=[5, 6], max_new_tokens=4)).tokens) == 4


def test_tokens_of_any_kind(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    ex = executor()
    expected = answer(ex, llm.Request(tokens=[5, 6, 7], max_new_tokens=4)).tokens
    for tokens in ((5, 6, 7), np.array([5, 6, 7]), np.array([5, 6, 7], np.uint8), range(5, 8)):
        assert answer(ex, llm.Request(tokens=tokens, max_new_tokens=4)).tokens == expected


def test_refusals_leave_nothing(llm: ModuleType, shared: Executor) -> None:
    assert answer(shared, llm.Request(tokens=[1, 2], max_new_tokens=3)).tokens
    stats = settled(shared)
    assert stats["unread"] == 0
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]
