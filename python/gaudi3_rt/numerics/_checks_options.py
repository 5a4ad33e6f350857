"""Checks of options: defaults, ranges, groups, schedulers, closures; that what is given is heeded."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import Bench, Finding, float64, generator, give, normal, percent
from gaudi3_rt.numerics._checks_formula import follow
from gaudi3_rt.numerics._passport import Figure
from gaudi3_rt.numerics._subject import Subject

SCALE = 2e-3
"""Of parameters: so small that their rounding is small beside an update."""
_OUT_OF_RANGE: tuple[dict[str, Any], ...] = (
    {"lr": -1.0},
    {"eps": -1.0},
    {"weight_decay": -1.0},
    {"betas": (1.0, 0.999)},
    {"betas": (0.9, -0.1)},
    {"momentum": -1.0},
)


def defaults(bench: Bench) -> Finding:
    """What is used where nothing is given; what a partial has bound is given."""
    optimizer = bench.subject.make([bench.parameter(torch.zeros(2))], {})
    group = optimizer.param_groups[0]
    others = {}
    for name, usual in bench.spec.defaults.items():
        if name in group and name not in bench.subject.bound and not _equal(group[name], usual):
            others[name] = f"{name}={_plain(group[name])!r} (documented: {usual!r})"
    figure = Figure(value=len(others), unit="other defaults", bound=0)
    shown = "group = Optimizer([torch.zeros(2, requires_grad=True)]).param_groups[0]\n"
    shown += f"print({{name: group[name] for name in {sorted(bench.spec.defaults.keys() & group.keys())}}})"
    script = "\n".join(["import torch", *Subject.lines(bench.subject), "", shown])
    if others:
        said = f"Where nothing is given, it trains with {', '.join(others.values())}."
        return Finding(status="differs", consequence=said, figure=figure, reproduce=script)
    return Finding(status="pass", consequence="Defaults are those documented.", figure=figure, reproduce=script)


def _equal(found: Any, usual: Any) -> bool:
    if isinstance(usual, tuple):
        return isinstance(found, tuple | list) and tuple(map(float, found)) == usual
    if isinstance(found, Tensor):  # a number as its dtype holds it
        return bool(found == torch.tensor(float(usual)).to(found))
    return found is not None and float(found) == float(usual)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def keywords(bench: Bench) -> Finding:
    """Every keyword of torch's class is taken, with torch's own default; and every term of the formula."""
    theirs = bench.spec.torch_class
    given = {} if theirs is None else inspect.signature(theirs).parameters
    usual = {one.name: one.default for one in given.values() if one.default is not one.empty}
    lr = {"lr": bench.spec.exercise["lr"]}
    base = lr if bench.subject.makes(lr) else bench.options({})
    refused = [name for name, value in usual.items() if not bench.subject.makes({**base, name: value})]
    terms = [f"{name}={bench.spec.exercise[name]!r}" for name in bench.lacking if name not in refused]
    number = len(usual) or len(bench.spec.exercise)
    figure = Figure(value=len(refused) + len(terms), unit=f"of {number} keywords refused", bound=0)
    said = []
    if refused:
        said.append(f"It refuses keywords that {bench.spec.name} has, with their own defaults: {', '.join(refused)}.")
    if terms:
        said.append(f"It refuses {', '.join(terms)}; the other checks are without.")
    if said:
        return Finding(status="differs", consequence=" ".join(said), figure=figure)
    return Finding(status="pass", consequence=f"It takes every keyword of {bench.spec.name}.", figure=figure)


def _refuses(bench: Bench, options: dict[str, Any]) -> bool:
    return not bench.subject.makes(options)


def invalid_options(bench: Bench) -> Finding:
    """Numbers out of range are refused at once."""
    tried = [wrong for wrong in _OUT_OF_RANGE if wrong.keys() <= bench.spec.defaults.keys()]
    accepted = [wrong for wrong in tried if not _refuses(bench, bench.options(wrong))]
    taken = [f"{name}={value!r}" for wrong in accepted for name, value in wrong.items()]
    figure = Figure(value=len(taken), unit=f"of {len(tried)} wrong values taken", bound=0)
    if taken:
        said = f"It takes {', '.join(taken)} without an error; {bench.spec.name} refuses that."
        return Finding(status="differs", consequence=said, figure=figure)
    return Finding(status="pass", consequence="Numbers out of range are refused.", figure=figure)


def _option(bench: Bench, name: str, **others: Any) -> Finding:
    """A flag that changes the formula: heeded, ignored, or something else."""
    given = {name: True, **others}
    ((_, error, model),) = follow(bench, given, (40,), fade=True, scale=SCALE)
    bound = bench.rounding(model)
    figure = Figure(value=error, unit="relative update error at step 40", bound=bound)
    if error <= bound:
        return Finding(status="pass", consequence=f"{name} acts as documented.", figure=figure)
    if _end(bench, given).equal(_end(bench, {**given, name: False})):
        said = f"{name} is taken and ignored: after 40 steps parameters are {percent(error)} of their way off."
        return Finding(status="fails", consequence=said, figure=figure)
    said = f"With {name} parameters are {percent(error)} of their way from where the formula puts them after 40 steps."
    return Finding(status="differs", consequence=said, figure=figure)


def _end(bench: Bench, options: dict[str, Any]) -> Tensor:
    """Where the subject is after gradients that shrink half-way; with random numbers that are the same each time."""
    random = generator()
    torch.manual_seed(1)
    param = bench.parameter(normal((64, 64), random, SCALE))
    optimizer = bench.optimizer([param], **options)
    for scale in 10 * [1.0] + 10 * [0.1]:
        give([param], [bench.tensor(normal((64, 64), random, scale))])
        optimizer.step()
    return param.detach()


def maximize(bench: Bench) -> Finding:
    """Ascent."""
    return _option(bench, "maximize")


def amsgrad(bench: Bench) -> Finding:
    """The running maximum of the second moment, while gradients shrink."""
    return _option(bench, "amsgrad", betas=(0.9, 0.9))


def nesterov(bench: Bench) -> Finding:
    """Nesterov's momentum."""
    return _option(bench, "nesterov", dampening=0.0)


