"""The executor's figures, one command for each question; prints rows of a table.

    python benchmarks/executor.py throughput MODEL --llama-batched-bench PATH [--parallel 16,32]
    python benchmarks/executor.py overhead MODEL
    python benchmarks/executor.py latency MODEL
    python benchmarks/executor.py prefix MODEL
    python benchmarks/executor.py guided MODEL
    python benchmarks/executor.py soak MODEL [--requests 10000] [--lora FILE]

`-r` rounds, alternating where two things are compared; figures are medians. Prompts are random
tokens, answers ignore end tokens, so that all have the length that is asked for.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import my_llm_ffi as llm

PROMPT, ANSWER = 128, 64
PEER_OPTIONS = ["-c", "8192", "-b", "2048", "-ub", "512", "-npp", str(PROMPT), "-ntg", str(ANSWER)]
SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0},
            "emails": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "age", "emails"],
    },
    {
        "type": "object",
        "properties": {
            "location": {"type": "string"},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "array", "items": {"type": "number"}},
        },
        "required": ["location", "unit", "days"],
    },
    {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "title": {"type": "string"},
                "done": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["title", "done", "tags"],
        },
    },
]


def random_tokens(n: int, n_vocab: int, seed: int) -> list[int]:
    """A prompt that shares nothing with another seed's."""
    numbers = random.Random(seed)
    return [numbers.randrange(n_vocab) for _ in range(n)]


def finish(executor: llm.Executor, requests: Sequence[llm.Request]) -> tuple[float, int]:
    """Enqueues all at once and reads all; seconds and tokens of answers."""
    began, tokens, open_requests = time.perf_counter(), 0, len(requests)
    for request in requests:
        executor.enqueue_request(request)
    while open_requests:
        for response in executor.await_responses():
            tokens += len(response.tokens)
            if response.error:
                raise SystemExit(f"request {response.request_id}: {response.error}")
            open_requests -= response.is_request_final
    return time.perf_counter() - began, tokens


def requests_of(n: int, n_vocab: int, seed: int, **fields: Any) -> list[llm.Request]:
    """The load of llama-batched-bench: n prompts of random tokens, answers of one length."""
    options: dict[str, Any] = {"max_new_tokens": ANSWER, "ignore_eos": True, **fields}
    return [
        llm.Request(tokens=random_tokens(PROMPT, n_vocab, 1000 * seed + i), **options)
        for i in range(n)
    ]


