"""Changes that turn a valid GGUF file into a lie, and what must come of each.

Counterpart: io/test_gguf_errors.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import gguf_raw as raw
from .gguf_raw import RawGguf

HUGE = (2**31, 2**32 + 1, 2**61, 2**62 + 1, 2**63, 2**64 - 1)
UNKNOWN_TYPES = (4, 5, 31, 99, 1000, 2**31, 2**32 - 1)  # 4 and 5 were removed from GGUF
Q2_K = 10  # a format that exists and is not supported


@dataclass(frozen=True)
class Bad:
    """A change to a valid file and what must come of it."""

    name: str
    change: Callable[[RawGguf], object]
    kind: type[Exception] | tuple[type[Exception], ...] = ValueError
    says: str = ""  # regular expression that the message holds


def edit(name: str, **fields: object) -> Callable[[RawGguf], object]:
    """Sets fields of a tensor's entry."""
    return lambda g: g.tensor(name).__dict__.update(fields)


def say(key: str, value: bytes) -> Callable[[RawGguf], object]:
    """Sets a metadata value."""
    return lambda g: g.metadata.update({key.encode(): value})


def forget(key: str) -> Callable[[RawGguf], object]:
    """Leaves a metadata key out."""
    return lambda g: g.metadata.pop(key.encode())


def drop(name: str) -> Callable[[RawGguf], object]:
    """Leaves a tensor out."""
    return lambda g: g.tensors.remove(g.tensor(name))


def head(field: str, value: object) -> Callable[[RawGguf], object]:
    """Sets a field of the file's head."""
    return lambda g: setattr(g, field, value)


def rename(name: str, other: bytes) -> Callable[[RawGguf], object]:
    """Gives a tensor another name."""
    return lambda g: setattr(g.tensor(name), "name", other)


def reshape(name: str, shape: list[int]) -> Callable[[RawGguf], object]:
    """Gives an F32 tensor another shape, with as much data as that needs."""
    return edit(name, shape=shape, data=bytes(4 * int(np.prod(shape))))


def again(g: RawGguf) -> None:
    """Writes the first tensor twice."""
    g.tensors.append(g.tensors[0])


def two_pages_of_keys(g: RawGguf) -> None:
    """Writes a key twice."""
    g.extra_metadata.append((b"general.architecture", raw.string("llama")))


def nested(depth: int) -> bytes:
    """Arrays in arrays in arrays."""
    value = struct.pack("<IQ", raw.UINT32, 0)
    for _ in range(depth):
        value = struct.pack("<IQ", raw.ARRAY, 1) + value
    return struct.pack("<I", raw.ARRAY) + value


