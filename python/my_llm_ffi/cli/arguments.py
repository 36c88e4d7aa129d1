"""The arguments of the commands, and the help that teaches them; counterpart: commands.py."""

from __future__ import annotations

import argparse
import math
from typing import Any

from .._version import __version__
from ..checks import INT64_MAX
from ..fetch import DEFAULT_MODEL, KNOWN_MODELS
from . import commands as run

PROG = "my-llm-ffi"
_MAX_THREADS, _MAX_CONTEXT, _MAX_SEQUENCES = 65535, 1 << 30, 4096
_DESCRIPTION = "Runs GGUF language models on this machine."
_EPILOG = f"""\
examples:
  {PROG} generate --chat --prompt "Why is the sky blue?"
  {PROG} generate model.gguf --prompt "Once upon a time" --temperature 0.8 --seed 7
  echo "Translate to French: good morning" | {PROG} generate model.gguf --chat
  {PROG} tokenize model.gguf "Hello, world"
  {PROG} bench model.gguf -p 512 -n 128 -t 2 -r 3

MODEL is a GGUF file or the name of a known model ({", ".join(KNOWN_MODELS)}),
which is downloaded once into the cache ($MY_LLM_FFI_CACHE, or ~/.cache/my_llm_ffi).

exit status: 0 done; 1 failed, with one line on stderr (--debug shows the traceback);
2 wrong usage; 130 interrupted by Ctrl-C.
"""
_GENERATE_EPILOG = f"""\
The text goes to stdout as it is made; tokens per second go to stderr.
Without --chat the model continues the prompt; with --chat the prompt is a user's message, put
into the model's own chat template. Without --prompt the prompt is read from stdin.

examples:
  {PROG} generate --chat --prompt "Name three rivers." --system "Answer as a list."
  {PROG} generate model.gguf --prompt "def fib(n):" --stop "\\n\\n" --max-new-tokens 200
"""
_BENCH_EPILOG = f"""\
examples:
  {PROG} bench a.gguf b.gguf -p 512 -n 128 -t 2 -r 3 -o json
  {PROG} bench model.gguf --limits
  {PROG} bench model.gguf -p 0 -n 32 --depth 4096
  {PROG} bench model.gguf -p 0 -n 0 --parallel 16,32
"""


def _count(low: int, high: int = INT64_MAX) -> Any:
    def count(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} is less than {low}")
        if value > high:
            raise argparse.ArgumentTypeError(f"{value} is more than {high}")
        return value

    count.__name__ = "integer"  # what argparse calls it when int() fails
    return count


def _counts(low: int, high: int) -> Any:
    one = _count(low, high)

    def counts(text: str) -> list[int]:
        return [one(part) for part in text.split(",")]

    counts.__name__ = "list of integers"
    return counts


