"""Sends 64 prompts of mixed lengths to one executor, streams a few, and shows a live table.

    python examples/python/serve_many.py [MODEL] [--requests 64] [--streams 4]

Without MODEL the default model is fetched (once, into the cache).
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter

import my_llm_ffi as llm

QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in one sentence why the sky is blue.",
    "List three fruits.",
    "Translate 'good morning' into Spanish.",
    "What is 12 times 12?",
    "Tell me a very short story about a fox.",
    "Name a famous physicist and what they found.",
]
STORY = "The ship sailed on through the night, and nobody spoke. "


def prompts(vocab: llm.Vocab, count: int) -> list[list[int]]:
    """Questions in the model's chat form, every fourth one behind a long text."""
    result = []
    for i in range(count):
        question = QUESTIONS[i % len(QUESTIONS)]
        if i % 4 == 3:
            question = STORY * (5 + i) + "What happened? " + question
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        result.append(vocab.tokenize(text, parse_special=True))
    return result


def show(executor: llm.Executor, done: threading.Event) -> None:
    """Prints a line of the table twice a second."""
    print("  time  waiting  running  blocks used/free/cached  tokens out  decode/s  prefill/s")
    began, before, then = time.monotonic(), executor.stats(), time.monotonic()
    while not done.wait(0.5):
        stats, now = executor.stats(), time.monotonic()
        tokens = stats["generated_tokens"] - before["generated_tokens"]
        computed = stats["computed_tokens"] - before["computed_tokens"] - tokens
        blocks = f"{stats['blocks_used']}/{stats['blocks_free']}/{stats['blocks_cached']}"
        print(
            f"{now - began:6.1f} {stats['waiting']:8} {stats['running']:8} {blocks:>24} "
            f"{stats['generated_tokens']:11} {tokens / (now - then):9.0f} "
            f"{max(0, computed) / (now - then):10.0f}",
            flush=True,
        )
        before, then = stats, now


def stream(
    executor: llm.Executor, request: llm.Request, name: str, ends: list[llm.FinishReason]
) -> None:
    """Prints an answer line when it is there, with the time of its first token."""
    began, first, text = time.monotonic(), 0.0, ""
    for response in executor.stream(request):
        first = first or time.monotonic() - began
        text += response.text
        if response.is_request_final:
            ends.append(response.finish_reason)
    print(f"  [{name}: first token after {first:.2f} s] {text.strip()[:70]!r}", flush=True)


def main() -> None:
    """Runs the load and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model", nargs="?")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--streams", type=int, default=4)
    args = parser.parse_args()
    model = llm.Model(args.model or llm.fetch_model("smollm2-135m-instruct"))
    sampling = llm.SamplingParams(temperature=0.7, top_p=0.9, seed=1)
    began, ends = time.monotonic(), list[llm.FinishReason]()
    with llm.Executor(model, llm.ExecutorConfig(max_batch_size=32)) as executor:
        done = threading.Event()
        table = threading.Thread(target=show, args=(executor, done))
        table.start()
        streams, waiting = [], 0
        for i, prompt in enumerate(prompts(model.vocab, args.requests)):
            streamed = i < args.streams
            request = llm.Request(
                tokens=prompt, max_new_tokens=48, sampling=sampling, streaming=streamed
            )
            if streamed:
                arguments = (executor, request, f"#{i}", ends)
                streams.append(threading.Thread(target=stream, args=arguments))
                streams[-1].start()
            else:
                executor.enqueue_request(request)
                waiting += 1
        while waiting:
            for response in executor.await_responses():
                if response.is_request_final:
                    ends.append(response.finish_reason)
                    waiting -= 1
        for thread in streams:
            thread.join()
        done.set()
        table.join()
        stats = executor.stats()
    seconds, reasons = time.monotonic() - began, Counter(end.name for end in ends)
    print(f"{args.requests} requests in {seconds:.1f} s: {stats['generated_tokens']} tokens out,")
    print(f"{stats['prompt_tokens']} in, {stats['cached_prompt_tokens']} of them found computed;")
    print("ended by " + ", ".join(f"{name} {count}" for name, count in sorted(reasons.items())))


if __name__ == "__main__":
    sys.exit(main())