def within(figure: Figure) -> bool:
    """Whether a figure holds its bound; NaN does not."""
    return figure.bound is not None and figure.value <= figure.bound


def closure(bench: Bench) -> Finding:
    """A closure that evaluates the loss with gradients, called from a training loop that has none enabled."""
    param = bench.parameter(torch.linspace(1, 2, 8))
    start = float64(param)
    optimizer = bench.optimizer([param])
    seen = []

    def evaluate() -> Tensor:
        seen.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = (param * param).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    try:
        with torch.no_grad():
            returned = optimizer.step(evaluate)  # type: ignore[arg-type]
    except TypeError as error:
        return Finding(status="differs", consequence=f"step() takes no closure: {error}.")
    moved = not torch.equal(float64(param), start)
    faults = [
        (not seen, "step(closure) does not call the closure"),
        (not all(seen), "step(closure) calls the closure with gradients disabled, so that its backward() fails"),
        (returned is None, "step(closure) does not return the loss"),
        (not moved, "step(closure) does not use the gradients that the closure made"),
    ]
    found = [text for wrong, text in faults if wrong]
    figure = Figure(value=len(found), unit="faults", bound=0)
    if found:
        return Finding(status="fails", consequence="; ".join(found) + ".", figure=figure)
    return Finding(status="pass", consequence="A closure runs with gradients, and its loss is returned.", figure=figure)


def zero_grad(bench: Bench) -> Finding:
    """``zero_grad`` with torch's argument, both ways, and its default."""
    param = bench.parameter(torch.ones(4))
    optimizer = bench.optimizer([param])
    found = []
    for arguments, kept in (({}, False), ({"set_to_none": True}, False), ({"set_to_none": False}, True)):
        give([param], [torch.ones_like(param)])
        try:
            optimizer.zero_grad(**arguments)
        except TypeError:
            found.append(f"zero_grad({', '.join(f'{k}={v}' for k, v in arguments.items())}) is a TypeError")
            continue
        if (param.grad is not None) != kept or (param.grad is not None and bool(param.grad.any())):
            said = ", ".join(f"{k}={v}" for k, v in arguments.items())
            found.append(f"zero_grad({said}) leaves {'a gradient' if param.grad is not None else 'no gradient'}")
    figure = Figure(value=len(found), unit="faults", bound=0)
    if found:
        return Finding(status="differs", consequence="; ".join(found) + ".", figure=figure)
    return Finding(
        status="pass", consequence="Gradients are removed, or zeroed where that is asked for.", figure=figure
    )


def missing_gradient(bench: Bench) -> Finding:
    """A parameter without a gradient stays as it is, and so does a frozen one."""
    params = [bench.parameter(torch.ones(4)) for _ in range(2)]
    optimizer = bench.optimizer(params)
    for _ in range(3):
        give(params, [torch.ones_like(params[0]), None])
        optimizer.step()
    moved = float((float64(params[1]) - 1).abs().max())
    figure = Figure(value=moved, unit="moved", bound=0)
    if moved != 0:
        said = f"A parameter without a gradient moves, by {moved:.3g} in three steps."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence="A parameter without a gradient is left as it is.", figure=figure)
