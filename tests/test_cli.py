"""The command line over a fake Model: arguments, output, exit statuses; and bench's arithmetic."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

import my_llm_ffi
from my_llm_ffi import _ffi_api, bench, cli
from my_llm_ffi.cli import commands

PIECES = ["Be", "cause", " é\n", ""]


class FakeContext:
    """Records what is decoded."""

    def __init__(self, **options):
        self.options, self.calls = options, []

    def clear(self):
        self.calls.append("clear")

    def decode(self, tokens):
        assert all(0 <= token < 50 for token in tokens)
        self.calls.append(len(tokens))


class FakeVocab:
    """Bytes as tokens, shifted by one; 0 is BOS."""

    chat_template = "{{ messages }}"

    @classmethod
    def from_file(cls, path):
        return cls()

    def tokenize(self, text, *, add_special=True, parse_special=False):
        return [0] * add_special + [byte + 1 for byte in text.encode()] + [300] * parse_special

    def piece(self, token):
        return b"<s>" if token == 0 else bytes([token - 1]) if token < 257 else b"<|end|>"


class FakeStream:
    """Pieces, then the result."""

    def __init__(self, pieces):
        self._pieces = iter(pieces)
        self.result = SimpleNamespace(
            tokens=[1, 2, 3, 4, 5],
            finish_reason=SimpleNamespace(name="END_ID"),
            timings=SimpleNamespace(
                prompt_tokens=10, prompt_seconds=0.5, generated_tokens=4, generated_seconds=0.0
            ),
        )

    def __iter__(self):
        return self._pieces


class FakeModel:
    """Remembers how it was called."""

    made: ClassVar[list[FakeModel]] = []
    error: BaseException | None = None

    def __init__(self, path, **options):
        if self.error is not None:
            raise self.error
        self.path, self.options, self.closed = path, options, False
        self.config = SimpleNamespace(
            architecture="llama", n_layers=2, n_embd=8, n_heads=2, n_kv_heads=1, n_ctx_train=64,
            n_vocab=50,
        )  # fmt: skip
        self.metadata = {"name": "fake", "tokens": ["x"] * 99, "few": [1, 2], "on": True}
        self.vocab = FakeVocab()
        FakeModel.made.append(self)
        if options.get("progress"):
            assert options["progress"](0.5) is True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True

    def stream(self, prompt, **options):
        self.call = ("stream", prompt, options)
        return FakeStream(PIECES)

    def chat(self, messages, **options):
        self.call = ("chat", messages, options)
        return FakeStream(PIECES)

    def context(self, **options):
        self.ctx = FakeContext(**options)
        return self.ctx


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The package with a fake Model; returns the path of a file that exists."""
    monkeypatch.setattr(FakeModel, "made", [])
    monkeypatch.setattr(FakeModel, "error", None)
    monkeypatch.setattr(my_llm_ffi, "Model", FakeModel, raising=False)
    monkeypatch.setattr(my_llm_ffi, "Vocab", FakeVocab, raising=False)
    monkeypatch.setattr(my_llm_ffi, "SamplingParams", SimpleNamespace, raising=False)
    with_tensors = SimpleNamespace(open=lambda path: SimpleNamespace(n_tensors=lambda: 3))
    monkeypatch.setattr(_ffi_api, "Gguf", with_tensors)
    path = tmp_path / "fake.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


def test_generate_streams_and_reports(fake, capsys):
    options = "--max-new-tokens 7 --temperature 0.5 --top-k 4 --top-p 0.9 --min-p 0.1 --seed 3"
    arguments = ["generate", fake, "--prompt", "Why?", "--threads", "2", "--stop", r"a\n"]
    assert cli.main([*arguments, *options.split()]) == 0
    out, err = capsys.readouterr()
    assert out == "Because é\n"
    assert err == (
        "[prompt 10 tokens, 20.0 tokens/s; generated 5 tokens, no time taken; finished: end_id]\n"
    )
    (model,) = FakeModel.made
    assert model.options["n_threads"] == 2
    assert model.closed
    kind, prompt, given = model.call
    assert (kind, prompt) == ("stream", "Why?")
    assert given == {
        "max_new_tokens": 7,
        "stop": ("a\n",),
        "sampling": SimpleNamespace(temperature=0.5, top_k=4, top_p=0.9, min_p=0.1, seed=3),
    }


def test_generate_with_the_chat_template(fake):
    arguments = ["generate", fake, "--chat", "--prompt", "Why?", "--system", "Be brief."]
    assert cli.main([*arguments, "--n-ctx", "128"]) == 0
    kind, messages, given = FakeModel.made[0].call
    assert kind == "chat"
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
    assert given["stream"] is True
    assert given["n_ctx"] == 128
    assert given["sampling"].temperature == 0.0


