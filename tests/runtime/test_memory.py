"""Calls that the system has no memory for: a MemoryError that says what for, nothing else broken.

Each runs in a process of its own whose address space is limited.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from reference.gguf_files import TinySpec

CHILD = """
import resource, sys
import my_llm_ffi as llm

def limit(extra_bytes):
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

model = llm.Model(sys.argv[1], n_threads=1)
before = model.generate([1, 2, 3], max_new_tokens=4).tokens
text = b"ab " * (4 << 20)
limit(EXTRA << 20)
try:
    CALL
except MemoryError as error:
    print(error)
else:
    print("it went well")
limit(64 << 20)
assert model.generate([1, 2, 3], max_new_tokens=4).tokens == before
"""


@pytest.mark.parametrize(
    ("call", "extra_mib", "message"),
    [
        (
            "model.context(n_ctx=1 << 24, n_seq_max=3)",
            16,
            r"a KV cache of n_ctx=16777216 entries, n_seq_max=3, float16: cannot allocate",
        ),
        (
            "model.context(n_ctx=64, n_batch=1 << 20)",
            16,
            "working memory for batches of 1048576 tok",
        ),
        (
            "model.vocab._handle.tokenize(text, True, False)",
            32,
            "my_llm_ffi.Vocab.tokenize: the system has no memory left",
        ),
        ("model.vocab._handle.tokenize(text, True, False)", 4, "the system has no memory left"),
    ],
)
def test_no_memory_is_a_memory_error(
    tiny_file: Callable[[TinySpec], Path], call: str, extra_mib: int, message: str
) -> None:
    code = CHILD.replace("CALL", call).replace("EXTRA", str(extra_mib))
    command = [sys.executable, "-c", code, str(tiny_file(TinySpec()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout
