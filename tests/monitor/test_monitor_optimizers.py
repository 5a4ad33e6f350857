"""What optimizers and scalers tell of their steps: time, norm, learning rate, and that they were skipped."""

import math

import pytest
import torch
from _watching import of, watch

from gaudi3_rt import amp, events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.optim import FusedAdamW


def test_figures_of_our_optimizer(clock, seen):
    """Norm, skipped steps and learning rate are what the kernel has found; a stale norm is not told again."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = FusedAdamW([param], lr=0.125, max_grad_norm=1.0)
    scaler = amp.GradScaler("cpu", init_scale=1.0)
    optimizer.register_step_pre_hook(lambda *_: clock.advance(2))
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        for value in (2.0, math.inf, 2.0):
            with monitor.step(), torch.no_grad():
                clock.advance(1)
                param.grad = torch.full((3,), value)
                scaler.scale(torch.tensor(1.0))
                scaler.step(optimizer)
                scaler.update()
    steps = of(seen, events.StepCompleted)
    assert [step.skipped for step in steps] == [False, True, False]
    assert steps[0].gradient_norm == pytest.approx(math.sqrt(12))
    assert steps[1].gradient_norm == math.inf
    assert [step.learning_rate for step in steps] == [0.125] * 3
    (bad,) = of(seen, events.Anomaly)
    assert bad == events.NonFiniteGradient(time=bad.time, step=2, gradient_norm=math.inf, skipped=True)
    assert seen.index(bad) == seen.index(steps[1]) + 1
    optimizer.max_grad_norm = None
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        with monitor.step(), torch.no_grad():
            optimizer.step()
    last = of(seen, events.StepCompleted)[-1]
    assert (last.gradient_norm, last.skipped, list(last.phases)) == (None, False, ["rest", "optimizer"])


def test_stock_optimizers_are_timed(clock, seen):
    """Their steps are a phase; a scaler that skips them is seen; the hooks are gone when the monitor is."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([param], lr=torch.tensor(0.5))
    monitor = watch(clock)
    with monitor:
        monitor.watch(optimizer)

        def closure():
            clock.advance(2)
            return torch.tensor(1.0)

        with monitor.step():
            clock.advance(1)
            optimizer.step(closure)
        with monitor.step() as step:
            with step.phase("optimizer"):
                optimizer.step(closure)
            clock.advance(1)
        with monitor.step() as step:
            step.gradient_norm = torch.tensor(3.0)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    steps = of(seen, events.StepCompleted)
    assert [step.phases for step in steps] == [{"rest": 1.0, "optimizer": 2.0}, {"rest": 1.0, "optimizer": 2.0}, {}]
    assert of(seen, events.Anomaly) == []  # a skipped step is none, unless its gradients were looked at
    assert [(step.learning_rate, step.skipped) for step in steps] == [(0.5, False), (0.5, False), (None, True)]
    optimizer.step()
    with pytest.raises(ParameterValidationError, match=r"torch\.optim\.Optimizer"), watch(clock) as monitor:
        monitor.watch("adamw")


def test_a_compiled_step(clock, seen):
    """It has taken a step, and its findings are told; time and learning rate are not."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = FusedAdamW([param], max_grad_norm=1.0)
    compiled = torch.compile(optimizer.step, backend="eager")
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        for value in (1.0, 2.0, 2.0):
            with monitor.step():
                param.grad = torch.full((3,), value)
                compiled()
        with monitor.step():
            pass
    steps = of(seen, events.StepCompleted)
    assert [step.skipped for step in steps] == [False, False, False, True]
    norms = [math.sqrt(3), math.sqrt(12), math.sqrt(12)]
    assert [step.gradient_norm for step in steps] == [*map(pytest.approx, norms), None]
    assert {step.learning_rate for step in steps} == {None}


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_of_torch_skips(clock, seen, fused):
    """It does not call the optimizer, or tells a fused one, which leaves the parameters as they were."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([param], fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        for factor in (1.0, float("inf"), 1.0):
            with monitor.step():
                optimizer.zero_grad()
                scaler.scale((param * factor).sum()).backward()
                before = param.detach().clone()
                scaler.step(optimizer)
                scaler.update()
            assert torch.equal(param, before) == (factor != 1.0)
    assert [step.skipped for step in of(seen, events.StepCompleted)] == [False, True, False]
