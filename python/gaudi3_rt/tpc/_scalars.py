"""The scalar parameters of a kernel: numbers as the 32 bits that hardware copies."""

from typing import Any

import numpy as np

# What a letter of a signature stands for in TPC-C.
SCALARS = {
    "i": "int",
    "I": "unsigned",
    "f": "float",
    "y": "bf16",
    "e": "half",
    "h": "short",
    "H": "unsigned short",
    "b": "char",
    "B": "unsigned char",
    "?": "bool",
}
_OF_ELEMENTS = {
    "f32": ("f", 32),
    "bf16": ("y", 16),
    "f16": ("e", 16),
    "i32": ("i", 32),
    "u32": ("I", 32),
    "i16": ("h", 16),
    "u16": ("H", 16),
    "i8": ("b", 8),
    "u8": ("B", 8),
}
_INTEGERS = {"i": (32, True), "I": (32, False), "h": (16, True), "H": (16, False), "b": (8, True), "B": (8, False)}


def _float_bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _bf16_bits(value: float) -> int:
    if value != value:  # noqa: PLR0124 (NaN)
        return 0x7FFF
    bits = _float_bits(value)
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def scalar_bits(value: Any, letter: str, what: str) -> int:
    """A number in the low bits of 32; a float is rounded to the parameter's type.

    Raises:
        TypeError: a number of another kind.
        ValueError: the parameter's type does not have it.
    """
    wanted = SCALARS[letter]
    if isinstance(value, np.generic):
        value = value.item()
    if letter == "?":
        if not isinstance(value, bool):
            message = f"{what} is {value!r}; a bool is True or False"
            raise TypeError(message)
        return int(value)
    if letter in _INTEGERS:
        bits, signed = _INTEGERS[letter]
        if not isinstance(value, int) or isinstance(value, bool):
            message = f"{what} is {value!r}; give an int for {wanted}"
            raise TypeError(message)
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if not low <= value <= high:
            message = f"{what} is {value}; {wanted} has {low} to {high}"
            raise ValueError(message)
        return value & 0xFFFFFFFF
    if not isinstance(value, int | float) or isinstance(value, bool):
        message = f"{what} is {value!r}; give a number for {wanted}"
        raise TypeError(message)
    with np.errstate(over="ignore"):
        if letter == "f":
            return _float_bits(value)
        if letter == "y":
            return _bf16_bits(value)
        return int(np.float16(value).view(np.uint16))


def pad_bits(value: float, element: str, what: str) -> int:
    """A tensor's pad value as bits of its element type.

    Raises:
        TypeError: a number of another kind.
        ValueError: the element type does not have it.
    """
    letter, bits = _OF_ELEMENTS[element]
    return scalar_bits(value, letter, what) & ((1 << bits) - 1)