def test_chat_without_a_template_is_wrong_usage(fake, monkeypatch, capsys):
    monkeypatch.setattr(FakeVocab, "chat_template", "")
    assert cli.main(["generate", fake, "--chat", "--prompt", "Why?"]) == 2
    assert f"error: {fake} has no chat template: leave --chat out\n" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--prompt", "-"]])
def test_generate_reads_stdin(fake, monkeypatch, arguments):
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert cli.main(["generate", fake, *arguments]) == 0
    assert FakeModel.made[0].call[1] == "from a pipe"


def test_generate_without_a_prompt_on_a_terminal(fake, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert cli.main(["generate", fake]) == 2
    assert "my-llm-ffi: error: there is no --prompt" in capsys.readouterr().err


def test_text_ends_with_a_line_end(fake, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[__name__], "PIECES", ["no end", ""])
    assert cli.main(["generate", fake, "--prompt", "x"]) == 0
    assert capsys.readouterr().out == "no end\n"


def test_a_known_model_is_fetched(fake, monkeypatch):
    monkeypatch.setattr(commands, "fetch_model", lambda name: commands.Path(fake))
    assert cli.main(["generate", "--prompt", "x"]) == 0
    assert str(FakeModel.made[0].path) == fake


def test_run_example(fake, monkeypatch, capsys):
    monkeypatch.setattr(commands, "fetch_model", lambda name: commands.Path(fake))
    assert cli.run_example_generate([]) == 0
    assert FakeModel.made[0].call[0] == "chat"
    assert "tokens/s" in capsys.readouterr().err
    arguments = ["--model", fake, "--prompt", "x", "--max-new-tokens", "3", "--temperature", "1"]
    assert cli.run_example_generate(arguments) == 0
    kind, prompt, given = FakeModel.made[1].call
    assert (kind, prompt, given["max_new_tokens"]) == ("stream", "x", 3)
    assert cli.run_example_generate(["--prompt=x", "--chat"]) == 0
    assert FakeModel.made[2].call[0] == "chat"


def test_tokenize(fake, capsys):
    assert cli.main(["tokenize", fake, "hé"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "       0  '<s>'",
        "     105  'h'",
        r"     196  '\\xc3'",
        r"     170  '\\xa9'",
    ]
    assert cli.main(["tokenize", fake, "h", "--no-special", "--parse-special", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"tokens": [105, 300], "pieces": ["h", "<|end|>"]}


def test_info(fake, capsys):
    assert cli.main(["info", fake]) == 0
    out = capsys.readouterr().out
    assert "architecture   llama\n" in out
    assert "tokens         <99 items>\n" in out
    assert cli.main(["info", fake, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n_vocab"] == 50
    assert facts["size_bytes"] == 4
    assert facts["chat_template"] is True
    expected = {"name": "fake", "tokens": "<99 items>", "few": [1, 2], "on": True}
    assert facts["metadata"] == expected


def test_tokenize_prints_json_where_stdout_is_not_utf8(fake, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(FakeVocab, "piece", lambda self, token: "é".encode())
    assert cli.main(["tokenize", fake, "x", "--no-special", "--json"]) == 0
    assert json.loads(stream.buffer.getvalue()) == {"tokens": [121], "pieces": ["é"]}


def test_fetch(fake, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        commands, "fetch_model", lambda name, cache_dir: asked.append((name, cache_dir)) or fake
    )
    assert cli.main(["fetch", "smollm2-135m-instruct", "--cache-dir", "/x"]) == 0
    assert asked == [("smollm2-135m-instruct", "/x")]
    assert capsys.readouterr().out == f"{fake}\n"


# ---- bench ---------------------------------------------------------------------------------------


def test_bench_decodes_what_it_says(fake, monkeypatch):
    clock = itertools.count()  # every timed run takes one second
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    fractions = []
    rows = bench.bench_model(
        fake, n_prompt=1100, n_gen=3, n_threads=2, repetitions=2, progress=fractions.append
    )
    context = FakeModel.made[0].ctx
    assert context.options == {"n_ctx": 1100, "n_batch": 512}
    assert context.calls == ["clear", 512, 512, 76] * 3 + ["clear", 1, 1, 1] * 3
    assert fractions == pytest.approx([i / 6 for i in range(1, 7)])
    shared = {"model": "fake.gguf", "n_threads": 2, "stddev_ts": 0.0}
    assert rows == [
        {**shared, "n_prompt": 1100, "n_gen": 0, "avg_ts": 1100.0, "samples_ts": [1100.0] * 2},
        {**shared, "n_prompt": 0, "n_gen": 3, "avg_ts": 3.0, "samples_ts": [3.0] * 2},
    ]
    assert FakeModel.made[0].closed


def test_bench_mean_and_deviation(fake, monkeypatch):
    times = iter([0, 1, 0, 2, 0, 1, 0, 4])  # the first run is not counted
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    (row,) = bench.bench_model(fake, n_prompt=8, n_gen=0, repetitions=3)
    assert row["samples_ts"] == [4.0, 8.0, 2.0]
    assert row["avg_ts"] == pytest.approx(14 / 3)
    assert row["stddev_ts"] == pytest.approx(3.0550504633)
    assert row["n_threads"] == len(os.sched_getaffinity(0))


def test_bench_prints_a_table_or_json(fake, capsys):
    arguments = ["bench", fake, fake, "-p", "4", "-n", "2", "-t", "1", "-r", "1"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| model | threads | test | tokens/s |"
    assert len(lines) == 6
    assert lines[2].startswith("| fake.gguf | 1 | pp4 | ")
    assert lines[3].startswith("| fake.gguf | 1 | tg2 | ")
    assert lines[3].endswith(" ± 0.00 |")
    assert cli.main([*arguments, "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [(4, 0), (0, 2)] * 2
    names = ["model", "n_prompt", "n_gen", "n_threads", "avg_ts", "stddev_ts", "samples_ts"]
    assert list(rows[0]) == names


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["frob"], "invalid choice: 'frob'"),
        (["generate", "FILE", "--max-new-tokens", "0"], "0 is less than 1"),
        (["generate", "FILE", "--max-new-tokens", "x"], "invalid integer value: 'x'"),
        (["generate", "FILE", "--temperature", "nan"], "nan is not between 0 and 100"),
        (["generate", "FILE", "--temperature", "-1"], "-1 is not between 0 and 100"),
        (["generate", "FILE", "--top-p", "1.5"], "1.5 is not between 0 and 1"),
        (["generate", "FILE", "--top-p", "0"], "0 is not above 0"),
        (["generate", "FILE", "--seed", "-1"], "-1 is less than 0"),
        (["generate", "FILE", "--seed", str(2**63)], f"{2**63} is more than {2**63 - 1}"),
        (["generate", "FILE", "--top-k", str(10**30)], "is more than"),
        (["generate", "FILE", "--n-ctx", str(2**31)], "is more than 1073741824"),
        (["generate", "FILE", "--threads", "65536"], "65536 is more than 65535"),
        (["bench", "FILE", "-p", str(2**31)], "is more than 1073741824"),
        (["generate", "FILE", "--stop", ""], "a stop string is empty"),
        (["generate", "FILE", "--prompt", "x", "--system", "y"], "--system needs --chat"),
        (["fetch", "nope"], "invalid choice: 'nope'"),
        (["bench", "FILE", "-p", "0", "-n", "0"], "nothing to measure"),
        (["bench"], "the following arguments are required: MODEL"),
    ],
)
def test_wrong_usage_is_status_2(fake, capsys, arguments, message):
    assert cli.main([fake if arg == "FILE" else arg for arg in arguments]) == 2
    assert message in capsys.readouterr().err
    assert FakeModel.made == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["generate", "FILE", "--prompt", "a\udcff"], "--prompt"),
        (["generate", "FILE", "--chat", "--prompt", "x", "--system", "\udcff"], "--system"),
        (["generate", "FILE", "--prompt", "x", "--stop", "a", "--stop", "\udcff"], "--stop"),
        (["tokenize", "FILE", "\udcff"], "TEXT"),
    ],
)
def test_bytes_that_are_no_text_are_wrong_usage(fake, capsys, arguments, name):
    assert cli.main([fake if arg == "FILE" else arg for arg in arguments]) == 2
    assert f"error: {name} holds the byte 0xff, which is no text in" in capsys.readouterr().err
    assert FakeModel.made == []


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_stdin_that_is_no_text_is_wrong_usage(fake, monkeypatch, capsys, errors):
    raw = io.BytesIO(b"a\xff")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, "utf-8", errors=errors))
    assert cli.main(["generate", fake]) == 2
    said = "error: stdin holds the byte 0xff, which is no text in utf-8\n"
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.parametrize("command", ["info", "generate"])
def test_what_is_no_regular_file_is_called_so(tmp_path, capsys, command):
    os.mkfifo(tmp_path / "pipe")
    rest = ["--prompt", "x"] if command == "generate" else []
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        assert cli.main([command, path, *rest]) == 1
        said = f"error: {path} is not a regular file, expected a GGUF file"
        assert said in capsys.readouterr().err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"my-llm-ffi {my_llm_ffi.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["generate"], ["tokenize"], ["info"], ["fetch"], ["bench"]]
)
def test_help_is_status_0_and_teaches(capsys, arguments):
    assert cli.main([*arguments, "--help"]) == 0
    out = capsys.readouterr().out
    assert "example" in out or "known models" in out


