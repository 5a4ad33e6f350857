"""How fast is FusedMuon, most of whose step is torch's matrix products in either class?"""

from __future__ import annotations

import pytest
import torch
from harness import OURS, TORCH, Lab, Rival, Row, Workload
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from gaudi3_rt.optim import FusedMuon

MAX_NORM = 1e6  # above the norm: torch multiplies by 1, and gradients stay as they are for the next round


def hidden_matrices(lab: Lab) -> Workload:
    """The matrices of the first layer of the transformer: products of all of them take long."""
    _, _, *hidden = lab.scale.workloads["b"].shapes
    return Workload("1 layer of b", [shape for shape in hidden if len(shape) == 2][:4])


def small_matrices(lab: Lab) -> Workload:
    """As many elements as the small tensors' workload has, at most 128 matrices."""
    sizes = [torch.Size(shape).numel() for shape in lab.scale.workloads["c"].shapes]
    return Workload("small matrices", [(side := int(sizes[0] ** 0.5), side)] * min(len(sizes), 128))


def make(workload: Workload, grads: list[Tensor]) -> list[Tensor]:
    """Another set of the parameters, with gradients that all sets share."""
    params = workload.make(spread=0.02, seed=2)
    for param, grad in zip(params, grads, strict=True):
        param.requires_grad_()
        param.grad = grad
    return params


def check_equal(ours: list[Tensor], theirs: list[Tensor], start: list[Tensor]) -> None:
    """Fails unless the updates agree as well as products in bfloat16 allow."""
    for i, (p, q, s) in enumerate(zip(ours, theirs, start, strict=True)):
        distance, movement = float((p - q).norm()), float((q - s).norm())
        assert distance <= 0.02 * movement, f"the update of parameter {i} differs from torch's by {distance / movement}"


@pytest.mark.parametrize("clips", [False, True], ids=["step", "clip + step"])
@pytest.mark.parametrize("matrices", [hidden_matrices, small_matrices])
def test_muon(lab: Lab, matrices, clips: bool) -> None:
    """The step, with and without clipping, against torch's."""
    workload = matrices(lab)
    grads = workload.make(spread=0.01, seed=1)
    ours = FusedMuon(our_params := make(workload, grads), max_grad_norm=MAX_NORM if clips else None)
    theirs = torch.optim.Muon(torch_params := make(workload, grads))

    def torch_step() -> None:
        if clips:
            clip_grad_norm_(torch_params, MAX_NORM)
        theirs.step()

    ours.step()
    torch_step()
    with torch.no_grad():
        check_equal(our_params, torch_params, make(workload, grads))

    lab.benchmark.group = "Muon"
    samples = lab.race({OURS: Rival(ours.step), TORCH: Rival(torch_step)})
    lab.rows.append(Row("Muon: clip + step" if clips else "Muon: step", workload.name, samples))
