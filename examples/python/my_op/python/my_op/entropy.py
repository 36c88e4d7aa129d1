"""The op token_entropy: its declaration and its kernels, NumPy for the CPU and torch for CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

import my_llm_ffi as llm

llm.declare_op(
    "token_entropy",
    "(logits: T['*batch vocab', 'f32']) -> T['*batch', 'f32']",
    doc="""How undecided a model is: the entropy of each row's softmax, in nats.

``out = log(z) - sum(p * (logits - max))``, ``z = sum(exp(logits - max))`` and ``p`` the softmax.
Tokens that are masked with ``-inf`` add nothing.

logits: At least one finite element in each row.
""",
)


@llm.register_kernel("token_entropy", "cpu", arrays=np.from_dlpack)
def entropy(logits: np.ndarray, out: np.ndarray) -> None:
    """The kernel for the CPU."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    spread = (weights * np.where(weights > 0, shifted, 0)).sum(axis=-1)
    out[...] = np.log(total) - spread / total


def _from_dlpack(tensor: Any) -> Any:
    import torch  # here, so that the package does not need it

    return torch.from_dlpack(tensor)


@llm.register_kernel("token_entropy", "cuda", arrays=_from_dlpack)
def entropy_cuda(logits: Any, out: Any) -> None:
    """The kernel for CUDA: torch launches on its current stream, which is the caller's."""
    logs = logits.log_softmax(dim=-1)
    out.copy_(-(logs.exp() * logs.clamp(min=-1e30)).sum(dim=-1))
