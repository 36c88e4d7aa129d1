"""Ops that the dialect has and the library has no kernel of: elementary ones and a composite.

Elementary ops are what a model is written down with before it is fused; `lower` refuses those that
are left. A composite is lowered to the calls that it stands for.
"""

from __future__ import annotations

from .. import render
from ..declaration import Op, load, parse

_SAME = "(x: T['*shape', 'f32 f16 bf16'], y: T['*shape']) -> T['*shape']"

ELEMENTARY = {
    op.name: op
    for op in (
        parse(
            "add",
            _SAME,
            doc="Sum of two tensors, rounded to their dtype. Fused into ``add_rms_norm``.\n\n"
            "x: What is added.\ny: What it is added to.",
        ),
        parse(
            "mul",
            _SAME,
            doc="Product of two tensors. Fused with ``silu`` into ``silu_mul``.\n\n"
            "x: One factor.\ny: The other.",
        ),
        parse(
            "silu",
            "(x: T['*shape', 'f32 f16 bf16']) -> T['*shape']",
            doc="``x / (1 + exp(-x))``. Fused with ``mul`` into ``silu_mul``.\n\nx: What goes in.",
        ),
    )
}

ROPE_KV_APPEND = "rope_kv_append"
_TENSORS = (
    "q: Mut['tokens heads head_dim', 'f32 f16 bf16'], k: Mut['tokens kv_heads head_dim'], "
    "positions: T['tokens', 'i32 i64'], k_pages: Mut['pages kv_heads head_dim 32', "
    "'f32 f16 bf16'], v_pages: Mut['pages kv_heads 32 head_dim', 'like k_pages'], "
    "v: T['tokens kv_heads head_dim', 'like k'], slots: T['tokens', 'i64'], "
    "freq_factors: T['pairs', 'f32'] | None = None"
)
_OWN = ("q", "k", "positions")


def composites() -> dict[str, Op]:
    """The composite ops, with the options of the ops that they are made of."""
    rope = load("rope")
    options = rope.signature[rope.signature.index("*, ") : rope.signature.rindex(")")]
    doc = (
        "``rope`` of queries and keys, then ``kv_append`` of the keys and the values.\n\n"
        "Lowered to one call of a registered op of this name and signature, if somebody declared "
        "one; to the two calls otherwise.\n\n"
        "q: Queries, rotated in place.\nk: Keys, rotated in place.\npositions: Of the tokens.\n"
        "k_pages: Pages of keys, written in place.\nv_pages: Pages of values, likewise.\n"
        "v: Values.\nslots: Where each token goes.\n"
    )
    _, texts = render.split_doc(rope)
    doc += "\n".join(f"{name}: {text}" for name, text in texts.items() if name not in _OWN)
    return {ROPE_KV_APPEND: parse(ROPE_KV_APPEND, f"({_TENSORS}, {options}) -> None", doc=doc)}
