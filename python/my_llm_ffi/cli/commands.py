"""What the commands do with their arguments; counterparts: arguments.py, ../bench.py."""

from __future__ import annotations

import argparse
import codecs
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ..checks import as_path
from ..fetch import KNOWN_MODELS, fetch_model
from ..progress import ProgressBar

if TYPE_CHECKING:
    from ..limits import Limits

_LISTED_ITEMS = 8  # of a metadata array
_WIDEST_KEY = 48
_SIZES = "architecture n_layers n_embd n_heads n_kv_heads n_ctx_train n_vocab".split()


class UsageError(Exception):
    """Arguments that argparse could not judge."""


def generate(args: argparse.Namespace) -> int:
    """Streams text to stdout, then the speed to stderr."""
    if args.system is not None and not args.chat:
        raise UsageError("--system needs --chat: a raw prompt has no turns")
    prompt = _prompt(args.prompt, "--prompt")
    for name, texts in {"--system": [args.system or ""], "--stop": args.stop}.items():
        for given in texts:
            _check_text(given, name)
    import my_llm_ffi as llm

    options: dict[str, Any] = {
        "max_new_tokens": args.max_new_tokens,
        "sampling": llm.SamplingParams(
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p,
            seed=args.seed,
        ),
        "stop": tuple(args.stop),
    }
    if args.n_ctx is not None:
        options["n_ctx"] = args.n_ctx
    with _load(args.model, args.threads) as model:
        if args.chat:
            if not model.vocab.chat_template:
                raise UsageError(f"{args.model} has no chat template: leave --chat out")
            system = [] if args.system is None else [{"role": "system", "content": args.system}]
            messages = [*system, {"role": "user", "content": prompt}]
            stream = model.chat(messages, stream=True, **options)
        else:
            stream = model.stream(prompt, **options)
        last = ""
        for piece in stream:
            last = piece or last
            _write(piece)
        if not last.endswith("\n"):
            _write("\n")
        print(_timings(stream.result), file=sys.stderr)
    return 0


def tokenize(args: argparse.Namespace) -> int:
    """Prints the tokens of a text."""
    import my_llm_ffi as llm

    vocab = llm.Vocab.from_file(_model_path(args.model))
    text = _prompt(args.text, "TEXT")
    ids = vocab.tokenize(text, add_special=not args.no_special, parse_special=args.parse_special)
    pieces = [bytes(vocab.piece(token)).decode("utf-8", "backslashreplace") for token in ids]
    if args.json:
        _write_json({"tokens": list(ids), "pieces": pieces})
    else:
        _write("".join(f"{token:>8}  {piece!r}\n" for token, piece in zip(ids, pieces)))
    return 0


def info(args: argparse.Namespace) -> int:
    """Prints what a model file says of itself."""
    import my_llm_ffi as llm

    from .. import _ffi_api
    from ..model import Metadata

    path = _model_path(args.model)
    facts: dict[str, Any] = {"file": str(path), "size_bytes": path.stat().st_size}
    file = _ffi_api.Gguf.open(as_path("path", path))
    weights = "none: a vocabulary only"
    if n_tensors := file.n_tensors():
        try:
            with llm.Model(path, repack=False) as model:  # as it is: nothing is computed with it
                facts.update({name: getattr(model.config, name) for name in _SIZES})
                facts["chat_template"] = bool(model.vocab.chat_template)
                metadata = {key: _short(value, args.json) for key, value in model.metadata.items()}
            weights = ""
        except NotImplementedError as error:
            weights = f"{n_tensors} tensors, which do not load: {error}"
    if weights:
        says = Metadata(file)
        facts["architecture"] = says.get("general.architecture")
        facts["n_vocab"] = len(says.get("tokenizer.ggml.tokens", ()))
        facts["chat_template"] = bool(says.get("tokenizer.chat_template"))
        facts["weights"] = weights
        metadata = {key: _short(value, args.json) for key, value in says.items()}
    if args.json:
        _write_json({**facts, "metadata": metadata}, indent=2)
    else:
        _write("\n".join(_columns(facts, metadata)))
    return 0


def fetch(args: argparse.Namespace) -> int:
    """Downloads a known model and prints its path."""
    _write(f"{fetch_model(args.name, cache_dir=args.cache_dir)}\n")
    return 0


def bench(args: argparse.Namespace) -> int:
    """Prints the speed of models."""
    if args.n_prompt == 0 and args.n_gen == 0 and not args.parallel:
        raise UsageError("-p and -n are both 0: nothing to measure")
    from .. import bench as speed

    paths = [_model_path(name) for name in args.models]
    limits = _limits(args) if args.limits else None
    rows: list[speed.Row] = []
    for path in paths:
        with ProgressBar(f"measuring {path.name}") as bar:
            rows += speed.bench_model(
                path,
                n_prompt=args.n_prompt,
                n_gen=args.n_gen,
                n_depth=args.depth,
                parallel=args.parallel,
                parallel_prompt=args.npp,
                parallel_gen=args.ntg,
                n_threads=args.threads,
                repetitions=args.repetitions,
                limits=limits,
                progress=bar,
            )
    _write((json.dumps(rows, indent=2) if args.output == "json" else speed.markdown(rows)) + "\n")
    return 0


