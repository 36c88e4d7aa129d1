"""Faults that an executor survives, each with a test of its name; more of each elsewhere here."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.device_arrays import OnDevice
from reference.handles import Model
from reference.serving import Answers, Executor, Gate, answer, collect, run, settled, wait_for

MakeExecutor = Callable[..., Executor]
NAN, INF = float("nan"), float("inf")


def request(llm: ModuleType, count: int = 8, **fields: Any) -> Any:
    """One of so many tokens exactly."""
    sampling = llm.SamplingParams(seed=1, logit_bias={2: -100.0})
    given = {"tokens": [9, 80, 140], "max_new_tokens": count, "sampling": sampling}
    return llm.Request(**{**given, **fields})


def goes_on(llm: ModuleType, ex: Executor) -> None:
    """The executor answers as if nothing had happened, and holds no block."""
    wait_for(lambda: settled(ex)["blocks_used"] == 0)
    assert len(answer(ex, request(llm)).tokens) == 8


def test_fault_huge_n_best_of_stop_lists_logprobs(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(max_batch_size=16)
    huge: list[dict[str, Any]] = [
        {"num_return_sequences": 2**31}, {"num_return_sequences": 17}, {"best_of": 2**40},
        {"beam_width": 10**9}, {"stop_words": ["x"] * 10**5}, {"stop_words": ["x" * 10**7]},
        {"stop_token_ids": [5] * 10**6}, {"logprobs": 10**9}, {"prompt_logprobs": 10**9},
        {"max_new_tokens": 2**62}, {"min_tokens": 2**62}, {"tokens": [5] * 10**6},
        {"attention_window": 2**62}, {"sink_tokens": 2**62},
    ]  # fmt: skip
    for fields in huge:
        ((name, _),) = fields.items()
        with pytest.raises(ValueError, match=name.replace("stop_words", "stop.word")):
            ex.enqueue_request(request(llm, **fields))
    goes_on(llm, ex)


def test_fault_negative_nan_and_infinite_parameters(
    llm: ModuleType, executor: MakeExecutor
) -> None:
    ex = executor()
    for name in ("priority", "deadline_ms", "queue_deadline_ms", "length_penalty"):
        for value in (NAN, INF, -INF):
            with pytest.raises(ValueError, match=name):
                ex.enqueue_request(request(llm, **{name: value}))
    for name in ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty",
                 "frequency_penalty", "presence_penalty"):  # fmt: skip
        for value in (NAN, INF, -INF):
            with pytest.raises(ValueError, match=name):
                llm.SamplingParams(**{name: value})
            with pytest.raises(ValueError, match=name):  # of those who speak to the library
                ex._handle.enqueue({"tokens": [5], name: value}, 0)
    goes_on(llm, ex)


def test_fault_bad_grammar_or_schema(llm: ModuleType, model: Model, executor: MakeExecutor) -> None:
    pytest.importorskip("llguidance")
    from my_llm_ffi.guided import Guided, GuidedDecoding

    guided = GuidedDecoding(model)
    ex = executor(logits_post_processor=guided)
    good = request(llm, 40, guided=Guided.regex("[ab]{3,5}"), sampling=None)
    ids = [ex.enqueue_request(good)]
    with pytest.raises(ValueError, match="json_schema is not JSON"):
        Guided.json_schema("{")
    no_schema = Guided.json_schema('{"type": "frob"}')
    for bad in (Guided.regex("(("), Guided.lark("start: nothing"), no_schema):
        with pytest.raises(ValueError, match=r"guided|grammar|regex|schema"):
            ex.enqueue_request(request(llm, guided=bad))
    ids.append(ex.enqueue_request(good))
    for answers in collect(ex, ids).values():
        assert 3 <= len(answers[0].text) <= 5
        assert set(answers[0].text) <= set("ab")
    goes_on(llm, ex)


def test_fault_thousands_of_distinct_schemas(
    llm: ModuleType, model: Model, executor: MakeExecutor
) -> None:
    pytest.importorskip("llguidance")
    from my_llm_ffi.guided import Guided, GuidedDecoding

    guided = GuidedDecoding(model, cache_size=16)
    ex = executor(logits_post_processor=guided, max_queue_size=4096)
    ids = [
        ex.enqueue_request(request(llm, 6, guided=Guided.choice([f"a{i}", f"b{i}"])))
        for i in range(1000)
    ]
    for i, answers in enumerate(collect(ex, ids).values()):
        text = answers[0].text
        assert f"a{i}".startswith(text) or f"b{i}".startswith(text)
    stats = guided.stats()
    assert stats.grammars_cached == 16
    assert stats.cache_misses == 1000
    ids = [
        ex.enqueue_request(request(llm, 4, guided=Guided.json_schema({"const": f"value {i}"})))
        for i in range(300)
    ]
    for answers in collect(ex, ids).values():
        assert '"value'.startswith(answers[0].text[:6])
    assert guided.stats().grammars_cached == 16
    assert guided.stats().cache_misses == 1300
    goes_on(llm, ex)


def test_fault_guide_of_a_dropped_executor(llm: ModuleType, model: Model) -> None:
    """A guide serves one executor, but for no longer than there is one."""
    pytest.importorskip("llguidance")
    from my_llm_ffi.guided import Guided, GuidedDecoding

    guided = GuidedDecoding(model, others=lambda entries: None)
    for _ in range(3):
        ex = llm.Executor(model, logits_post_processor=guided)
        ex.enqueue_request(request(llm, 40, guided=Guided.regex("[ab]{30}")))
        del ex  # and nobody shuts it down
    first = llm.Executor(model, logits_post_processor=guided)
    first.shutdown()
    with llm.Executor(model, logits_post_processor=guided) as second:
        first.shutdown()  # again, which gives back what the second one has
        with pytest.raises(ValueError, match="serves another executor"):
            llm.Executor(model, logits_post_processor=guided)
        assert len(answer(second, request(llm, 9, guided=Guided.regex("[ab]{3}"))).text) == 3


def test_fault_client_tensors(llm: ModuleType, executor: MakeExecutor) -> None:
    """Wrong dtype, shape, stride, NaN; and what the client does to its array afterwards."""
    ex = executor()
    good = np.ones((4, 64), np.float32)
    bad: list[tuple[Any, type[Exception]]] = [
        (good.astype(np.float64), TypeError), (good.astype(np.int8), TypeError),
        (good[:, :63], ValueError), (good[0], ValueError), (good[::2], ValueError),
        (good.astype("f2"), TypeError), (good.astype(object), TypeError),
        (np.asfortranarray(good), ValueError), (good * NAN, ValueError), (good * INF, ValueError),
        (good[:0], ValueError), ([[1.0] * 64], TypeError), (object(), TypeError),
    ]  # fmt: skip
    for table, kind in bad:
        with pytest.raises(kind, match="prompt_table"):
            ex.enqueue_request(request(llm, prompt_table=table))
    tokens = [9, 355, 356, 358, 12]
    table = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    want = answer(ex, request(llm, tokens=tokens, prompt_table=table.copy())).tokens
    gate = Gate()
    held = executor(on_step=gate, max_batch_size=1)
    gate.close()
    first = held.enqueue_request(request(llm))
    gate.await_held()
    mine = table.copy()
    later = held.enqueue_request(request(llm, tokens=tokens, prompt_table=mine))
    mine[:] = NAN  # it was copied
    del mine
    gate.open()
    assert collect(held, [first, later])[later][0].tokens == want
    goes_on(llm, ex)


def test_fault_client_tensor_is_only_read(llm: ModuleType, executor: MakeExecutor) -> None:
    """Read-only arrays and those of foreign byte order are taken, since they are copied."""
    ex = executor()
    tokens = [9, 355, 356, 358, 12]
    table = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    want = answer(ex, request(llm, tokens=tokens, prompt_table=table)).tokens
    fixed = table.copy()
    fixed.flags.writeable = False
    for same in (fixed, table.astype(">f4"), np.frombuffer(table.tobytes(), "f4").reshape(4, 64)):
        assert answer(ex, request(llm, tokens=tokens, prompt_table=same)).tokens == want
    fixed = np.asfortranarray(table)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="prompt_table"):
        ex.enqueue_request(request(llm, tokens=tokens, prompt_table=fixed))


def test_fault_client_tensor_on_the_wrong_device(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    table = OnDevice(np.ones((4, 64), np.float32))
    with pytest.raises(ValueError, match="prompt_table must be on the CPU"):
        ex.enqueue_request(request(llm, tokens=[9, 355], prompt_table=table))
    goes_on(llm, ex)


def test_fault_prompt_longer_than_the_context(llm: ModuleType, executor: MakeExecutor) -> None:
    for config, n_ctx in (({}, 512), ({"max_sequence_length": 40}, 40)):
        ex = executor(**config)
        for length in (n_ctx, n_ctx + 1, 10 * n_ctx):
            with pytest.raises(ValueError, match="tokens"):
                ex.enqueue_request(request(llm, 1, tokens=[7] * length))
        assert len(answer(ex, request(llm, 1, tokens=[7] * (n_ctx - 1))).tokens) == 1
        goes_on(llm, ex)


def test_fault_prefix_cache_collision(llm: ModuleType, executor: MakeExecutor) -> None:
    """Thousands of pages in few buckets: nobody is served another text's entries."""
    plain, cached = executor(enable_prefix_cache=False), executor(kv_cache_tokens=4096)
    rng = np.random.default_rng(3)
    base = [int(t) for t in rng.integers(3, 355, 70)]
    prompts = []
    for _ in range(60):
        near = list(base)
        near[int(rng.integers(0, 70))] = int(rng.integers(3, 355))
        prompts.append(near)
    requests = [request(llm, 3, tokens=p, logprobs=1) for p in prompts * 2]
    want = [(got.tokens, got.logprobs) for (got,) in run(plain, requests)]
    assert [(got.tokens, got.logprobs) for (got,) in run(cached, requests)] == want
    assert settled(cached)["prefix_tokens_hit"] > 0


