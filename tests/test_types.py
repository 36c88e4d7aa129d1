"""What a type checker makes of calls: mypy, over a program of a user."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")

PROGRAM = """
import numpy as np
import my_llm_ffi as llm

x = np.ones((2, 8), np.float32)
weight = np.ones(8, np.float32)
ids = np.zeros(2, np.int32)
model = llm.Model("x.gguf")
messages = [{"role": "user", "content": "x"}]
streamed: bool = bool(ids[0])

reveal_type(llm.ops.rms_norm(x, weight))  # ndarray
reveal_type(llm.ops.top_k(x, k=2)[0])  # ndarray
reveal_type(llm.ops.top_k(x, k=2)[1])  # Any
reveal_type(llm.ops.argmax(x))  # Any
reveal_type(llm.ops.embedding_lookup(x, ids))  # Any
reveal_type(model.chat(messages))  # Generation
reveal_type(model.chat(messages, stream=False))  # Generation
reveal_type(model.chat(messages, stream=True))  # TextStream
reveal_type(model.chat(messages, stream=streamed))  # Generation | TextStream
for piece in model.chat(messages, stream=True):
    print(piece, end="")
print(model.chat(messages).text)
"""


def test_revealed_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    env = {**os.environ, "MYPYPATH": str(Path(__file__).parents[1] / "python")}
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, str(program)], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    # Without the names of modules and what stands in brackets; older mypy writes Union[…].
    plain = [re.sub(r"Union\[(.*), (.*)\]$", r"\1 | \2", text) for text in revealed]
    short = [re.sub(r"[\w.]*\.(?=\w)|\[.*\]|\*", "", text) for text in plain]
    assert short == re.findall(r"# (.*)", PROGRAM)
