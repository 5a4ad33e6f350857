"""How a kernel's tensors lie in memory: NumPy arrays and CPU tensors as arrays of bits that share their memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from gaudi3_rt.tpc._access import MAX_DIMS

Bits: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Array: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor | tuple[np.ndarray[Any, Any], str]"

# In the order of `enum class Element` in tpc_kernels/emulator/state.h.
ELEMENTS = ("f32", "bf16", "f16", "i32", "u32", "i16", "u16", "i8", "u8")
BITS = dict(zip(ELEMENTS, ("u4", "u2", "u2", "u4", "u4", "u2", "u2", "u1", "u1"), strict=True))
_OF_NUMPY = {
    "float32": "f32",
    "bfloat16": "bf16",
    "float16": "f16",
    "int32": "i32",
    "uint32": "u32",
    "int16": "i16",
    "uint16": "u16",
    "int8": "i8",
    "uint8": "u8",
}
_TORCH_INTS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Operand:
    """A tensor argument: its elements as unsigned integers in the caller's memory, and what they stand for."""

    bits: Bits
    element: str

    @classmethod
    def of(cls, array: Array, what: str) -> Operand:
        """An argument as the kernel will see it.

        Args:
            array: NumPy array, CPU tensor, or ``(array, "bf16")`` for a uint16 array that holds bfloat16.
            what: what to call it in an error.

        Raises:
            TypeError: it is none of these, or its dtype is not one of a TPC.
            ValueError: it is not on the CPU, has more than five dimensions, or strides that a TPC cannot have.
        """
        element = None
        if isinstance(array, tuple):
            array, element = _said(array, what)
        if isinstance(array, torch.Tensor):
            operand = _of_tensor(array, what)
        elif isinstance(array, np.ndarray):
            operand = cls(_bits(array, _element_of(array.dtype.name, what)), _element_of(array.dtype.name, what))
        else:
            message = f"{what} is {type(array).__name__}; give a NumPy array, a CPU tensor or (uint16 array, 'bf16')"
            raise TypeError(message)
        _check_layout(operand.bits, what)
        return operand if element is None else cls(operand.bits, element)

    @property
    def span(self) -> int:
        """Places in memory from the first element to the last."""
        if self.bits.size == 0:
            return 0
        places: int = sum((n - 1) * s for n, s in zip(self.bits.shape, self.strides, strict=True))
        return 1 + places

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in elements, in NumPy's order of axes."""
        return tuple(s // self.bits.itemsize for s in self.bits.strides)

    @property
    def view(self) -> tuple[object, ...]:
        """What two operands have in common that are the same elements of the same memory."""
        return self.bits.ctypes.data, self.bits.shape, self.bits.strides, self.bits.itemsize

    def copy(self) -> Operand:
        """The same elements elsewhere, as far apart as they are here."""
        buffer = np.zeros(max(self.span, 1), self.bits.dtype)
        copy: Bits = np.lib.stride_tricks.as_strided(buffer, self.bits.shape, self.bits.strides)
        copy[...] = self.bits
        return Operand(copy, self.element)


def _said(pair: tuple[Any, ...], what: str) -> tuple[Any, str]:
    """An array and what its elements are, as the caller says."""
    match pair:
        case (np.ndarray() as array, "bf16") if array.dtype == np.uint16:
            return array, "bf16"
        case _:
            message = f"{what} is a tuple; the one that is understood is (uint16 array, 'bf16')"
            raise TypeError(message)


def _element_of(dtype: str, what: str) -> str:
    if dtype not in _OF_NUMPY:
        message = f"{what} has dtype {dtype}; a TPC tensor has one of {', '.join(_OF_NUMPY)}"
        raise TypeError(message)
    return _OF_NUMPY[dtype]


def _bits(array: np.ndarray[Any, Any], element: str) -> Bits:
    bits: Bits = np.asarray(array).view(BITS[element])
    return bits


def _of_tensor(tensor: torch.Tensor, what: str) -> Operand:
    if tensor.device.type != "cpu":
        message = f"{what} is on {tensor.device}; an emulated kernel runs on CPU tensors"
        raise ValueError(message)
    element = _element_of(str(tensor.dtype).removeprefix("torch."), what)
    array = tensor.detach().view(_TORCH_INTS[tensor.element_size()]).numpy()
    return Operand(_bits(array, element), element)


def _check_layout(bits: Bits, what: str) -> None:
    if bits.ndim > MAX_DIMS:
        message = f"{what} has {bits.ndim} dimensions; a TPC tensor has at most {MAX_DIMS}"
        raise ValueError(message)
    if any(n > _MAX_SIZE for n in bits.shape):
        message = f"{what} has shape {bits.shape}; a TPC counts at most {_MAX_SIZE} elements in a dimension"
        raise ValueError(message)
    if any(s < 0 or s % bits.itemsize for s in bits.strides):
        message = f"{what} has strides {bits.strides}; a TPC has whole elements, forwards: give a copy"
        raise ValueError(message)


def check_memory(inputs: list[Operand], outputs: list[Operand], names: list[str]) -> None:
    """Refuses outputs that share memory with other operands, unless one is all of an input (a step in place).

    Raises:
        ValueError: memory is shared in part, between outputs, or an output cannot be written.
    """
    operands = [*inputs, *outputs]
    for i, output in enumerate(outputs, len(inputs)):
        if not output.bits.flags.writeable:
            message = f"{names[i]} is an output, but its array is read-only"
            raise ValueError(message)
        for j, other in enumerate(operands[:i]):
            if not np.may_share_memory(output.bits, other.bits) or not np.shares_memory(output.bits, other.bits):
                continue
            if j >= len(inputs) or other.view != output.view:
                message = (
                    f"{names[i]} shares memory with {names[j]}; an output may be all of an input, in the same layout, "
                    "or have memory of its own"
                )
                raise ValueError(message)
