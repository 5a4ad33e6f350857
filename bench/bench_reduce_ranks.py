"""How long does a step of two local processes take with each way to reduce gradients? DDP, its hooks, and ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from harness import OURS, Lab, Rival, Row, Wanted
from ranks import ALONE, BYTES, Ranks

PLAIN, VIEW = "DDP", "DDP, bucket view"
OUR_BF16, OUR_TREE = "bf16 hook", "tree hook"
TORCH_BF16, TORCH_FP16 = "torch bf16 hook", "torch fp16 hook"
EXACT = 1e-6
BOUNDS = {"fp16": 2e-3, "bf16": 1e-2, "bfloat16": 1e-2, "int8": 5e-2}
"""How far the gradients of a way may be from DDP's, relative to their norm; PowerSGD's may be anything."""


@pytest.fixture
def ranks(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Ranks]:
    """Two processes with everything that runs in them."""
    directory: Path = request.config.getoption("--out").resolve()
    directory.mkdir(parents=True, exist_ok=True)
    made = Ranks(directory, lab.scale.matrices)
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_two_processes(lab: Lab, ranks: Ranks) -> None:
    """Forward, backward and reduction, each way once a round in the same two processes."""
    lab.notes.extend(f"did not run: {name}: {error}" for name, error in ranks.errors.items())
    assert ranks.errors.keys() <= {"PowerSGD, one bucket"}, ranks.errors
    _check(ranks)

    lab.benchmark.group = "two processes"
    names = {OURS if name == OUR_BF16 else name: name for name in ranks.ways}
    rivals = {
        shown: Rival(lambda n=name: ranks.ask("run", n), lambda n=name: ranks.ask("clear", n))
        for shown, name in names.items()
    }
    samples = lab.race(rivals)
    wanted = {
        (OURS, TORCH_BF16): Wanted("speed", 2.0, rival=TORCH_BF16),
        (OURS, PLAIN): Wanted("speed", 1.0, rival=PLAIN),
        (OURS, VIEW): Wanted("speed", 1.0, rival=VIEW),
        (OUR_TREE, VIEW): Wanted("speed", 1 / 1.3, rival=VIEW),
        ("reducer, tree", "reducer, all_reduce"): Wanted("speed", 1 / 1.3, rival="reducer, all_reduce"),
        ("reducer, tree, bfloat16", TORCH_BF16): Wanted("speed", 2.0, rival=TORCH_BF16),
    }
    others = [(name, PLAIN) for name in samples if name != PLAIN]
    for ours, theirs in [*wanted, *(pair for pair in others if pair not in wanted)]:
        bounds = [wanted[ours, theirs]] if (ours, theirs) in wanted else []
        question = f"{names[ours]}, against {theirs}"
        lab.rows.append(Row(question, "", samples, ours=ours, rival=theirs, wanted=bounds))

    added = {name: [t - alone for t, alone in zip(samples[name], samples[ALONE], strict=True)] for name in samples}
    against = [(OURS, BYTES), (OURS, TORCH_BF16), (OURS, TORCH_FP16), (OURS, PLAIN), (OURS, VIEW), (OUR_TREE, VIEW)]
    for ours, theirs in against:
        lab.rows.append(Row(f"added to backward: {names[ours]}, against {theirs}", "", added, ours=ours, rival=theirs))


def _check(ranks: Ranks) -> None:
    """All ways give DDP's gradients, to within their wire, and the same bits on both ranks."""
    expected, _ = ranks.ask("gradients", PLAIN)
    norm = torch.stack([grad.norm() for grad in expected]).norm()
    for name in set(ranks.ways) - {ALONE, BYTES}:
        mine, other = ranks.ask("gradients", name)
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True)), name
        bound = max((bound for wire, bound in BOUNDS.items() if wire in name), default=EXACT)
        if "PowerSGD" not in name:
            error = torch.stack([(a - b).norm() for a, b in zip(mine, expected, strict=True)]).norm()
            assert error <= bound * norm, f"{name}: {error / norm}"
