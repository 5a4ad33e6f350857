"""Checks of runs: equal bits from run to run and for any number of threads, memory, and compilation."""

from __future__ import annotations

import contextlib
import logging
import types
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gaudi3_rt.numerics._bench import Bench, Finding, counted, differing, generator, give, normal, sentence
from gaudi3_rt.numerics._isolation import seed, with_threads
from gaudi3_rt.numerics._passport import Figure
from gaudi3_rt.numerics._subject import RefusedError

_WARM = 3
_MANY = 120_001
"""Elements: torch divides work among threads from 32768 on, and an odd number leaves a rest to one of them."""


def _run(bench: Bench, count: int) -> list[Tensor]:
    """Parameters after three steps, always from the same numbers."""
    random = generator(11)
    seed(bench.device, 2)
    params = [bench.parameter(normal((size,), random)) for size in (count, 33, 1)]
    optimizer = bench.optimizer(params)
    for _ in range(3):
        give(params, [bench.tensor(normal(p.shape, random)) for p in params])
        optimizer.step()
    return [p.detach() for p in params]


def _differing(one: list[Tensor], other: list[Tensor]) -> Figure:
    count = sum(differing(a, b) for a, b in zip(one, other, strict=True))
    return Figure(value=count, unit="elements differ", bound=0)


def deterministic_runs(bench: Bench) -> Finding:
    """Twice the same, with torch's generator in the same state."""
    figure = _differing(_run(bench, 4097), _run(bench, 4097))
    if figure.value:
        said = f"Two equal runs of three steps end in other bits, in {figure.value:g} of 4131 elements."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence="Equal runs end in equal bits.", figure=figure)


def deterministic_threads(bench: Bench) -> Finding:
    """The same with one thread, and with three."""
    if bench.device.type != "cpu":
        return Finding(status="not applicable", consequence="The step does not run on threads of the CPU.")
    figure = _differing(*(with_threads(count, lambda: _run(bench, _MANY)) for count in (1, 3)))
    if figure.value:
        said = f"One thread and three end in other bits, in {figure.value:g} of {_MANY + 34} elements."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence="Bits do not depend on the number of threads.", figure=figure)


def memory(bench: Bench) -> Finding:
    """Bytes of state for each parameter, and the most that a step allocates besides."""
    count = 2**18
    param = bench.parameter(torch.ones(count))
    optimizer = bench.optimizer([param])
    with mock.patch.object(torch, "compile", wraps=torch.compile) as compiler:
        for _ in range(2):
            give([param], [torch.ones_like(param)])
            optimizer.step()
    held = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in _held(optimizer)}
    given = {one.untyped_storage().data_ptr() for one in (param, param.grad) if one is not None}
    kept = {place: size for place, size in held.items() if place not in given}
    per_parameter = sum(kept.values()) / count
    # Float32 moments are the most that the formula needs; a narrow parameter may have a float32 master beside them.
    wide = max(torch.finfo(torch.float32).bits, torch.finfo(bench.dtype).bits) // 8
    bound = wide * (bench.spec.moments + bench.narrow) + 64 / count * len(kept)
    figure = Figure(value=per_parameter, unit="bytes per parameter", bound=bound)
    said = f"State takes {per_parameter:.3g} bytes for each parameter"
    if compiler.called:
        said += "; what a step takes for a while is not measured, because it compiles itself"
    else:
        said += f", and torch operations of a step up to {_peak(optimizer) / count:.2g} more for a while"
    if per_parameter > bound:
        said += f"; float32 moments{' and a master' if bench.narrow else ''} would take {bound:.3g}"
        return Finding(status="differs", consequence=said + ".", figure=figure)
    return Finding(status="pass", consequence=said + ".", figure=figure)


