"""Checks of options: defaults, ranges, groups, schedulers, closures; that what is given is heeded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import Bench, Finding, distance, float64, generator, give, normal, percent
from gaudi3_rt.numerics._checks_formula import follow
from gaudi3_rt.numerics._oracle import Reference
from gaudi3_rt.numerics._passport import Figure
from gaudi3_rt.numerics._subject import RefusedError, Subject

_HALF = 5
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
    return found is not None and float(found) == float(usual)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def keywords(bench: Bench) -> Finding:
    """Every keyword of torch's class is taken, with torch's own default."""
    theirs = bench.spec.torch_class
    given = {} if theirs is None else inspect.signature(theirs).parameters
    tried = [one for one in given.values() if one.default is not one.empty]
    lr = bench.spec.exercise["lr"]
    refused = [one.name for one in tried if _refuses(bench, {"lr": lr, one.name: one.default})]
    figure = Figure(value=len(refused), unit=f"of {len(tried)} keywords refused", bound=0)
    if refused:
        said = f"It refuses keywords that {bench.spec.name} has, with their own defaults: {', '.join(refused)}."
        return Finding(status="differs", consequence=said, figure=figure)
    said = f"It takes every keyword of {bench.spec.name}."
    return Finding(status="pass", consequence=said, figure=figure)


def _refuses(bench: Bench, options: dict[str, Any]) -> bool:
    try:
        bench.subject.make([bench.parameter(torch.ones(2))], options)
    except RefusedError:
        return True
    return False


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
    option = {name: True, **others}
    ((_, error, model),) = follow(bench, option, (40,), fade=True, scale=SCALE)
    bound = bench.rounding(model)
    figure = Figure(value=error, unit="relative update error at step 40", bound=bound)
    if error <= bound:
        return Finding(status="pass", consequence=f"{name} acts as documented.", figure=figure)
    ((_, unlike, _),) = follow(bench, option, (40,), fade=True, scale=SCALE, oracle={**option, name: False})
    if unlike <= bound:
        said = f"{name} is taken and ignored: after 40 steps parameters are {percent(error)} of their way off."
        return Finding(status="fails", consequence=said, figure=figure)
    said = f"With {name} parameters are {percent(error)} of their way from where the formula puts them after 40 steps."
    return Finding(status="differs", consequence=said, figure=figure)


def maximize(bench: Bench) -> Finding:
    """Ascent."""
    return _option(bench, "maximize")


def amsgrad(bench: Bench) -> Finding:
    """The running maximum of the second moment, while gradients shrink."""
    return _option(bench, "amsgrad", betas=(0.9, 0.9))


def _groups(bench: Bench) -> tuple[list[torch.nn.Parameter], list[dict[str, Any]]]:
    random = generator(1)
    params = [bench.parameter(normal((32, 8), random, SCALE)) for _ in range(3)]
    second: dict[str, Any] = {"lr": 3 * bench.spec.exercise["lr"], "weight_decay": 30.0}
    if "betas" in bench.spec.exercise:
        second["betas"] = (0.5, 0.75)
    return params, [{"params": params[:2]}, {"params": params[2:], **second}]


def _walk(
    bench: Bench,
    params: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    references: Sequence[Reference],
    steps: int,
    before: Callable[[int], None] = lambda _: None,
) -> Figure:
    """Steps all of them with equal random gradients; the subject's update error, and its bound from the model's."""
    random = generator(2)
    start = [float64(p) for p in params]
    for t in range(steps):
        before(t)
        grads = [bench.tensor(normal(p.shape, random)) for p in params]
        give(params, grads)
        optimizer.step()
        for reference in references:
            reference.step(grads)
    oracle, model = references
    bound = bench.rounding(distance(model.params, oracle.params, start))
    return Figure(value=distance(params, oracle.params, start), unit="relative update error", bound=bound)


def within(figure: Figure) -> bool:
    """Whether a figure holds its bound; NaN does not."""
    return figure.bound is not None and figure.value <= figure.bound


def param_groups(bench: Bench) -> Finding:
    """Two groups with options of their own, in turn changed while training, and a third that is added."""
    params, groups = _groups(bench)
    references = tuple(bench.reference(groups, stored=stored) for stored in (None, bench.dtype))
    optimizer = bench.optimizer([dict(group) for group in groups])
    changed = 10.0  # the decay of the second group, half-way

    def change(t: int) -> None:
        if t == _HALF:
            for groups_of in (optimizer.param_groups, *(one.param_groups for one in references)):
                groups_of[1]["weight_decay"] = changed

    figure = _walk(bench, params, optimizer, references, 2 * _HALF, change)
    if not within(figure):
        said = f"Options of a second group are not heeded as given: updates are {percent(figure.value)} off."
        return Finding(status="fails", consequence=said, figure=figure)
    late = bench.parameter(torch.ones(4))
    optimizer.add_param_group({"params": [late], "lr": 0.0, "weight_decay": 0.0})
    give([late, *params], [bench.tensor(torch.ones(4)), *(None for _ in params)])
    optimizer.step()
    if not torch.equal(float64(late), torch.ones(4, dtype=torch.float64)):
        said = "A group that is added later with lr=0 moves all the same: its options are not heeded."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence="Every group is stepped with its own options.", figure=figure)


def scheduler(bench: Bench) -> Finding:
    """A learning rate that torch's scheduler changes in each step."""
    params, _ = _groups(bench)
    optimizer = bench.optimizer(params)
    references = tuple(bench.reference(params, stored=stored) for stored in (None, bench.dtype))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.7)

    def tick(t: int) -> None:
        if t:
            schedule.step()
            for reference in references:
                reference.param_groups[0]["lr"] *= 0.7

    figure = _walk(bench, params, optimizer, references, 10, tick)
    if within(figure):
        return Finding(
            status="pass", consequence="A scheduler's learning rate is used from its next step on.", figure=figure
        )
    said = f"What a scheduler does to lr is not heeded: after ten steps updates are {percent(figure.value)} off."
    return Finding(status="fails", consequence=said, figure=figure)


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
