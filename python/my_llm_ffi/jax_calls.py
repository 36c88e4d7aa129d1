"""How JAX calls an op: a target of XLA's foreign functions, and what its transformations see of it.

Counterparts: src/ffi/functional_op.cc (arguments in the order of the op), render_jax.py (the source
of the functions), jax.py (the functions).
"""

from __future__ import annotations

import dataclasses
import linecache
from collections.abc import Sequence
from typing import Any, Callable

import jax
import jax_tvm_ffi
import numpy as np
from jax.custom_batching import custom_vmap

from . import _ffi_api, render_jax
from .checks import is_too_large
from .declaration import PREFIX, Attribute, Op, Tensor

_PLATFORMS = ("cpu", "gpu")
# What XLA is given for an option that is None, for which it has no value.
_NOTHING = {"float": 0.0, "int": 0, "bool": False, "str": ""}
_registered: set[str] = set()


def compile_op(op: Op) -> Callable[..., Any]:
    """The function of JAX for an op.

    Args:
        op: The declaration.
    """
    _register_target(op)
    names = [a.name for a in op.attributes]

    def traced(*tensors: Any, **options: Any) -> Any:
        return _Call(op, tensors, options)()

    traced.__name__ = traced.__qualname__ = op.name
    scope: dict[str, Any] = {
        "__name__": "my_llm_ffi.jax",
        "_op": op,
        "_jitted": jax.jit(traced, static_argnames=names),
        "_plain": plain_option,
        "_explain": explain,
    }
    code, name = render_jax.source(op), f"<my_llm_ffi.jax.{op.name}>"
    exec(compile("from __future__ import annotations\n" + code, name, "exec"), scope)
    linecache.cache[name] = (len(code), None, ("\n" + code).splitlines(keepends=True), name)
    function: Callable[..., Any] = scope[op.name]
    return function


def _register_target(op: Op) -> None:
    """Makes the op known to XLA, on devices of every kind that it may have kernels for."""
    if op.name in _registered:
        return
    written = [t.use == "mutable" for t in op.inputs]
    counts = len(op.outputs), len(op.attributes)
    call = _ffi_api.functional_op(op.name, op.function, written, *counts)
    options = [f"attrs.{a.name}" for a in op.attributes]
    for platform in _PLATFORMS:
        jax_tvm_ffi.register_ffi_target(
            PREFIX + op.name,
            call,
            ["args", "rets", "attrs._present", "attrs._unset", *options],
            platform=platform,
            allow_cuda_graph=True,
            pass_owned_tensor=True,  # a kernel may be one of Python, which shares them by DLPack
        )
    _registered.add(op.name)


# ---- arguments ----------------------------------------------------------------------------------


def plain_option(op: Op, name: str, value: Any) -> Any:
    """An option's value as the Python object that JAX compiles for; None where it may be.

    Args:
        op: The declaration.
        name: Of the option.
        value: What was given.

    Raises:
        TypeError: It is of another type, or an array that JAX traces.
        OverflowError: It does not fit 64 bits.
    """
    attribute = next(a for a in op.attributes if a.name == name)
    if value is None and attribute.optional:
        return None
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{op.name}: {name} is traced by JAX, expected {attribute.expected} that is known "
            "when the function is compiled"
        )
    if isinstance(value, (np.generic, np.ndarray, jax.Array)) and value.ndim == 0:
        value = value.item()
    if not _fits(attribute, value):
        raise op.option_error(attribute, value)
    return float(value) if attribute.kind == "float" else value


def _fits(attribute: Attribute, value: Any) -> bool:
    if is_too_large(value):
        return False
    if attribute.kind in ("float", "int"):
        numbers = (int, float) if attribute.kind == "float" else int
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, bool if attribute.kind == "bool" else str)


def explain(op: Op, error: Exception, tensors: Sequence[Any]) -> Exception:
    """An error that names the argument that is no array, where JAX's own does not.

    Args:
        op: The op that was called.
        error: What its call raised.
        tensors: What it was called with.
    """
    if not str(error).startswith(f"{op.name}: "):
        for spec, tensor in zip(op.inputs, tensors):
            if tensor is not None and not isinstance(tensor, (jax.Array, np.ndarray)):
                kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
                said = f"{spec.name} is {kind.removeprefix('builtins.')}"
                return TypeError(f"{op.name}: {said}, expected an array of JAX or NumPy")
    return error


def _check_array(op: Op, spec: Tensor, tensor: Any) -> None:
    if tensor is None and spec.optional:
        return
    if not hasattr(tensor, "shape"):
        raise TypeError(f"{op.name}: {spec.name} is {type(tensor).__name__}, expected an array")