def test_a_failure_is_one_line_and_status_1(fake, monkeypatch, capsys):
    monkeypatch.setattr(FakeModel, "error", ValueError("not a GGUF\nfile"))
    assert cli.main(["info", fake]) == 1
    assert capsys.readouterr().err == "my-llm-ffi: error: not a GGUF file\n"
    with pytest.raises(ValueError, match="not a GGUF"):
        cli.main(["info", fake, "--debug"])


@pytest.mark.parametrize("command", ["generate", "info", "bench", "tokenize"])
def test_a_missing_file_is_named(fake, capsys, command):
    rest = {"generate": ["--prompt", "x"], "tokenize": ["x"]}.get(command, [])
    assert cli.main([command, "/no/such.gguf", *rest]) == 1
    assert capsys.readouterr().err.startswith("my-llm-ffi: error: /no/such.gguf: no such file")


@pytest.mark.parametrize("command", ["generate", "info", "bench", "tokenize"])
def test_a_directory_is_called_one(fake, tmp_path, capsys, command):
    rest = {"generate": ["--prompt", "x"], "tokenize": ["x"]}.get(command, [])
    assert cli.main([command, str(tmp_path), *rest]) == 1
    assert f"error: {tmp_path} is a directory, expected a GGUF file" in capsys.readouterr().err


