"""Arrays of any DLPack framework: which ones ops take, and outputs in the framework of an input."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import tvm_ffi

from . import _ffi_api
from .checks import is_too_large

if TYPE_CHECKING:
    from .declaration import Op

Array = TypeVar("Array")
# An array whose dtype need not be that of the first one: no type can say more of it.
AnyArray = Any

# Classes that were looked at once and found safe to hand to native code.
known_types: set[type] = {tvm_ffi.Tensor}
# Holds torch's module of forward-mode derivatives, its function that counts a write and the one
# that says whether tensors are made without counts, once an op was given one of its tensors.
torch_seen: list[Any] = []
_torch_types: set[type] = set()


def check_array(op: str, name: str, array: Any) -> None:
    """Refuses what DLPack would hand over although native code must not touch it.

    Everything else (dtype, shape, strides, device, read-only memory) is checked natively.

    Args:
        op: Name of the op, for the message.
        name: Name of the argument.
        array: What was given.

    Raises:
        TypeError: No array; or an eager JAX array (immutable, yet DLPack would let an op write into
            it), or a torch tensor without memory of its own, such as a FakeTensor.
    """
    cls = type(array)
    if cls in known_types:
        return
    framework = cls.__module__.partition(".")[0]
    if framework in ("jax", "jaxlib"):
        raise TypeError(
            f"{op}: {name} is an eager JAX array, which is immutable; expected an array that may "
            "be shared, such as numpy.array(x)"
        )
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(cls, torch.Tensor):
        _check_torch_class(op, name, cls, torch)
        increment = torch._C._increment_version
        torch_seen[:] = [torch.autograd.forward_ad, increment, torch.is_inference_mode_enabled]
        _torch_types.add(cls)
    elif framework == "numpy" and cls.__name__ == "MaskedArray":
        raise TypeError(f"{op}: {name} is a MaskedArray, whose mask no op knows; use .filled()")
    else:
        _check_dlpack(f"{op}: {name}", cls)
    known_types.add(cls)


def _check_dlpack(name: str, cls: type) -> None:
    if not hasattr(cls, "__dlpack__") and not hasattr(cls, "__tvm_ffi_object__"):
        raise TypeError(
            f"{name} is {cls.__name__}, expected an array (NumPy, torch, tvm_ffi, or another with "
            "__dlpack__)"
        )


def _check_torch_class(op: str, name: str, cls: type, torch: Any) -> None:
    plain = torch._C._disabled_torch_dispatch_impl
    if getattr(cls, "__torch_dispatch__", plain) is not plain and cls is not torch.Tensor:
        raise TypeError(
            f"{op}: {name} is a {cls.__name__}, which has no memory of its own; expected a "
            "plain torch.Tensor"
        )


def refuse_tangents(op: str, arrays: Sequence[Any]) -> None:
    """Refuses tensors that carry a forward-mode derivative, which would be lost in silence.

    Args:
        op: Name of the op, for the message.
        arrays: Tensors and others.

    Raises:
        NotImplementedError: One carries a tangent.
    """
    torch = sys.modules["torch"]
    for array in arrays:
        if not isinstance(array, torch.Tensor) or not array.is_floating_point():
            continue
        if torch.autograd.forward_ad.unpack_dual(array).tangent is not None:
            raise NotImplementedError(
                f"{op}: an input carries a forward-mode tangent, and the op has no derivative"
            )


def refuse_gradient(op: str) -> NoReturn:
    """Raises the error for a tensor whose gradient would be lost in silence."""
    raise NotImplementedError(
        f"{op}: an input requires grad, and the op has no derivative; call it under "
        "torch.no_grad() or give it x.detach()"
    )


def check_torch(op: str, inputs: tuple[Any, ...], written: tuple[Any, ...]) -> None:
    """Refuses tensors whose memory alone does not say what torch means by them.

    Args:
        op: Name of the op, for the message.
        inputs: What is read.
        written: What is written, in place or as an output; None where it is not given.

    Raises:
        NotImplementedError: torch records gradients and one of the arrays requires one, or one
            carries a forward-mode tangent.
        ValueError: A tensor is a lazily negated view.
    """
    known = _torch_types
    forward_ad, increment, inference_mode = torch_seen
    if forward_ad._current_level >= 0:
        refuse_tangents(op, (*inputs, *written))
    for array in inputs:
        if type(array) in known and (array.requires_grad or array.is_neg()):
            _refuse_meaning(op, array)
    for array in written:
        if type(array) in known:
            if array.requires_grad or array.is_neg():
                _refuse_meaning(op, array)
            # As torch's own in-place operators do. An inference tensor has no count; outside of
            # that mode it is too rare for a look at each array.
            if inference_mode():
                if not array.is_inference():
                    increment((array,))
                continue
            try:
                increment((array,))
            except RuntimeError:
                if not array.is_inference():
                    raise


def _refuse_meaning(op: str, array: Any) -> None:
    if array.requires_grad and sys.modules["torch"].is_grad_enabled():
        refuse_gradient(op)
    if array.is_neg():
        raise ValueError(f"{op}: a tensor is a negated view, expected x.resolve_neg()")


def _new_numpy(model: Any, shape: Sequence[int], dtype: str | None) -> Any:
    return sys.modules["numpy"].empty(shape, model.dtype if dtype is None else dtype)


def _new_torch(model: Any, shape: Sequence[int], dtype: str | None) -> Any:
    if dtype is None and shape == model.shape:
        return sys.modules["torch"].empty_like(model)  # less than half the time of new_empty
    options = {} if dtype is None else {"dtype": getattr(sys.modules["torch"], dtype)}
    # Sizes one by one: parsing a tuple takes torch longer than allocating.
    return model.new_empty(*shape, **options) if shape else model.new_empty((), **options)


def _new_tvm_ffi(model: Any, shape: Sequence[int], dtype: str | None) -> Any:
    wanted = model.dtype if dtype is None else tvm_ffi.dtype(dtype)
    return _ffi_api.empty(tvm_ffi.Shape(tuple(shape)), wanted, model.device)


# How to allocate beside an array of a class.
_makers: dict[type, Callable[[Any, Sequence[int], str | None], Any]] = {
    tvm_ffi.Tensor: _new_tvm_ffi
}


def new(op: str, model: Array, shape: Sequence[int], dtype: str | None = None) -> Array:
    """An uninitialized contiguous array on the device and from the framework of ``model``.

    Args:
        op: Name of the op, for the message.
        model: NumPy, torch or tvm_ffi.
        shape: Its sizes.
        dtype: Full name of its dtype; None for that of ``model``.

    Raises:
        TypeError: The framework of ``model`` is none of these.
    """
    make = _makers.get(type(model)) or _find_maker(op, model)
    return make(model, shape, dtype)  # type: ignore[no-any-return]


def _find_maker(op: str, model: Any) -> Callable[[Any, Sequence[int], str | None], Any]:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(model, torch.Tensor):
        make = _new_torch
    elif numpy is not None and isinstance(model, numpy.ndarray):
        make = _new_numpy
    else:
        raise TypeError(
            f"{op}: cannot allocate the output for a {type(model).__module__}."
            f"{type(model).__qualname__}, expected an array of NumPy, torch or tvm_ffi, or pass "
            "out="
        )
    _makers[type(model)] = make
    return make


def dtype_name(array: Any) -> str:
    """Full name of an array's dtype: ``"float32"``."""
    return str(array.dtype).rpartition(".")[2]


