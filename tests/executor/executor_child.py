"""Executors in processes that are interrupted, fork or end; run by test_process.py.

Arguments: a model file, and what to do: the name of one of the functions below. Whoever does not
end by its own will is ended by test_process.py.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import my_llm_ffi as llm

ATTEMPTS = 5
LONG = 450


def request(count: int = LONG, **fields: Any) -> llm.Request:
    """A request of so many tokens."""
    sampling = llm.SamplingParams(temperature=0, logit_bias={2: -100.0})
    given = {"tokens": [7] * 4, "max_new_tokens": count, "sampling": sampling}
    return llm.Request(**{**given, **fields})


def fill(executor: llm.Executor, **fields: Any) -> list[int]:
    """More than can run at once, for long."""
    return [executor.enqueue_request(request(tokens=[i + 5] * 3, **fields)) for i in range(200)]


def slow(_: Any) -> None:
    """A callback that makes the work last."""
    time.sleep(0.01)


def wait_until(condition: Callable[[], bool]) -> None:
    """Up to a minute."""
    for _ in range(60_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("what is waited for does not come")


def say_where_it_hangs() -> None:
    """Before test_process.py ends it."""
    faulthandler.dump_traceback()
    os._exit(3)


# ---- Ctrl-C -------------------------------------------------------------------------------------


def latency_of(wait: Callable[[], object], delay_s: float) -> float:
    """Seconds from SIGINT to KeyboardInterrupt."""
    sent: list[float] = []

    def send() -> None:
        time.sleep(delay_s)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    try:
        threading.Thread(target=send).start()
        wait()
    except KeyboardInterrupt:
        return time.monotonic() - sent[0]
    raise AssertionError("the wait came back")


def interrupt(model: llm.Model, how: str) -> None:
    """Ctrl-C in a wait for what does not come; then the same executor goes on."""
    opened = threading.Event()
    executor = llm.Executor(model, on_step=lambda _: opened.wait(20))
    held = executor.enqueue_request(request(5))
    wait_until(lambda: executor.stats()["running"] == 1)

    async def consume() -> None:
        async for _ in executor.astream(request(5)):
            pass

    waits: dict[str, Callable[[], object]] = {
        "any": lambda: executor.await_responses(),
        "timeout": lambda: executor.await_responses(1e8),
        "id": lambda: executor.await_responses(None, held),
        "stream": lambda: next(executor.stream(request(5, streaming=True))),
        "astream": lambda: asyncio.run(consume()),
        "drain": lambda: executor.shutdown(drain=True),
    }
    if how == "stream":  # its end waits for the engine
        opened.set()
        waits["stream"] = lambda: [list(executor.stream(request())) for _ in range(10**6)]
    latencies = [latency_of(waits[how], 0.02 + 0.013 * i) for i in range(ATTEMPTS)]
    opened.set()
    responses = executor.await_responses(None, held)
    while responses and not responses[-1].is_request_final:
        responses += executor.await_responses(None, held)
    usable = sum(len(r.tokens) for r in responses) == 5
    executor.shutdown()
    print(json.dumps({"latencies": latencies, "usable": usable}))


# ---- fork ---------------------------------------------------------------------------------------


def refused(call: Callable[[], object]) -> None:
    """The call says at once that the executor is the parent's."""
    try:
        call()
    except RuntimeError as error:
        assert "forked" in str(error), error
    else:
        raise AssertionError("the call came back")


def in_child(executor: llm.Executor, stream: Any, rid: int, model: llm.Model) -> None:
    """What the child of a fork may do."""

    async def consume() -> None:
        async for _ in executor.astream(request(5)):
            pass

    calls: list[Callable[[], object]] = [
        executor.can_enqueue_request,
        executor.stats,
        executor.loras,
        lambda: executor.enqueue_request(request(5)),
        lambda: executor.await_responses(),
        lambda: executor.await_responses(1e9, rid),
        lambda: executor.cancel_request(rid),
        lambda: executor.stream(request(5)),
        lambda: list(stream),
        lambda: executor.load_lora("name", "file"),
        lambda: executor.unload_lora("name"),
        lambda: asyncio.run(consume()),
    ]
    for call in calls:
        refused(call)
    executor.shutdown()  # of the parent's, hence nothing
    with llm.Executor(model) as own:
        rid = own.enqueue_request(request(7))
        (response,) = own.await_responses(None, rid)
        assert len(response.tokens) == 7


