"""How fast is FusedAdamW: the step alone, with clipping, and under AMP?"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from harness import LIMIT, OURS, TORCH, Lab, Rival, Row, Wanted, Workload, busy_processes, excess
from memory_limit import MemoryLimit
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from gaudi3_rt.amp import GradScaler
from gaudi3_rt.optim import FusedAdamW

STEP_ARRAYS = 7  # read gradient, parameter and both moments; write the last three
TAIL_ARRAYS = 8  # read the gradient once more, for the norm
MAX_NORM = 1.0
NORM_TO_CLIP = 4.0
LOSS_SCALE = 2.0**16
FOREACH = "foreach"
STOCK_SCALER = "stock scaler"

TAIL_WANTED = {"b": 1.4, "c": 10.0, "b bf16": 2.5}


class Contest:
    """The same parameters several times over, with one list of gradients that all of them share."""

    def __init__(self, workload: Workload) -> None:
        """Makes the gradients."""
        self.workload = workload
        self.grads = workload.make(spread=0.01, seed=1)

    def params(self) -> list[Tensor]:
        """Another set of the parameters."""
        params = self.workload.make(spread=0.02, seed=2)
        for param, grad in zip(params, self.grads, strict=True):
            param.requires_grad_()
            param.grad = grad
        return params

    def scale_grads(self, factor: float) -> None:
        """Multiplies the gradients, in place."""
        torch._foreach_mul_(self.grads, factor)

    def check_equal(self, ours: list[Tensor], theirs: list[Tensor]) -> None:
        """Fails unless the parameters agree: to rounding in float32, to the last place where stored in less."""
        rtol, atol = (1e-6, 1e-6) if self.workload.dtype is torch.float32 else (2.0**-7, 1e-5)
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            beyond = excess(p, q, rtol)
            assert beyond <= atol, f"parameter {i} differs from torch's after one step: {beyond} more than {rtol} of it"

    def limit(self, library: ctypes.CDLL, optimizer: torch.optim.Optimizer) -> MemoryLimit:
        """The memory limit over the tensors of an optimizer that has made its state.

        It is given torch's: what it leaves in the cache can be of use to torch, never to ours.
        """
        (group,) = optimizer.param_groups
        states = [optimizer.state[p] for p in group["params"]]
        moments = [(s["exp_avg"], s["exp_avg_sq"]) for s in states]
        return MemoryLimit(library, [(p, p.grad, *m) for p, m in zip(group["params"], moments, strict=True)])


@pytest.mark.parametrize("name", ["a", "b", "c", "b bf16"])
def test_step(lab: Lab, limit_library: ctypes.CDLL, name: str) -> None:
    """The step alone, against both of torch's fast implementations."""
    workload = lab.scale.workloads[name]
    contest = Contest(workload)
    ours = FusedAdamW(our_params := contest.params())
    fused = torch.optim.AdamW(torch_params := contest.params(), fused=True)
    ours.step()
    fused.step()
    contest.check_equal(our_params, torch_params)
    rivals = {
        OURS: Rival(ours.step),
        TORCH: Rival(fused.step),
        FOREACH: Rival(torch.optim.AdamW(contest.params(), foreach=True).step),
        LIMIT: Rival(contest.limit(limit_library, fused).update),
    }

    lab.benchmark.group = "step"
    samples = lab.race(rivals)

    wanted = [Wanted("speed", 1.0)] if name != "b bf16" else []
    if name == "a":
        wanted.append(Wanted("share", 0.95))
    moved = STEP_ARRAYS * workload.nbytes
    lab.rows.append(Row("step", name, samples, moved_bytes=moved, wanted=wanted))
    lab.rows.append(Row("step, against foreach", name, samples, rival=FOREACH, moved_bytes=moved))


def _tail_rivals(
    contest: Contest, library: ctypes.CDLL, max_norm: float, restore: Callable[[], None]
) -> dict[str, Rival]:
    ours = FusedAdamW(our_params := contest.params(), max_grad_norm=max_norm)
    fused = torch.optim.AdamW(torch_params := contest.params(), fused=True)

    def torch_tail() -> None:
        clip_grad_norm_(torch_params, max_norm)
        fused.step()

    ours.step()  # first, because torch's clipping changes the gradients
    torch_tail()
    restore()
    contest.check_equal(our_params, torch_params)
    return {
        OURS: Rival(ours.step),
        TORCH: Rival(torch_tail, restore),
        LIMIT: Rival(contest.limit(library, fused).norm_and_update),
    }


