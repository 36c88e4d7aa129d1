"""Commands and examples in a shell: streams that are closed, readers that leave, a full disk."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import gguf
import pytest


@pytest.mark.parametrize(
    ("shell", "status"),
    [
        ("CLI --help >&-", 0),
        ("CLI --help >&- 2>&-", 0),
        ("CLI frob 2>&-", 2),
        ("CLI frob <&- >&- 2>&-", 2),
        ("CLI info /no/such.gguf 2>&-", 1),
        ("CLI info VOCAB >&-", 0),
        ("EXAMPLE build_info >&-", 0),
        ("OPS >&-", 0),
        ("OPS frob 2>&-", 2),
        ("EXAMPLE build_info --wrong 2>&-", 2),
    ],
)
def test_closed_streams_are_quiet(tmp_path, shell, status):
    done = in_shell(tmp_path, shell)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("CLI --help", 0),
        ("CLI info VOCAB --json", 0),
        ("EXAMPLE build_info", 0),
        ("CLI frob", 2),
        ("OPS", 0),
    ],
)
def test_a_reader_that_never_read(tmp_path, command, status):
    """The pipe has no reader any more when the command writes."""
    gone = "exec 3> >(:); sleep 0.3; {} >&3 2>{}; echo $?"
    done = in_shell(tmp_path, gone.format(command, "&3" if status else "&1"))
    assert (done.stdout, done.stderr) == (f"{status}\n", "")


def test_a_disk_that_is_full_is_an_error(tmp_path):
    done = in_shell(tmp_path, "CLI info VOCAB > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "my-llm-ffi: error: [Errno 28] No space left on device\n"


def test_the_table_of_ops(tmp_path):
    full = in_shell(tmp_path, "OPS > /dev/full")
    assert full.returncode == 1
    said = "python -m my_llm_ffi.ops: error: [Errno 28] No space left on device\n"
    assert full.stderr == said
    usage = in_shell(tmp_path, "OPS --help")
    assert (usage.returncode, usage.stderr) == (0, "")
    assert usage.stdout.startswith("usage: python -m my_llm_ffi.ops")
    wrong = in_shell(tmp_path, "OPS frob")
    assert wrong.returncode == 2
    assert "unrecognized arguments: frob" in wrong.stderr


def in_shell(folder, command):
    """Runs a line of bash; CLI, OPS, EXAMPLE and VOCAB stand for what they say."""
    vocab = folder / "vocab.gguf"
    writer = gguf.GGUFWriter(vocab, "llama")
    writer.add_token_list(["a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    python = shlex.quote(sys.executable)
    example = shlex.quote(str(Path(__file__).parents[1] / "run_example.py"))
    for name, meaning in {
        "CLI": f"{python} -m my_llm_ffi",
        "OPS": f"{python} -m my_llm_ffi.ops",
        "EXAMPLE": f"{python} {example}",
        "VOCAB": shlex.quote(str(vocab)),
    }.items():
        command = command.replace(name, meaning)
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
