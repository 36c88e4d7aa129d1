"""The command ``my-llm-ffi``; counterparts: arguments.py, commands.py, and ../bench.py.

The package is imported inside the commands, so that ``--help`` and usage errors need no library.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .arguments import PROG, parser
from .commands import UsageError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_QUESTION = "Why is the sky blue?"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments after the program's name; ``None``: those of the process.

    Returns:
        The exit status: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C.

    """
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed help, or what was wrong
        return stop.code if isinstance(stop.code, int) else USAGE
    return _guarded(args)


def run_example_generate(argv: Sequence[str]) -> int:
    """The example: fetches the default model, asks it a question and streams the answer.

    Args:
        argv: ``--model PATH`` takes another file, ``--prompt TEXT`` (raw unless ``--chat``)
            another prompt; the other options are those of ``generate``.

    Returns:
        The exit status of ``generate``.

    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--model")
    given, rest = own.parse_known_args(argv)
    if not any(arg == "--prompt" or arg.startswith("--prompt=") for arg in rest):
        print(f"> {_QUESTION}", file=sys.stderr)
        rest = ["--chat", "--prompt", _QUESTION, *rest]
    return main(["generate", *([given.model] if given.model else []), *rest])


def _guarded(args: argparse.Namespace) -> int:
    """Runs the chosen command; turns what goes wrong into one line and an exit status."""
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except UsageError as error:
        _say(f"error: {error}")
        return USAGE
    except Exception as error:
        if args.debug:
            raise
        _say(f"error: {' '.join(str(error).split()) or type(error).__name__}")
        return FAILED


def _say(line: str) -> None:
    print(f"{PROG}: {line}", file=sys.stderr)