def _limits(args: argparse.Namespace) -> Limits:
    """Measured, and shown in a line; on stderr where stdout is to be JSON."""
    import my_llm_ffi as llm

    from ..limits import available_threads, measure

    limits = measure(args.threads)
    threads, level = args.threads or available_threads(), llm.build_info()["cpu_level"]
    line = f"limits of {threads} threads, {level}: {limits}\n"
    if args.output == "json":
        sys.stderr.write(line)
    else:
        _write(line + "\n")
    return limits


# ---- parts of commands -------------------------------------------------------------------------


def _model_path(name: str) -> Path:
    """A file, or a known model that is fetched."""
    path = Path(name)
    if name in KNOWN_MODELS and not path.is_file():
        return fetch_model(name)
    if path.is_dir():
        raise IsADirectoryError(f"{name} is a directory, expected a GGUF file or a known model")
    if path.exists() and not path.is_file():
        raise OSError(f"{name} is not a regular file, expected a GGUF file or a known model")
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no such file, and not a known model")
    return path


def _load(name: str, n_threads: int | None) -> Any:
    import my_llm_ffi as llm

    path = _model_path(name)
    with ProgressBar(f"loading {path.name}") as bar:
        return llm.Model(path, n_threads=n_threads, progress=bar)


def _prompt(text: str | None, name: str) -> str:
    """What an argument gives, or stdin where it is absent or ``-``."""
    if text is not None and text != "-":
        return _check_text(text, name)
    if text is None and sys.stdin.isatty():
        raise UsageError("there is no --prompt, and nothing is piped in")
    try:
        return _check_text(sys.stdin.read(), "stdin")
    except UnicodeDecodeError as error:
        raise UsageError(_no_text("stdin", error.object[error.start], error.encoding)) from None


def _check_text(text: str, name: str) -> str:
    """Refuses the bytes that Python could not decode, which it keeps as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # As PEP 383 has it, U+DC80 and above stand for the bytes from 0x80.
        byte = ord(text[error.start]) & 0xFF
        raise UsageError(_no_text(name, byte, sys.getfilesystemencoding())) from None
    return text


def _no_text(name: str, byte: int, encoding: str) -> str:
    return f"{name} holds the byte 0x{byte:02x}, which is no text in {encoding}"


def _write(text: str) -> None:
    """To stdout at once; characters that its encoding lacks become escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _write_json(value: Any, indent: int | None = None) -> None:
    """Escapes that are JSON's own where the encoding of stdout may lack a character.

    So are those of characters that a terminal would obey; they stand inside of strings only.
    """
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    text = json.dumps(_finite(value), ensure_ascii=not is_utf8, indent=indent, allow_nan=False)
    _write(_printable(text, lambda c: c if c == "\n" else json.dumps(c)[1:-1]) + "\n")


def _finite(value: Any) -> Any:
    """The value without infinities and NaN, which JSON has not: they become strings."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _printable(text: str, escape: Callable[[str], str]) -> str:
    """Text of whoever made a file may hold what a terminal obeys: colours, titles, directions."""
    return (
        text if text.isprintable() else "".join(c if c.isprintable() else escape(c) for c in text)
    )


def _columns(*tables: Mapping[str, Any]) -> list[str]:
    """Keys and values, one pair a line, of tables that stand below each other."""

    def shown(value: Any) -> str:
        return _printable(str(value), lambda c: c.encode("unicode_escape").decode())

    texts = [[(shown(key), shown(value)) for key, value in rows.items()] for rows in tables]
    width = min(max(len(key) for rows in texts for key, _ in rows), _WIDEST_KEY)
    return ["".join(f"{key:<{width}}  {value}\n" for key, value in rows) for rows in texts]


def _timings(result: Any) -> str:
    timings, generated = result.timings, len(result.tokens)
    reason = str(getattr(result.finish_reason, "name", result.finish_reason)).lower()
    return (
        f"[prompt {_tokens(timings.prompt_tokens)}, "
        f"{_speed(timings.prompt_tokens, timings.prompt_seconds)}; "
        f"generated {_tokens(generated)}, "
        f"{_speed(timings.generated_tokens, timings.generated_seconds)}; "
        f"finished: {reason}]"
    )


def _tokens(count: int) -> str:
    return f"{count} token{'s' * (count != 1)}"


def _speed(steps: int, seconds: float) -> str:
    """Of the passes that were timed: the first new token comes out of the prompt's."""
    return f"{steps / seconds:.1f} tokens/s" if seconds > 0 else "no time taken"


def _short(value: Any, as_json: bool) -> Any:
    """A metadata value that fits on a line; long arrays say only how long they are."""
    if isinstance(value, (str, int, float, bool)) or value is None:
        text = str(value)
        return value if as_json else text if len(text) <= 100 else f"{text[:80]!r}… ({len(text)})"
    if hasattr(value, "__len__") and len(value) > _LISTED_ITEMS:
        return f"<{len(value)} items>"
    items = [_short(item, True) for item in value] if hasattr(value, "__iter__") else str(value)
    return items