def fork(model: llm.Model) -> None:
    """The child can do nothing with the executor, and ends; the parent goes on."""
    executor = llm.Executor(model)
    ids = fill(executor)
    stream = executor.stream(request(streaming=True))
    next(stream)
    held = threading.Event()

    def hold_the_lock() -> None:  # as a thread does that delivers while another forks
        with executor._pump._lock:
            held.set()
            time.sleep(0.5)

    threading.Thread(target=hold_the_lock).start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        in_child(executor, stream, ids[0], model)
        del executor, stream
        return
    ended = 0
    for _ in range(3000):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        raise AssertionError("the child hangs")
    assert os.WEXITSTATUS(status) == 0, status
    assert sum(len(r.tokens) for r in stream) == LONG - 1
    done = 0
    while done < len(ids):
        done += sum(r.is_request_final for r in executor.await_responses(60_000))
    executor.shutdown()


# ---- memory that runs out -----------------------------------------------------------------------


def run_out_of_memory(model: llm.Model) -> None:
    """What is large finds no memory; what is small goes on beside it.

    At each allocation of a step in turn: tests/native/executor_memory_test.cc. Python itself and
    the C library do not survive that everywhere.
    """
    import resource

    executor = llm.Executor(model)
    whole = [len(r.tokens) for r in executor.stream(request(50))]
    table = np.ones((1 << 19, 64), np.float32)  # 128 MiB
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    running = [executor.enqueue_request(request(50, tokens=[5 + i] * 3)) for i in range(20)]
    failures: list[Callable[[], object]] = [
        lambda: executor.enqueue_request(request(5, tokens=[5, 355], prompt_table=table)),
        lambda: llm.Executor(model, llm.ExecutorConfig(kv_cache_tokens=1 << 20)),
    ]
    for fails in failures * 5:
        try:
            fails()
        except MemoryError:
            pass
        else:
            raise AssertionError("there was memory")
    for rid in running:
        (response,) = executor.await_responses(None, rid)
        assert len(response.tokens) == 50
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    wait_until(lambda: executor.stats()["unread"] + executor.stats()["blocks_used"] == 0)
    assert [len(r.tokens) for r in executor.stream(request(50))] == whole
    executor.shutdown()


# ---- the end of the process ---------------------------------------------------------------------


def exit_in_flight(model: llm.Model) -> None:
    """Nobody shuts it down."""
    fill(llm.Executor(model))


def exit_held(model: llm.Model) -> None:
    """Modules are torn down while something still holds it."""
    sys.executor = llm.Executor(model)
    fill(sys.executor, streaming=True)


def exit_in_callbacks(model: llm.Model) -> None:
    """Both callbacks are running."""
    executor = llm.Executor(model, logits_post_processor=slow, on_step=slow)
    fill(executor, use_logits_post_processor=True)
    time.sleep(0.05)


def exit_blocked_callback(model: llm.Model) -> None:
    """A callback that does not come back."""
    config = llm.ExecutorConfig(post_processor_timeout_ms=1e6)
    executor = llm.Executor(model, config, logits_post_processor=lambda _: time.sleep(1000))
    fill(executor, use_logits_post_processor=True)
    sys.executor = executor
    time.sleep(0.05)


def exit_waiting_threads(model: llm.Model) -> None:
    """Daemon threads wait for responses, and one enqueues."""
    executor = llm.Executor(model, llm.ExecutorConfig(max_queue_size=10**6))

    def wait_for_ever() -> None:
        while True:
            executor.await_responses(1e9)

    def enqueue_for_ever() -> None:
        while True:
            executor.enqueue_request(request(50, streaming=True))

    threading.excepthook = lambda _: None
    for work in (wait_for_ever, wait_for_ever, enqueue_for_ever):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.1)


def exit_streams(model: llm.Model) -> None:
    """Streams of both kinds are open."""
    executor = llm.Executor(model)
    sys.stream = executor.stream(request(streaming=True))
    next(sys.stream)

    async def leave_open() -> None:
        sys.astream = executor.astream(request(streaming=True))
        await sys.astream.__anext__()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_open())


def exit_held_by_stream(model: llm.Model, *callbacks: str) -> None:
    """Of the executor itself nothing is left but its stream."""
    executor = llm.Executor(model, **dict.fromkeys(callbacks, slow))
    masked = "logits_post_processor" in callbacks
    sys.stream = executor.stream(request(streaming=True, use_logits_post_processor=masked))
    next(sys.stream)


def exit_held_by_astream(model: llm.Model, *callbacks: str) -> None:
    """Likewise of asyncio, and its loop is gone."""

    async def leave_open() -> None:
        executor = llm.Executor(model, **dict.fromkeys(callbacks, slow))
        masked = "logits_post_processor" in callbacks
        sys.stream = executor.astream(request(streaming=True, use_logits_post_processor=masked))
        await sys.stream.__anext__()

    asyncio.new_event_loop().run_until_complete(leave_open())


