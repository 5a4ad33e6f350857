"""Do tensors have the announced shape, dtype, device and finite values? And if not, which one, and where."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.reduce import all_finite

_T = TypeVar("_T", bound=Tensor)
_Batch = TypeVar("_Batch", bound=Mapping[str, Any])
Size = int | str | None


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """What a tensor should be; what is None may be anything.

    Attributes:
        shape: for each dimension its size, None for any, or a name: dimensions of the same name have the same size in
            all tensors of a batch.
        dtype: one, or several that are allowed.
        device: ``"cpu"``, ``"hpu"``, ``"hpu:1"``; without a number, any of the kind.
        finite: no element is infinite or NaN; integers and booleans always are.

    Raises:
        ParameterValidationError: no tensor can be as described.
    """

    shape: Sequence[Size] | None = None
    dtype: torch.dtype | Collection[torch.dtype] | None = None
    device: str | torch.device | None = None
    finite: bool = True

    def __post_init__(self) -> None:
        """Refuses what would refuse every tensor, or be taken apart: one text is a sequence, too."""
        if self.shape is not None and not _is_shape(self.shape):
            raise _misfit(self.shape, "shape", "a sequence of sizes, names and None, like ('batch', 3, None)")
        if self.dtype is not None and not all(isinstance(one, torch.dtype) for one in _dtypes(self.dtype)):
            raise _misfit(self.dtype, "dtype", "one dtype or several, like torch.float32")
        try:
            torch.device("cpu" if self.device is None else self.device)
        except (RuntimeError, TypeError) as error:
            raise _misfit(self.device, "device", "a device of torch, like 'cpu' or 'hpu:0'") from error


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        return False
    return all(size is None or isinstance(size, str) or hasattr(size, "__index__") for size in shape)


def _dtypes(dtype: Any) -> Collection[Any]:
    return dtype if isinstance(dtype, Collection) and not isinstance(dtype, str) else [dtype]


def _misfit(seen: Any, field: str, allowed: str) -> ParameterValidationError:
    message = f"{field}={seen!r:.80}: must be {allowed}"
    return ParameterValidationError(message, context={"field": field})


def validate_tensor(
    tensor: _T,
    name: str = "tensor",
    *,
    shape: Sequence[Size] | None = None,
    dtype: torch.dtype | Collection[torch.dtype] | None = None,
    device: str | torch.device | None = None,
    finite: bool = True,
) -> _T:
    """Returns the tensor itself if it is as described.

    Shape, dtype and device cost some microseconds. ``finite`` reads the tensor once: dense float32, bfloat16 and
    float16 memory on the CPU by a kernel on all threads, without a temporary; anything else by ``torch.isfinite``,
    which makes one byte for each element, and where the host waits for the device.

    Args:
        tensor: what is checked.
        name: what errors call it.
        shape: as for :class:`TensorSpec`, and so are the others.
        dtype: one, or several that are allowed.
        device: kind of device, with or without a number.
        finite: no element is infinite or NaN.

    Raises:
        DataValidationError: all that is wrong; of elements that are not finite the index of the first and the count.
        ParameterValidationError: no tensor can be as described.
    """
    validate_batch({name: tensor}, {name: TensorSpec(shape=shape, dtype=dtype, device=device, finite=finite)})
    return tensor


def validate_batch(batch: _Batch, specs: Mapping[str, TensorSpec], *, extra: bool = False) -> _Batch:
    """Returns the batch itself if each of its tensors is as described, and named dimensions agree in all of them.

    The cost is that of :func:`validate_tensor` for all tensors together. Values are read only if all else is right.

    Args:
        batch: tensors by key.
        specs: what there should be under each key.
        extra: keys that are not described are allowed.

    Raises:
        DataValidationError: all that is wrong, each with its key.
    """
    if not isinstance(batch, Mapping):
        raise _error([f"seen an object of type {type(batch).__name__}; allowed: a mapping of keys to tensors"])
    problems = [f"{key}: is missing; there are {_listed(batch)}" for key in specs if key not in batch]
    if not extra:
        problems += [f"{key}: unknown key; known are {_listed(specs)}" for key in batch if key not in specs]
    sizes: dict[str, tuple[int, str]] = {}
    for key, spec in specs.items():
        if key in batch:
            problems += [f"{key}: {fault}" for fault in _faults(batch[key], key, spec, sizes)]
    problems = problems or list(_not_finite({key: batch[key] for key, spec in specs.items() if spec.finite}))
    if problems:
        raise _error(problems)
    return batch


def _faults(tensor: Any, key: str, spec: TensorSpec, sizes: dict[str, tuple[int, str]]) -> Iterator[str]:
    if not isinstance(tensor, Tensor):
        yield f"seen an object of type {type(tensor).__name__}; allowed: a tensor"
        return
    if spec.dtype is not None:
        allowed = _dtypes(spec.dtype)
        if tensor.dtype not in allowed:
            yield f"seen {tensor.dtype}; allowed: {', '.join(map(str, allowed))}"
    if spec.device is not None:
        wanted = torch.device(spec.device)
        if tensor.device.type != wanted.type or wanted.index not in {None, tensor.device.index}:
            yield f"is on {tensor.device}; allowed: {spec.device}"
    if spec.shape is not None and tensor.is_nested:
        yield "is a nested tensor, which has no shape; allowed: a tensor with one"
    elif spec.shape is not None:
        yield from _shape_faults(tuple(tensor.shape), key, spec.shape, sizes)


def _shape_faults(
    shape: tuple[int, ...], key: str, wanted: Sequence[Size], sizes: dict[str, tuple[int, str]]
) -> Iterator[str]:
    text = f"({', '.join('any' if size is None else str(size) for size in wanted)}{',' if len(wanted) == 1 else ''})"
    if len(shape) != len(wanted):
        yield f"has the shape {shape}; allowed: {text}"
        return
    for i, (size, want) in enumerate(zip(shape, wanted, strict=True)):
        if isinstance(want, str):
            known, where = sizes.setdefault(want, (size, f"{key} dimension {i}"))
            if size != known:
                yield f"has the shape {shape}; dimension {i} ({want}) must be {known}, as of {where}"
        elif want is not None and size != want:
            yield f"has the shape {shape}; allowed: {text}"
            return


def _not_finite(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    readable = {}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() or tensor.is_complex():
            if tensor.is_meta or tensor.is_nested or tensor.layout is not torch.strided:
                kind = "nested" if tensor.is_nested else f"layout {tensor.layout}"
                yield f"{key}: its values cannot be read (device {tensor.device}, {kind})"
            else:
                readable[key] = _real(tensor)
    if all_finite(readable.values()):
        return
    for key, tensor in readable.items():
        bad = ~torch.isfinite(tensor)
        if tensors[key].is_complex():
            bad = bad.any(-1)
        if count := int(bad.sum()):
            first = tuple(bad.nonzero()[0].tolist())
            value = tensors[key][first].item()
            yield f"{key}: {count} of {bad.numel()} elements are not finite; the first is {value} at {first}"


def _real(tensor: Tensor) -> Tensor:
    """Real numbers of a dtype that torch can look at."""
    seen = tensor.detach()
    if seen.is_complex():
        return torch.view_as_real(seen.resolve_conj())
    return seen.to(torch.float32) if seen.dtype.itemsize == 1 else seen


def _listed(keys: Mapping[str, Any]) -> str:
    return ", ".join(map(str, keys)) or "none"


def _error(problems: list[str]) -> DataValidationError:
    return DataValidationError("\n".join(problems), context={"problems": problems})