def peer_totals(binary: str, model: str, parallel: Sequence[int], threads: int) -> dict[int, float]:
    """Total tokens/s (prompt and answer over wall time) by number of sequences."""
    command = [binary, "-m", model, *PEER_OPTIONS, "-npl", ",".join(map(str, parallel))]
    command += ["-t", str(threads), "--output-format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["pl"]: row["speed"] for row in rows}


def throughput(args: argparse.Namespace) -> None:
    """Total tokens/s with many requests at once, beside llama.cpp's batched-bench."""
    model = llm.Model(args.model, n_threads=args.threads)
    n_vocab = model.vocab.size
    ours: dict[int, list[float]] = {n: [] for n in args.parallel}
    peers: dict[int, list[float]] = {n: [] for n in args.parallel}
    outside: dict[int, list[float]] = {n: [] for n in args.parallel}

    def run_ours(seed: int) -> None:
        for n in args.parallel:
            with llm.Executor(model, llm.ExecutorConfig(max_batch_size=n)) as executor:
                seconds, tokens = finish(executor, requests_of(n, n_vocab, seed))
                stats = executor.stats()
            ours[n].append((PROMPT * n + tokens) / seconds)
            outside[n].append(1 - stats["forward_seconds"] / seconds)

    def run_peer() -> None:
        if not args.llama_batched_bench:
            return
        totals = peer_totals(args.llama_batched_bench, args.model, args.parallel, args.threads)
        for n, total in totals.items():
            peers[n].append(total)

    for seed in range(args.rounds):
        first, second = (lambda: run_ours(seed)), run_peer
        for run in (first, second) if seed % 2 == 0 else (second, first):
            run()
    print("| model | requests | ours, tokens/s in all | llama.cpp | ratio | outside forward |")
    print("|---|---:|---:|---:|---:|---:|")
    for n in args.parallel:
        mine = statistics.median(ours[n])
        peer = statistics.median(peers[n]) if peers[n] else float("nan")
        part = statistics.median(outside[n])
        name = Path(args.model).name
        print(f"| {name} | {n} | {mine:.0f} | {peer:.0f} | {mine / peer:.2f} | {part:.1%} |")


def overhead(args: argparse.Namespace) -> None:
    """A decode step of one request, through the executor and through Model.generate, on the wall.

    The executor's is the mean gap between streamed tokens as their reader sees them.
    """
    model = llm.Model(args.model, n_threads=args.threads)
    prompt, n = random_tokens(16, model.vocab.size, 0), 128

    def direct() -> float:
        start = time.perf_counter()
        timings = model.generate(prompt, max_new_tokens=n).timings
        seconds = time.perf_counter() - start - timings.prompt_seconds
        return seconds / timings.generated_tokens

    steps: dict[str, list[float]] = {"generate": [], "executor": []}
    with llm.Executor(model, llm.ExecutorConfig(enable_prefix_cache=False)) as executor:
        for _ in range(args.rounds):
            steps["generate"].append(direct())
            times = []
            request = llm.Request(tokens=prompt, max_new_tokens=n, ignore_eos=True, streaming=True)
            for response in executor.stream(request):
                times.append((time.perf_counter(), len(response.tokens)))
            tokens = sum(count for _, count in times[1:])
            steps["executor"].append((times[-1][0] - times[0][0]) / tokens)
    ratios = [e / g for e, g in zip(steps["executor"], steps["generate"])]
    direct_ms, executor_ms = (1e3 * statistics.median(steps[k]) for k in ("generate", "executor"))
    print("| model | generate, ms per token | executor, ms per token | ratio of the pairs |")
    print("|---|---:|---:|---:|")
    ratio = statistics.median(ratios)
    print(f"| {Path(args.model).name} | {direct_ms:.3f} | {executor_ms:.3f} | {ratio:.3f} |")


def latency(args: argparse.Namespace) -> None:
    """Gaps between the tokens of running requests while a long prompt comes in."""
    model = llm.Model(args.model, n_threads=args.threads)
    n_vocab, chunk, n_running = model.vocab.size, 256, 8
    config = llm.ExecutorConfig(max_num_tokens=chunk, enable_prefix_cache=False)
    gaps: list[float] = []
    with llm.Executor(model, config) as executor:
        alone = statistics.median(
            finish(
                executor,
                [llm.Request(tokens=random_tokens(chunk, n_vocab, s), max_new_tokens=1)],
            )[0]
            for s in range(5)
        )
        times: dict[int, list[float]] = {i: [] for i in range(n_running)}

        def run(i: int) -> None:
            request = llm.Request(
                tokens=random_tokens(16, n_vocab, 50 + i),
                max_new_tokens=200,
                ignore_eos=True,
                streaming=True,
            )
            for _ in executor.stream(request):
                times[i].append(time.perf_counter())

        threads = [threading.Thread(target=run, args=(i,)) for i in range(n_running)]
        for thread in threads:
            thread.start()
        while min(len(t) for t in times.values()) < 20:
            time.sleep(0.01)
        begin = time.perf_counter()
        for _ in range(args.rounds):
            tokens = random_tokens(2000, n_vocab, 77)
            finish(executor, [llm.Request(tokens=tokens, max_new_tokens=1)])
        end = time.perf_counter()
        for thread in threads:
            thread.join()
    for stamps in times.values():
        pairs = zip(stamps, stamps[1:])
        gaps += [b - a for a, b in pairs if begin <= a and b <= end]
    gaps.sort()
    worst = gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))]
    print("| model | gaps | p50, ms | p99, ms | one step of 256 tokens, ms | p99 / step |")
    print("|---|---:|---:|---:|---:|---:|")
    middle = statistics.median(gaps)
    print(
        f"| {Path(args.model).name} | {len(gaps)} | {1e3 * middle:.1f} | {1e3 * worst:.1f} | "
        f"{1e3 * alone:.1f} | {worst / alone:.2f} |"
    )


def prefix(args: argparse.Namespace) -> None:
    """Requests that share a prefix: how much of the prompts is computed."""
    model = llm.Model(args.model, n_threads=args.threads)
    n_vocab, n = model.vocab.size, 1000
    shared = random_tokens(512, n_vocab, 1)
    requests = [
        llm.Request(tokens=shared + random_tokens(16, n_vocab, 100 + i), max_new_tokens=1)
        for i in range(n)
    ]
    with llm.Executor(model, llm.ExecutorConfig()) as executor:
        seconds, _ = finish(executor, requests)
        stats = executor.stats()
    computed, asked = stats["computed_tokens"], sum(len(r.tokens) for r in requests)
    print("| model | requests | prompt tokens | computed | less by | seconds |")
    print("|---|---:|---:|---:|---:|---:|")
    less = 1 - computed / asked
    print(f"| {Path(args.model).name} | {n} | {asked} | {computed} | {less:.1%} | {seconds:.1f} |")


