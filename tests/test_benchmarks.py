"""Every op is measured. What the benchmarks find is never tested: that depends on the machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from reference.gguf_files import TinySpec

FILES = sorted(
    f
    for f in (Path(__file__).parents[1] / "benchmarks").glob("bench_*.py")
    if f.stem not in ("bench_cuda", "bench_tensorrt")  # programs of their own
)


def test_every_op_has_a_row(llm):
    text = "\n".join(f.read_text("utf-8") for f in FILES)
    missing = [op for op in dir(llm.ops) if not re.search(rf"\bops\.{op}\b", text)]
    assert not missing, "no file benchmarks/bench_*.py calls these"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_file_can_be_found(file):
    assert re.search(r"^def cases\(", file.read_text("utf-8"), re.M), "python -m benchmarks asks it"


# ---- bench_cuda.py -------------------------------------------------------------------------------

CUDA = FILES[0].with_name("bench_cuda.py")


def on_cuda(*arguments):
    command = [sys.executable, str(CUDA), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_op_has_a_row_on_cuda(llm):
    pytest.importorskip("torch", reason="torch is not installed")
    text = "\n".join(f.read_text("utf-8") for f in CUDA.parent.glob("cuda_*.py"))
    named = {*re.findall(r"\bops\.(\w+)\b", text), *re.findall(r'"name": "(\w+)"', text)}
    named |= {"softmax", "log_softmax"}
    assert set(dir(llm.ops)) - named == {"pack_weight"}  # refused on CUDA


def test_the_table_of_cuda_on_tiny_tensors():
    """The answers are compared with torch's; the figures are not looked at."""
    pytest.importorskip("torch", reason="torch is not installed")
    done = on_cuda("--device", "cpu", "--shrink", "4096")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 were not run" in done.stdout


def test_the_table_of_cuda_without_time():
    pytest.importorskip("torch", reason="torch is not installed")
    done = on_cuda("--device", "cpu", "--shrink", "4096", "--seconds", "0", "rms_norm")
    assert done.returncode == 0
    rows = [line for line in done.stdout.splitlines() if line.startswith("| rms_norm")]
    assert len(rows) == 2
    assert all("| not run |" in row for row in rows)


# ---- vs_llama_cpp.py -----------------------------------------------------------------------------

LLAMA_BENCH = """#!{python}
import json, sys
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert args["-o"] == "json" and args["-r"] == "1"
sizes = [(int(args["-p"]), 0), (0, int(args["-n"]))]
depth = int(args.get("-d", 0))
print(json.dumps([dict(n_prompt=p, n_gen=g, n_depth=depth, avg_ts=2.0) for p, g in sizes if p + g]))
"""
BATCHED_BENCH = """#!{python}
import json, sys
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
fixed = [args[key] for key in ("--output-format", "-c", "-b", "-ub")]
assert fixed == ["jsonl", "8192", "2048", "512"]
print("a line of the log")
for n in args["-npl"].split(","):
    sizes = dict(pp=int(args["-npp"]), tg=int(args["-ntg"]), pl=int(n))
    print(json.dumps(dict(sizes, speed_tg=4.0, speed=8.0)))
"""


def program(path: Path, text: str) -> str:
    path.write_text(text.replace("{python}", sys.executable), "utf-8")
    path.chmod(0o755)
    return str(path)


def compare(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(FILES[0].with_name("vs_llama_cpp.py")), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_comparison_with_llama_cpp(tiny_file, tmp_path):
    model = tiny_file(TinySpec(n_ctx_train=1024))
    done = compare(
        str(model), "-p", "6", "-n", "3", "-t", "1", "-r", "2", "--depth", "40",
        "--llama-bench", program(tmp_path / "llama-bench", LLAMA_BENCH),
        "--llama-batched-bench", program(tmp_path / "llama-batched-bench", BATCHED_BENCH),
        "--parallel", "2,3", "--npp", "5", "--ntg", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header, rule, *rows, empty, limits = done.stdout.splitlines()
    assert rule.count("|") == header.count("|") and empty == ""
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [c[1] for c in cells] == [
        *("pp6", "tg3", "tg32 @ d40"),
        *("2 × tg2 @ d5", "2 × pp5+tg2", "3 × tg2 @ d5", "3 × pp5+tg2"),
        "load s; peak RSS of (file + KV)",
    ]
    assert [c[3] for c in cells[:-1]] == ["2.0"] * 3 + ["4.0", "8.0"] * 2
    for c in cells[:-1]:
        assert len(c) == header.count("|") - 1
        assert float(c[4]) == pytest.approx(float(c[2]) / float(c[3]), rel=0.01, abs=0.1)
        assert len(c[6].split(", ")) == 2
    assert re.fullmatch(r"[\d.]+; [\d.]+ × \d+ MiB", cells[-1][2])
    assert re.match(r"Limits of 1 threads, median of the rounds: read [\d.]+ GB/s \(", limits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--llama-bench"),
        (["--llama-bench", "x", "--parallel", "2"], "--parallel needs --llama-batched-bench"),
        (
            ["--llama-bench", "x", "--llama-batched-bench", "y", "--parallel", "16,64"],
            "--parallel 64: more than the peer's context of 8192 tokens",
        ),
    ],
)
def test_the_comparison_refuses(arguments, message):
    done = compare("model.gguf", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_comparison_shows_why_a_program_failed(tiny_file, tmp_path):
    peer = program(tmp_path / "llama-bench", "#!{python}\nraise SystemExit('cannot load')\n")
    done = compare(str(tiny_file(TinySpec())), "--llama-bench", peer, "-p", "1", "-n", "1")
    assert done.returncode == 1
    assert "failed: " in done.stderr and "cannot load" in done.stderr
