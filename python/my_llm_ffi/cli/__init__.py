"""The command ``my-llm-ffi``; counterparts: arguments.py, commands.py, streams.py and ../bench.py.

The package is imported inside the commands, so that ``--help`` and usage errors need no library.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Callable

from .arguments import PROG, parser
from .commands import UsageError
from .streams import with_streams

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_QUESTION = "Why is the sky blue?"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments after the program's name; ``None``: those of the process.

    Returns:
        The exit status: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C.

    """
    return with_streams(lambda: _parsed_and_run(argv))


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

    def run() -> int:
        given, rest = own.parse_known_args(argv)
        arguments = ["generate", *([given.model] if given.model else []), *rest]
        return _parsed_and_run(arguments, _ask)

    return with_streams(run)


def _ask(args: argparse.Namespace) -> None:
    """The question of the example, where no other prompt is given."""
    if args.prompt is None:
        args.prompt, args.chat = _QUESTION, True
        print(f"> {_QUESTION}", file=sys.stderr)


def _parsed_and_run(
    argv: Sequence[str] | None, prepare: Callable[[argparse.Namespace], None] | None = None
) -> int:
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed help, or what was wrong
        return stop.code if isinstance(stop.code, int) else USAGE
    if prepare is not None:
        prepare(args)
    return _guarded(args)


def _guarded(args: argparse.Namespace) -> int:
    """Runs the chosen command; turns what goes wrong into one line and an exit status."""
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # with_streams knows what to do
        raise
    except UsageError as error:
        _say(f"error: {error}")
        return USAGE
    except Exception as error:
        if args.debug:
            raise
        _say(f"error: {' '.join(str(error).split()) or type(error).__name__}")
        return FAILED


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the exit status says it too
        print(f"{PROG}: {line}", file=sys.stderr)
