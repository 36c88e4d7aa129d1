"""Tensors at addresses that TensorRT gives: read and written without a copy.

TensorRT gives device memory. :func:`host_memory` says that the addresses are the host's, for tests
of the interface on a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tvm_ffi

from .dtypes import DType, dtype_of, is_torch

CPU, CUDA = 1, 2  # DLPack's device types
_DEVICE_NAMES = {CPU: "cpu", CUDA: "cuda"}
_HEADER_BYTES = 24  # of an object of tvm-ffi, before its DLTensor, whose address comes first
_LOCAL = threading.local()

# Not that of ctypes.pythonapi, whose argument types are anybody's to set.
_new_capsule = ctypes.PyDLL(None).PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_FREE = ctypes.cast(_libc.free, ctypes.c_void_p).value


@contextlib.contextmanager
def host_memory() -> Iterator[None]:
    """In this thread, addresses that plugins are given are the host's and there is no stream."""
    before = getattr(_LOCAL, "host", False)
    _LOCAL.host = True
    try:
        yield
    finally:
        _LOCAL.host = before


@functools.cache
def driver() -> Any:
    """NVIDIA's driver.

    Raises:
        RuntimeError: There is none, or no GPU.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise RuntimeError(
            "this needs a GPU of NVIDIA: there is no driver (libcuda.so.1)"
        ) from None
    count = ctypes.c_int(0)
    if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise RuntimeError("this needs a GPU of NVIDIA: the driver finds none")
    return library


def current_device() -> tuple[int, int]:
    """DLPack's type and number of the device whose addresses plugins are given."""
    if getattr(_LOCAL, "host", False):
        return CPU, 0
    device = ctypes.c_int(0)
    if driver().cuCtxGetDevice(ctypes.byref(device)) != 0:
        raise RuntimeError("no CUDA context is current in this thread")
    return CUDA, device.value


def copy(target: int, source: int, n_bytes: int, device: tuple[int, int], stream: int) -> None:
    """Copies between addresses of a device, on a stream.

    Raises:
        RuntimeError: The driver refused.
    """
    if n_bytes == 0:
        return
    if device[0] == CPU:
        ctypes.memmove(target, source, n_bytes)
        return
    addresses = (ctypes.c_uint64(target), ctypes.c_uint64(source))
    status = driver().cuMemcpyDtoDAsync_v2(
        *addresses, ctypes.c_size_t(n_bytes), ctypes.c_void_p(stream)
    )
    if status != 0:
        raise RuntimeError(f"cuMemcpyDtoDAsync failed with {status}")


def _make_tensor(pointer: int, dtype: DType, shape: Sequence[int], device: tuple[int, int]) -> Any:
    """A `tvm_ffi.Tensor` at an address, which it does not own.

    DLPack's description is one block of malloc, and free itself is its deleter.
    """
    ndim = len(shape)
    strides = [math.prod(shape[i + 1 :]) for i in range(ndim)]
    block_bytes = 64 + 16 * ndim
    block = _libc.malloc(block_bytes)
    if not block:
        raise MemoryError("no memory for the description of a tensor")
    code, bits = dtype.dlpack
    sizes_at = block + 64
    packed = struct.pack(
        f"=QiiiBBHQQQQQ{2 * ndim}q",
        *(pointer, *device, ndim, code, bits, 1),
        *(sizes_at, sizes_at + 8 * ndim, 0, 0, _FREE),
        *(*shape, *strides),
    )
    ctypes.memmove(block, packed, block_bytes)
    return tvm_ffi.from_dlpack(_new_capsule(block, b"dltensor", None))