@pytest.mark.parametrize("clips", [True, False], ids=["clipping", "not clipping"])
@pytest.mark.parametrize("name", ["a", "b", "c", "b bf16"])
def test_tail(lab: Lab, limit_library: ctypes.CDLL, name: str, clips: bool) -> None:
    """Clipping and step, with a norm above the bound and with one below it."""
    workload = lab.scale.workloads[name]
    contest = Contest(workload)
    if clips:
        # torch leaves gradients of norm MAX_NORM, which would not be clipped in the next round.
        rivals = _tail_rivals(contest, limit_library, MAX_NORM, lambda: contest.scale_grads(NORM_TO_CLIP / MAX_NORM))
    else:
        rivals = _tail_rivals(contest, limit_library, 1e6, lambda: None)

    lab.benchmark.group = "tail"
    samples = lab.race(rivals)

    wanted = [Wanted("speed", TAIL_WANTED[name])] if name in TAIL_WANTED else []
    question = "clip + step" if clips else "clip + step, norm below"
    lab.rows.append(Row(question, name, samples, moved_bytes=TAIL_ARRAYS * workload.nbytes, wanted=wanted))


def test_tail_under_load(lab: Lab, limit_library: ctypes.CDLL) -> None:
    """Clipping and step while two other processes compute."""
    workload = lab.scale.workloads["b"]
    contest = Contest(workload)
    rivals = _tail_rivals(contest, limit_library, MAX_NORM, lambda: contest.scale_grads(NORM_TO_CLIP / MAX_NORM))

    lab.benchmark.group = "tail under load"
    with busy_processes(2):
        samples = lab.race(rivals)

    moved = TAIL_ARRAYS * workload.nbytes
    lab.rows.append(
        Row("clip + step, 2 busy processes", "b", samples, moved_bytes=moved, wanted=[Wanted("speed", 2.5)])
    )


def test_amp_tail(lab: Lab, limit_library: ctypes.CDLL) -> None:
    """Unscaling, clipping and step: with our scaler, with torch's driving our optimizer, and with torch's of both."""
    workload = lab.scale.workloads["b"]
    contest = Contest(workload)
    ours = FusedAdamW(our_params := contest.params(), max_grad_norm=MAX_NORM)
    stock = FusedAdamW(stock_params := contest.params(), max_grad_norm=MAX_NORM)
    fused = torch.optim.AdamW(torch_params := contest.params(), fused=True)
    our_scaler = GradScaler("cpu", init_scale=LOSS_SCALE)
    stock_scaler = torch.amp.GradScaler("cpu", init_scale=LOSS_SCALE)
    torch_scaler = torch.amp.GradScaler("cpu", init_scale=LOSS_SCALE)
    for scaler in (our_scaler, stock_scaler, torch_scaler):
        scaler.scale(torch.zeros(()))  # a scaler is set up by the first loss that it scales

    def our_tail() -> None:
        our_scaler.step(ours)
        our_scaler.update()

    def stock_tail() -> None:
        stock_scaler.step(stock)
        stock_scaler.update()

    def torch_tail() -> None:
        torch_scaler.unscale_(fused)
        clip_grad_norm_(torch_params, MAX_NORM)
        torch_scaler.step(fused)
        torch_scaler.update()

    def restore() -> None:
        contest.scale_grads(LOSS_SCALE * NORM_TO_CLIP / MAX_NORM)

    contest.scale_grads(LOSS_SCALE)
    our_tail()
    stock_tail()
    torch_tail()
    restore()
    contest.check_equal(our_params, torch_params)
    contest.check_equal(stock_params, torch_params)
    rivals = {
        OURS: Rival(our_tail),
        STOCK_SCALER: Rival(stock_tail),
        TORCH: Rival(torch_tail, restore),
        LIMIT: Rival(contest.limit(limit_library, fused).norm_and_update),
    }

    lab.benchmark.group = "AMP tail"
    samples = lab.race(rivals)

    moved = TAIL_ARRAYS * workload.nbytes
    wanted = [Wanted("speed", 1.65)]
    lab.rows.append(Row("AMP: unscale + clip + step", "b", samples, moved_bytes=moved, wanted=wanted))
    lab.rows.append(Row("AMP, torch's scaler", "b", samples, ours=STOCK_SCALER, moved_bytes=moved))
