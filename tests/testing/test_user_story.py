"""A training loop with retry and health rules of its own, tested on a laptop with a scripted HPU."""

import re

import torch

from gaudi3_rt import device
from gaudi3_rt.testing import SoftwareHPU, capture_events

SCRIPT = """
    step 0: busy 2 times            # the last job is still going down
    step 5: oom                     # once: halving the batch helps
    step 8: ecc
    step 12: hang 90 s
    step 15: synStatus 26
    leak 1 MiB a step from step 16
"""


class Trainer:
    """A user's loop: it halves the batch on out-of-memory, notes sick hardware, and restores after a failed graph."""

    def __init__(self, mine, clock):
        self.device, self.clock = mine, clock
        self.notes = []
        self.batch = 32
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, 4, generator=generator)
        self.model = torch.nn.Linear(4, 1)
        with torch.no_grad():
            self.model.weight.zero_()
            self.model.bias.zero_()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.y = self.x.sum(1, keepdim=True)
        self.checkpoint = None

    def step(self, number):
        """One step, and what happened in it."""
        self.device.advance()
        began = self.clock.monotonic()
        try:
            with self.device.allocate(self.batch * 2**20):
                self.optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(self.model(self.x[: self.batch]), self.y[: self.batch])
                loss.backward()
                self.device.mark_step()
                self.optimizer.step()
                self.device.synchronize()
        except RuntimeError as error:
            self.handle(number, str(error))
        else:
            self.checkpoint = {name: value.clone() for name, value in self.model.state_dict().items()}
        if self.clock.monotonic() - began > 60:
            self.notes.append((number, "hang"))
        if self.device.telemetry().ecc_uncorrected and (number, "ecc") not in self.notes:
            self.notes.append((number, "ecc"))
        with torch.no_grad():
            return float(torch.nn.functional.mse_loss(self.model(self.x), self.y))

    def handle(self, number, words):
        """By what the driver says."""
        if re.search(r"PT_DEVMEM|workspace Allocation", words):
            self.batch //= 2
            self.notes.append((number, f"batch {self.batch}"))
        elif "Graph compile failed" in words:
            self.model.load_state_dict(self.checkpoint)
            self.notes.append((number, "restored"))
        else:
            raise RuntimeError(words)


def test_the_loop_survives_its_script():
    """Every reaction is reached, and the model learns."""
    with (
        SoftwareHPU(script=SCRIPT, memory="64 MiB") as hpu,
        capture_events() as captured,
        device.acquire("simulated", clock=hpu.clock) as mine,
    ):
        trainer = Trainer(mine, hpu.clock)
        losses = [trainer.step(number) for number in range(1, 71)]
    first_ecc = next(note for note in trainer.notes if note[1] == "ecc")
    reactions = [note for note in trainer.notes if note[1] != "ecc"]
    assert reactions[:3] == [(5, "batch 16"), (12, "hang"), (15, "restored")]
    assert first_ecc == (8, "ecc")
    assert (64, "batch 8") in reactions  # 16 + 49 MiB that leaked are more than there is
    assert losses[-1] < losses[0] / 10
    assert [type(event).__name__ for event in captured[:3]] == ["DeviceBusy", "DeviceBusy", "DeviceAcquired"]
    assert captured[2].simulated
