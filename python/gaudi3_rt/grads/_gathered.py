"""The gradients of one call, wherever they are: in the kernels' list, on an HPU, or left to torch's operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt import _config, _core
from gaudi3_rt.optim import _hpu_grads
from gaudi3_rt.optim._batch import clip_coefficient
from gaudi3_rt.optim._sharding import Sharding, is_dtensor, local_shard

_REDUCTIONS = {1.0: "sum_abs", 2.0: "sum_squares", math.inf: "max_abs"}
"""The reduction of each order of norm that has one; of a sum of squares the norm is the root."""


class Gathered:
    """Gradients, and what can be done to all of them together.

    The kernels' list has those in dense CPU memory. Elsewhere are other devices, float64, memory with gaps and tensor
    subclasses. The shards of DTensors are in either; which one may differ from rank to rank, so collective calls go by
    the order of what was listed.
    """

    def __init__(self, what: str, names: list[str] | None) -> None:
        """Starts without gradients.

        Args:
            what: how errors call what was listed.
            names: the names of all that was listed, if it has any.
        """
        self._what = what
        self._names = names
        self._list = _core.GradList(_config.isa(), torch.Tensor)
        # By index in what was listed, in its order.
        self._elsewhere: dict[int, Tensor] = {}
        self._dtensors: dict[int, Tensor] = {}
        self._shardings: dict[int, Sharding] = {}

    @classmethod
    def of_tensors(cls, tensors: list[Tensor], names: list[str] | None) -> Gathered:
        """Gathers tensors.

        Raises:
            TypeError: one is sparse or not floating-point, or a partial sum.
        """
        gathered = cls("tensor", names)
        for i in gathered._list.extend(tensors):
            gathered._add_slowly(i, tensors[i])
        return gathered

    @classmethod
    def of_parameters(cls, parameters: list[Tensor], names: list[str] | None) -> Gathered:
        """Gathers the gradients of those parameters that have one.

        Raises:
            TypeError: a gradient is sparse or not floating-point, or a partial sum; or something is not a tensor.
        """
        gathered = cls("the gradient of parameter", names)
        for i in gathered._list.extend_from_params(parameters):
            grad = parameters[i].grad
            assert grad is not None  # noqa: S101 (extend_from_params leaves out what has none)
            gathered._add_slowly(i, grad)
        return gathered

    def _add_slowly(self, index: int, grad: Tensor) -> None:
        """Adds one tensor that the list could not take as it is: a shard, or one that stays elsewhere."""
        if not isinstance(grad, Tensor):
            msg = f"{self._label(index)} is of type {type(grad).__name__}; expected a tensor"
            raise TypeError(msg)
        if not (grad.is_floating_point() or grad.is_complex()) or grad.layout is not torch.strided:
            seen = f"dtype {grad.dtype} and layout {grad.layout}"
            msg = f"{self._label(index)} has {seen}; it must be a dense floating-point tensor"
            raise TypeError(msg)
        if not is_dtensor(grad):
            self._elsewhere[index] = grad
            return
        local, self._shardings[index] = local_shard(grad, self._label(index))
        self._dtensors[index] = grad
        if self._list.extend([local], index):
            self._elsewhere[index] = local

    def _label(self, index: int) -> str:
        return f"{self._what} {index}" + ("" if self._names is None else f" ({self._names[index]!r})")

    def _in_order(self) -> list[tuple[int, Tensor]]:
        """Index and local memory of every gradient."""
        local = {**dict(zip(self._list.indices, self._list.tensors, strict=True)), **self._elsewhere}
        return sorted(local.items())

    # On an HPU

    def has_operators(self, what: str, *, exist: bool = True) -> bool:
        """Whether an HPU's operators do something to all gradients, so that nothing waits for it; else says so once.

        Args:
            what: they do.
            exist: whether there are any for it.
        """
        elsewhere = list(self._elsewhere.values())
        if exist and not len(self._list) and _hpu_grads.reach(elsewhere):
            return True
        for dtype in {tensor.dtype for tensor in elsewhere if tensor.device.type == "hpu"}:
            _hpu_grads.announce(f"{what} of {dtype} tensors")
        return False

    def _norm_on_hpu(self, max_norm: float) -> tuple[Tensor, Tensor]:
        """The norm, and the coefficient that clips it."""
        squares = _hpu_grads.sum_squares(list(self._elsewhere.values()), self._shardings_elsewhere())
        return _hpu_grads.clip_coefficient(squares, max_norm)

    def _shardings_elsewhere(self) -> list[Sharding | None]:
        return [self._shardings.get(index) for index in self._elsewhere]

    # Norms

    def norm(self, order: float) -> float | Tensor:
        """The norm of all gradients together, rounded to the dtype in which it is returned; of an HPU's, a tensor."""
        if self._has_norm_operators(order):
            return self._norm_on_hpu(math.inf)[0]
        return self._norm_on_host(order)

    def _has_norm_operators(self, order: float) -> bool:
        return self.has_operators(f"norms of order {order:g}", exist=order == 2)  # noqa: PLR2004 (the only one)

    def _norm_on_host(self, order: float) -> float:
        reduction = _REDUCTIONS.get(order)
        if reduction is None:
            return self._rounded(self._norm_of_any_order(order))
        parts: dict[Sharding | None, list[float]] = {sharding: [] for sharding in (None, *self._shardings.values())}
        reduced = self._list.reduce(reduction, torch.get_num_threads())
        for index, part in zip(self._list.indices, reduced, strict=True):
            parts[self._shardings.get(index)].append(part)
        for index, norm in zip(self._elsewhere, _norms(list(self._elsewhere.values()), order), strict=True):
            parts[self._shardings.get(index)].append(norm * norm if reduction == "sum_squares" else norm)
        totals = []
        for sharding, of_shards in parts.items():
            total = _core.fold(reduction, of_shards)
            if sharding is not None:
                total = sharding.complete_max(total) if reduction == "max_abs" else sharding.complete([total])[0]
            totals.append(total)
        total = _core.fold(reduction, totals)
        return self._rounded(math.sqrt(total) if reduction == "sum_squares" else total)

    def _norm_of_any_order(self, order: float) -> float:
        """By torch: the norm of the norms of each."""
        wholes = [self._dtensors.get(index, tensor) for index, tensor in self._in_order()]
        norms = torch.tensor(_norms(wholes, order), dtype=torch.float64)
        return float(torch.linalg.vector_norm(norms, order)) if wholes else 0.0

    def as_tensor(self, norm: float | Tensor) -> Tensor:
        """The norm as it is returned."""
        if isinstance(norm, Tensor):
            return norm
        first = self._in_order()[:1] if self._elsewhere else []
        return torch.tensor(norm, dtype=self._norm_dtype(), device=first[0][1].device if first else "cpu")

    def _norm_dtype(self) -> torch.dtype:
        wide = any(tensor.dtype in {torch.float64, torch.complex128} for tensor in self._elsewhere.values())
        return torch.float64 if wide else torch.float32

    def _rounded(self, norm: float) -> float:
        return float(torch.tensor(norm, dtype=self._norm_dtype()))

    def check_finite(self, order: float, norm: float | Tensor) -> None:
        """Raises an error that names the first gradient to blame if the norm is not finite.

        Raises:
            RuntimeError: the norm is infinite or NaN.
        """
        if math.isfinite(norm):
            return
        finite = dict(zip(self._list.indices, self._list.reduce("all_finite", torch.get_num_threads()), strict=True))
        for index, tensor in self._in_order():
            if not (finite[index] if index in finite else torch.isfinite(tensor).all()):
                shape = tuple(self._dtensors.get(index, tensor).shape)
                reason = f"{self._label(index)}, of shape {shape}, is the first with an element that is not finite"
                break
        else:
            reason = f"every element is finite, but their norm is beyond {self._norm_dtype()}"
            if self._dtensors:
                reason = f"on this rank {reason}, or the element is in another rank's shard"
        msg = (
            f"the total norm of order {order} is non-finite ({float(norm)}): {reason}; "
            "nothing was changed (error_if_nonfinite=False goes on with such a norm)"
        )
        raise RuntimeError(msg)

    # Writing

    def clip(self, order: float, max_norm: float, *, skip_nonfinite: bool) -> float | Tensor:
        """Multiplies by torch's clip coefficient where that is not 1.

        Args:
            order: of the norm.
            max_norm: bound of the norm.
            skip_nonfinite: write nothing if the norm is not finite.

        Returns:
            The norm before.
        """
        reduction = _REDUCTIONS.get(order)
        if reduction is not None and not self._elsewhere and not self._dtensors:
            norm, scaled = self._list.clip(reduction, max_norm, skip_nonfinite, torch.get_num_threads())
            if scaled:
                self._count_versions()
            return norm
        if self._has_norm_operators(order):
            on_device, by = self._norm_on_hpu(max_norm)
            if not skip_nonfinite or math.isfinite(on_device):
                self._scale_on_hpu(by)
            return on_device
        norm = self._norm_on_host(order)
        coefficient = clip_coefficient(norm, max_norm)
        if coefficient != 1 and (math.isfinite(norm) or not skip_nonfinite):
            self.scale(coefficient)
        return norm

    def clip_with_norm(self, norm: float | Tensor, max_norm: float) -> None:
        """Multiplies by the clip coefficient of a norm that is known: a tensor for operators, else a number."""
        if isinstance(norm, Tensor):
            self._scale_on_hpu(_hpu_grads.clip_coefficient_of(norm, max_norm))
        elif (coefficient := clip_coefficient(norm, max_norm)) != 1:
            self.scale(coefficient)

    def scale(self, factor: float) -> None:
        """Multiplies all gradients."""
        if self.has_operators("scaling"):
            self._scale_on_hpu(factor)
        else:
            self._map("scale", factor, lambda tensor: tensor.mul_(factor))

    def _scale_on_hpu(self, factor: float | Tensor) -> None:
        self._refuse_expanded()
        _hpu_grads.scale_(self._elsewhere.values(), factor)
        self._count_versions()

    def clamp(self, limit: float) -> None:
        """Puts all elements into ``[-limit, limit]``."""
        self._refuse_complex()

        def by_torch(tensor: Tensor) -> None:
            # A number that float16 does not hold would be an error.
            bound = torch.tensor(limit, dtype=torch.float64).to(tensor.dtype).to(tensor.device)
            tensor.clamp_(-bound, bound)

        self._map("clamp", limit, by_torch)

    def unscale(self, inv_scale: float | Tensor, found_inf: Tensor) -> None:
        """Multiplies all gradients, and sets ``found_inf`` to 1 if an element was not finite before."""
        self._refuse_complex()
        self._refuse_expanded()
        if self.has_operators("unscaling"):
            _hpu_grads.unscale_(list(self._elsewhere.values()), self._shardings_elsewhere(), inv_scale, found_inf)
            self._count_versions()
        elif not self._unscale_on_host(float(inv_scale)):
            found_inf.fill_(1.0)

    def _unscale_on_host(self, inv_scale: float) -> bool:
        """Returns whether all elements were finite before."""
        found = not self._list.unscale(inv_scale, torch.get_num_threads())
        by_device: dict[torch.device, list[Tensor]] = {}
        for tensor in self._elsewhere.values():
            by_device.setdefault(tensor.device, []).append(tensor)
        for device, tensors in by_device.items():
            found_inf = torch.zeros((), device=device)
            factor = torch.tensor(inv_scale, dtype=torch.float32, device=device)
            torch._amp_foreach_non_finite_check_and_unscale_(tensors, found_inf, factor)
            found = bool(found_inf) or found
        for sharding in dict.fromkeys(self._shardings.values()):
            found = sharding.complete_max(float(found)) != 0
        if inv_scale != 1:
            self._count_versions()
        return not found

    def _map(self, name: str, parameter: float, by_torch: Callable[[Tensor], Any]) -> None:
        self._refuse_expanded()
        self._list.map(name, [parameter], torch.get_num_threads())
        for tensor in self._elsewhere.values():
            by_torch(tensor)
        self._count_versions()

    def _count_versions(self) -> None:
        """The kernels write behind autograd's back: a backward through an old value must fail, as it does in torch."""
        # Those elsewhere too: torch's own operator for unscaling does not count what it writes.
        written = [*self._list.tensors, *self._elsewhere.values(), *self._dtensors.values()]
        torch.autograd.graph.increment_version(written)

    def _refuse_complex(self) -> None:
        for index, tensor in self._elsewhere.items():
            if tensor.is_complex():
                msg = f"{self._label(index)} has dtype {tensor.dtype}; it must be real"
                raise TypeError(msg)

    def _refuse_expanded(self) -> None:
        for index, tensor in self._elsewhere.items():
            sizes = zip(tensor.stride(), tensor.shape, strict=True)
            if tensor.numel() > 0 and any(stride == 0 and size > 1 for stride, size in sizes):
                msg = (
                    f"{self._label(index)} is an expanded view whose elements share memory, "
                    "so it cannot be written; clone() it first"
                )
                raise ValueError(msg)


def _norms(tensors: list[Tensor], order: float) -> list[float]:
    """Each tensor's norm; the host waits once per device."""
    norms: dict[torch.device, dict[int, Tensor]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.numel() > 0:
            wide = torch.promote_types(tensor.dtype, torch.float64 if tensor.device.type == "cpu" else torch.float32)
            norm: Any = torch.linalg.vector_norm(tensor, order, dtype=wide)
            norms.setdefault(tensor.device, {})[i] = norm.full_tensor() if is_dtensor(norm) else norm
    values = [0.0] * len(tensors)
    for of_device in norms.values():
        for i, value in zip(of_device, torch.stack(list(of_device.values())).tolist(), strict=True):
            values[i] = value
    return values
