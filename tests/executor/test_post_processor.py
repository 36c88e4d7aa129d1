"""The logits post-processor: what it is told, what it may change, and what it may do wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.driving import decode_all, sequence
from reference.gguf_files import TinySpec
from reference.handles import Model
from reference.serving import Answer, Executor, Gate, answer, collect, run, settled, wait_for

MakeExecutor = Callable[..., Executor]
N_VOCAB = 355
PROMPT = [9, 80, 140, 33, 210]


def request(llm: ModuleType, count: int = 8, **fields: Any) -> Any:
    """One that is masked."""
    sampling = llm.SamplingParams(seed=1, logit_bias={2: -100.0})
    given = {"tokens": PROMPT, "max_new_tokens": count, "sampling": sampling}
    return llm.Request(**{**given, "use_logits_post_processor": True, **fields})


def allow(entry: Any, tokens: Iterable[int]) -> None:
    """Leaves only these tokens in an entry's mask."""
    words = np.from_dlpack(entry.bitmask)
    words[:] = 0
    for token in tokens:
        words[token // 32] |= np.int32(np.uint32(1 << token % 32).view(np.int32))


def each(fn: Callable[[Any], None]) -> Callable[[list[Any]], None]:
    """A post-processor that treats each entry that is to be sampled alike."""

    def process(entries: list[Any]) -> None:
        for entry in entries:
            if not entry.is_final:
                fn(entry)

    return process


# ---- what it is told ----------------------------------------------------------------------------


def test_all_tokens_are_reported(llm: ModuleType, executor: MakeExecutor) -> None:
    """Once per step with every entry: each call tells what is new, the final one too."""
    told: dict[tuple[int, int], list[int]] = {}
    finals: list[tuple[int, int]] = []
    calls: list[int] = []
    lock = threading.Lock()

    def record(entries: list[Any]) -> None:
        with lock:
            calls.append(len([e for e in entries if not e.is_final]))
            for e in entries:
                key = (e.request_id, e.sequence_index)
                assert key not in finals
                told.setdefault(key, []).extend(e.tokens)
                assert e.client_id == 5
                if e.is_final:
                    finals.append(key)

    gate = Gate()
    ex = executor(logits_post_processor=record, on_step=gate)
    gate.close()
    ids = [
        ex.enqueue_request(request(llm, 10, client_id=5, num_return_sequences=n)) for n in (1, 3)
    ]
    gate.open()
    answers = collect(ex, ids)
    wait_for(lambda: len(finals) == 4)
    for i in ids:
        for index, got in enumerate(answers[i]):
            assert told[i, index] == got.tokens
    assert max(calls) == 4  # all together
    assert sum(calls) == 4 * 10


def test_once_per_step(llm: ModuleType, executor: MakeExecutor) -> None:
    calls: list[list[int]] = []

    def record(entries: list[Any]) -> None:
        live = [e.request_id for e in entries if not e.is_final]
        if live:
            calls.append(live)

    steps: list[dict[str, Any]] = []
    ex = executor(logits_post_processor=record, on_step=steps.append)
    run(ex, [request(llm, 20) for _ in range(5)])
    settled(ex)
    assert all(len(set(call)) == len(call) for call in calls)
    assert len(calls) <= ex.stats()["steps"]
    assert sum(map(len, calls)) == 5 * 20


def test_only_those_that_ask(llm: ModuleType, executor: MakeExecutor) -> None:
    seen: set[int] = set()
    ex = executor(logits_post_processor=lambda entries: seen.update(e.request_id for e in entries))
    ids = [ex.enqueue_request(request(llm, use_logits_post_processor=i % 2 == 0)) for i in range(6)]
    collect(ex, ids)
    assert seen == set(ids[::2])


def test_mask_of_ones_changes_nothing(
    llm: ModuleType, model: Model, executor: MakeExecutor
) -> None:
    def check(entry: Any) -> None:
        words = np.from_dlpack(entry.bitmask)
        assert words.dtype == np.int32
        assert words.shape == ((N_VOCAB + 31) // 32,)
        assert (words == -1).all()
        assert entry.temperature == pytest.approx(0.75)
        assert entry.ln_min_p == pytest.approx(np.log(0.01))
        assert entry.mask_fraction == 1.0
        assert entry.forced_tokens == []

    sampling = llm.SamplingParams(seed=4, temperature=0.75, min_p=0.01)
    got = answer(executor(logits_post_processor=each(check)), request(llm, sampling=sampling))
    assert got.error == ""
    assert got.tokens == model.generate(PROMPT, max_new_tokens=8, sampling=sampling).tokens


def test_no_min_p_is_minus_infinity(llm: ModuleType, executor: MakeExecutor) -> None:
    seen: list[float] = []
    ex = executor(logits_post_processor=each(lambda entry: seen.append(entry.ln_min_p)))
    answer(ex, request(llm, 1))
    assert seen == [-float("inf")]


# ---- what it may change -------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [[0], [31], [32], [354], [3, 40, 350], list(range(0, 355, 7))])
@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_bitmask(
    llm: ModuleType, executor: MakeExecutor, allowed: list[int], temperature: float
) -> None:
    ex = executor(logits_post_processor=each(lambda entry: allow(entry, allowed)))
    sampling = llm.SamplingParams(seed=1, temperature=temperature)
    got = answer(ex, request(llm, 30, sampling=sampling, ignore_eos=True))
    assert set(got.tokens) <= set(allowed)
    if temperature and len(allowed) > 3:
        assert len(set(got.tokens)) > 5


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_other_vocabularies(
    llm: ModuleType,
    tiny_model: Callable[..., Model],
    executor: MakeExecutor,
    architecture: str,
) -> None:
    """297 tokens: nine bits in the last word."""
    model = tiny_model(TinySpec(architecture=architecture, tokenizer="bpe"))
    ex = executor(model, logits_post_processor=each(lambda entry: allow(entry, [290, 296])))
    got = answer(ex, request(llm, 20, tokens=[1, 2], sampling=None, ignore_eos=True))
    assert set(got.tokens) <= {290, 296}


def test_a_mask_per_sequence(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(
        logits_post_processor=each(lambda e: allow(e, [10 + 20 * e.client_id + e.sequence_index])),
        n_post_processor_threads=3,
    )
    requests = [request(llm, 12, client_id=c, num_return_sequences=3) for c in range(9)]
    for client, answers in enumerate(run(ex, requests)):
        for index, got in enumerate(answers):
            assert got.tokens == [10 + 20 * client + index] * 12


def softmax(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    wide = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(wide / wide.sum())


def test_mask_fraction(llm: ModuleType, model: Model, executor: MakeExecutor) -> None:
    allowed = list(range(50, 90))
    seen: list[float] = []

    def mask(entry: Any) -> None:
        seen.append(entry.mask_fraction)
        allow(entry, allowed)

    sampling = llm.SamplingParams(seed=1, temperature=1.7)
    ex = executor(logits_post_processor=each(mask), kv_dtype="f32")
    got = answer(ex, request(llm, 6, sampling=sampling, streaming=True))
    with model.context(kv_dtype="f32") as context:
        rows = decode_all(llm, context, sequence(PROMPT + got.tokens))[len(PROMPT) - 1 :]
    want = [softmax(row / 1.7)[allowed].sum() for row in rows][:6]
    assert seen[0] == 1.0
    np.testing.assert_allclose(seen[1:], want[:5], rtol=1e-4)
    np.testing.assert_allclose([r.mask_fraction for r in got.responses], want, rtol=1e-4)


def test_temperature_and_min_p(llm: ModuleType, model: Model, executor: MakeExecutor) -> None:
    def change(entry: Any) -> None:
        entry.temperature = 0.6
        entry.ln_min_p = float(np.log(0.02))
        assert entry.temperature == 0.6

    got = answer(
        executor(logits_post_processor=each(change)),
        request(llm, 30, sampling=llm.SamplingParams(seed=9, temperature=3.0)),
    )
    sampling = llm.SamplingParams(seed=9, temperature=0.6, min_p=0.02)
    assert got.tokens == model.generate(PROMPT, max_new_tokens=30, sampling=sampling).tokens
    cold = each(lambda entry: setattr(entry, "temperature", 0.0))
    greedy = answer(executor(logits_post_processor=cold), request(llm, 9, ignore_eos=True))
    bias = llm.SamplingParams(temperature=0, logit_bias={2: -100.0})
    assert greedy.tokens == model.generate(PROMPT, max_new_tokens=9, sampling=bias).tokens


@pytest.mark.parametrize("streaming", [False, True])
def test_forced_tokens(llm: ModuleType, executor: MakeExecutor, streaming: bool) -> None:
    told: list[list[int]] = []

    def force(entry: Any) -> None:
        told.append(entry.tokens)
        entry.forced_tokens = [50, 51, 52] if len(told) % 2 else [60]

    ex = executor(logits_post_processor=each(force))
    got = answer(ex, request(llm, 10, streaming=streaming, logprobs=1))
    assert got.tokens == [50, 51, 52, 60, 50, 51, 52, 60, 50, 51]
    assert told == [[], [50, 51, 52], [60], [50, 51, 52], [60]]
    assert len(got.logprobs) == 10
    assert settled(ex)["computed_tokens"] == len(PROMPT) + 8  # none for what is forced last


def test_forced_and_free_tokens(llm: ModuleType, model: Model, executor: MakeExecutor) -> None:
    """After forced tokens the model goes on as if it had said them itself."""
    calls: list[int] = []

    def force(entry: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            entry.forced_tokens = [50, 51, 52]

    sampling = llm.SamplingParams(temperature=0, logit_bias={2: -100.0})
    got = answer(executor(logits_post_processor=each(force)), request(llm, 13, sampling=sampling))
    rest = model.generate([*PROMPT, 50, 51, 52], max_new_tokens=10, sampling=sampling)
    assert got.tokens == [50, 51, 52, *rest.tokens]


def test_forced_end(llm: ModuleType, executor: MakeExecutor) -> None:
    force = each(lambda entry: setattr(entry, "forced_tokens", [50, 2, 51]))
    got = answer(executor(logits_post_processor=force), request(llm, 10))
    assert (got.tokens, got.reason) == ([50], llm.FinishReason.END_ID)
    stop = answer(executor(logits_post_processor=force), request(llm, 10, stop_token_ids=[50]))
    assert (stop.tokens, stop.reason) == ([], llm.FinishReason.END_ID)


# ---- what it may do wrong -----------------------------------------------------------------------


def failed(llm: ModuleType, got: Answer, text: str) -> None:
    """It ended with this error."""
    assert got.reason == llm.FinishReason.ERROR
    assert text in got.error


MISTAKES: dict[str, tuple[Callable[[Any], None], str]] = {
    "empty-mask": (lambda e: allow(e, []), "mask leaves no token"),
    "mask-of-bans": (lambda e: allow(e, [2]), ""),
    "fail": (lambda e: e.fail("unlucky"), "unlucky"),
    "fail-silently": (lambda e: e.fail(""), "without a reason"),
    "fail-twice": (lambda e: (e.fail("first"), e.fail("second"))[0], "second"),
    "temperature-nan": (lambda e: setattr(e, "temperature", float("nan")), "temperature"),
    "temperature-negative": (lambda e: setattr(e, "temperature", -1.0), "temperature"),
    "temperature-inf": (lambda e: setattr(e, "temperature", float("inf")), "temperature"),
    "temperature-text": (lambda e: setattr(e, "temperature", "hot"), "temperature is str"),
    "min-p-positive": (lambda e: setattr(e, "ln_min_p", 0.5), "ln_min_p"),
    "min-p-nan": (lambda e: setattr(e, "ln_min_p", float("nan")), "ln_min_p"),
    "forced-outside": (lambda e: setattr(e, "forced_tokens", [5, N_VOCAB]), "forced token 355"),
    "forced-negative": (lambda e: setattr(e, "forced_tokens", [-1]), "forced token -1"),
    "forced-bool": (lambda e: setattr(e, "forced_tokens", [True]), "forced_tokens is bool"),
    "unknown-attribute": (lambda e: setattr(e, "tokens", [1]), "tokens"),
    "raise": (lambda e: [][1], "list index out of range"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(
    llm: ModuleType, executor: MakeExecutor, mistake: tuple[Callable[[Any], None], str]
) -> None:
    """They end their request, and no other."""
    wrong, text = mistake

    def process(entries: list[Any]) -> None:
        for entry in entries:
            if entry.client_id == 1 and not entry.is_final:
                wrong(entry)

    ex = executor(logits_post_processor=process)
    free = answer(ex, request(llm, use_logits_post_processor=False)).tokens
    # On its own, because a call that raises ends all of its entries.
    got = answer(ex, request(llm, client_id=1, sampling=llm.SamplingParams(seed=1)))
    if text:
        failed(llm, got, text)
    (plain,), (masked,) = run(ex, [request(llm, use_logits_post_processor=False), request(llm)])
    assert plain.tokens == masked.tokens == free
    assert settled(ex)["blocks_used"] == 0


def test_raising_ends_all_its_entries(llm: ModuleType, executor: MakeExecutor) -> None:
    calls: list[int] = []

    def process(entries: list[Any]) -> None:
        calls.append(len(entries))
        if len(entries) == 3:
            raise ArithmeticError("not with three")

    ex = executor(logits_post_processor=process)
    free = ex.enqueue_request(request(llm, 30, use_logits_post_processor=False))
    (several,) = run(ex, [request(llm, 30, num_return_sequences=3)])
    for got in several:
        failed(llm, got, "not with three")
    assert len(collect(ex, [free])[free][0].tokens) == 30


def test_blocking(llm: ModuleType, executor: MakeExecutor) -> None:
    """A call that does not come back in time ends its request; another thread serves the next."""
    release = threading.Event()

    def process(entries: list[Any]) -> None:
        if any(entry.client_id == 1 and not entry.is_final for entry in entries):
            release.wait(60)

    ex = executor(logits_post_processor=process, post_processor_timeout_ms=100.0)
    for _ in range(3):
        failed(llm, answer(ex, request(llm, client_id=1)), "no answer after 100 ms")
        # On a busy machine a good call may be late too.
        wait_for(lambda: len(answer(ex, request(llm)).tokens) == 8)
    release.set()
    assert settled(ex)["blocks_used"] == 0
    wait_for(lambda: len(answer(ex, request(llm)).tokens) == 8)


def test_entries_end_with_their_call(llm: ModuleType, executor: MakeExecutor) -> None:
    kept: list[Any] = []
    bitmasks: list[Any] = []

    def keep(entry: Any) -> None:
        kept.append(entry)
        bitmasks.append(np.from_dlpack(entry.bitmask))

    ex = executor(logits_post_processor=each(keep))
    answer(ex, request(llm, 3))
    uses: list[Callable[[Any], Any]] = [
        lambda e: e.request_id, lambda e: e.client_id, lambda e: e.sequence_index,
        lambda e: e.tokens, lambda e: e.bitmask, lambda e: e.temperature, lambda e: e.ln_min_p,
        lambda e: e.mask_fraction, lambda e: e.is_final, lambda e: e.forced_tokens,
        lambda e: e.fail("late"), lambda e: setattr(e, "temperature", 1.0),
        lambda e: setattr(e, "ln_min_p", -1.0), lambda e: setattr(e, "forced_tokens", [1]),
    ]  # fmt: skip
    for entry in kept:
        for use in uses:
            with pytest.raises(RuntimeError, match="during its call"):
                use(entry)
    ex.shutdown()
    for words in bitmasks:  # memory lives as long as its arrays
        words[:] = 7
        assert (words == 7).all()


def test_calls_back(llm: ModuleType, executor: MakeExecutor) -> None:
    """From both callbacks everything may be called but what would wait for itself."""
    new: list[int] = []
    refusals: list[str] = []

    def use() -> None:
        assert ex.stats()["running"] >= 0
        assert ex.can_enqueue_request()
        assert ex.loras() == []
        ex.await_responses(0, new[-1] if new else None)
        if len(new) < 4:
            new.append(ex.enqueue_request(request(llm, 5, use_logits_post_processor=False)))
            ex.cancel_request(new[-1])
        try:
            ex.shutdown()
        except RuntimeError as error:
            refusals.append(str(error))

    ex = executor(logits_post_processor=lambda entries: use(), on_step=lambda stats: use())
    asked = ex.enqueue_request(request(llm))
    got = answers_of(ex, asked)
    assert got == 8
    assert len(new) == 4
    assert refusals
    assert all("callback" in text for text in refusals)
    ex.shutdown()


def answers_of(ex: Executor, wanted: int) -> int:
    """Tokens of a request, whose responses others may take none of."""
    return len(collect(ex, [wanted])[wanted][0].tokens)


def test_worker_threads(llm: ModuleType, executor: MakeExecutor) -> None:
    """The entries of a step are spread over the threads, which work at the same time."""
    met: list[int] = []
    together = threading.Barrier(3)

    def process(entries: list[Any]) -> None:
        if len(entries) == 2 and len(met) < 3:
            together.wait(30)
            met.append(threading.get_ident())

    ex = executor(logits_post_processor=process, n_post_processor_threads=3)
    (answers,) = run(ex, [request(llm, 9, tokens=[5], num_return_sequences=6)])
    assert [got.error for got in answers] == [""] * 6
    assert len(set(met)) == 3


def test_on_step(llm: ModuleType, executor: MakeExecutor) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []

    def record(stats: dict[str, Any]) -> None:
        seen.append((threading.get_ident(), dict(stats)))
        raise ValueError("nobody minds")

    ex = executor(on_step=record)
    assert len(answer(ex, request(llm, use_logits_post_processor=False)).tokens) == 8
    ex.shutdown()  # figures are there before they are told
    assert len({thread for thread, _ in seen}) == 1
    assert threading.get_ident() not in {thread for thread, _ in seen}
    steps = [stats["steps"] for _, stats in seen]
    assert steps == sorted(steps)
    assert set(range(1, 9)) <= set(steps)
    assert set(seen[-1][1]) == set(ex.stats())


def test_a_slow_mask_runs_beside_the_forward_pass(llm: ModuleType, executor: MakeExecutor) -> None:
    """The engine waits for it in the end, as long as it takes."""
    ex = executor(logits_post_processor=each(lambda entry: (time.sleep(0.02), allow(entry, [77]))))
    assert answer(ex, request(llm, 3)).tokens == [77] * 3