def guided(args: argparse.Namespace) -> None:
    """JSON answers beside free text, 16 requests at once, no jump-forward.

    Of steps that compute 16 tokens, one for each: JSON may end before `ANSWER` tokens, and then
    the next prompt comes in.
    """
    from my_llm_ffi.guided import Guided, GuidedDecoding

    model = llm.Model(args.model, n_threads=args.threads)
    n, n_vocab = 16, model.vocab.size
    grammars = [Guided.json_schema(schema) for schema in SCHEMAS]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    before = {"generated_tokens": 0, "computed_tokens": 0, "step_seconds": 0}
    steps: list[float] = []

    def on_step(stats: dict[str, Any]) -> None:
        generated, computed, spent = (stats[key] - before[key] for key in before)
        if generated == computed == n:
            steps.append(spent)
        before.update({key: stats[key] for key in before})

    with llm.Executor(
        model,
        llm.ExecutorConfig(enable_prefix_cache=False, max_batch_size=n),
        logits_post_processor=GuidedDecoding(model),
        on_step=on_step,
    ) as executor:
        for seed in range(args.rounds + 1):
            for with_grammar in (False, True) if seed % 2 else (True, False):
                requests = [
                    llm.Request(
                        tokens=random_tokens(PROMPT, n_vocab, 10 * seed + i),
                        max_new_tokens=ANSWER,
                        min_tokens=0 if with_grammar else ANSWER,
                        ignore_eos=not with_grammar,
                        sampling=llm.SamplingParams(temperature=0.8, seed=i),
                        guided=grammars[i % len(grammars)] if with_grammar else None,
                    )
                    for i in range(3 * n)
                ]
                steps.clear()
                finish(executor, requests)
                if seed > 0:
                    seconds[with_grammar].append(statistics.median(steps))
    free, json_speed = (n / statistics.median(seconds[k]) for k in (False, True))
    print("| model | free, tokens/s | JSON, tokens/s | JSON / free |")
    print("|---|---:|---:|---:|")
    print(f"| {Path(args.model).name} | {free:.0f} | {json_speed:.0f} | {json_speed / free:.3f} |")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def random_request(numbers: random.Random, n_vocab: int, lora: str | None) -> llm.Request:
    """One of the mixed load of `soak`."""
    several = numbers.random() < 0.2
    streaming = numbers.random() < 0.5 and not several
    return llm.Request(
        tokens=random_tokens(numbers.randrange(1, 80), n_vocab, numbers.randrange(200)),
        max_new_tokens=numbers.randrange(1, 40),
        sampling=llm.SamplingParams(temperature=0.9, seed=numbers.randrange(2**31)),
        streaming=streaming,
        num_return_sequences=numbers.randrange(2, 5) if several else 1,
        priority=float(numbers.randrange(3)),
        deadline_ms=numbers.choice([None, None, None, 50.0, 500.0]),
        lora=lora if numbers.random() < 0.3 else None,
        use_logits_post_processor=numbers.random() < 0.2,
    )


def soak(args: argparse.Namespace) -> None:
    """Random requests with cancels, deadlines and failing callbacks: what must stay flat."""
    model = llm.Model(args.model, n_threads=args.threads)
    numbers, n_vocab = random.Random(1), model.vocab.size

    def sometimes_raise(entries: list[llm.MaskEntry]) -> None:
        if numbers.random() < 0.02:
            raise ValueError("now and then")

    config = llm.ExecutorConfig(max_batch_size=32, kv_cache_tokens=4096, max_queue_size=64)
    finals: dict[int, int] = {}
    memory: list[int] = []
    with llm.Executor(model, config, logits_post_processor=sometimes_raise) as executor:
        if args.lora:
            executor.load_lora("adapter", args.lora)
        lora = "adapter" if args.lora else None
        sent = 0
        while sum(finals.values()) < args.requests:
            while sent < args.requests and executor.can_enqueue_request():
                request = random_request(numbers, n_vocab, lora)
                try:
                    rid = executor.enqueue_request(request)
                except RuntimeError:  # what ran has ended meanwhile, and waits to be read
                    break
                sent += 1
                if numbers.random() < 0.1:
                    executor.cancel_request(numbers.randrange(rid + 1))
            for response in executor.await_responses(100):
                if response.is_request_final:
                    finals[response.request_id] = finals.get(response.request_id, 0) + 1
            memory.append(resident())
        stats = executor.stats()
    half = memory[len(memory) // 2 :]
    once = all(count == 1 for count in finals.values()) and len(finals) == args.requests
    print("| model | requests | each ended once | blocks used | pre-emptions | RSS, 2nd half |")
    print("|---|---:|---|---:|---:|---|")
    spread = (max(half) - min(half)) / statistics.median(half)
    print(
        f"| {Path(args.model).name} | {args.requests} | {once} | {stats['blocks_used']} | "
        f"{stats['preemptions']} | {statistics.median(half) / 2**20:.0f} MiB, {spread:.1%} apart |"
    )


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "throughput": throughput,
    "overhead": overhead,
    "latency": latency,
    "prefix": prefix,
    "guided": guided,
    "soak": soak,
}


def main() -> None:
    """Runs one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("model")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument(
        "--parallel", type=lambda text: [int(n) for n in text.split(",")], default=[16, 32]
    )
    parser.add_argument("--llama-batched-bench")
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--lora")
    args = parser.parse_args()
    COMMANDS[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