def test_fault_tenant_timing(llm: ModuleType, executor: MakeExecutor) -> None:
    """Who has another salt cannot see, by time or figures, what was asked before."""
    ex = executor()
    prompt = [int(t) for t in np.random.default_rng(4).integers(3, 355, 70)]
    salts = [None, "tenant a", "tenant b", "", "tenant", "tenant a;window 0 0"]
    answers = []
    for salt in salts:
        for _ in range(2):
            got = answer(ex, request(llm, tokens=prompt, cache_salt=salt))
            answers.append((got.last.cached_tokens, got.tokens))
    shared = {None: 0, "": 64}  # no salt is the empty one
    for salt, (first, again) in zip(salts, zip(answers[::2], answers[1::2])):
        assert first[0] == shared.get(salt, 0)
        assert again[0] == 64
    assert len({tuple(tokens) for _, tokens in answers}) == 1


@pytest.mark.parametrize("steps", range(0, 12, 2))
def test_fault_abort_in_every_state(
    llm: ModuleType, model: Model, executor: MakeExecutor, adapter: Path, steps: int
) -> None:
    """Requests of all kinds are cancelled at once after so many steps."""
    pytest.importorskip("llguidance")
    from my_llm_ffi.guided import Guided, GuidedDecoding

    gate = Gate()
    ex = executor(
        max_batch_size=6, max_num_tokens=48, kv_cache_tokens=640, on_step=gate,
        logits_post_processor=GuidedDecoding(model, others=lambda entries: None),
    )  # fmt: skip
    ex.load_lora("adapter", adapter)
    table = np.ones((3, 64), np.float32)
    kinds: list[dict[str, Any]] = [
        {}, {"streaming": True}, {"num_return_sequences": 3}, {"best_of": 2}, {"beam_width": 3},
        {"tokens": [5] * 150}, {"priority": 2.0}, {"use_logits_post_processor": True},
        {"prompt_logprobs": 2, "logprobs": 2}, {"stop_words": ["zz"]}, {"lora": "adapter"},
        {"tokens": [9, 355, 357], "prompt_table": table}, {"pooling": "mean", "tokens": [5] * 90},
        {"guided": Guided.regex("[ab]{100}"), "num_return_sequences": 2},
    ]  # fmt: skip
    gate.close()
    ids = [ex.enqueue_request(request(llm, 60, **fields)) for fields in kinds]
    gate.step(1 + steps)
    for i in ids:
        ex.cancel_request(i)
    gate.open()
    for fields, answers in zip(kinds, collect(ex, ids).values()):
        reasons = {got.reason for got in answers}
        done = {llm.FinishReason.LENGTH} if "pooling" in fields else set()  # with its last token
        assert reasons <= {llm.FinishReason.CANCELLED} | done
    goes_on(llm, ex)