def allocate(op: Op, inputs: Sequence[Any], attributes: dict[str, Any], out: Any) -> Any:
    """The outputs of a call: those given, or new ones of the shapes that the op declares.

    Args:
        op: The declaration.
        inputs: Arrays, None where an optional one is absent.
        attributes: By name.
        out: None, or as many arrays as the op has outputs.

    Raises:
        ValueError: An input's shape does not fit, or ``out`` has another length.
        TypeError: An input's dtype is not allowed.
        OverflowError: An option does not fit 64 bits.
        MemoryError: There is not enough memory.
    """
    if out is not None:
        if not isinstance(out, (tuple, list)) or len(out) != len(op.outputs):
            names = ", ".join(o.name for o in op.outputs)
            raise ValueError(f"{op.name}: out must be a tuple of {len(op.outputs)}: {names}")
        return out
    shapes = [None if x is None else tuple(x.shape) for x in inputs]
    dtypes = [None if x is None else dtype_name(x) for x in inputs]
    made = op.infer(shapes, dtypes, attributes)
    return [_new_named(op, o.name, inputs[0], *spec) for o, spec in zip(op.outputs, made)]


def _new_named(op: Op, name: str, model: Any, shape: Sequence[int], dtype: str) -> Any:
    """As `new`; the errors of NumPy for what is too large name the output."""
    try:
        return new(op.name, model, shape, dtype)
    except (MemoryError, OverflowError, ValueError) as error:
        kind = MemoryError if isinstance(error, MemoryError) else ValueError
        said = f"{op.name}: {name} of shape {list(shape)} cannot be allocated: {error}"
        raise kind(said) from None


