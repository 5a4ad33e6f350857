"""Memory of one bucket: where gradients are collected and where their mean is handed out from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt import _config, _core
from gaudi3_rt.reduce._layout import Bucket, Slice
from gaudi3_rt.reduce._norms import sum_squares
from gaudi3_rt.reduce._transfers import transfer


class Buffers:
    """The flat buffers of a bucket, and the gradients that are views of them.

    There are two at most. Gradients that live in one, because they are accumulated or set to zero in place, are reduced
    into the other, so that a reduction that fails leaves them as they are.

    Args:
        bucket: the bucket.
        params: all parameters, by their numbers.
    """

    def __init__(self, bucket: Bucket, params: Sequence[Tensor]) -> None:
        self._bucket = bucket
        self.params = [params[i] for i in bucket.params]
        self._orders = [memory_order(param) for param in self.params]
        self._reordered = any(order is not None for order in self._orders)
        self._flat: list[Tensor] = []
        self._views: list[list[Tensor]] = []
        self._float32: Tensor | None = None
        self._zeros: list[Tensor] | None = None
        self._chunks: dict[int, list[Tensor]] = {}
        self._parts: dict[int, list[Tensor]] = {}

    def free(self, grads: Sequence[Tensor]) -> int:
        """Number of a buffer in which none of these gradients lives."""
        for number, flat in enumerate(self._flat):
            begin = flat.data_ptr()
            end = begin + flat.numel() * flat.element_size()
            if not any(begin <= grad.data_ptr() < end for grad in grads):
                return number
        return len(self._flat)

    def flat(self, number: int) -> Tensor:
        """A buffer; zero in the gaps between parameters."""
        while number >= len(self._flat):
            bucket = self._bucket
            flat = torch.zeros(bucket.numel, dtype=bucket.dtype, device=bucket.device)
            self._flat.append(flat)
            self._views.append(self.views_of(flat))
        return self._flat[number]

    def views_of(self, flat: Tensor) -> list[Tensor]:
        """The parts of any flat tensor as gradients of the parameters."""
        return [
            flat.as_strided(param.shape, _strides(param, order), begin)
            for param, order, begin in zip(self.params, self._orders, self._bucket.begins, strict=True)
        ]

    def float32(self, number: int) -> Tensor:
        """A float32 buffer for sums: the one of that number itself, if it is."""
        flat = self.flat(number)
        if flat.dtype is torch.float32:
            return flat
        if self._float32 is None:
            self._float32 = torch.zeros_like(flat, dtype=torch.float32)
        return self._float32

    def views(self, number: int) -> list[Tensor]:
        """The gradients of all parameters in a buffer."""
        self.flat(number)
        return self._views[number]

    def version(self, number: int) -> int:
        """Changes when the buffer or one of its views is written by torch's operations."""
        return self._flat[number]._version

    def gradients(self) -> tuple[list[Tensor], list[bool]]:
        """The gradient of each parameter, zero for one that has none, and which ones have one."""
        grads = [param.grad for param in self.params]
        used = [grad is not None for grad in grads]
        if all(used):
            return grads, used  # type: ignore[return-value]  # none is None
        if self._zeros is None:
            self._zeros = [torch.zeros_like(param) for param in self.params]
        return [zero if grad is None else grad for grad, zero in zip(grads, self._zeros, strict=True)], used

    def is_zero(self, grad: Tensor) -> bool:
        """Whether it stands for a gradient that a parameter does not have."""
        return self._zeros is not None and any(grad is zero for zero in self._zeros)

    def pack(self, grads: Sequence[Tensor], flat: Tensor, scale: float) -> None:
        """Copies gradients, times a factor, into one of the flat buffers, casting them to its dtype."""
        sources = [grad.detach().contiguous() for grad in self.in_memory_order(grads)]
        transfer("cast", sources, self._parts_of(flat), scale)

    def _parts_of(self, flat: Tensor) -> list[Tensor]:
        """The parameters' places in a flat buffer, with their dimensions sorted as their memory is."""
        key = flat.data_ptr()
        if key not in self._parts:
            ordered = self.in_memory_order(self.params)
            self._parts[key] = [
                flat[begin : begin + length].view(param.shape)
                for param, begin, length in zip(ordered, self._bucket.begins, self._bucket.lengths, strict=True)
            ]
        return self._parts[key]

    def in_memory_order(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gradients with their dimensions sorted as the memory of their parameters is."""
        if not self._reordered:
            return grads
        return [grad if order is None else grad.permute(order) for grad, order in zip(grads, self._orders, strict=True)]

    def measure(self, number: int, mine: Slice, chunk_sums: Tensor) -> None:
        """Sums of squares of a slice of what is stored, in the order in which ``sum_squares`` adds them."""
        if number not in self._chunks:
            flat = self.flat(number)
            self._chunks[number] = [
                flat[begin : min(begin + _core.CHUNK, segment.end)]
                for segment in mine.segments
                for begin in range(segment.begin, segment.end, _core.CHUNK)
            ]
        chunks = self._chunks[number]
        values = _core.reduce(_config.isa(), torch.Tensor, "sum_squares", chunks, torch.get_num_threads())
        sums = [sum_squares([chunk]) if value is None else value for chunk, value in zip(chunks, values, strict=True)]
        chunk_sums.copy_(torch.tensor(sums, dtype=torch.float64))


def memory_order(param: Tensor) -> tuple[int, ...] | None:
    """The dimensions from the largest stride to the smallest; ``None`` if that is their own order."""
    strides = param.stride()
    order = tuple(sorted(range(param.dim()), key=lambda d: (-strides[d], d)))
    permuted = param.permute(order)
    return None if param.is_contiguous() or not permuted.is_contiguous() else order


def _strides(param: Tensor, order: tuple[int, ...] | None) -> tuple[int, ...]:
    if order is not None:
        return param.stride()
    return torch.empty(param.shape, device="meta").stride()
