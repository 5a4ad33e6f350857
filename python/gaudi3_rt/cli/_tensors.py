"""Tensors as they are written on the command line."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from gaudi3_rt.tpc import WHOLE, Access
from gaudi3_rt.tpc._arrays import BITS, Array

_SHAPE = re.compile(r"(\w+)\[(\d+(?:,\d+)*)\](?::(.+))?")
_FLOATS = {"f32": np.float32, "f16": np.float16}


@dataclass
class TensorArgument:
    """A tensor of a run: its array and element type, and the file that it is written to afterwards."""

    array: np.ndarray[Any, Any]
    element: str
    path: Path | None = None

    @property
    def operand(self) -> Array:
        """As :meth:`gaudi3_rt.tpc.Kernel.run` takes it."""
        return (self.array, "bf16") if self.element == "bf16" else self.array

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """Its numbers in a type that NumPy has."""
        if self.element == "bf16":
            values: np.ndarray[Any, Any] = (self.array.astype(np.uint32) << 16).view(np.float32)
            return values
        return self.array


def parse_input(text: str, rng: np.random.Generator) -> TensorArgument:
    """``x.npy``, ``bf16:x.npy`` (of uint16), or ``f32[8,100]`` for random numbers of that type and shape.

    Raises:
        click.BadParameter: it is none of these.
    """
    if found := _SHAPE.fullmatch(text):
        element, shape = _type_and_shape(found)
        return TensorArgument(_random(element, shape, rng), element)
    is_bf16 = text.startswith("bf16:")
    path = Path(text.removeprefix("bf16:"))
    if path.suffix != ".npy" or not path.is_file():
        message = f"{text!r} is neither an .npy file that exists nor a type and shape like f32[8,100]"
        raise click.BadParameter(message)
    array = np.load(path)
    return TensorArgument(array, "bf16" if is_bf16 else array.dtype.name)


def parse_output(text: str, inputs: list[TensorArgument]) -> TensorArgument:
    """``f32[8,100]``, ``f32[8,100]:y.npy`` to keep it, or ``@0`` for the memory of input 0: a step in place.

    Raises:
        click.BadParameter: it is none of these.
    """
    if text.startswith("@"):
        number = text[1:]
        if not number.isdigit() or int(number) >= len(inputs):
            message = f"{text!r} names no input; there are {len(inputs)}, counted from 0"
            raise click.BadParameter(message)
        return inputs[int(number)]
    found = _SHAPE.fullmatch(text)
    if not found:
        message = f"{text!r} is not a type and shape like f32[8,100], with :file.npy or without, nor @ and an input"
        raise click.BadParameter(message)
    element, shape = _type_and_shape(found)
    return TensorArgument(np.zeros(shape, _dtype(element)), element, Path(found[3]) if found[3] else None)


def parse_access(text: str) -> list[Access] | None:
    """``all``, or ``dim:a:start:end`` for each dimension, separated by commas; ``*`` for all of one dimension.

    Raises:
        click.BadParameter: it is none of these.
    """
    if text == "all":
        return None
    pattern = []
    for part in text.split(","):
        fields = part.split(":")
        try:
            dim, a, start, end = fields
            pattern.append(Access(int(dim), float(a), float(start), float(end)))
        except ValueError:
            if part != "*":
                message = f"{part!r} is not dim:a:start:end (elements a * i + start to a * i + end), * or all"
                raise click.BadParameter(message) from None
            pattern.append(WHOLE)
    return pattern


def parse_scalar(text: str) -> float | int | bool:
    """A number, or ``true`` and ``false``.

    Raises:
        click.BadParameter: it is none of these.
    """
    if text in {"true", "false"}:
        return text == "true"
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        message = f"{text!r} is not a number, true or false"
        raise click.BadParameter(message) from None


def _type_and_shape(found: re.Match[str]) -> tuple[str, tuple[int, ...]]:
    if found[1] not in BITS:
        message = f"{found[1]!r} is no element type; they are {', '.join(BITS)}"
        raise click.BadParameter(message)
    return found[1], tuple(int(n) for n in found[2].split(","))


def _dtype(element: str) -> np.dtype[Any]:
    if element in _FLOATS:
        return np.dtype(_FLOATS[element])
    if element == "bf16":
        return np.dtype(np.uint16)
    return np.dtype(f"{element[0]}{int(element[1:]) // 8}")


def _random(element: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Standard normal floats; integers over the whole type."""
    dtype = _dtype(element)
    if element in _FLOATS:
        return rng.standard_normal(shape).astype(dtype)
    if element == "bf16":
        return (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
