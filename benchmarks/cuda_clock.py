"""Times calls on a device, and its limits: bandwidth of a copy, rate of a matrix product.

On the CPU the same calls are timed by the system's clock, so that the benchmarks can be tried out
without a GPU; such figures mean nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

COPY_BYTES = 4 << 30
MATRIX_SIZE = 8192
REPEATS = 15
SAMPLE_US = 1000.0  # a graph holds as many calls as fill this, so that its own launch is little

Calls = Sequence[Callable[[], Any]]


class Clock:
    """Median time per call on a device.

    Args:
        device: Of the tensors that the calls work on.
        shrink: Divides the sizes of what the limits are measured on.
    """

    def __init__(self, device: torch.device, shrink: int = 1) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"
        self.copy_rate = self._copy_rate(COPY_BYTES // shrink)
        self.matrix_rate = self._matrix_rate(max(64, MATRIX_SIZE // shrink))

    def median_us(self, calls: Calls, *, captured: bool = False) -> float:
        """Microseconds per call; the calls are made in turns.

        On CUDA they are replayed from a graph, so that no gap between launches counts; what cannot
        be captured is launched one by one, or an error if it is to be `captured`.
        """
        for call in calls:
            call()
        if not self.is_cuda:
            return self._plain_us(calls, time.perf_counter)
        torch.cuda.synchronize()
        turns = max(1, int(SAMPLE_US / max(1.0, self._event_us(lambda: _all(calls))) + 0.5))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for _ in range(turns):
                    _all(calls)
        except RuntimeError:
            if captured:
                raise
            torch.cuda.synchronize()
            graph = None
        replay = graph.replay if graph else lambda: [_all(calls) for _ in range(turns)]
        replay()
        times = [self._event_us(replay) / turns / len(calls) for _ in range(REPEATS)]
        return statistics.median(times)

    def _event_us(self, call: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3

    @staticmethod
    def _plain_us(calls: Calls, now: Callable[[], float]) -> float:
        start = now()
        _all(calls)
        return (now() - start) * 1e6 / len(calls)

    def _copy_rate(self, size: int) -> float:
        source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2e6 * size / self.median_us([lambda: target.copy_(source)])

    def _matrix_rate(self, n: int) -> float:
        # Random, because zeros draw less power and run faster.
        a, b = (torch.randn(n, n, device=self.device).bfloat16() for _ in range(2))
        return 2e6 * n**3 / self.median_us([lambda: a @ b])

    def describe(self) -> str:
        """The device and its limits in a line."""
        name = torch.cuda.get_device_name(self.device) if self.is_cuda else "CPU"
        return (
            f"{name}, torch {torch.__version__}: copy {self.copy_rate / 1e9:.0f} GB/s read plus "
            f"written, bf16 matrix product {self.matrix_rate / 1e12:.4g} TFLOP/s"
        )


def _all(calls: Calls) -> None:
    for call in calls:
        call()
