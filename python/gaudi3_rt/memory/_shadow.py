"""What an optimizer keeps and makes, found by steps on tensors that have no memory."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.memory._live import LiveBytes
from gaudi3_rt.memory._storages import tensors_in

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

_META = torch.device("meta")
_WARM_UP_STEPS = 8
"""RAdam adapts its rates from the sixth step on."""


@runtime_checkable
class _Declaring(Protocol):
    """Optimizers of this package: their kernels cannot step tensors without memory, but they say what a step takes."""

    def _make_state(self) -> object: ...
    def _workspace(self) -> int: ...


def shadow(param: Tensor) -> torch.nn.Parameter:
    """A parameter like this one, of the same layout, that has no memory; this rank's part of a DTensor likewise."""
    return torch.nn.Parameter(_without_memory(param), requires_grad=param.requires_grad)


def _without_memory(tensor: Any) -> Tensor:
    tensor = tensor.detach()
    if hasattr(tensor, "device_mesh") and hasattr(tensor, "placements"):
        from torch.distributed.tensor import DTensor  # noqa: PLC0415 (only for those who use DTensor)

        local = _without_memory(tensor.to_local())
        made: Tensor = DTensor.from_local(
            local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )
        return made
    if tensor.device == _META:
        return torch.empty_like(tensor)
    moved: Tensor = tensor.to(_META)
    return moved


class Shadow:
    """An optimizer whose parameters, gradients and state have no memory, after some steps.

    Args:
        optimizer: an optimizer, whose state and options are taken over, or a callable that makes one of parameters.
        params: the parameters of the model, by which a callable is called.

    Raises:
        ParameterValidationError: its step depends on the values of tensors, or cannot be taken without memory.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | Make, params: Sequence[Tensor]) -> None:
        self.sources: dict[Tensor, Tensor] = {}
        """The true parameter of each shadow."""
        if isinstance(optimizer, torch.optim.Optimizer):
            self.optimizer = self._copy(optimizer)
        else:
            shadows = [self._shadow(param) for param in params]
            self.optimizer = _construct(optimizer, shadows)
        if is_sparse := isinstance(self.optimizer, torch.optim.SparseAdam):
            # Its step needs the values of sparse gradients. Its state is Adam's, but for its counters, which are ints.
            self.optimizer = torch.optim.Adam(list(self.sources))
        self.workspace = self._take_steps()
        if is_sparse:
            self.workspace = 0
            for own in self.optimizer.state.values():
                own.pop("step", None)

    def _shadow(self, param: Tensor) -> torch.nn.Parameter:
        made = shadow(param)
        self.sources[made] = param
        return made

    def _copy(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """A deep copy for which the large tensors count as copied already: as tensors without memory."""
        memo: dict[int, Any] = {}
        for group in optimizer.param_groups:
            for param in group["params"]:
                memo[id(param)] = self._shadow(param)
        for own in optimizer.state.values():
            for key, value in own.items():
                if key != "step":  # steps read their number
                    memo.update({id(tensor): _without_memory(tensor) for tensor in tensors_in(value)})
        for tensor in list(memo.values()):
            memo.setdefault(id(tensor), tensor)
        return copy.deepcopy(optimizer, memo)

    def _take_steps(self) -> int:
        """Some steps; returns the bytes that the last has made at most at once besides what it keeps."""
        name = type(self.optimizer).__name__
        for param in self.sources:
            param.grad = torch.empty_like(param) if param.requires_grad else None
        try:
            if isinstance(self.optimizer, _Declaring):
                self.optimizer._make_state()
                return self.optimizer._workspace()
            return _steps(self.optimizer)
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            msg = (
                f"{name} cannot be planned: a step on tensors without memory raised {type(error).__name__}: {error}; "
                "if real steps work, give optimizer=None to plan the rest"
            )
            raise ParameterValidationError(msg) from error

    def kept(self) -> Iterable[tuple[str, Tensor, Tensor | None]]:
        """Key, tensor and parameter of all that the optimizer keeps."""
        for owner, own in self.optimizer.state.items():
            source = self.sources.get(owner) if isinstance(owner, Tensor) else None
            for key, value in own.items() if isinstance(own, Mapping) else [(str(owner), own)]:
                for tensor in tensors_in(value):
                    yield str(key), tensor, source


def _construct(make: Make, params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Calls a class, a partial or a function with the parameters.

    torch refuses ``fused=True`` for parameters without memory, although its state does not depend on it: the option is
    given afterwards.
    """
    fused = isinstance(make, functools.partial) and make.keywords.get("fused")
    if fused and isinstance(make, functools.partial):
        make = functools.partial(make.func, *make.args, **{**make.keywords, "fused": None})
    try:
        optimizer = make(params)
    except (RuntimeError, TypeError, ValueError) as error:
        msg = f"the optimizer cannot be made of the model's parameters: {type(error).__name__}: {error}"
        raise ParameterValidationError(msg) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        msg = (
            f"optimizer={make!r} made a {type(optimizer).__name__}; it must be a torch.optim.Optimizer, or make one of "
            "a list of parameters, such as functools.partial(FusedAdamW, moments_dtype=torch.int8)"
        )
        raise ParameterValidationError(msg)
    for group in optimizer.param_groups if fused else ():
        group["fused"] = True
    return optimizer


def _steps(optimizer: torch.optim.Optimizer) -> int:
    """The first steps make state, the last is measured. Fused kernels of torch make no tensors: they are left out."""
    fused = [group for group in optimizer.param_groups if group.get("fused")]
    for group in fused:
        group["fused"] = False
    step = type(optimizer).step  # not what a scheduler may have wrapped
    with _WithoutValues():
        for _ in range(_WARM_UP_STEPS):
            step(optimizer)
    for group in fused:
        for param in group["params"]:
            param.grad = None
    with _WithoutValues() as measured:
        step(optimizer)
    peak: int = measured.peak
    return peak


class _WithoutValues(LiveBytes):  # type: ignore[no-untyped-call]  # of torch
    """Lets a step run on tensors without memory, as long as it does not decide by their values."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Reading a number gives one at which no formula of an optimizer is singular."""
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device == _META:
            if not args[0].is_floating_point():
                msg = "it decides by the values of gradients or state"
                raise NotImplementedError(msg)
            return 0.5
        return super().run(func, args, kwargs)