def _number(low: float, high: float, *, above_low: bool = False) -> Any:
    def number(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        if above_low and value == low:
            raise argparse.ArgumentTypeError(f"{text} is not above {low:g}")
        return value

    return number


def _stop(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a stop string is empty")
    return text.replace("\\n", "\n").replace("\\t", "\t")


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``run`` of its result is the chosen command."""
    top = argparse.ArgumentParser(
        prog=PROG,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.set_defaults(debug=False)
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_generate, _add_tokenize, _add_info, _add_fetch, _add_bench):
        command = add(commands)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return top


def _add_generate(commands: Any) -> Any:
    add = commands.add_parser(
        "generate",
        help="continue a prompt, or answer a message",
        description="Continues a prompt, or answers a message with --chat.",
        epilog=_GENERATE_EPILOG,
    )
    add.set_defaults(run=run.generate)
    add.add_argument(
        "model", metavar="MODEL", nargs="?", default=DEFAULT_MODEL,
        help="GGUF file or known model (default: %(default)s, fetched once)",
    )  # fmt: skip
    add.add_argument("--prompt", metavar="TEXT", help="the prompt; - or none: from stdin")
    add.add_argument("--chat", action="store_true", help="use the model's chat template")
    add.add_argument("--system", metavar="TEXT", help="system message, with --chat")
    add.add_argument(
        "--max-new-tokens", metavar="N", type=_count(1), default=128,
        help="stop after N tokens (default: %(default)s)",
    )  # fmt: skip
    add.add_argument(
        "--temperature", metavar="T", type=_number(0, 100), default=0.0,
        help="0 takes the likeliest token, 1 draws as the model says (default: %(default)s)",
    )  # fmt: skip
    add.add_argument("--top-k", metavar="K", type=_count(1), help="draw from the K likeliest")
    add.add_argument(
        "--top-p", metavar="P", type=_number(0, 1, above_low=True),
        help="draw from the likeliest that make up P",
    )  # fmt: skip
    add.add_argument(
        "--min-p", metavar="P", type=_number(0, 1), help="draw from those with P times the maximum"
    )
    add.add_argument("--seed", metavar="S", type=_count(0), help="repeat a draw")
    add.add_argument(
        "--stop", metavar="S", type=_stop, action="append", default=[],
        help=r"stop before this text (\n is a line end); may be given again",
    )  # fmt: skip
    add.add_argument(
        "--threads", "-t", metavar="N", type=_count(1, _MAX_THREADS), help="default: one per CPU"
    )
    add.add_argument(
        "--n-ctx", metavar="N", type=_count(1, _MAX_CONTEXT), help="positions of the context"
    )
    return add


def _add_tokenize(commands: Any) -> Any:
    add = commands.add_parser(
        "tokenize",
        help="show the tokens of a text",
        description="Shows the ids and pieces of a text's tokens.",
        epilog=f'example:\n  {PROG} tokenize model.gguf "Hello, world" --json',
    )
    add.set_defaults(run=run.tokenize)
    add.add_argument("model", metavar="MODEL", help="GGUF file (a vocabulary alone will do)")
    add.add_argument("text", metavar="TEXT", help="the text; - reads stdin")
    add.add_argument("--no-special", action="store_true", help="add no BOS and EOS")
    add.add_argument("--parse-special", action="store_true", help="read <|…|> as control tokens")
    add.add_argument("--json", action="store_true", help='print {"tokens": […], "pieces": […]}')
    return add


def _add_info(commands: Any) -> Any:
    add = commands.add_parser(
        "info",
        help="show what a model file says of itself",
        description="Shows sizes and metadata of a model file.",
        epilog=f"example:\n  {PROG} info model.gguf --json",
    )
    add.set_defaults(run=run.info)
    add.add_argument("model", metavar="MODEL", help="GGUF file or known model")
    add.add_argument("--json", action="store_true", help="print one JSON object")
    return add


def _add_fetch(commands: Any) -> Any:
    add = commands.add_parser(
        "fetch",
        help="download a known model into the cache",
        description="Downloads a known model (checked by SHA-256) and prints its path.",
        epilog="known models:\n  " + "\n  ".join(KNOWN_MODELS),
    )
    add.set_defaults(run=run.fetch)
    add.add_argument("name", metavar="NAME", choices=list(KNOWN_MODELS), help="a known model")
    add.add_argument("--cache-dir", metavar="DIR", help="folder instead of the cache")
    return add


def _add_bench(commands: Any) -> Any:
    add = commands.add_parser(
        "bench",
        help="measure prefill and decode",
        description="Measures tokens per second of prefill (pp) and decode (tg), mean ± deviation.",
        epilog=_BENCH_EPILOG,
    )
    add.set_defaults(run=run.bench)
    add.add_argument("models", metavar="MODEL", nargs="+", help="GGUF file or known model")
    add.add_argument(
        "-p", "--n-prompt", metavar="N", type=_count(0, _MAX_CONTEXT), default=512,
        help="tokens of the prefill (default: %(default)s, 0: leave out)",
    )  # fmt: skip
    add.add_argument(
        "-n", "--n-gen", metavar="N", type=_count(0, _MAX_CONTEXT), default=128,
        help="steps of the decode (default: %(default)s, 0: leave out)",
    )  # fmt: skip
    add.add_argument(
        "-t", "--threads", metavar="N", type=_count(1, _MAX_THREADS), help="default: one per CPU"
    )
    add.add_argument(
        "-r", "--repetitions", metavar="N", type=_count(1), default=3,
        help="samples of each, after one that is not counted (default: %(default)s)",
    )  # fmt: skip
    add.add_argument(
        "-d", "--depth", metavar="N", type=_count(0, _MAX_CONTEXT), default=0,
        help="tokens in the context before prefill and decode (default: %(default)s)",
    )  # fmt: skip
    add.add_argument(
        "--parallel", metavar="N,N", type=_counts(1, _MAX_SEQUENCES), default=[],
        help="also decode so many sequences together: steps alone, then with their prompts",
    )  # fmt: skip
    add.add_argument(
        "--npp", metavar="N", type=_count(1, _MAX_CONTEXT), default=128,
        help="tokens of the prompt of each of them (default: %(default)s)",
    )  # fmt: skip
    add.add_argument(
        "--ntg", metavar="N", type=_count(1, _MAX_CONTEXT), default=64,
        help="steps of each of them (default: %(default)s)",
    )  # fmt: skip
    add.add_argument(
        "--limits", action="store_true",
        help="measure what the machine can do at most, and print which part of it is reached",
    )  # fmt: skip
    add.add_argument("-o", "--output", choices=("md", "json"), default="md", help="default: md")
    return add