# ---- what is traced -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call while JAX traces it: shapes and dtypes are known, values are not.

    Attributes:
        op: The declaration.
        tensors: Inputs, None where one is absent.
        options: All of them, plain values of Python.
    """

    op: Op
    tensors: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self) -> Any:
        for spec, tensor in zip(self.op.inputs, self.tensors):
            _check_array(self.op, spec, tensor)
        batched = custom_vmap(self._foreign)
        batched.def_vmap(_Batching(self, batched))
        refusing = jax.custom_jvp(batched)
        refusing.defjvp(self._refuse_derivative)
        results = refusing(*(t for t in self.tensors if t is not None))
        return results[0] if len(results) == 1 else results

    @property
    def given(self) -> list[Tensor]:
        """Declarations of the inputs that are there."""
        return [s for s, t in zip(self.op.inputs, self.tensors) if t is not None]

    def _foreign(self, *given: Any) -> tuple[Any, ...]:
        """The call of XLA's target; an input that is written is a result with the same memory."""
        given = tuple(_widened(spec, t) for spec, t in zip(self.given, given))
        written = [i for i, spec in enumerate(self.given) if spec.use == "mutable"]
        outputs = self._outputs(given)
        outputs += [jax.ShapeDtypeStruct(given[i].shape, given[i].dtype) for i in written]
        first = len(self.op.outputs)
        call = jax.ffi.ffi_call(
            PREFIX + self.op.name,
            outputs,
            input_output_aliases={i: first + at for at, i in enumerate(written)},
        )
        return tuple(call(*given, **self._attributes()))

    def _outputs(self, given: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        left = iter(given)
        tensors = [None if t is None else next(left) for t in self.tensors]
        shapes = [None if t is None else t.shape for t in tensors]
        dtypes = [None if t is None else str(t.dtype) for t in tensors]
        made = []
        inferred = self.op.infer(shapes, dtypes, self.options)
        for spec, (shape, dtype) in zip(self.op.outputs, inferred):
            if dtype == "int64" and not jax.config.jax_enable_x64:
                raise TypeError(
                    f"{self.op.name}: {spec.name} is int64, which JAX has with jax_enable_x64 only"
                )
            made.append(jax.ShapeDtypeStruct(shape, jax.numpy.dtype(dtype)))
        return made

    def _attributes(self) -> dict[str, Any]:
        """Options for XLA, with which of them are None and which inputs are there."""
        values = {a.name: self.options[a.name] for a in self.op.attributes}
        plain = {
            a.name: _NOTHING[a.kind] if values[a.name] is None else values[a.name]
            for a in self.op.attributes
        }
        present = _mask([t is not None for t in self.tensors])
        return {"_present": present, "_unset": _mask([v is None for v in values.values()]), **plain}

    def _refuse_derivative(self, primals: Any, tangents: Any) -> Any:
        raise NotImplementedError(
            f"{self.op.name}: JAX differentiates an input, and the op has no derivative; give it "
            "jax.lax.stop_gradient(x)"
        )


def _mask(bits: Sequence[bool]) -> int:
    return sum(bit << i for i, bit in enumerate(bits))


def _widened(spec: Tensor, tensor: Any) -> Any:
    """The int64 of an int32, for an input that takes nothing else: JAX has none by default."""
    if spec.dtypes != ("int64",) or spec.use == "mutable" or str(tensor.dtype) != "int32":
        return tensor
    # Before JAX 0.8 it was in jax.experimental.
    where = jax if hasattr(jax, "enable_x64") else jax.experimental
    with where.enable_x64(True):
        return jax.lax.convert_element_type(tensor, np.int64)


@dataclasses.dataclass(frozen=True)
class _Batching:
    """What ``jax.vmap`` does: one call where leading dimensions are declared, or a loop.

    Attributes:
        call: The call of one element.
        function: Takes the inputs that are there; may be given a batch of them.
    """

    call: _Call
    function: Callable[..., tuple[Any, ...]]

    def __call__(self, size: int, batched: Sequence[bool], *given: Any) -> tuple[Any, Any]:
        results = self._at_once(size, batched, given) or self._one_by_one(batched, given)
        return results, (True,) * len(results)

    def _at_once(
        self, size: int, batched: Sequence[bool], given: Sequence[Any]
    ) -> tuple[Any, ...] | None:
        """The results of one call, or None where the declaration has no room for the batch."""
        op, specs = self.call.op, self.call.given
        lead = {spec.dims[0] if spec.dims else "" for spec, b in zip(specs, batched) if b}
        name = lead.pop()
        results = [*op.outputs, *(s for s in specs if s.use == "mutable")]
        fits = not lead and name.startswith("*") and all(s.dims[:1] == (name,) for s in results)
        if not fits:
            return None
        wide = [
            jax.numpy.broadcast_to(t, (size, *t.shape)) if s.dims[:1] == (name,) and not b else t
            for s, b, t in zip(specs, batched, given)
        ]
        return self.function(*wide)

    def _one_by_one(self, batched: Sequence[bool], given: Sequence[Any]) -> tuple[Any, ...]:
        def one(element: Sequence[Any]) -> tuple[Any, ...]:
            parts = iter(element)
            return self.function(*(next(parts) if b else t for b, t in zip(batched, given)))

        results: tuple[Any, ...] = jax.lax.map(one, [t for b, t in zip(batched, given) if b])
        return results
