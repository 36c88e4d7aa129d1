"""Interrupts itself inside native calls; run by test_interrupt.py, prints JSON.

Arguments: model file, what to interrupt (load, load_with_progress, prefill, generate, stream),
number of attempts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import my_llm_ffi as llm

PROMPT = [(token * 7) % 300 + 3 for token in range(1500)]
FOREVER = {2: -100.0}  # never the end of generation


def options() -> dict[str, object]:
    """Of a generation that lasts for some hundred tokens."""
    sampling = llm.SamplingParams(temperature=0, logit_bias=FOREVER)
    return {"max_new_tokens": 300, "sampling": sampling}


def work_of(path: str, what: str) -> Callable[[], object]:
    """The call that is interrupted."""
    if what == "load":
        return lambda: llm.Model(path)
    if what == "load_with_progress":
        return lambda: llm.Model(path, progress=lambda _fraction: True)
    model = llm.Model(path)
    if what == "prefill":
        context = model.context(n_ctx=2048)
        return lambda: (context.clear(), context.decode(PROMPT))
    if what == "generate":
        return lambda: model.generate(PROMPT[:8], **options())
    return lambda: list(model.stream(PROMPT[:8], **options()))


def latency_of(work: Callable[[], object], delay_s: float) -> float | None:
    """Seconds from SIGINT to KeyboardInterrupt; None when the work was over before."""
    sent: list[float] = []
    over = threading.Event()

    def send() -> None:
        if not over.wait(delay_s):
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    try:
        thread.start()
        work()
        over.set()
        thread.join()
        time.sleep(0.01)  # a signal that came just now is raised here
    except KeyboardInterrupt:
        return None if over.is_set() else time.monotonic() - sent[0]
    return None


def answer(path: str) -> list[int]:
    """What a model gives, to compare before and after."""
    with llm.Model(path) as model:
        return list(model.generate(PROMPT[:8], max_new_tokens=4, sampling=greedy()).tokens)


def greedy() -> object:
    """Sampling parameters that leave no choice."""
    return llm.SamplingParams(temperature=0, logit_bias=FOREVER)


def main(path: str, what: str, attempts: int) -> None:
    """Interrupts at different moments of the call, then uses the same objects again."""
    expected, work = answer(path), work_of(path, what)
    start = time.monotonic()
    first = work()
    duration = time.monotonic() - start
    delays = [duration * (attempt + 0.5) / (attempts + 1) for attempt in range(attempts)]
    latencies = [latency_of(work, delay) for delay in delays]
    again = work()
    same = getattr(again, "tokens", None) == getattr(first, "tokens", None)
    usable = same and answer(path) == expected
    print(json.dumps({"duration": duration, "latencies": latencies, "usable": usable}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
