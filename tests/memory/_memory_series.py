"""Series of memory readings to test the monitor on: a device that reads them off, and generators with known truths."""

import numpy as np

from gaudi3_rt._protocols import MemoryStats

MB = 10**6
GB = 10**9


class Script:
    """A device whose readings are given: numbers of bytes, MemoryStats, or an exception to raise."""

    def __init__(self, readings, *, limit=100 * GB, simulated=False, name="hpu:0"):
        """``limit`` is for readings that are mere numbers."""
        self.readings = iter(readings)
        self.limit, self.simulated, self.name = limit, simulated, name
        self.peak = 0

    def memory_stats(self):
        """The next reading."""
        reading = next(self.readings)
        if isinstance(reading, Exception):
            raise reading
        if isinstance(reading, MemoryStats):
            return reading
        self.peak = max(self.peak, int(reading))
        return MemoryStats(
            allocated=int(reading), reserved=None, peak=self.peak, limit=self.limit, simulated=self.simulated
        )


class Ticks:
    """A clock that moves when it is told to."""

    def __init__(self):
        """It starts at 1000 s."""
        self.now = 1000.0

    def monotonic(self):
        """Seconds."""
        return self.now

    def time(self):
        """Seconds."""
        return self.now

    def sleep(self, seconds):
        """Moves on."""
        self.now += seconds


def autocorrelated(rng, n, phi, deviation):
    """Noise in which neighbours are alike."""
    noise = np.zeros(n)
    for i in range(1, n):
        noise[i] = phi * noise[i - 1] + rng.normal() * deviation * np.sqrt(1 - phi**2)
    return noise


def activations(rng, n):
    """Samples that hit a step anywhere between its start and its peak, half a GB higher."""
    return rng.uniform(0, 500 * MB, n)


def constant(rng, n):
    """Nothing happens."""
    del rng
    return np.full(n, 40.0 * GB)


def white(rng, n):
    """Noise, and activations."""
    return 40 * GB + rng.normal(0, 50 * MB, n) + activations(rng, n)


def correlated(rng, n):
    """Slow noise."""
    return 40 * GB + autocorrelated(rng, n, 0.95, 200 * MB)


def sawtooth(rng, n):
    """Garbage that piles up and is collected, every 5 to 50 samples."""
    period = rng.integers(5, 51)
    phase = rng.integers(0, period)
    return 40 * GB + (np.arange(n) + phase) % period * 20 * MB + activations(rng, n)


def long_sawtooth(rng, n):
    """The same with a ramp as long as several windows, after one that was seen."""
    period = rng.integers(100, 200)
    return 40 * GB + (np.arange(n) + period - 50) % period * 10 * MB


def warm_up(rng, n):
    """Growth that levels off."""
    tau = rng.uniform(3, 30)
    return 20 * GB + 20 * GB * (1 - np.exp(-np.arange(n) / tau)) + activations(rng, n)


def staircase(rng, n):
    """Caches and graphs of new shapes: some jumps at random times."""
    jumps = rng.integers(0, n, 8)
    sizes = rng.uniform(0.1, 1.0, 8) * GB
    return 20 * GB + sum((np.arange(n) >= at) * size for at, size in zip(jumps, sizes, strict=True))


def shrinking(rng, n):
    """Memory that is given back."""
    return 40 * GB - np.arange(n) * MB + activations(rng, n)


HARMLESS = (constant, white, correlated, sawtooth, long_sawtooth, warm_up, staircase, shrinking)
