"""What a forward pass cannot do without: bytes to read, operations; counterpart: limits.py."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import _ffi_api
from .checks import as_path
from .limits import Limits, last_level_cache

_KV_BYTES = 2  # of an element of the cache, which contexts keep in float16 by default
_HEAD, _EMBEDDING = b"output.weight", b"token_embd.weight"


@dataclass(frozen=True)
class Operations:
    """Of matrix products, a multiply and an add being two.

    Attributes:
        fma: In float32.
        int8: On 8-bit integers; activations that are rounded to 16 bits count twice.
    """

    fma: float = 0.0
    int8: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.fma + other.fma, self.int8 + other.int8)

    def times(self, count: float) -> Operations:
        """So many of them."""
        return Operations(self.fma * count, self.int8 * count)

    def seconds(self, limits: Limits) -> float:
        """What they take at the machine's limits: the kinds share the same units, one by one."""
        return self.fma / limits.fma + self.int8 / limits.int8


@dataclass(frozen=True)
class Bound:
    """The shortest time of some work on a machine.

    Attributes:
        seconds: The time.
        limit: What sets it: ``read``, ``compute``, or ``in cache``, where the weights fit into the
            last-level cache and the bandwidth of memory bounds nothing.
    """

    seconds: float
    limit: str


@dataclass(frozen=True)
class Work:
    """What the passes of a model need.

    Attributes:
        weight_bytes: Of the matrices that a pass multiplies with, the output head included.
        kv_bytes: That a pass reads of the cache per token that it looks back to.
        blocks: Operations of the blocks per token.
        head: Operations of the output head per row of logits.
    """

    weight_bytes: int
    kv_bytes: int
    blocks: Operations
    head: Operations

    def prefill(self, tokens: int, passes: int, rows: int, limits: Limits) -> Bound:
        """Of prompts; their attention is not counted.

        Args:
            tokens: Of all prompts together.
            passes: Forward passes that they take.
            rows: Rows of logits that are computed.
            limits: Of the machine.
        """
        operations = self.blocks.times(tokens) + self.head.times(rows)
        return self._bound(passes, 0, operations, limits)

    def decode(self, steps: int, sequences: int, depth: int, limits: Limits) -> Bound:
        """Of steps of one token per sequence.

        Args:
            steps: How many.
            sequences: That decode together.
            depth: Tokens in each sequence before the first step.
            limits: Of the machine.
        """
        looked_at = sequences * steps * (depth + (steps + 1) / 2)
        operations = (self.blocks + self.head).times(sequences * steps)
        return self._bound(steps, looked_at, operations, limits)

    def _bound(
        self, passes: int, looked_at: float, operations: Operations, limits: Limits
    ) -> Bound:
        n_bytes = passes * self.weight_bytes + looked_at * self.kv_bytes
        read, compute = n_bytes / limits.read, operations.seconds(limits)
        if compute >= read:
            return Bound(compute, "compute")
        return Bound(read, "in cache" if n_bytes < passes * last_level_cache() else "read")


def kv_bytes(config: Any) -> int:
    """Bytes of the cache per token.

    Args:
        config: The `ModelConfig`.
    """
    return int(2 * _KV_BYTES * config.n_layers * config.n_kv_heads * config.head_dim)


def work_of(path: str | bytes | os.PathLike[Any], config: Any) -> Work:
    """The work of a model.

    Args:
        path: Its GGUF file.
        config: Its `ModelConfig`.
    """
    return count(_ffi_api.Gguf.open(as_path("path", path)).tensors(), kv_bytes(config))


def count(tensors: Iterable[Mapping[str, Any]], kv_bytes: int) -> Work:
    """The work of a model of these tensors.

    Args:
        tensors: As ``Gguf.tensors`` gives them. A table that is only looked up is no work; one
            that serves as output head too is.
        kv_bytes: Of the cache per token.
    """
    matrices = {bytes(t["name"]): t for t in tensors if len(t["shape"]) == 2}
    head = _HEAD if _HEAD in matrices else _EMBEDDING
    blocks, n_bytes = Operations(), 0
    for name, tensor in matrices.items():
        if name.startswith(b"blk."):
            blocks += _operations(tensor)
        elif name != head:
            continue
        n_bytes += int(tensor["bytes"])
    of_head = _operations(matrices[head]) if head in matrices else Operations()
    return Work(n_bytes, kv_bytes, blocks, of_head)


def _operations(tensor: Mapping[str, Any]) -> Operations:
    rows, cols = tensor["shape"]
    planes = int(tensor["activation_planes"])
    operations = 2.0 * int(rows) * int(cols)
    return Operations(int8=planes * operations) if planes else Operations(fma=operations)
