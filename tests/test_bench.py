"""Benchmarks of a model: what they decode, their arithmetic, their rows. No figure is tested."""

from __future__ import annotations

import itertools
import json

import pytest
from reference.gguf_files import TinySpec

from my_llm_ffi import bench, cli, limits
from my_llm_ffi.limits import Limits
from my_llm_ffi.work import Bound, Operations, Work

LIMITS = Limits(read=1e9, copy=2e9, fma=1e10, int8=1e11)
SPEED = ["model", "n_prompt", "n_gen", "n_threads", "avg_ts", "stddev_ts", "samples_ts"]
REACHED = ["limit_ts", "limit", "of_limit", "limits"]


class Recorder:
    """A context that records what is decoded: tokens, or the entries of a batch."""

    def __init__(self):
        self.calls, self.last = [], -1

    def clear(self):
        self.calls.append("clear")
        self.last = -1

    def decode(self, tokens):
        self.calls.append(len(tokens))
        self.last += len(tokens)

    def seq_positions(self, seq):
        return None if self.last < 0 else (0, self.last)

    def seq_remove(self, seq, p0):
        self.calls.append(("remove", seq, p0))
        self.last = p0 - 1


class FakeBatch:
    """Keeps what is added."""

    def __init__(self):
        self.entries = []

    def add(self, token, position, seq_ids, logits):
        self.entries.append((token, position, *seq_ids, logits))

    def clear(self):
        self.entries = []


def test_a_depth_is_filled_once_and_kept():
    context = Recorder()
    tokens, past = list(range(600)), list(range(700))
    for timed in (bench.prefill, bench.decode):
        timed(context, tokens[:2], past)
    bench.prefill(context, tokens, past)
    assert context.calls == [
        *("clear", 512, 188, 2),
        *(("remove", 0, 700), 1, 1),
        *(("remove", 0, 700), 512, 88),
    ]
    assert context.last == 1299
    bench.decode(context, tokens[:1])
    assert context.calls[-2:] == ["clear", 1]


def test_sequences_decode_together(monkeypatch):
    seen = []
    context = Recorder()
    context.decode = lambda batch: seen.append(list(batch.entries))
    monkeypatch.setattr("my_llm_ffi.context.Batch", FakeBatch)
    clock = iter([0.0, 2.0, 5.0])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    seconds = bench.decode_together(context, range(100, 110), n_seqs=2, n_prompt=3, n_gen=2)
    assert seconds == (2.0, 3.0)
    assert context.calls == ["clear"]
    assert seen == [
        [
            *[(100, 0, 0, False), (101, 1, 0, False), (102, 2, 0, True)],
            *[(103, 0, 1, False), (104, 1, 1, False), (105, 2, 1, True)],
        ],
        [(106, 3, 0, True), (107, 3, 1, True)],
        [(108, 4, 0, True), (109, 4, 1, True)],
    ]


def test_rows_of_sequences_together(llm, tiny_file, monkeypatch):
    times = itertools.cycle([(9.0, 9.0), (1.0, 4.0)])  # the first is not counted
    monkeypatch.setattr(bench, "decode_together", lambda *args: next(times))
    path = tiny_file(TinySpec())
    rows = bench.bench_model(
        path, n_prompt=0, n_gen=0, parallel=[2], parallel_prompt=5, parallel_gen=3, repetitions=1
    )
    assert [bench.name_of(row) for row in rows] == ["2 × tg3 @ d5", "2 × pp5+tg3"]
    assert [row["avg_ts"] for row in rows] == [2 * 3 / 4, 2 * 8 / 5]
    assert list(rows[0]) == [*SPEED, "n_depth", "n_seqs"]
    assert rows[0]["n_depth"] == 5


