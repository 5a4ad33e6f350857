"""What does a whole training step gain, and do our threads get in the way of torch's?"""

from __future__ import annotations

import time

import torch
from harness import OURS, TORCH, Lab, Rival, Row, Scale
from torch import nn
from torch.nn.utils import clip_grad_norm_

from gaudi3_rt.optim import FusedAdamW

VOCABULARY = 8192
MAX_NORM = 1.0
OVERLAPPED = "norm in backward"


def _model(scale: Scale) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.TransformerEncoderLayer(
            scale.width, nhead=4, dim_feedforward=4 * scale.width, dropout=0.0, batch_first=True, norm_first=True
        )
        for _ in range(scale.layers)
    ]
    return nn.Sequential(nn.Embedding(VOCABULARY, scale.width), *layers, nn.Linear(scale.width, VOCABULARY))


class Trainer:
    """One model and how it is trained; keeps the time of forward and backward apart."""

    def __init__(self, scale: Scale, who: str) -> None:
        """Makes the model, its data and its optimizer: ours, ours with the norm taken during backward, or torch's."""
        self.model = _model(scale)
        self.tokens = torch.randint(VOCABULARY, scale.tokens, generator=torch.Generator().manual_seed(1))
        params = self.params = list(self.model.parameters())
        self.clips = who == TORCH
        if who == TORCH:
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(params, fused=True)
        else:
            norm = "overlapped" if who == OVERLAPPED else "step"
            self.optimizer = FusedAdamW(params, max_grad_norm=MAX_NORM, norm=norm)
        self.evaluations: list[float] = []
        self.tails: list[float] = []

    def step(self) -> None:
        """Forward, backward, clipping and step."""
        begin = time.perf_counter()
        logits = self.model(self.tokens)
        nn.functional.cross_entropy(logits.flatten(0, 1), self.tokens.flatten()).backward()
        evaluated = time.perf_counter()
        if self.clips:
            clip_grad_norm_(self.params, MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = time.perf_counter()
        self.evaluations.append(evaluated - begin)
        self.tails.append(end - evaluated)


def test_training(lab: Lab) -> None:
    """A small transformer with our optimizer and with torch's, both with torch's number of threads."""
    trainers = {who: Trainer(lab.scale, who) for who in (OURS, OVERLAPPED, TORCH)}
    for trainer in trainers.values():
        trainer.step()
    for ours, theirs in zip(trainers[OURS].params, trainers[TORCH].params, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for ours, overlapped in zip(trainers[OURS].params, trainers[OVERLAPPED].params, strict=True):
        assert torch.equal(ours, overlapped)

    lab.benchmark.group = "training"
    samples = lab.race({name: Rival(trainer.step) for name, trainer in trainers.items()})

    rounds = len(samples[OURS])
    model = f"transformer, {sum(p.numel() for p in trainers[OURS].params) / 1e6:.1f} M"
    evaluations = {name: trainer.evaluations[-rounds:] for name, trainer in trainers.items()}
    tails = {name: trainer.tails[-rounds:] for name, trainer in trainers.items()}
    lab.rows.append(Row("training step", model, samples))
    lab.rows.append(Row("of it forward + backward", model, evaluations))
    lab.rows.append(Row("of it clip + step", model, tails))
    lab.rows.append(Row("training step, against norm in backward", model, samples, rival=OVERLAPPED))
    lab.rows.append(Row("of it clip + step, against norm in backward", model, tails, rival=OVERLAPPED))