def test_a_directory_named_like_a_known_model(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m-instruct").mkdir()
    monkeypatch.setattr(commands, "fetch_model", lambda name: commands.Path(fake))
    assert cli.main(["generate", "--prompt", "x"]) == 0


@pytest.mark.parametrize("arguments", [["--help"], ["--hel"], ["--max-new-tokens", "x"]])
def test_the_example_asks_only_when_it_runs(fake, capsys, arguments):
    assert cli.run_example_generate(arguments) == (2 if "x" in arguments else 0)
    assert "Why is the sky blue?" not in capsys.readouterr().err


def test_ctrl_c_is_status_130(fake, monkeypatch, capsys):
    monkeypatch.setattr(FakeModel, "error", KeyboardInterrupt())
    assert cli.main(["generate", fake, "--prompt", "x"]) == 130
    assert capsys.readouterr().err == "my-llm-ffi: interrupted\n"


CHILD = """
import signal, sys, types, my_llm_ffi
from my_llm_ffi import cli
from my_llm_ffi.cli import commands
signal.signal(signal.SIGINT, signal.default_int_handler)
my_llm_ffi.SamplingParams = types.SimpleNamespace
my_llm_ffi.Model = None
def write_for_ever(path):
    while True:
        commands._write("line\\n")
commands.fetch_model = write_for_ever
raise SystemExit(cli.main(["generate", "--prompt", "x"]))
"""


@pytest.mark.parametrize(("by", "status", "said"), [
    ("closed pipe", 0, b""),
    ("Ctrl-C", 130, b"my-llm-ffi: interrupted\n"),
])  # fmt: skip
def test_a_reader_that_leaves_and_a_user_who_interrupts(by, status, said):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout.readline() == b"line\n"
    if by == "Ctrl-C":
        child.send_signal(signal.SIGINT)
        assert child.communicate()[1] == said
    else:
        child.stdout.close()
        assert child.stderr.read() == said
        child.stderr.close()
    assert child.wait() == status


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "my_llm_ffi", "frob"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage: my-llm-ffi" in done.stderr


def test_stdout_of_another_encoding(fake):
    code = "from my_llm_ffi.cli.commands import _write; _write('é🎈\\n')"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env, check=True)
    assert done.stdout == b"\\xe9\\U0001f388\n"


def test_progress_draws_on_a_terminal_only(monkeypatch):
    from my_llm_ffi.progress import ProgressBar

    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar("loading") as bar:
        assert bar(0.5) is True
    assert stream.getvalue() == ""
    stream.isatty = lambda: True
    with ProgressBar("loading") as bar:
        bar(0.5)
        bar(0.501)  # the same percent: not drawn again
        bar(2.0)
    assert stream.getvalue().count("loading") == 2
    assert "50 %" in stream.getvalue()
    assert "100 %" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")