class TensorWrapper:
    """A tensor of a running engine: an address with dtype and shape.

    It is valid while ``forward`` runs and not after it. Kernels that take addresses (Triton's do)
    use it as it is; ``__dlpack__`` and :func:`convert_to_torch_tensor` share its memory.

    Attributes:
        dtype: Its dtype, a :class:`DType`.
        shape: Its sizes.
    """

    __slots__ = ("_address", "_device", "_pointer", "_tensor", "dtype", "shape")

    def __init__(
        self, pointer: int, dtype: Any, shape: Sequence[int], device: tuple[int, int] = (CUDA, 0)
    ) -> None:
        """Describes memory.

        Args:
            pointer: Its address; contiguous.
            dtype: Its dtype.
            shape: Its sizes.
            device: DLPack's type and number of the device that it belongs to.
        """
        self.dtype = DType(dtype)
        self.shape = tuple(int(size) for size in shape)
        self._pointer, self._device = pointer, device
        self._tensor: Any = None
        self._address: Any = None

    def data_ptr(self) -> int:
        """Its address."""
        return self._pointer

    def point(self, pointer: int) -> None:
        """Moves it to another address; who holds its `tensor` sees that too."""
        self._pointer = pointer
        if self._address is not None:
            self._address.value = pointer

    @property
    def tensor(self) -> Any:
        """The same memory as a `tvm_ffi.Tensor`, made at the first use."""
        if self._tensor is None:
            tensor = _make_tensor(self._pointer, self.dtype, self.shape, self._device)
            # The first member of its DLTensor is the address.
            self._address = ctypes.c_uint64.from_address(tensor.__chandle__() + _HEADER_BYTES)
            self._tensor = tensor
        return self._tensor

    @property
    def device(self) -> str:
        """``"cpu"``, or ``"cuda:0"``."""
        kind, index = self._device
        return "cpu" if kind == CPU else f"{_DEVICE_NAMES[kind]}:{index}"

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return self.numel() * self.dtype.itemsize

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)  # with a description of its own

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def torch(self) -> Any:
        """The same memory as a torch tensor."""
        import torch

        if self.dtype == "float8_e4m3fn":  # older versions of torch do not take it by DLPack
            plain = TensorWrapper(self._pointer, "uint8", self.shape, self._device)
            return plain.torch().view(torch.float8_e4m3fn)
        # The capsule, because torch would synchronize streams for an object.
        return torch.from_dlpack(self.tensor.__dlpack__())

    def __repr__(self) -> str:
        return f"TensorWrapper({self.dtype}, {list(self.shape)}, {self.device})"


def convert_to_torch_tensor(tensor: Any) -> Any:
    """A torch tensor on the memory of a :class:`TensorWrapper`; no copy."""
    return tensor.torch() if isinstance(tensor, TensorWrapper) else tensor


def wrap(array: Any, name: str) -> TensorWrapper:
    """A wrapper of an array's memory, for eager calls.

    Args:
        array: Of torch or NumPy.
        name: For messages.

    Raises:
        TypeError: It is no array, or of a dtype that no plugin has.
        ValueError: It is not contiguous.
    """
    if is_torch(array):
        return _wrap_torch(array, name)
    if hasattr(array, "__array_interface__") and hasattr(array, "ctypes"):  # scalars have none
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not contiguous, expected numpy.ascontiguousarray of it")
        return TensorWrapper(array.ctypes.data, dtype_of(array, name), array.shape, (CPU, 0))
    raise TypeError(f"{name} is {type(array).__name__}, expected a tensor of torch or an array")


def _wrap_torch(tensor: Any, name: str) -> TensorWrapper:
    if str(tensor.layout) != "torch.strided":
        raise TypeError(f"{name} is of layout {tensor.layout}, expected torch.strided")
    kind = {"cpu": CPU, "cuda": CUDA}.get(tensor.device.type)
    if kind is None:
        raise TypeError(f"{name} is on {tensor.device}, expected cpu or cuda")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous, expected what .contiguous() gives")
    if tensor.is_neg():
        raise ValueError(f"{name} is negated when it is read, expected what .resolve_neg() gives")
    dtype = dtype_of(tensor, name)
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # of a transform of torch.func
        address = 0
    if not address and tensor.numel():
        raise ValueError(f"{name} is a {type(tensor).__name__} that has no memory, as fake ones")
    return TensorWrapper(address, dtype, tensor.shape, (kind, tensor.device.index or 0))