def test_bounds():
    work = Work(1000, 10, Operations(int8=1e6), Operations(fma=1e5))
    alone = bench.Test(1100, 0).bound(work, LIMITS)
    assert alone == Bound(pytest.approx(1100 * 1e6 / 1e11 + 3 * 1e5 / 1e10), "compute")
    both = bench.Test(128, 4, n_seqs=16, parallel=True).bound(work, LIMITS)
    prompts = work.prefill(2048, 4, 16, LIMITS).seconds
    assert both.seconds == pytest.approx(prompts + work.decode(4, 16, 128, LIMITS).seconds)
    behind = bench.Test(0, 4, n_depth=4096).bound(work, LIMITS)
    assert behind == work.decode(4, 1, 4096, LIMITS)


@pytest.fixture
def measured(monkeypatch):
    """Limits that are known, on a machine without caches."""
    asked = []
    monkeypatch.setattr(limits, "measure", lambda n_threads: asked.append(n_threads) or LIMITS)
    monkeypatch.setattr("my_llm_ffi.work.last_level_cache", lambda: 0)
    return asked


def run(capsys, *arguments):
    assert cli.main(["bench", *map(str, arguments)]) == 0
    return capsys.readouterr()


def test_json_rows_carry_the_limits(tiny_file, capsys, measured):
    path = tiny_file(TinySpec(format="Q8_0"))
    sizes = ["-p", 9, "-n", 4, "-d", 3, "-t", 1, "-r", 2]
    out, err = run(capsys, path, *sizes, "--parallel", "2,3", "--npp", 5, "--ntg", 2, "--limits",
                   "-o", "json")  # fmt: skip
    rows = json.loads(out)
    assert measured == [1]
    assert err.startswith("limits of 1 threads, ")
    assert ": read 1.0 GB/s, copy 2.0 GB/s, fma 10.0 GFLOP/s, int8 100.0 GOP/s\n" in err
    assert [bench.name_of(row) for row in rows] == [
        *("pp9 @ d3", "tg4 @ d3"),
        *("2 × tg2 @ d5", "2 × pp5+tg2", "3 × tg2 @ d5", "3 × pp5+tg2"),
    ]
    for row in rows:
        extra = [key for key in ("n_depth", "n_seqs") if key in row]
        assert list(row) == [*SPEED, *extra, *REACHED]
        assert row["limits"] == LIMITS.as_dict()
        assert row["of_limit"] == pytest.approx(row["avg_ts"] / row["limit_ts"])
        assert len(row["samples_ts"]) == 2


def test_the_table_shows_the_part_that_is_reached(tiny_file, capsys, measured, monkeypatch):
    path = tiny_file(TinySpec())
    out, _ = run(capsys, path, "-p", 4, "-n", 2, "-r", 1, "--limits")
    line, empty, header, rule, *rows = out.splitlines()
    assert line.startswith("limits of ") and empty == ""
    assert header == "| model | threads | test | tokens/s | of limit |"
    assert rule.count("|") == 6
    assert [row.split(" | ")[-1].split(" of ")[1] for row in rows] == ["read |", "read |"]
    monkeypatch.setattr("my_llm_ffi.work.last_level_cache", lambda: 1 << 40)
    out, _ = run(capsys, path, "-p", 0, "-n", 2, "-r", 1, "--limits")
    assert out.splitlines()[-1].endswith(" | in cache |")
    out, _ = run(capsys, path, "-p", 0, "-n", 2, "-r", 1, "--limits", "-o", "json")
    assert json.loads(out)[0]["of_limit"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parallel", "2,0"], "0 is less than 1"),
        (["--parallel", "2,x"], "invalid list of integers value: '2,x'"),
        (["--parallel", "4097"], "4097 is more than 4096"),
        (["--npp", "0"], "0 is less than 1"),
        (["--ntg", "0"], "0 is less than 1"),
        (["-d", "-1"], "-1 is less than 0"),
    ],
)
def test_wrong_usage(tiny_file, capsys, arguments, message):
    assert cli.main(["bench", str(tiny_file(TinySpec())), *arguments]) == 2
    assert message in capsys.readouterr().err