_MISMATCH = re.compile(r"Mismatched type on argument #(\d+) ")


def explain(op: Op, error: Exception, arguments: Sequence[Any]) -> Exception:
    """An error that names an argument where tvm-ffi's or a framework's own does not.

    Args:
        op: The op that was called.
        error: What its call raised.
        arguments: What it was called with.
    """
    tensors = op.inputs + op.outputs
    match = _MISMATCH.match(str(error))
    if match is not None:
        return _explain_type(op, int(match[1]), arguments)
    if str(error).startswith(f"{op.name}: "):
        return error
    for tensor, array in zip(tensors, arguments):
        foreign, why = _foreign_dtype(array), _not_shareable(array)
        if foreign is not None or why is not None:
            said = f"{op.name}: {tensor.name} is {foreign or why}, which cannot be shared"
            return TypeError(said) if foreign else type(error)(said)
    for attribute, value in zip(op.attributes, arguments[len(tensors) :]):
        if isinstance(error, OverflowError) and is_too_large(value):
            return op.option_error(attribute, value)
    return error


def _explain_type(op: Op, position: int, arguments: Sequence[Any]) -> Exception:
    tensors, value = op.inputs + op.outputs, arguments[position]
    if position >= len(tensors):
        return op.option_error(op.attributes[position - len(tensors)], value)
    name = tensors[position].name
    return TypeError(f"{op.name}: {name} is {type(value).__name__}, expected an array")


def refuse_bool(op: Op, name: str, value: bool) -> NoReturn:
    """Raises the error for a bool where a number is expected, which tvm-ffi takes for 0 or 1."""
    attribute = next(a for a in op.attributes if a.name == name)
    raise op.option_error(attribute, value)


def _not_shareable(array: Any) -> str | None:
    """Why an array's memory cannot cross by DLPack."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(array, torch.Tensor):
        if array.layout is not torch.strided or array.is_nested:
            return "a sparse or nested tensor"
        if array.device.type == "meta" or array.is_quantized:
            return f"a {'meta' if array.device.type == 'meta' else 'quantized'} tensor"
        return (
            "a wrapped tensor" if torch._C._functorch.is_functorch_wrapped_tensor(array) else None
        )
    if numpy is not None and isinstance(array, numpy.ndarray):
        if not array.flags.writeable:
            return "a read-only array"
        return None if array.dtype.isnative else "an array of foreign byte order"
    return None


def shared_or_copied(op: str, name: str, array: Any) -> tvm_ffi.Tensor:
    """An array of which only the values are wanted, as a tensor.

    One of NumPy that is read-only or of foreign byte order is copied.

    Args:
        op: Name of what takes it, for the message.
        name: Name of the argument.
        array: What was given.

    Raises:
        TypeError: It cannot be shared.
    """
    check_array(op, name, array)
    numpy = sys.modules.get("numpy")
    is_numpy = numpy is not None and isinstance(array, numpy.ndarray)
    if is_numpy and not (array.flags.writeable and array.dtype.isnative):
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return tvm_ffi.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{op}: {name} cannot be shared: {error}") from None


def explain_sharing(
    call: str, names: Sequence[str], arrays: Sequence[Any], error: Exception
) -> Exception:
    """An error that names the array which cannot be shared, where ``error`` came of one."""
    for name, array in zip(names, arrays):
        foreign, why = _foreign_dtype(array), _not_shareable(array)
        if foreign is not None or why is not None:
            said = f"{call}: {name} is {foreign or why}, which cannot be shared"
            return TypeError(said) if foreign else type(error)(said)
    return error


def _foreign_dtype(array: Any) -> str | None:
    """The dtype of an array of NumPy, where it is one that DLPack does not know."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(array, numpy.ndarray):
        return None
    dtype = array.dtype
    padded = dtype.type in (numpy.longdouble, numpy.clongdouble)
    return f"of dtype {dtype}" if dtype.kind not in "biufc" or padded else None


def check_shareable(name: str, array: Any) -> None:
    """Refuses what is no array, or one whose elements no native code knows.

    Args:
        name: Name of the argument, for the message.
        array: What was given.

    Raises:
        TypeError: It cannot be shared.
    """
    _check_dlpack(name, type(array))
    foreign = _foreign_dtype(array)
    if foreign is not None:
        raise TypeError(f"{name} is {foreign}, which cannot be shared")
