"""GGUF files as editable parts, so that tests can write any lie into them.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gguf

if TYPE_CHECKING:
    from pathlib import Path

ALIGNMENT = 32
STRING, ARRAY, UINT32, FLOAT32, BOOL = 8, 9, 4, 6, 7


@dataclass
class RawTensor:
    """A tensor's entry; `offset` None means where the data will really lie."""

    name: bytes
    shape: list[int]  # as stored: fastest dimension first
    kind: int
    data: bytes
    offset: int | None = None
    n_dims: int | None = None


@dataclass
class RawGguf:
    """Everything a file says; counts of None are the true ones."""

    metadata: dict[bytes, bytes]  # key to type and value as stored
    tensors: list[RawTensor]
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    metadata_count: int | None = None
    extra_metadata: list[tuple[bytes, bytes]] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """The file."""
        pairs = [*self.metadata.items(), *self.extra_metadata]
        n_tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        n_pairs = len(pairs) if self.metadata_count is None else self.metadata_count
        out = bytearray(self.magic + struct.pack("<IQQ", self.version, n_tensors, n_pairs))
        for key, value in pairs:
            out += text(key) + value
        body = bytearray()
        for tensor in self.tensors:
            at = len(body) if tensor.offset is None else tensor.offset
            n_dims = len(tensor.shape) if tensor.n_dims is None else tensor.n_dims
            out += text(tensor.name) + struct.pack("<I", n_dims)
            out += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
            out += struct.pack("<IQ", tensor.kind & 0xFFFFFFFF, at)
            body += tensor.data + bytes(-len(tensor.data) % ALIGNMENT)
        return bytes(out + bytes(-len(out) % ALIGNMENT) + body)

    def tensor(self, name: str) -> RawTensor:
        """The entry of that name."""
        return next(t for t in self.tensors if t.name == name.encode())


def parse(path: Path) -> RawGguf:
    """Takes a valid file apart."""
    reader = gguf.GGUFReader(path)
    metadata = {
        name.encode(): b"".join(part.tobytes() for part in entry.parts[2:])
        for name, entry in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    tensors = [
        RawTensor(t.name.encode(), [int(n) for n in t.shape], int(t.tensor_type), t.data.tobytes())
        for t in reader.tensors
    ]
    return RawGguf(metadata, tensors)


def end_of_data(path: Path) -> int:
    """Bytes of the file that matter: up to the last tensor's end, without padding."""
    return max(int(t.data_offset + t.n_bytes) for t in gguf.GGUFReader(path).tensors)


def text(value: bytes, length: int | None = None) -> bytes:
    """A string with its length, or with a length that lies."""
    return struct.pack("<Q", len(value) if length is None else length) + value


def string(value: str) -> bytes:
    """Metadata of type string."""
    return struct.pack("<I", STRING) + text(value.encode())


def uint32(value: int) -> bytes:
    """Metadata of type uint32."""
    return struct.pack("<II", UINT32, value)


def float32(value: float) -> bytes:
    """Metadata of type float32."""
    return struct.pack("<If", FLOAT32, value)


def array(kind: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    """Metadata of type array, with its count or with one that lies."""
    n_items = len(items) if count is None else count
    return struct.pack("<IIQ", ARRAY, kind, n_items) + b"".join(items)
