"""The pass ``dce``, and the named pipelines."""

from __future__ import annotations

from typing import Any

from torch_mlir import ir

from .fuse import PATTERNS
from .pipelines import register_pass, register_pipeline
from .storage import KV_CACHE, type_name
from .walking import body, call_of, functions, users

_PLAIN = ("llm.view", "llm.buffer", "arith.constant")


@register_pass("dce")
def dce(module: ir.Module) -> None:
    """Removes operations whose results nobody uses.

    An update of a ``!llm.kv_cache`` is an effect and stays. So do operations of other dialects, for
    which there is MLIR's own ``canonicalize``.
    """
    for function in functions(module):
        for operation in reversed(body(function)):
            if _is_dead(operation):
                operation.operation.erase()


def _is_dead(operation: Any) -> bool:
    if any(users(result) for result in operation.results):
        return False
    call = call_of(operation)
    if call is None:
        return str(operation.name) in _PLAIN
    # With planned memory the results are no longer the only way to what was written.
    kept = [type_name(call.inputs[i].type) == KV_CACHE for i in call.updates]
    return not any(kept) and not call.into


@register_pipeline("optimize")
def optimize(*, only: tuple[str, ...] = (), plan: bool = True) -> str:
    """What is worth doing before `lower`: ``fuse``, MLIR's ``cse``, ``dce``, ``plan-buffers``.

    Options: ``only``, as ``fuse`` takes it; ``plan=false`` leaves the memory to the plan.
    """
    chosen = ",".join(only) or ",".join(PATTERNS)
    return f"fuse{{only={chosen}}},cse,dce" + ",plan-buffers" * plan
