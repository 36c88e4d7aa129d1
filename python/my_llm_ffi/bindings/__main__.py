"""The command ``python -m my_llm_ffi.bindings``: prints the client of declared ops."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from ..cli.streams import with_streams
from ..declaration import Op
from . import c, cpp, interface, rust

LANGUAGES: dict[str, Callable[[Sequence[Op]], str]] = {
    "c": c.ops_header,
    "cpp": cpp.ops_header,
    "rust": rust.source,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints it; returns the exit status: 0 done, 1 no such op, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m my_llm_ffi.bindings",
        description="Prints the typed client of declared ops: a C++ or C header, or Rust.",
    )
    parser.add_argument("language", choices=sorted(LANGUAGES))
    parser.add_argument("--op", action="append", metavar="NAME", help="only this op; repeatable")
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        metavar="MODULE",
        dest="modules",
        help="imported before, because it declares ops; repeatable",
    )

    def run() -> int:
        try:
            given = parser.parse_args(argv)
        except SystemExit as stop:  # argparse has printed help, or what was wrong
            return stop.code if isinstance(stop.code, int) else 2
        try:
            for module in given.modules:
                importlib.import_module(module)
            text = LANGUAGES[given.language](interface.ops(given.op))
        except ImportError as error:
            print(f"{parser.prog}: error: {error}", file=sys.stderr)
            return 1
        except KeyError as error:
            print(f"{parser.prog}: error: no op {error} is declared", file=sys.stderr)
            return 1
        sys.stdout.write(text)
        sys.stdout.flush()
        return 0

    return with_streams(run)


if __name__ == "__main__":
    raise SystemExit(main())
