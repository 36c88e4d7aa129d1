"""The file that a driver of another language is given, and writes: one call of an op.

Little endian:

    "MLFCASE1"
    u32 length, name of the op
    u32 number of tensors, in the order of the ABI (inputs, then outputs); each
        u8  present; what follows only where it is 1
        u8  DLPack type code, u8 bits, u32 ndim, i64 * ndim, u64 bytes, data
    u32 number of options; each
        u8  kind: 0 None, 1 int, 2 float, 3 bool, 4 string
        i64 | f64 | u8 | u32 length and UTF-8; nothing for None

`driver CASE OUT` calls the op through its language's client and writes the same file, with the
tensors as they are afterwards. Where the op raises, it writes nothing, prints `Kind: message` on
stderr and exits with status 1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = b"MLFCASE1"
_CODES = {"i": 0, "u": 1, "f": 2}


class Case(NamedTuple):
    """A call: tensors are None where they are absent, options are plain values."""

    op: str
    tensors: list[Any]
    options: list[Any]


def write_case(path: Path, case: Case) -> None:
    """Writes a case."""
    parts = [MAGIC, _text(case.op), struct.pack("<I", len(case.tensors))]
    parts += [_tensor(t) for t in case.tensors]
    parts += [struct.pack("<I", len(case.options)), *(_option(o) for o in case.options)]
    path.write_bytes(b"".join(parts))


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def _tensor(array: Any) -> bytes:
    if array is None:
        return b"\0"
    code, bits = _CODES[array.dtype.kind], array.dtype.itemsize * 8
    head = struct.pack("<BBBI", 1, code, bits, array.ndim)
    sizes = struct.pack(f"<{array.ndim}qQ", *array.shape, array.nbytes)
    return head + sizes + np.ascontiguousarray(array).tobytes()


def _option(value: Any) -> bytes:
    if value is None:
        return b"\0"
    if isinstance(value, bool):
        return struct.pack("<BB", 3, value)
    if isinstance(value, int):
        return struct.pack("<Bq", 1, value)
    if isinstance(value, float):
        return struct.pack("<Bd", 2, value)
    return b"\4" + _text(value)


def read_case(path: Path) -> Case:
    """Reads a case.

    Raises:
        ValueError: The file is none.
    """
    reader = _Reader(path.read_bytes())
    if reader.bytes(len(MAGIC)) != MAGIC:
        raise ValueError(f"{path} is no case")
    op = reader.text()
    tensors = [_read_tensor(reader) for _ in range(reader.one("I"))]
    options = [_read_option(reader) for _ in range(reader.one("I"))]
    if reader.at != len(reader.data):
        raise ValueError(f"{path} goes on after its end")
    return Case(op, tensors, options)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def bytes(self, count: Any) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise ValueError("the case is cut off")
        return self.data[self.at - count : self.at]

    def many(self, layout: str) -> Sequence[Any]:
        return struct.unpack("<" + layout, self.bytes(struct.calcsize("<" + layout)))

    def one(self, layout: str) -> Any:
        return self.many(layout)[0]

    def text(self) -> str:
        return self.bytes(self.one("I")).decode()


def _read_tensor(reader: _Reader) -> Any:
    if not reader.one("B"):
        return None
    code, bits, ndim = reader.many("BBI")
    *shape, size = reader.many(f"{ndim}qQ")
    kind = next(kind for kind, number in _CODES.items() if number == code)
    return np.frombuffer(reader.bytes(size), f"<{kind}{bits // 8}").reshape(shape).copy()


def _read_option(reader: _Reader) -> Any:
    kind = reader.one("B")
    if kind == 3:
        return bool(reader.one("B"))
    if kind == 4:
        return reader.text()
    return reader.one("qd"[kind - 1]) if kind else None