Q, NORM = "blk.1.attn_q.weight", "blk.0.attn_norm.weight"
CASES = [
    Bad("magic", head("magic", b"GGML"), ValueError, "(?i)gguf"),
    Bad("big-endian", head("version", 0x03000000), NotImplementedError, "endian|order"),
    *[
        Bad(f"version {v}", head("version", v), (NotImplementedError, ValueError), "(?i)version")
        for v in (0, 1, 4, 2**31)
    ],
    *[Bad(f"tensor count {n}", head("tensor_count", n)) for n in HUGE],
    *[Bad(f"metadata count {n}", head("metadata_count", n)) for n in HUGE],
    Bad("one tensor too many", lambda g: setattr(g, "tensor_count", len(g.tensors) + 1)),
    Bad("one key too many", lambda g: setattr(g, "metadata_count", len(g.metadata) + 1)),
    Bad("no tensors", lambda g: g.tensors.clear(), ValueError, "token_embd.weight"),
    *[Bad(f"string of {n}", say("general.name", struct.pack("<IQ", raw.STRING, n))) for n in HUGE],
    *[Bad(f"array of {n}", say("x.y", raw.array(raw.UINT32, [], n))) for n in HUGE],
    *[Bad(f"array of {n} strings", say("x.y", raw.array(raw.STRING, [], n))) for n in HUGE],
    Bad(
        "value type 13",
        say("x.y", struct.pack("<II", 13, 0)),
        (ValueError, NotImplementedError),
        "x.y|13",
    ),
    Bad(
        "array type 77", say("x.y", raw.array(77, [])), (ValueError, NotImplementedError), "x.y|77"
    ),
    Bad("deep arrays", say("x.y", nested(100_000))),
    Bad("bool of 2", say("x.y", struct.pack("<IB", raw.BOOL, 2)), ValueError, "x.y|bool"),
    *[
        Bad(f"alignment {n}", say("general.alignment", raw.uint32(n)), ValueError, "alignment")
        for n in (0, 3, 24)
    ],
    Bad("duplicate tensor", again, ValueError, "token_embd.weight"),
    Bad("duplicate key", two_pages_of_keys, ValueError, "general.architecture"),
    *[
        Bad(f"tensor type {n}", edit(Q, kind=n), (NotImplementedError, ValueError), f"{Q}|{n}")
        for n in UNKNOWN_TYPES
    ],
    Bad("unsupported Q2_K", edit(Q, kind=Q2_K), (NotImplementedError, ValueError), f"{Q}|10|Q2_K"),
    *[Bad(f"{n} dimensions", edit(Q, n_dims=n)) for n in (0, 5, 1000, 2**32 - 1)],
    *[Bad(f"dimension {n}", edit(Q, shape=[64, n]), ValueError) for n in (0, *HUGE)],
    Bad("overflowing shape", edit(Q, shape=[2**32, 2**32])),
    Bad("overflowing bytes", edit(Q, shape=[2**31, 2**31])),
    *[
        Bad(f"offset {n}", edit(Q, offset=n), ValueError, Q)
        for n in (2**40 // 32 * 32, 2**63, 2**64 - 32)
    ],
    Bad("unaligned offset", edit(Q, offset=33), ValueError, "align|offset"),
    Bad("name too long", rename(Q, b"x" * 100_000)),
    Bad("half blocks", edit(Q, kind=8, shape=[33, 64], data=bytes(34 * 2 * 64)), ValueError, Q),
    *[
        Bad(f"no {name}", drop(name), ValueError, re.escape(name))
        for name in ("token_embd.weight", "output_norm.weight", Q, NORM, "blk.1.ffn_down.weight")
    ],
    Bad("square q", reshape(Q, [64, 32]), ValueError, f"{Q}.*32|32.*{Q}"),
    Bad("wide norm", reshape(NORM, [65]), ValueError, NORM),
    Bad("flat matrix", reshape(Q, [4096]), ValueError, Q),
    Bad("short embedding", reshape("token_embd.weight", [64, 300]), ValueError, "token_embd|vocab"),
    Bad("short head", reshape("output.weight", [64, 354]), ValueError, "output.weight"),
    Bad(
        "architecture",
        say("general.architecture", raw.string("nonesuch")),
        NotImplementedError,
        "nonesuch",
    ),
    Bad("no architecture", forget("general.architecture"), ValueError, "general.architecture"),
    Bad(
        "number as architecture",
        say("general.architecture", raw.uint32(7)),
        ValueError,
        "general.architecture",
    ),
    *[
        Bad(f"no {key}", forget(f"llama.{key}"), ValueError, f"llama.{key}")
        for key in ("block_count", "embedding_length", "attention.head_count")
    ],
    *[
        Bad(f"{key} = {n}", say(f"llama.{key}", raw.uint32(n)), ValueError)
        for key, values in {
            "block_count": (0, 3, 2**31, 2**32 - 1),
            "embedding_length": (0, 63, 2**31),
            "feed_forward_length": (0, 95, 2**31),
            "attention.head_count": (0, 3, 5, 2**31),
            "attention.head_count_kv": (0, 3, 2**31),
            "context_length": (0,),
            "rope.dimension_count": (0, 3, 17, 2**31),
        }.items()
        for n in values
    ],
    Bad(
        "eps as text",
        say("llama.attention.layer_norm_rms_epsilon", raw.string("small")),
        ValueError,
        "epsilon",
    ),
    *[
        Bad(
            f"eps {x}",
            say("llama.attention.layer_norm_rms_epsilon", raw.float32(x)),
            ValueError,
            "epsilon",
        )
        for x in (float("nan"), float("inf"), -1.0)
    ],
    *[
        Bad(f"freq_base {x}", say("llama.rope.freq_base", raw.float32(x)), ValueError, "freq_base")
        for x in (float("nan"), float("inf"), 0.0, -1.0)
    ],
    Bad(
        "tokenizer",
        say("tokenizer.ggml.model", raw.string("nonesuch")),
        NotImplementedError,
        "nonesuch",
    ),
    Bad("no tokenizer", forget("tokenizer.ggml.model"), ValueError, "tokenizer.ggml.model"),
    Bad("no tokens", forget("tokenizer.ggml.tokens"), ValueError, "tokenizer.ggml.tokens"),
    Bad(
        "few scores",
        say("tokenizer.ggml.scores", raw.array(raw.FLOAT32, [bytes(4)] * 3)),
        ValueError,
        "scores",
    ),
    Bad("bos beyond", say("tokenizer.ggml.bos_token_id", raw.uint32(355)), ValueError, "bos"),
]
BPE_CASES = [
    Bad(
        "pre-tokenizer",
        say("tokenizer.ggml.pre", raw.string("nonesuch")),
        NotImplementedError,
        "nonesuch",
    ),
    Bad("no merges", forget("tokenizer.ggml.merges"), ValueError, "merges"),
    Bad(
        "merge of three",
        say("tokenizer.ggml.merges", raw.array(raw.STRING, [raw.text(b"a b c")])),
        ValueError,
        "merge",
    ),
    Bad(
        "merge of one",
        say("tokenizer.ggml.merges", raw.array(raw.STRING, [raw.text(b"a")])),
        ValueError,
        "merge",
    ),
]
