"""Context and Batch: what they promise, and every input that they refuse."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.driving import batch_of, decode_all, rows, sequence
from reference.forward import Token
from reference.gguf_files import TinySpec
from reference.handles import Context, Model

SPEC = TinySpec()
N_VOCAB = SPEC.vocabulary.size
PROMPT = [5, 90, 17, 203, 64, 64, 8, 131]
OUT_OF_RANGE = (ValueError, IndexError)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model(SPEC)


@pytest.fixture
def context(model: Model) -> Context:
    return model.context(n_ctx=64, n_seq_max=2)


@pytest.fixture
def usable(model: Model, context: Context) -> Iterator[None]:
    """After the test the context still holds PROMPT alone and goes on as if nothing happened."""
    context.decode(PROMPT)
    yield
    assert tuple(context.seq_positions(0)) == (0, len(PROMPT) - 1)
    assert context.seq_positions(1) is None
    fresh = model.context(n_ctx=64, n_seq_max=2)
    fresh.decode(PROMPT)
    context.decode([33])
    fresh.decode([33])
    np.testing.assert_array_equal(rows(context), rows(fresh))


# ---- logits -----------------------------------------------------------------------------------


def test_logits_are_float32_rows_without_a_copy(context: Context) -> None:
    context.decode(PROMPT)
    first, second = np.from_dlpack(context.logits), np.from_dlpack(context.logits)
    assert first.shape == (1, N_VOCAB)
    assert first.dtype == np.float32
    assert np.shares_memory(first, second)
    assert first.flags.c_contiguous
    assert np.isfinite(first).all()


def test_logits_follow_the_order_of_the_batch(llm: ModuleType, context: Context) -> None:
    everything = decode_all(llm, context, sequence(PROMPT))
    context.clear()
    batch = llm.Batch()
    for position, token in enumerate(PROMPT):
        batch.add(token, position, logits=position in (1, 2, 6))
    context.decode(batch)
    np.testing.assert_array_equal(rows(context), everything[[1, 2, 6]])


def test_logits_outlive_their_context(model: Model) -> None:
    context = model.context(n_ctx=64)
    context.decode(PROMPT)
    view = np.from_dlpack(context.logits)
    expected = view.copy()
    del context
    gc.collect()
    others = [model.context(n_ctx=64) for _ in range(4)]  # would take freed memory
    for other in others:
        other.decode(PROMPT[::-1])
    np.testing.assert_array_equal(view, expected)


def test_logits_before_decode(context: Context) -> None:
    with pytest.raises((RuntimeError, ValueError), match="decode"):
        _ = context.logits


def test_rejected_decode_leaves_logits_typed(context: Context) -> None:
    context.decode(PROMPT)
    with pytest.raises(OUT_OF_RANGE):
        context.decode([N_VOCAB])
    context.decode([33])
    assert np.from_dlpack(context.logits).shape == (1, N_VOCAB)


# ---- batches ----------------------------------------------------------------------------------


def test_batch_counts_and_clears(llm: ModuleType, context: Context) -> None:
    batch = llm.Batch()
    assert len(batch) == 0
    batch.add(5, 0, logits=True)
    batch.add(9, 1)
    assert len(batch) == 2
    batch.clear()
    assert len(batch) == 0
    for token in sequence(PROMPT):
        batch.add(token.token, token.position, logits=True)
    context.decode(batch)
    assert rows(context).shape == (len(PROMPT), N_VOCAB)
    assert len(batch) == len(PROMPT)  # decoding does not empty it


@pytest.mark.parametrize("tokens", [tuple(PROMPT), np.array(PROMPT, np.int32).tolist()], ids=type)
def test_token_sequences(model: Model, context: Context, tokens: object) -> None:
    context.decode(tokens)
    expected = model.context(n_ctx=64)
    expected.decode(PROMPT)
    np.testing.assert_array_equal(rows(context), rows(expected))


def test_longer_than_n_batch(model: Model) -> None:
    short, long = (model.context(n_ctx=64, n_batch=n) for n in (3, 64))
    for context in (short, long):
        context.decode(PROMPT * 4)
    np.testing.assert_array_equal(rows(short), rows(long))


def test_seq_positions(context: Context) -> None:
    assert context.seq_positions(0) is None
    context.decode(PROMPT)
    assert tuple(context.seq_positions(0)) == (0, 7)
    context.seq_remove(0, 0, 3)
    assert tuple(context.seq_positions(0)) == (3, 7)
    context.seq_copy(0, 1)
    assert tuple(context.seq_positions(1)) == (3, 7)
    context.seq_keep(1)
    assert context.seq_positions(0) is None
    context.clear()
    assert context.seq_positions(1) is None


def test_gap_in_positions_is_allowed(llm: ModuleType, context: Context) -> None:
    context.decode(PROMPT)
    context.decode(batch_of(llm, [Token(3, 20)]))
    assert tuple(context.seq_positions(0)) == (0, 20)


def test_full_context_then_room_again(context: Context) -> None:
    context.decode([7] * 64)
    with pytest.raises(ValueError, match="n_ctx"):
        context.decode([7])
    context.seq_remove(0, 0, 32)
    context.seq_shift(0, 32, 64, -32)
    context.decode([7] * 32)
    assert tuple(context.seq_positions(0)) == (0, 63)


def test_removed_space_is_used_again(context: Context) -> None:
    for _ in range(50):
        context.decode([7] * 60)
        context.seq_remove(0)


# ---- refusals: the context keeps what it had ----------------------------------------------------


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("token", [-1, N_VOCAB, 2**31 - 1, -(2**31)])
def test_token_out_of_range(llm: ModuleType, context: Context, token: int) -> None:
    for batch in ([token], [5, token], batch_of(llm, sequence([5, token], start=8))):
        with pytest.raises(OUT_OF_RANGE, match=str(token)):
            context.decode(batch)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("token", [2**31, 2**63, -(2**31) - 1])
def test_token_beyond_32_bits(context: Context, token: int) -> None:
    with pytest.raises((*OUT_OF_RANGE, OverflowError)):
        context.decode([token])


@pytest.mark.usefixtures("usable")
def test_nothing_to_decode(llm: ModuleType, context: Context) -> None:
    nothing: list[Any] = [[], (), llm.Batch()]
    for batch in nothing:
        with pytest.raises(ValueError, match="empty"):
            context.decode(batch)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("tokens", [None, 5, "text", [None], ["5"], [5.5], [[5]]], ids=str)
def test_other_types(context: Context, tokens: object) -> None:
    with pytest.raises(TypeError):
        context.decode(tokens)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("positions", [[7], [0], [9, 8], [8, 8], [8, 9, 9]], ids=str)
def test_position_not_after_the_last(
    llm: ModuleType,
    context: Context,
    positions: list[int],
) -> None:
    with pytest.raises(ValueError, match="position"):
        context.decode(batch_of(llm, [Token(3, p) for p in positions]))


@pytest.mark.usefixtures("usable")
def test_negative_position(llm: ModuleType, context: Context) -> None:
    with pytest.raises(ValueError, match="position"):
        context.decode(batch_of(llm, [Token(3, -1)]))


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("seq_ids", [(2,), (-1,), (0, 2), (10**6,)], ids=str)
def test_sequence_out_of_range(
    llm: ModuleType,
    context: Context,
    seq_ids: tuple[int, ...],
) -> None:
    with pytest.raises(OUT_OF_RANGE, match="seq"):
        context.decode(batch_of(llm, [Token(3, 8, seq_ids)]))


@pytest.mark.usefixtures("usable")
def test_token_of_no_sequence(llm: ModuleType, context: Context) -> None:
    with pytest.raises(ValueError, match="seq"):
        context.decode(batch_of(llm, [Token(3, 8, ())]))


@pytest.mark.usefixtures("usable")
def test_longer_than_n_ctx(llm: ModuleType, context: Context) -> None:
    for batch in ([3] * 57, batch_of(llm, sequence([3] * 57, start=8))):
        with pytest.raises(ValueError, match=r"n_ctx|64"):
            context.decode(batch)


SEQUENCE_CALLS: list[tuple[str, tuple[int, ...]]] = [
    ("seq_remove", (2,)),
    ("seq_remove", (-1,)),
    ("seq_remove", (0, 5, 3)),
    ("seq_copy", (0, 2)),
    ("seq_copy", (2, 0)),
    ("seq_copy", (0, 1, 5, 3)),
    ("seq_keep", (2,)),
    ("seq_keep", (-1,)),
    ("seq_shift", (2, 0, 8, 1)),
    ("seq_shift", (0, 5, 3, 1)),
    ("seq_shift", (0, 2, 8, -3)),  # position 2 would become -1
    ("seq_shift", (0, 4, 8, -2)),  # position 4 would meet position 2
    ("seq_positions", (2,)),
]


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize(("name", "arguments"), SEQUENCE_CALLS)
def test_sequence_operations_refuse(
    context: Context,
    name: str,
    arguments: tuple[int, ...],
) -> None:
    with pytest.raises(OUT_OF_RANGE):
        getattr(context, name)(*arguments)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("seq_remove", ("0",), "seq is str, expected an integer"),
        ("seq_remove", (0, 1.5), "p0 is float, expected an integer"),
        ("seq_remove", (0, 0, "end"), "p1 is str, expected an integer"),
        ("seq_copy", (None, 1), "src is NoneType, expected an integer"),
        ("seq_copy", (0, [1]), "dst is list, expected an integer"),
        ("seq_keep", (True,), "seq is bool, expected an integer"),
        ("seq_shift", (0, None, 8, 1), "p0 is NoneType, expected an integer"),
        ("seq_shift", (0, 0, 8, 0.5), "delta is float, expected an integer"),
        ("seq_positions", (None,), "seq is NoneType, expected an integer"),
        ("save_state", ("unused.state", "all"), "seq is str, expected an integer"),
        ("load_state", ("unused.state", 0.0), "seq is float, expected an integer"),
    ],
)
def test_arguments_of_other_types_are_named(
    context: Context, name: str, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        getattr(context, name)(*arguments)


def test_numpy_integers_are_integers(context: Context) -> None:
    context.decode(PROMPT)
    context.seq_copy(np.int64(0), np.int32(1), np.int8(0), np.uint16(4))
    context.seq_shift(np.int64(1), np.int64(0), None, np.int64(2))
    assert context.seq_positions(np.int64(1)) == (2, 5)


BAD_OPTIONS = [
    ("n_ctx", 0),
    ("n_ctx", -5),
    ("n_ctx", 2**40),
    ("n_seq_max", 0),
    ("n_seq_max", -1),
    ("n_batch", 0),
    ("n_batch", -512),
    ("kv_dtype", "f8"),
    ("kv_dtype", ""),
    ("rope_freq_base", -1.0),
    ("rope_freq_base", float("nan")),
    ("rope_freq_scale", 0.0),
    ("rope_freq_scale", float("inf")),
]


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS)
def test_options_refused_by_name(model: Model, name: str, value: object) -> None:
    with pytest.raises((ValueError, MemoryError), match=name):
        model.context(**{name: value})
    model.context(n_ctx=64).decode(PROMPT)


def test_unknown_option(model: Model) -> None:
    with pytest.raises(TypeError, match="n_context"):
        model.context(n_context=64)


# ---- threads ------------------------------------------------------------------------------------


def test_second_call_from_another_thread(llm: ModuleType, slow_file: Path) -> None:
    with llm.Model(slow_file) as model:
        tokens = [(t * 7) % 300 for t in range(1500)]
        alone = model.context(n_ctx=2048)
        alone.decode(tokens)
        shared, done = model.context(n_ctx=2048), threading.Event()
        refused: list[Exception] = []

        def work() -> None:
            shared.decode(tokens)
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.05)  # the thread is inside its call, which takes much longer
        while not done.is_set() and not refused:
            try:
                shared.decode([3])
            except (RuntimeError, ValueError) as error:
                refused.append(error)
        thread.join()
        assert done.is_set()
        assert len(refused) == 1
        assert isinstance(refused[0], RuntimeError)
        assert "thread" in str(refused[0])
        np.testing.assert_array_equal(rows(shared), rows(alone))
        for context in (shared, alone):
            context.decode([3])
        np.testing.assert_array_equal(rows(shared), rows(alone))


def test_one_context_a_thread(model: Model) -> None:
    expected = model.context(n_ctx=64)
    expected.decode(PROMPT)
    results: list[np.ndarray] = []

    def work() -> None:
        for _ in range(10):
            context = model.context(n_ctx=64)
            context.decode(PROMPT)
            results.append(rows(context))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert all(np.array_equal(result, rows(expected)) for result in results)


# ---- life ---------------------------------------------------------------------------------------


def test_use_after_close(llm: ModuleType, tiny_file: Callable[[TinySpec], Path]) -> None:
    model = llm.Model(tiny_file(SPEC))
    context = model.context(n_ctx=64)
    context.decode(PROMPT)
    expected = rows(context)
    model.close()
    model.close()  # a second time is nothing
    calls: list[Callable[[], object]] = [
        lambda: model.context(n_ctx=64),
        lambda: model.generate([1, 2], max_new_tokens=1),
        lambda: model.stream([1, 2], max_new_tokens=1),
        lambda: context.decode([3]),
    ]
    for call in calls:
        with pytest.raises((RuntimeError, ValueError), match="closed"):
            call()
    with llm.Model(tiny_file(SPEC)) as again:
        other = again.context(n_ctx=64)
        other.decode(PROMPT)
        np.testing.assert_array_equal(rows(other), expected)


def test_context_outlives_the_name_of_its_model(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path]
) -> None:
    context = llm.Model(tiny_file(SPEC)).context(n_ctx=64)
    gc.collect()
    context.decode(PROMPT)
    assert np.isfinite(rows(context)).all()
