"""Draws operations of the dialect as text, right and wrong ones, from the declarations alone."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from my_llm_ffi.declaration import DTYPES, REQUIRED, Attribute, Op

ELEMENTS = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "ui8",
}
SIZES = st.sampled_from([0, 1, 2, 3, 8, 16, 32, 34, 64])


@dataclasses.dataclass
class Drawn:
    """Inputs of an op, and its options by name."""

    op: Op
    shapes: list[tuple[int, ...] | None]
    dtypes: list[str | None]
    options: dict[str, Any]

    def outputs(self) -> list[tuple[tuple[int, ...], str]]:
        """As the op infers them."""
        return self.op.infer(self.shapes, self.dtypes, self.options)

    def function(self, outputs: list[tuple[tuple[int, ...], str]]) -> str:
        """A function of the one operation; its second line is the operation."""
        given = [(s, d) for s, d in zip(self.shapes, self.dtypes) if s is not None]
        operands = [tensor(*one) for one in given]
        updated = [
            tensor(self.shapes[i], self.dtypes[i])
            for i, t in enumerate(self.op.inputs)
            if t.use == "mutable"
        ]
        results = [tensor(*one) for one in outputs] + updated
        names = [f"%arg{i}" for i in range(len(operands))]
        typed = ", ".join(f"{n}: {t}" for n, t in zip(names, operands))
        return (
            f"func.func @main({typed}) {{\n"
            f'  %0{f":{len(results)}" if len(results) > 1 else ""} = "llm.{self.op.name}"'
            f"({', '.join(names)}) {{{', '.join(self._attributes())}}} : "
            f"({', '.join(operands)}) -> ({', '.join(results)})\n  return\n}}\n"
        )

    def _attributes(self) -> list[str]:
        listed = [
            f"{a.name} = {self._text(a)}" for a in self.op.attributes if a.name in self.options
        ]
        outputs = len(self.op.outputs)
        if outputs > 1 or any(t.optional for t in self.op.inputs):
            counts = [str(int(s is not None)) for s in self.shapes] + ["0"] * outputs
            listed.append(f"operandSegmentSizes = array<i32: {', '.join(counts)}>")
        return listed

    def _text(self, attribute: Attribute) -> str:
        value = self.options[attribute.name]
        if value is None:
            return "unit"
        if attribute.choices:
            return f'#llm.{attribute.name}<"{value}">'
        if attribute.kind == "float":
            return f"{value:e} : f64"
        return {"bool": str(value).lower(), "int": f"{value} : i64", "str": f'"{value}"'}[
            attribute.kind
        ]


def tensor(shape: tuple[int, ...], dtype: str) -> str:
    """The text of a tensor type."""
    return f"tensor<{''.join(f'{size}x' for size in shape)}{ELEMENTS[dtype]}>"


@st.composite
def calls(draw: Any, op: Op) -> Drawn:
    """A call whose sizes mostly fit, and whose options do."""
    sizes: dict[str, Any] = {}
    shapes: list[tuple[int, ...] | None] = []
    dtypes: list[str | None] = []
    by_name: dict[str, str] = {}
    for tensor in op.inputs:
        if tensor.optional and draw(st.booleans()):
            shapes.append(None)
            dtypes.append(None)
            continue
        shape: list[int] = []
        for dim in tensor.dims:
            if dim.isdigit():
                shape.append(int(dim))
            elif dim.startswith("*"):
                shape += sizes.setdefault(dim, draw(st.lists(SIZES, max_size=2)))
            else:
                shape.append(sizes.setdefault(dim, draw(SIZES)))
        if draw(st.integers(0, 9)) == 0:  # a wrong one now and then
            shape = draw(st.lists(SIZES, max_size=3))
        allowed = list(tensor.dtypes) + ([by_name[tensor.like]] if tensor.like in by_name else [])
        if draw(st.integers(0, 9)) == 0:
            allowed = list(DTYPES.values())
        dtype = draw(st.sampled_from(allowed)) if allowed else "float32"
        by_name[tensor.name] = dtype
        shapes.append(tuple(shape))
        dtypes.append(dtype)
    options = {
        a.name: draw(_values(a))
        for a in op.attributes
        if a.default is REQUIRED or draw(st.booleans())
    }
    return Drawn(op, shapes, dtypes, options)


def _values(attribute: Attribute) -> st.SearchStrategy[Any]:
    values: st.SearchStrategy[Any] = {
        "float": st.floats(-4, 4, allow_nan=False).map(lambda x: round(x, 3)),
        "int": st.integers(-2, 40),
        "bool": st.booleans(),
        "str": st.sampled_from(attribute.choices or ("a", "b")),
    }[attribute.kind]
    # None is what is left out, unless the default is another value.
    absent = attribute.optional and attribute.default is not None
    return st.one_of(st.none(), values) if absent else values
