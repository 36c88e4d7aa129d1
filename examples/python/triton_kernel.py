"""Declares an op, gives it a Triton kernel for CUDA, and calls it from NumPy, torch and torch.ops.

    python examples/python/triton_kernel.py

Runs anywhere: without a GPU the CPU's kernel is Triton's too, in its interpreter; without Triton it
is NumPy's. Where CuTe's DSL (nvidia-cutlass-dsl) is installed and there is a GPU, a second op has a
kernel of that (cute_kernel.py).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import my_llm_ffi as llm

SIGNATURE = (
    "(gate: T['*batch hidden', 'f32 f16 bf16'], up: T['*batch hidden'], *, scale: float = 1.0)"
    " -> T['*batch hidden', 'may be gate up']"
)
DOC = """Squared ReLU of the gate times up.

``out = scale * max(gate, 0)**2 * up``, in float32 (So et al., "Primer", arXiv:2109.08668).

gate: What goes through the activation.
up: What it is multiplied with.
scale: Of all.
"""


def installed(module: str) -> bool:
    """Whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def has_gpu() -> bool:
    """Whether torch sees one."""
    if not installed("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def has_triton() -> bool:
    """Whether Triton is there, and torch, whose tensors it takes."""
    return installed("triton") and installed("torch")


def triton_kernel() -> Callable[..., None]:
    """The kernel in Triton: takes the op's tensors, outputs and options, all checked already."""
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def relu2(gate, up, out, scale, n, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(gate + at, mask=at < n, other=0.0).to(tl.float32)
        y = tl.load(up + at, mask=at < n, other=0.0).to(tl.float32)
        x = tl.where(x < 0, 0.0, x)  # a NaN stays one
        tl.store(out + at, scale * x * x * y, mask=at < n)

    def kernel(gate: Any, up: Any, out: Any, scale: float) -> None:
        n = gate.numel()
        if n == 0:
            return
        with torch.cuda.device_of(gate):  # Triton launches on the current device
            relu2[(triton.cdiv(n, 1024),)](gate, up, out, scale, n, BLOCK=1024)

    return kernel


def numpy_kernel(gate: Any, up: Any, out: Any, scale: float) -> None:
    """The kernel in NumPy, which has no bfloat16."""
    positive = np.where(gate < 0, 0, gate).astype(np.float32)
    out[...] = scale * positive * positive * up


def register() -> list[str]:
    """Declares the op, fills its slots; says what with."""
    llm.declare_op("relu2_mul", SIGNATURE, doc=DOC)
    gpu, use_triton, said = has_gpu(), has_triton(), []
    if not gpu:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
    if use_triton:
        import torch

        device = "cuda" if gpu else "cpu"
        llm.register_kernel("relu2_mul", device, arrays=torch.from_dlpack)(triton_kernel())
        said.append(f"{device}: Triton" + ("" if gpu else " in its interpreter, without a GPU"))
    if gpu or not use_triton:
        llm.register_kernel("relu2_mul", "cpu", arrays=np.from_dlpack)(numpy_kernel)
        said.append("cpu: NumPy")
    if gpu and installed("cutlass"):
        import cute_kernel
        import torch

        llm.declare_op("relu2_mul_cute", SIGNATURE, doc=DOC)
        llm.register_kernel("relu2_mul_cute", "cuda", arrays=torch.from_dlpack)(cute_kernel.kernel)
        said.append("relu2_mul_cute on cuda: CuTe")
    return said


def check(op: Callable[..., Any], gate: Any, up: Any) -> float:
    """The largest error of an op against float64, relative to the largest result."""

    def wide(t: Any) -> Any:
        return np.asarray(t.double().cpu() if hasattr(t, "double") else t, np.float64)

    want = 0.5 * np.maximum(wide(gate), 0) ** 2 * wide(up)
    error = np.abs(wide(op(gate, up, scale=0.5)) - want).max() / np.abs(want).max()
    if not error < 1e-2:
        raise SystemExit(f"the kernel is wrong: error {error}")
    return float(error)


def main() -> None:
    """Registers, calls, is refused."""
    for line in register():
        print(line)
    gate, up = np.random.default_rng(0).normal(size=(2, 5, 999)).astype(np.float32)
    print(f"NumPy arrays: error {check(llm.ops.relu2_mul, gate, up):.1e}")
    try:
        llm.ops.relu2_mul(gate, up[:, :-1].copy())
    except ValueError as error:
        print(f"refused: {error}")
    if not installed("torch"):
        print("no torch here")
        return
    import torch

    import my_llm_ffi.torch as llm_torch

    llm_torch.register("relu2_mul")
    device = "cuda" if has_gpu() and has_triton() else "cpu"
    for dtype in (torch.float32, torch.float16, torch.bfloat16)[: 3 if has_triton() else 2]:
        pair = [torch.randn(70, 1025, device=device).to(dtype) for _ in range(2)]
        name = str(dtype)[6:]
        print(f"torch, {device}, {name}: error {check(llm.ops.relu2_mul, *pair):.1e}")
        print(f"torch.ops, {name}: error {check(torch.ops.my_llm_ffi.relu2_mul, *pair):.1e}")
        if "relu2_mul_cute" in dir(llm.ops):
            print(f"CuTe, {name}: error {check(llm.ops.relu2_mul_cute, *pair):.1e}")


if __name__ == "__main__":
    sys.exit(main())