def exit_in_a_cycle(model: llm.Model, *callbacks: str) -> None:
    """The collector comes too late for executor and stream."""
    gc.disable()
    cycle: list[Any] = []
    executor = llm.Executor(model, **dict.fromkeys(callbacks, slow))
    masked = "logits_post_processor" in callbacks
    stream = executor.stream(request(streaming=True, use_logits_post_processor=masked))
    next(stream)
    cycle += [cycle, stream]


def exit_by_exception(model: llm.Model) -> None:
    """An error leaves the block in which the executor lives."""
    with llm.Executor(model, on_step=slow) as executor:
        fill(executor)
        sys.exit(0)


def collect_busy(model: llm.Model) -> None:
    """Executors go while their callbacks run, some as part of a cycle, some in their callback."""
    for kind in range(12):
        seen: list[Any] = []
        box: list[Any] = []

        def step(_: Any, seen: list[Any] = seen, box: list[Any] = box, kind: int = kind) -> None:
            seen.append(1)
            time.sleep(0.001)
            if kind % 3 == 2:
                box.clear()  # perhaps the last owner

        executor = llm.Executor(model, logits_post_processor=slow, on_step=step)
        fill(executor, use_logits_post_processor=kind % 2 == 0)
        box.append(executor)
        if kind % 3 == 1:
            executor.itself = executor
        wait_until(lambda seen=seen: bool(seen))
        if kind % 3 != 2:
            box.clear()
        del executor
    gc.collect()


def collect_stream(model: llm.Model, where: str) -> None:
    """The garbage collector meets a stream in a callback, for which the engine waits."""
    gc.disable()
    dropped, collected = threading.Event(), threading.Event()

    def collect(_: Any) -> None:
        assert dropped.wait(20)
        gc.collect()
        collected.set()

    config = llm.ExecutorConfig(post_processor_timeout_ms=1e6)
    executor = llm.Executor(model, config, **{where: collect})
    masked = where == "logits_post_processor"
    cycle: list[Any] = []
    cycle += [cycle, executor.stream(request(streaming=True, use_logits_post_processor=masked))]
    del cycle
    dropped.set()
    wait_until(collected.is_set)
    (response,) = executor.await_responses(None, executor.enqueue_request(request(5)))
    assert len(response.tokens) == 5
    wait_until(lambda: executor.stats()["unread"] + executor.stats()["blocks_used"] == 0)
    executor.shutdown()


def close_stream(model: llm.Model, where: str) -> None:
    """A callback closes a stream of its own engine."""
    box: list[Any] = []
    closed = threading.Event()

    def close(_: Any) -> None:
        wait_until(lambda: bool(box))
        box[0].close()
        assert list(box[0]) == []
        closed.set()

    config = llm.ExecutorConfig(post_processor_timeout_ms=1e6)
    executor = llm.Executor(model, config, **{where: close})
    masked = where == "logits_post_processor"
    box.append(executor.stream(request(streaming=True, use_logits_post_processor=masked)))
    wait_until(closed.is_set)
    (response,) = executor.await_responses(None, executor.enqueue_request(request(5)))
    assert len(response.tokens) == 5
    wait_until(lambda: executor.stats()["unread"] + executor.stats()["blocks_used"] == 0)
    executor.shutdown()


def threads() -> int:
    """Of the process, those of the library too."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def collect_server(model: llm.Model, where: str) -> None:
    """An executor whose callback refers to who owns the executor."""

    class Server:
        def __init__(self) -> None:
            self.executor = llm.Executor(model, **{where: self.call})
            self.calls = 0

        def call(self, _: Any) -> None:
            self.calls += 1

    with llm.Executor(model) as first:  # what starts once a process
        first.await_responses(None, first.enqueue_request(request(5)))
    before, gone = threads(), []
    for _ in range(5):
        server = Server()
        masked = where == "logits_post_processor"
        rid = server.executor.enqueue_request(request(5, use_logits_post_processor=masked))
        (response,) = server.executor.await_responses(None, rid)
        assert len(response.tokens) == 5
        assert server.calls > 0
        gone.append(weakref.ref(server))
        del server

    def collected() -> bool:  # a callback that is still running holds its owner
        gc.collect()
        return all(one() is None for one in gone)

    wait_until(collected)
    wait_until(lambda: threads() <= before)


if __name__ == "__main__":
    watch = threading.Timer(50, say_where_it_hangs)
    watch.daemon = True
    watch.start()
    arguments = sys.argv[3:]
    globals()[sys.argv[2]](llm.Model(sys.argv[1]), *arguments)
