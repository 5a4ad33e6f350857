"""Checks of state: does training go on after a resume as if nothing had happened, and after a change of optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import (
    Bench,
    Finding,
    checkpoint,
    counted,
    differing,
    dtype_name,
    float64,
    generator,
    give,
    normal,
    part,
    percent,
)
from gaudi3_rt.numerics._checks_options import within
from gaudi3_rt.numerics._isolation import seed
from gaudi3_rt.numerics._passport import Figure
from gaudi3_rt.numerics._subject import Subject

_SHAPE = (64, 64)
_ROUNDINGS = 16
"""Of an update in float32, as in ``Bench.rounding``: a running product of betas, say, in place of a power."""
_UNIT = "relative error of the next update"


def _start(bench: Bench) -> torch.nn.Parameter:
    return bench.parameter(normal(_SHAPE, generator(9), 2e-3))


def _gradients(bench: Bench, count: int) -> Iterator[Tensor]:
    random = generator(10)
    for _ in range(count):
        yield bench.tensor(normal(_SHAPE, random))


def _take(optimizer: torch.optim.Optimizer, param: torch.nn.Parameter, grad: Tensor) -> Tensor:
    """One step; the update, in float64. Random numbers are the same for all that are compared."""
    before = float64(param)
    give([param], [grad])
    seed(param.device, 1)
    optimizer.step()
    return float64(param) - before


def _share(update: Tensor, of: Tensor) -> float:
    return float((update * of).sum() / (of * of).sum())


def _trained(bench: Bench, grads: list[Tensor]) -> tuple[torch.optim.Optimizer, torch.nn.Parameter]:
    param = _start(bench)
    optimizer = bench.optimizer([param])
    for grad in grads:
        _take(optimizer, param, grad)
    return optimizer, param


def bias_correction_after_resume(bench: Bench) -> Finding:
    """The next updates of a new optimizer that has loaded the state, beside those of the old one."""
    steps = 301  # a count that a 16-bit float cannot hold
    *grads, last, after = _gradients(bench, steps + 2)
    optimizer, param = _trained(bench, grads)
    resumed, copied = _resumed(bench, optimizer, param)
    updates = [(_take(resumed, copied, grad), _take(optimizer, param, grad)) for grad in (last, after)]
    share = max((_share(*two) for two in updates), key=lambda one: abs(one - 1))
    figure = Figure(value=abs(share - 1), unit=_UNIT, bound=0)
    options = ", ".join(f"{name}={value!r}" for name, value in bench.options({}).items())
    script = "\n".join(
        [
            "import torch",
            *Subject.lines(bench.subject),
            "",
            _zeros(bench),
            f"optimizer = Optimizer([p], {options})",
            f"for _ in range({steps}):",
            "    p.grad = torch.ones_like(p)",
            "    optimizer.step()",
            "q = torch.nn.Parameter(p.detach().clone())",
            f"resumed = Optimizer([q], {options})",
            "resumed.load_state_dict(optimizer.state_dict())",
            "before, p.grad, q.grad = p.detach().clone(), -torch.ones_like(p), -torch.ones_like(p)",
            "optimizer.step(), resumed.step()",
            "print(((q - before).mean() / (p - before).mean() - 1).item())",
        ]
    )
    if all(torch.equal(*two) for two in updates):
        said = "After a resume the next updates have the same bits as without."
        return Finding(status="pass", consequence=said, figure=figure, reproduce=script)
    if figure.value <= _ROUNDINGS * 2.0**-24:
        said = f"Updates after a resume are the same to within rounding ({figure.value:.1e}), but not the same bits."
        return Finding(status="differs", consequence=said, figure=figure, reproduce=script)
    said = "Updates after a resume do not have the same bits as without"
    said += f": one is {part(share)} of what it should be." if abs(share - 1) > bench.u else "."
    return Finding(status="fails", consequence=said, figure=figure, reproduce=script)


def _resumed(
    bench: Bench, optimizer: torch.optim.Optimizer, param: torch.nn.Parameter
) -> tuple[torch.optim.Optimizer, torch.nn.Parameter]:
    copied = torch.nn.Parameter(param.detach().clone())
    resumed = bench.optimizer([copied], lr=2 * bench.spec.exercise["lr"])  # to be replaced by what was saved
    resumed.load_state_dict(checkpoint(optimizer))
    return resumed, copied


def state_dict_round_trip(bench: Bench) -> Finding:
    """A state_dict comes back from a new optimizer as it was loaded; and training goes on with the same bits."""
    *grads, last = _gradients(bench, 4)
    optimizer, param = _trained(bench, grads)
    resumed, copied = _resumed(bench, optimizer, param)
    saved, loaded = (dict(_leaves(one.state_dict())) for one in (optimizer, resumed))
    changed = sorted(name for name in saved.keys() | loaded.keys() if not _same(saved.get(name), loaded.get(name)))
    figure = Figure(value=len(changed), unit="entries changed", bound=0)
    if changed:
        first = changed[0]
        said = (
            f"Loading changes {counted(len(changed), 'entry', 'entries')} of a state_dict; {first} was "
            f"{_form(saved.get(first))} and comes back as {_form(loaded.get(first))}."
        )
        return Finding(status="fails", consequence=said, figure=figure)
    if not torch.equal(_take(optimizer, param, last), _take(resumed, copied, last)):
        said = "A state_dict does not hold all state: the next update after loading it is another."
        return Finding(status="fails", consequence=said, figure=figure)
    said = f"All {len(saved)} entries of a state_dict come back as they were, and training goes on with the same bits."
    return Finding(status="pass", consequence=said, figure=figure)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{name}[{i}]")
    else:
        yield name, value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        a, b = _plain(a), _plain(b)
        return a.dtype == b.dtype and a.shape == b.shape and not differing(a, b)
    return type(a) is type(b) and bool(a == b)


def _plain(tensor: Tensor) -> Tensor:
    """The numbers of a tensor of another class, which may have no comparison of its own."""
    return tensor if type(tensor) in {Tensor, torch.nn.Parameter} else tensor.dequantize()


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        number = f" {value.item()!r}" if value.numel() == 1 else ""
        return f"{dtype_name(value.dtype)}{number} of shape {tuple(value.shape)}"
    return repr(value)


def state_dict_interchange(bench: Bench) -> Finding:
    """A checkpoint of torch's class in the subject, and one of the subject in torch's class, after ten steps."""
    theirs = bench.spec.torch_class
    if theirs is None:
        return Finding(status="not applicable", consequence="torch.optim has no class of this formula.")
    worst = Figure(value=0.0, unit=_UNIT, bound=_bound(bench))
    for into_subject in (True, False):
        *grads, last = _gradients(bench, 11)
        params = [_start(bench) for _ in range(2)]
        options = bench.options({})
        ours, torchs = bench.optimizer(params[:1]), theirs(params[1:], **options)
        old, new = (torchs, ours) if into_subject else (ours, torchs)
        source, target = (params[1], params[0]) if into_subject else (params[0], params[1])
        for grad in grads:
            _take(old, source, grad)
        with torch.no_grad():
            target.copy_(source)
        reader, writer = ("this optimizer", bench.spec.name) if into_subject else (bench.spec.name, "this optimizer")
        what = f"a checkpoint of {writer}"
        try:
            new.load_state_dict(checkpoint(old))
            update = _take(new, target, last)
        except Exception as error:  # noqa: BLE001 (whatever an optimizer raises is its way to refuse)
            said = f"{reader} refuses {what}: {type(error).__name__}: {error}"
            return Finding(status="differs", consequence=sentence(said))
        figure, share = _compared(update, _take(old, source, last), bench)
        if not within(figure):
            alone, expected = (_last_update(bench, make, [*grads, last]) for make in (bench.optimizer, theirs))
            far, _ = _compared(alone, expected, bench)
            if not within(far):
                said = f"Updates are not those of {bench.spec.name} without a checkpoint either, so it cannot be told."
                return Finding(status="differs", consequence=said, figure=far)
            much = abs(share - 1) > figure.value / 2
            how = f"{part(share)} of what it should be" if much else f"off by {percent(figure.value)}"
            said = f"With {what}, the first update of {reader} is {how}; no error says so."
            script = _interchange_script(bench, into_subject=into_subject)
            return Finding(status="fails", consequence=said, figure=figure, reproduce=script)
        worst = max(worst, figure, key=lambda one: one.value)
    said = f"Checkpoints go to and from {bench.spec.name} in the middle of training."
    return Finding(
        status="pass", consequence=said, figure=worst, reproduce=_interchange_script(bench, into_subject=True)
    )


def _bound(bench: Bench) -> float:
    """Of one update; a part of it in bfloat16 is rounded apart by whoever comes to it with other last bits."""
    return bench.rounding(torch.finfo(torch.bfloat16).eps / 2 if bench.spec.coarse else 0.0)


def _compared(update: Tensor, expected: Tensor, bench: Bench) -> tuple[Figure, float]:
    """How far an update is off, relative to what it should be, and its share of that."""
    error = float((update - expected).norm() / expected.norm())
    return Figure(value=error, unit=_UNIT, bound=_bound(bench)), _share(update, expected)


def _last_update(bench: Bench, make: Callable[..., torch.optim.Optimizer], grads: list[Tensor]) -> Tensor:
    """Of a training that knows no checkpoint."""
    param = _start(bench)
    optimizer = make([param], **bench.options({}))
    return [_take(optimizer, param, grad) for grad in grads][-1]


def _interchange_script(bench: Bench, *, into_subject: bool) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in bench.options({}).items())
    old, new = (bench.spec.name, "Optimizer") if into_subject else ("Optimizer", bench.spec.name)
    return "\n".join(
        [
            "import torch",
            *Subject.lines(bench.subject),
            "",
            _zeros(bench),
            f"old = {old}([p], {options})",
            "for _ in range(10):",
            "    p.grad = torch.ones_like(p)",
            "    old.step()",
            "q = torch.nn.Parameter(p.detach().clone())",
            f"new = {new}([q], {options})",
            "new.load_state_dict(old.state_dict())",
            "before, p.grad, q.grad = p.detach().clone(), -torch.ones_like(p), -torch.ones_like(p)",
            "old.step(), new.step()",
            "print(((q - before).mean() / (p - before).mean() - 1).item())",
        ]
    )


def _zeros(bench: Bench) -> str:
    where = "" if bench.device.type == "cpu" else f", device={str(bench.device)!r}"
    return f"p = torch.nn.Parameter(torch.zeros(64, dtype=torch.{dtype_name(bench.dtype)}{where}))"


def sentence(text: str, limit: int = 300) -> str:
    """One line that begins and ends like a sentence; of a long error the first line."""
    text = " ".join((text if len(text) <= limit else text.partition("\n")[0]).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "?", "!", "…")) else ".")