def test_fault_slow_reader(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(max_pending_responses=6)
    slow = ex.enqueue_request(request(llm, 200, streaming=True))
    whole = ex.enqueue_request(request(llm, 200))
    (got,) = collect(ex, [whole])[whole]
    assert len(got.tokens) == 200
    wait_for(lambda: ex.stats()["running"] == 0)
    (cut,) = collect(ex, [slow])[slow]
    assert cut.reason == llm.FinishReason.CANCELLED
    assert "max_pending_responses=6" in cut.error
    assert cut.tokens == got.tokens[:7]
    assert len(cut.responses) == 7
    goes_on(llm, ex)


class Crowd:
    """Random requests, cancels and deadlines from several threads."""

    def __init__(self, llm: ModuleType, ex: Executor, seed: int) -> None:
        self.llm, self.ex, self.random = llm, ex, random.Random(seed)
        self.ids: list[int] = []

    def fields(self) -> dict[str, Any]:
        """Of one request."""
        rng = self.random
        fields: dict[str, Any] = {
            "tokens": [rng.randrange(3, 6)] * rng.choice([1, 10, 33, 64, 150]),
            "max_new_tokens": rng.choice([0, 1, 5, 30, 80]),
            "priority": rng.choice([0.0, 0.0, 1.0, -3.5]),
            "streaming": rng.random() < 0.3,
            "use_logits_post_processor": rng.random() < 0.4,
            "cache_salt": rng.choice([None, "a"]),
            "stop_words": rng.choice([(), ("e", "tt")]),
            "sampling": self.llm.SamplingParams(seed=rng.randrange(9), temperature=1.3),
        }
        more = rng.randrange(8)
        if more == 0:
            fields["num_return_sequences"] = 3
        elif more == 1:
            fields["deadline_ms"] = rng.random() * 10
        elif more == 2:
            fields["queue_deadline_ms"] = rng.random() * 10
        elif more == 3:
            fields.update(best_of=3, streaming=False)
        elif more == 4:
            fields.update(
                beam_width=3, streaming=False, use_logits_post_processor=False, stop_words=(),
                max_new_tokens=7,
            )  # fmt: skip
        elif more == 5:
            fields.update(prompt_logprobs=2, logprobs=2)
        if rng.random() < 0.3:
            fields["lora"] = rng.choice(["one", "two"])
        return fields

    def go(self, count: int) -> None:
        """Enqueues and cancels."""
        while len(self.ids) < count:
            try:
                self.ids.append(self.ex.enqueue_request(self.llm.Request(**self.fields())))
            except RuntimeError as error:
                assert "queue is full" in str(error)
                time.sleep(0.001)
                continue
            if self.random.random() < 0.2:
                self.ex.cancel_request(self.random.choice(self.ids))


def test_fault_random_requests_with_cancels(
    llm: ModuleType, executor: MakeExecutor, adapter: Path
) -> None:
    """Hours of it are another test's; here each request of some hundreds ends exactly once."""
    chance = random.Random(0)

    def process(entries: list[Any]) -> None:
        if chance.random() < 0.02:
            raise ValueError("sometimes")
        for entry in entries:
            if not entry.is_final and chance.random() < 0.02:
                entry.forced_tokens = [7, 8, 9]

    ex = executor(
        logits_post_processor=process, max_batch_size=8, max_num_tokens=64, max_queue_size=40,
        kv_cache_tokens=960, max_pending_responses=4, n_post_processor_threads=2,
    )  # fmt: skip
    for name in ("one", "two"):
        ex.load_lora(name, adapter)
    crowds = [Crowd(llm, ex, seed) for seed in range(3)]
    threads = [threading.Thread(target=crowd.go, args=(130,)) for crowd in crowds]
    for thread in threads:
        thread.start()
    answers = Answers()
    while len(answers.over) < 3 * 130:
        responses = ex.await_responses(60_000)
        assert responses, f"{len(answers.over)} are over, and no more come"
        for response in responses:
            answers.add(response)
    for thread in threads:
        thread.join()
    assert answers.over == {i for crowd in crowds for i in crowd.ids}
    reasons = {got.reason for i in answers.over for got in answers.of(i)}
    assert reasons == set(llm.FinishReason) - {llm.FinishReason.NOT_FINISHED}
    stats = settled(ex)
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"] == 30
    assert stats["requests_finished"] == 3 * 130
    goes_on(llm, ex)


def test_fault_unload_while_tensors_live(
    llm: ModuleType, model: Model, executor: MakeExecutor
) -> None:
    """What came from an executor stays when executor and model are gone."""
    ex = executor()
    (response,) = ex.await_responses(
        None, ex.enqueue_request(llm.Request(tokens=[5, 6, 7], pooling="mean"))
    )
    embedding = np.from_dlpack(response.embedding)
    kept = embedding.copy()
    ex.shutdown()
    del ex, response
    with llm.Executor(model) as other:
        run(other, [request(llm)])
    np.testing.assert_array_equal(embedding, kept)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
