"""Runs one example: ``python run_example.py [add_one|raise_error|…|generate]``.

Without an argument the default model is fetched, asked a question, and its answer streamed.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Callable

import tvm_ffi

import my_llm_ffi as llm
from my_llm_ffi import base
from my_llm_ffi.cli.streams import with_streams


def add_one() -> None:
    """Tensors: an exported typed function over NumPy arrays, by three ways in."""
    import numpy as np

    x, y = np.arange(5, dtype=np.float32), np.empty(5, np.float32)
    llm.add_one(x, y)
    print(f"add_one({x}) = {y}")
    path = str(base.library_path())
    tvm_ffi.load_module(path).add_one(y, y)  # type: ignore[no-untyped-call]
    print(f"again, in place, through load_module: {y}")
    ctypes.CDLL(path)  # registers the functions; no module object, no Python package needed
    tvm_ffi.get_global_func("my_llm_ffi.add_one")(y, y)
    print(f"once more, through the registry: {y}")


def raise_error() -> None:
    """Errors: the traceback goes on into C++."""
    llm.raise_error("boom", kind="ValueError")


def containers() -> None:
    """Strings, tuples and dicts, in and out."""
    print(llm.join_strings(("one", "two", "three"), ", "))
    print(llm.swap_pair(("left", 2)))
    print(llm.invert_dict({"one": 1, "two": 2}))


def int_pair() -> None:
    """An object that C++ owns: fields, a method, a static method."""
    pair = llm.IntPair(first=1, second=2)
    pair.second = 20
    print(f"{pair}: {pair.get_first()=}, {llm.IntPair.static_get_second(pair)=}")


def callback() -> None:
    """Callbacks: C++ calls Python, from this thread and from its own."""
    print(llm.call_with(lambda name: f"hello {name}", "from C++"))
    total = llm.call_from_threads(lambda thread, i: 10 * thread + i, n_threads=2, n_calls=3)
    print(f"six calls from two C++ threads add up to {total}")
    try:
        llm.call_with(lambda key: {}[key], "absent")
    except KeyError as error:
        print(f"an exception comes out as itself: {error!r}")


def log() -> None:
    """Messages of the library, as Python sees them."""
    llm.set_log_callback(lambda level, message: print(f"[{level}] {message}"))
    tvm_ffi.get_global_func("my_llm_ffi.log")("info", "anybody may log: C++, Rust, Python")
    llm.set_log_callback(None)


def build_info() -> None:
    """What this build is and what it found here."""
    for key, value in llm.build_info().items():
        print(f"{key:12} {value}")


EXAMPLES: dict[str, Callable[[], None]] = {
    example.__name__: example
    for example in (add_one, raise_error, containers, int_pair, callback, log, build_info)
}


def main(argv: list[str]) -> int:
    """Runs the example that ``argv`` names; returns the exit status."""
    if not argv or argv[0] == "generate":
        from my_llm_ffi.cli import run_example_generate

        return run_example_generate(argv[1:])
    example = EXAMPLES.get(argv[0])
    if example is None or len(argv) > 1:
        print(f"usage: python run_example.py [{'|'.join(EXAMPLES)}|generate …]", file=sys.stderr)
        for name, function in EXAMPLES.items():
            print(f"  {name:12} {function.__doc__}", file=sys.stderr)
        print("  generate     Text, by the default model or --model PATH.", file=sys.stderr)
        return 0 if argv[0] in ("-h", "--help") else 2
    example()
    return 0


if __name__ == "__main__":
    raise SystemExit(with_streams(lambda: main(sys.argv[1:])))
