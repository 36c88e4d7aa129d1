"""A device under test, its memory and its streams: what tests/cuda drives the ops through.

On the CPU the same steps run without what only a GPU has, so that the tests themselves are tested.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from my_llm_ffi import declaration, ops

from .device_samples import Sample

# Elements before and after a tensor, which keep the alignment of what lies between; 0 for a memory
# checker, which then sees reads beyond a tensor too.
GUARD = int(os.environ.get("MY_LLM_FFI_TEST_GUARD", "256"))
POISON = 0xFF  # of every byte: NaN of all float dtypes, -1 of the integers
SLEEP_CYCLES = 20_000_000  # about 10 ms: longer than any launch takes


class Placed:
    """A tensor on a device within poisoned memory, `offset` elements after an aligned address.

    Args:
        shape: Its sizes.
        dtype: Of its elements.
        device: Where.
        offset: Elements.
    """

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, offset: int = 0
    ) -> None:
        count = torch.Size(shape).numel()
        start = GUARD + offset
        # Bytes are read by the aligned words that they lie in (src/quant/tile.h).
        behind = GUARD + (-(start + count) % 4 if dtype == torch.uint8 else 0)
        self.memory = torch.empty(start + count + behind, dtype=dtype, device=device)
        self.bytes = self.memory.view(torch.uint8)
        self.bytes.fill_(POISON)
        self.tensor = self.memory[start : start + count].view(tuple(shape))
        size = self.memory.element_size()
        self.inside = slice(start * size, (start + count) * size)

    @classmethod
    def copy(cls, tensor: torch.Tensor, device: torch.device, offset: int = 0) -> Placed:
        """A copy of a tensor."""
        placed = cls(tensor.shape, tensor.dtype, device, offset)
        placed.tensor.copy_(tensor)
        return placed

    def poison(self) -> None:
        """Fills the tensor with what no op may leave in it."""
        self.bytes[self.inside].fill_(POISON)

    def intact_around(self) -> bool:
        """Whether nobody wrote outside of the tensor."""
        before, after = self.bytes[: self.inside.start], self.bytes[self.inside.stop :]
        return bool((before == POISON).all()) and bool((after == POISON).all())


@dataclasses.dataclass
class Call:
    """An op with all its tensors on a device, outputs too.

    Attributes:
        op: The declaration.
        sample: What it was made from.
        inputs: In the op's order, None where one is absent.
        outputs: Likewise.
    """

    op: declaration.Op
    sample: Sample
    inputs: list[Placed | None]
    outputs: list[Placed]

    @classmethod
    def of(
        cls, name: str, sample: Sample, device: torch.device, offsets: Sequence[int] = (0,)
    ) -> Call:
        """Places a sample; tensors get the offsets in turn."""
        op = declaration.load(name)
        shapes = [None if t is None else tuple(t.shape) for t in sample.tensors]
        dtypes = [None if t is None else str(t.dtype).partition(".")[2] for t in sample.tensors]
        made = op.infer(shapes, dtypes, sample.options)
        wanted = sample.out_dtypes or [getattr(torch, dtype) for _, dtype in made]
        turn = [offsets[i % len(offsets)] for i in range(len(shapes) + len(made))]
        inputs = [
            None if t is None else Placed.copy(t, device, offset)
            for t, offset in zip(sample.tensors, turn)
        ]
        outputs = [
            Placed(shape, dtype, device, offset)
            for (shape, _), dtype, offset in zip(made, wanted, turn[len(shapes) :])
        ]
        return cls(op, sample, inputs, outputs)

    def __call__(self) -> None:
        """Calls the op."""
        inputs = [None if p is None else p.tensor for p in self.inputs]
        outs = [p.tensor for p in self.outputs]
        options: dict[str, Any] = dict(self.sample.options)
        if outs:
            options["out"] = outs[0] if len(outs) == 1 else tuple(outs)
        getattr(ops, self.op.name)(*inputs, **options)

    def refill(self, sample: Sample, there: Sequence[torch.Tensor | None] | None = None) -> None:
        """Another sample of the same shapes in the same memory, outputs poisoned.

        Args:
            sample: Its tensors may be
            there: on the device already, from where a copy does not wait for the stream.
        """
        self.sample = sample
        for placed, tensor in zip(self.inputs, there or sample.tensors):
            if placed is not None:
                placed.tensor.copy_(tensor)
        for placed in self.outputs:
            placed.poison()

    def results(self) -> list[torch.Tensor]:
        """Outputs and what was written in place, on the CPU."""
        written = [p for p, t in zip(self.inputs, self.op.inputs) if t.use == "mutable"]
        return [p.tensor.cpu() for p in (*self.outputs, *written)]

    def check_memory(self) -> None:
        """Nothing beside outputs and mutable inputs was written."""
        for placed, tensor, given in zip(self.inputs, self.op.inputs, self.sample.tensors):
            if placed is None:
                continue
            assert placed.intact_around(), f"wrote outside of {tensor.name}"
            if tensor.use == "input":
                same = torch.equal(_raw(placed.tensor.cpu()), _raw(given))
                assert same, f"changed its input {tensor.name}"
        for placed, tensor in zip(self.outputs, self.op.outputs):
            assert placed.intact_around(), f"wrote outside of {tensor.name}"


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


class Target:
    """A device, with what differs between a GPU and the CPU.

    Args:
        device: Index included.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"

    def takes(self, sample: Sample) -> bool:
        """Whether an op does not refuse the sample here."""
        return not (self.is_cuda and sample.cpu_only)

    def synchronize(self) -> None:
        """Waits for all work; raises what went wrong in it."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def busy_stream(self) -> Iterator[None]:
        """Makes another stream the caller's, with work on it that lasts longer than a launch."""
        if not self.is_cuda:
            yield
            return
        self.synchronize()
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            torch.cuda._sleep(SLEEP_CYCLES)
            yield
        stream.synchronize()

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """The replay of a graph of one call; a graph refuses to synchronize or allocate."""
        if not self.is_cuda:
            return call
        with torch.cuda.device(self.device):
            call()  # loads the kernels
            self.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Not torch.cuda.graph, which collects garbage each time.
            with torch.cuda.stream(torch.cuda.Stream(self.device)):
                graph.capture_begin()
                try:
                    call()
                finally:
                    graph.capture_end()
        return graph.replay  # type: ignore[no-any-return]
