"""What the sensors of a software HPU say: a model of a load that warms up a chip, not measurements of one.

Each step that executes something counts as a load of 1, any other as 0, and utilization follows the load: it moves a
fifth of the way at each step. Temperature is 35 Celsius and up to 40 more, power 220 W and up to 600 more, in
proportion to utilization, with noise of up to 1 Celsius and 2 % that depends on seed, rank and step alone. Energy is
power times the time that passed on the device's clock. The chip's own clock is 0.4 GHz and up to 1.2 GHz more.
"""

from __future__ import annotations

import random

from gaudi3_rt._protocols import Clock

IDLE_CELSIUS, LOAD_CELSIUS = 35.0, 40.0
IDLE_WATTS, LOAD_WATTS = 220.0, 600.0
IDLE_HERTZ, LOAD_HERTZ = 4e8, 12e8
FOLLOWS = 0.2


class Sensors:
    """Readings of one device.

    Args:
        clock: for the energy.
        seed: of the noise.
        rank: of the device, for noise of its own.
    """

    def __init__(self, clock: Clock, seed: int, rank: int) -> None:
        self._clock = clock
        self._noise = f"{seed}/{rank}/"
        self._step = 0
        self._energy = 0.0
        self._since = clock.monotonic()
        self.utilization = 0.0

    def step(self, step: int, *, busy: bool) -> None:
        """A step begins; the one before it executed something or not."""
        self._add_energy()
        self._step = step
        self.utilization += FOLLOWS * (busy - self.utilization)

    @property
    def celsius(self) -> float:
        """Temperature of the chip."""
        noise = random.Random(f"{self._noise}{self._step}/t").uniform(-1, 1)  # noqa: S311 (a model)
        return round(IDLE_CELSIUS + LOAD_CELSIUS * self.utilization + noise, 1)

    @property
    def watts(self) -> float:
        """Power drawn."""
        noise = random.Random(f"{self._noise}{self._step}/p").uniform(0.98, 1.02)  # noqa: S311 (a model)
        return round((IDLE_WATTS + LOAD_WATTS * self.utilization) * noise, 1)

    @property
    def hertz(self) -> float:
        """The chip's clock, in whole megahertz."""
        return round(IDLE_HERTZ + LOAD_HERTZ * self.utilization, -6)

    @property
    def joules(self) -> float:
        """Energy since the device was made."""
        self._add_energy()
        return self._energy

    def _add_energy(self) -> None:
        """Up to now."""
        now = self._clock.monotonic()
        self._energy += self.watts * (now - self._since)
        self._since = now
