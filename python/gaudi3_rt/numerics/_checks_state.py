"""Checks of state: does training go on after a resume as if nothing had happened, and after a change of optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    sentence,
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
    script = _resume_script(bench, steps)
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
    worst, shown = Figure(value=0.0, unit=_UNIT, bound=_bound(bench)), ""
    for into_subject in (True, False):
        script = _interchange_script(bench, into_subject=into_subject)
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
        did = "refuses"
        try:
            new.load_state_dict(checkpoint(old))
            did = "takes"
            update = _take(new, target, last)
        except Exception as error:  # noqa: BLE001 (whatever an optimizer raises is its way to refuse)
            if did == "takes":
                _last_update(bench, bench.optimizer, [last])  # if this raises as well, it is no matter of checkpoints
            then = ", and raises in the next step" if did == "takes" else ""
            said = f"{reader} {did} {what}{then}: {type(error).__name__}: {error}"
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
            return Finding(status="fails", consequence=said, figure=figure, reproduce=script)
        if figure.value >= worst.value:
            worst, shown = figure, script
    said = f"Checkpoints go to and from {bench.spec.name} in the middle of training."
    return Finding(status="pass", consequence=said, figure=worst, reproduce=shown)


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


def _resume_script(bench: Bench, steps: int) -> str:
    lr = 2 * bench.spec.exercise["lr"]
    return "\n".join(
        [
            *_script_head(bench, steps + 2),
            f"optimizer = Optimizer([p], {_text(bench.options({}))})",
            f"for grad in grads[:{steps}]:",
            "    update(optimizer, p, grad)",
            "q = torch.nn.Parameter(p.detach().clone())",
            f"resumed = Optimizer([q], {_text(bench.options({'lr': lr}))})",
            "resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))",
            "errors = []",
            f"for grad in grads[{steps}:]:",
            "    found, right = update(resumed, q, grad), update(optimizer, p, grad)",
            "    errors.append(abs((found * right).sum().item() / (right * right).sum().item() - 1))",
            "print(max(errors))",
        ]
    )


def _interchange_script(bench: Bench, *, into_subject: bool) -> str:
    old, new = (bench.spec.name, "Optimizer") if into_subject else ("Optimizer", bench.spec.name)
    return "\n".join(
        [
            *_script_head(bench, 11),
            "q = torch.nn.Parameter(p.detach().clone())",
            f"old = {old}([p], {_text(bench.options({}))})",
            f"new = {new}([q], {_text(bench.options({}))})",
            "for grad in grads[:10]:",
            "    update(old, p, grad)",
            "q.data.copy_(p.data)",
            "new.load_state_dict(copy.deepcopy(old.state_dict()))",
            "found, right = update(new, q, grads[10]), update(old, p, grads[10])",
            "print(((found - right).norm() / right.norm()).item())",
        ]
    )


def _script_head(bench: Bench, count: int) -> list[str]:
    """What is trained, with which gradients, and a function that takes one step."""
    where = "" if bench.device.type == "cpu" else f", device={str(bench.device)!r}"
    to = f"dtype=torch.{dtype_name(bench.dtype)}{where}"
    shape = ", ".join(map(str, _SHAPE))
    return [
        "import copy",
        "import torch",
        *Subject.lines(bench.subject),
        "",
        "",
        "def update(optimizer, p, grad):",
        "    before, p.grad = p.detach().to('cpu', torch.float64, copy=True), grad.clone()",
        "    torch.manual_seed(1)",
        "    optimizer.step()",
        "    return p.detach().cpu().double() - before",
        "",
        "",
        "random = torch.Generator().manual_seed(9)",
        f"p = torch.nn.Parameter((torch.randn({shape}, generator=random) * 2e-3).to({to}))",
        "random = torch.Generator().manual_seed(10)",
        f"grads = [torch.randn({shape}, generator=random).to(p) for _ in range({count})]",
    ]


def _text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