def _held(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """What it holds, in its state or beside it, and what optimizers that it is made of hold."""
    found, waiting = [], [optimizer]
    while waiting:
        one = waiting.pop()
        found.append(one)
        yield from _tensors(vars(one))
        inner = [value for value in vars(one).values() if isinstance(value, torch.optim.Optimizer)]
        waiting += [value for value in inner if not any(value is other for other in [*found, *waiting])]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__"):  # one that is made of others
        for name in value.__tensor_flatten__()[0]:
            yield from _tensors(getattr(value, name))
    elif isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray) and value.size and value.flags.c_contiguous and not value.dtype.hasobject:
        yield torch.frombuffer(value, dtype=torch.uint8)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


class _Temporaries(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of its __init_subclass__
    """Counts what torch operations allocate, as long as it lives; not what a kernel allocates inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._live: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and looks at the storages of what it returns."""
        kwargs = kwargs or {}
        given = {one.untyped_storage()._cdata for one in _tensors([*args, *kwargs.values()])}
        result = func(*args, **kwargs)
        for made in _tensors([result]):
            storage = made.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._live:
                self._live[storage._cdata] = storage.nbytes()
                self.most = max(self.most, sum(self._live.values()))
                weakref.finalize(made, self._live.pop, storage._cdata, None)
        return result


def _peak(optimizer: torch.optim.Optimizer) -> int:
    """The most bytes that operations of one step allocate at a time."""
    # What is compiled cannot be run while operations are watched, nor afterwards.
    with torch.compiler.set_stance("force_eager"), _Temporaries() as temporaries:
        optimizer.step()
    return int(temporaries.most)


def recompiles(bench: Bench) -> Finding:
    """Compilations while a scheduler changes a learning rate that is a tensor."""
    lr = torch.tensor(float(bench.spec.exercise["lr"]), device=bench.device)
    params = [bench.parameter(torch.ones(8)), bench.parameter(torch.ones(8))]
    try:
        optimizer = bench.optimizer(params, lr=lr)
    except RefusedError as refused:
        said = f"lr cannot be a tensor ({refused}); a float that changes is compiled anew by torch.compile."
        return Finding(status="not applicable", consequence=said)
    graphs = first = 0

    def count(module: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return module.forward

    def step() -> None:
        optimizer.step()

    # Code of its own: what is compiled for it takes no place among what the user has compiled.
    own = types.FunctionType(step.__code__.replace(), step.__globals__, closure=step.__closure__)
    compiled = torch.compile(own, backend=count)

    with _quiet_compiler():
        for t in range(_WARM + 5):
            if t == _WARM:
                first = graphs
            lr.mul_(0.9 if t >= _WARM else 1.0)
            give(params, [torch.ones_like(p) for p in params])
            try:
                compiled()
            except Exception as error:  # noqa: BLE001 (whatever the compiler or the step raises)
                said = f"With a tensor as lr, torch.compile does not compile its step: {type(error).__name__}: {error}"
                try:
                    optimizer.step()
                except Exception as plain:  # noqa: BLE001 (the same)
                    bench.optimizer(params).step()  # if this raises as well, it is no matter of lr
                    said = f"It takes a tensor as lr, and its step raises {type(plain).__name__}: {plain}"
                return Finding(status="differs", consequence=sentence(said))
    figure = Figure(value=graphs - first, unit="recompilations in 5 steps", bound=0)
    if graphs > first:
        again = counted(graphs - first, "time", "times")
        said = f"torch.compile compiles the step again, {again} in five steps of a scheduler."
        return Finding(status="differs", consequence=said, figure=figure)
    said = "A scheduler that changes a tensor lr makes torch.compile compile nothing again"
    said += f" ({counted(first, 'graph', 'graphs')} in the first three steps)." if first else " (nothing is compiled)."
    return Finding(status="pass", consequence=said, figure=figure)


@contextlib.contextmanager
def _quiet_compiler() -> Iterator[None]:
    """Keeps what torch.compile warns of while it compiles a step from the user's terminal."""

    def severe(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith("torch")]
    handlers = {handler for logger in loggers for handler in logger.handlers}
    for handler in handlers:
        handler.addFilter(severe)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(severe)
