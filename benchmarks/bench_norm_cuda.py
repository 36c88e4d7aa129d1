"""rms_norm on CUDA: one markdown row per shape and dtype, against a measured copy and torch's own.

Checks the result before it times it. GB/s counts x read once and out written once.
"""

from __future__ import annotations

import statistics
from typing import Callable

import torch

from my_llm_ffi import ops

SHAPES = [(1, 4096), (64, 4096), (4096, 4096), (65536, 576), (16384, 8192), (8192, 16384)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CACHE_BYTES = 512 << 20  # rotate over more than any L2 holds


def median_us(calls: list[Callable[[], object]], repeats: int = 20) -> float:
    """Median microseconds per call over graphs of all the calls: no launch gaps in it."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times)


def copy_gb_per_s() -> float:
    """Bandwidth of a device-to-device copy, bytes read plus bytes written."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_us([lambda: target.copy_(source)]) / 1e3


def check(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> float:
    """Relative error in the 2-norm of some rows, against float64."""
    x, out = x[-64:].double(), out[-64:].double()
    want = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    error = ((out - want).norm() / want.norm()).item()
    if not error < 4e-3:
        raise SystemExit(f"rms_norm is wrong: relative error {error}")
    return error


def bench(tokens: int, hidden: int, dtype: torch.dtype, ceiling: float) -> str:
    """One row of the table."""
    x = torch.randn(tokens, hidden, device="cuda").to(dtype)
    weight = torch.randn(hidden, device="cuda").to(dtype)
    sets = max(1, min(64, CACHE_BYTES // (2 * x.nbytes)))
    pairs = [(x.clone(), torch.full_like(x, float("nan"))) for _ in range(sets)]
    for source, target in pairs:
        ops.rms_norm(source, weight, eps=1e-6, out=target)
    error = check(pairs[-1][1], x, weight)

    def ours(source: torch.Tensor, target: torch.Tensor) -> Callable[[], object]:
        return lambda: ops.rms_norm(source, weight, eps=1e-6, out=target)

    def theirs(source: torch.Tensor) -> Callable[[], object]:
        return lambda: torch.nn.functional.rms_norm(source, (hidden,), weight, 1e-6)

    us = median_us([ours(*pair) for pair in pairs])
    torch_us = median_us([theirs(source) for source, _ in pairs])
    speed = 2 * x.nbytes / us / 1e3
    return (
        f"| {tokens}x{hidden} | {str(dtype)[6:]} | {us:.2f} | {speed:.0f} | {speed / ceiling:.0%} "
        f"| {torch_us / us:.2f}x | {error:.1e} |"
    )


def main() -> None:
    """Prints the table."""
    ceiling = copy_gb_per_s()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {ceiling:.0f} GB/s\n")
    print("| shape | dtype | us | GB/s | of copy | torch / ours | error |\n|" + "--|" * 7)
    for tokens, hidden in SHAPES:
        for dtype in DTYPES:
            print(bench(tokens, hidden, dtype, ceiling))


if __name__ == "__main__":
    main()
