"""The kernel of triton_kernel.py in the DSL of CuTe (nvidia-cutlass-dsl); imported where that is.

The DSL looks types up in the module, hence a module of its own.
"""

from __future__ import annotations

from typing import Any

import cutlass
import torch
from cuda.bindings import driver
from cutlass import cute
from cutlass.cute.runtime import from_dlpack

THREADS = 256


@cute.kernel
def relu2(gate: cute.Tensor, up: cute.Tensor, out: cute.Tensor, scale: cutlass.Float32) -> None:
    """An element per thread."""
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    at = block * THREADS + thread
    if at < cute.size(out):
        x = cutlass.Float32(gate[at])
        if x < 0.0:
            x = cutlass.Float32(0.0)
        out[at] = (scale * x * x * cutlass.Float32(up[at])).to(out.element_type)


@cute.jit
def launch(
    gate: cute.Tensor,
    up: cute.Tensor,
    out: cute.Tensor,
    scale: cutlass.Float32,
    stream: driver.CUstream,
) -> None:
    """The grid over flat tensors."""
    grid = cute.ceil_div(cute.size(out), THREADS)
    relu2(gate, up, out, scale).launch(grid=[grid, 1, 1], block=[THREADS, 1, 1], stream=stream)


def kernel(gate: Any, up: Any, out: Any, scale: float) -> None:
    """What is registered: takes torch's tensors, launches on torch's stream."""
    if out.numel() == 0:
        return
    flat = [from_dlpack(t.view(-1)).mark_layout_dynamic() for t in (gate, up, out)]
    with torch.cuda.device_of(out):
        launch(*flat, scale, driver.CUstream(torch.cuda.current_stream().cuda_stream))
