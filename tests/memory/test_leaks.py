"""Leaks are found, and growth that is no leak is not taken for one."""

import numpy as np
import pytest
from _memory_series import GB, HARMLESS, MB, Script, Ticks, activations, sawtooth, warm_up, white

from gaudi3_rt import events
from gaudi3_rt.memory import MemoryMonitor
from gaudi3_rt.memory._leak import theil_sen

SEEDS = range(25)
SAMPLES = 600


def watch(series, *, seconds=1.0, steps_per_sample=1, limit=100 * GB, **options):
    """All records that a run emits, and its monitor."""
    clock = Ticks()
    records = []
    monitor = MemoryMonitor(Script(series, limit=limit), clock=clock, **options)
    with events.subscribe(records.append):
        for _ in series:
            clock.sleep(seconds)
            for _ in range(steps_per_sample):
                monitor.step()
            monitor.sample()
    return records, monitor


def leaks(records):
    """Only those of leaks."""
    return [record for record in records if isinstance(record, events.LeakSuspected)]


@pytest.mark.parametrize("series", HARMLESS, ids=lambda f: f.__name__)
def test_no_false_alarm(series):
    """25 seeds of 600 samples each: none, or one where slow random noise and a leak look alike for a while."""
    alarms = sum(bool(leaks(watch(series(np.random.default_rng(seed), SAMPLES))[0])) for seed in SEEDS)
    assert alarms <= (1 if series.__name__ in {"correlated", "warm_up"} else 0)


@pytest.mark.parametrize("series", [white, sawtooth, warm_up], ids=lambda f: f.__name__)
def test_a_megabyte_a_step_is_found_within_700_steps(series):
    """Under activations of 500 MB, whatever else memory does; in the end the interval has the true slope."""
    within = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        records, monitor = watch(series(rng, 800) + MB * np.arange(800), seconds=0.5)
        found = leaks(records)
        assert 1 <= len(found) <= 2
        assert next(mark.time for mark in monitor.marks if mark.event == "LeakSuspected") / 0.5 <= 700
        low, high = monitor.leak.bytes_per_step_interval
        within += low <= MB <= high
        assert monitor.leak.bytes_per_step == pytest.approx(MB, rel=0.6)
        assert monitor.leak.bytes_per_second == pytest.approx(2 * monitor.leak.bytes_per_step)
    assert within >= len(SEEDS) - 1


def test_without_noise_a_leak_is_found_as_soon_as_a_window_is_full():
    """128 samples after the warm-up of 10."""
    records, monitor = watch(40 * GB + MB * np.arange(150))
    assert len(leaks(records)) == 1
    assert monitor.marks[0].time <= 10 + 128 + 8
    assert leaks(records)[0].bytes_per_step == pytest.approx(MB)


def test_a_leak_that_begins_late_is_found():
    """After 4000 quiet samples, which is more than the timeline has points for at full resolution."""
    rng = np.random.default_rng(0)
    quiet, leaking = 4000, 800
    growth = MB * np.maximum(np.arange(quiet + leaking) - quiet, 0)
    records, monitor = watch(40 * GB + activations(rng, quiet + leaking) + growth)
    (_,) = leaks(records)
    assert quiet < monitor.marks[0].time <= quiet + 700


def test_time_to_exhaustion():
    """10 GB are left, and 1 MB is lost a second."""
    series = 80 * GB + MB * np.arange(200)
    _, monitor = watch(series, limit=int(series[-1]) + 10 * GB)
    leak = monitor.leak
    soonest, latest = leak.seconds_to_limit_interval
    assert soonest <= leak.seconds_to_limit <= latest
    # As of the last look, which is at most 8 samples back.
    assert leak.seconds_to_limit == pytest.approx(10_000, abs=8)


def test_peaks_count_for_the_time_to_exhaustion():
    """What runs out is not the trough."""
    rng = np.random.default_rng(1)
    noise = rng.uniform(0, 5 * GB, 2000)
    series = 40 * GB + noise + 20 * MB * np.arange(2000)
    _, monitor = watch(series, limit=100 * GB)
    assert monitor.leak.seconds_to_limit < (100 * GB - 40 * GB - 1990 * 20 * MB) / (20 * MB) - 150


def test_without_limit_or_steps_there_is_no_time_and_no_slope_per_step():
    """None rather than a guess."""
    (record,) = leaks(watch(40 * GB + MB * np.arange(200), steps_per_sample=0, limit=None)[0])
    assert record.bytes_per_step is None
    assert record.seconds_to_limit is None
    assert record.bytes_per_second == pytest.approx(MB)


def test_once_per_episode():
    """A leak that ends and begins again is told twice, one that goes on is told once."""
    once, _ = watch(40 * GB + MB * np.arange(1000))
    assert len(leaks(once)) == 1
    growth = np.concatenate([np.arange(200), np.full(300, 199), np.arange(199, 600)])
    twice, _ = watch(40 * GB + MB * growth)
    assert len(leaks(twice)) == 2


def test_a_clock_that_stands_still_shows_no_leak():
    """As a test's may: bytes a second cannot be told, and are not made up."""
    records, monitor = watch(20 * GB + 64 * MB * np.arange(300), seconds=0)
    assert records == []
    assert monitor.leak is None


def test_growth_below_the_least_is_not_told():
    """10 kB a sample are 6 MB in 600, less than the 16 MiB that count."""
    assert not leaks(watch(40 * GB + 10_000 * np.arange(SAMPLES))[0])
    assert leaks(watch(40 * GB + 10_000 * np.arange(SAMPLES), min_growth=0)[0])


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_intervals_hold_what_they_promise(phi):
    """95 % of the intervals contain the true slope, also when neighbours are alike."""
    rng = np.random.default_rng(2)
    x, hits, runs = np.arange(40.0), 0, 400
    for _ in range(runs):
        noise = rng.normal(size=40)
        for i in range(1, 40):
            noise[i] += phi * noise[i - 1]
        slope = theil_sen(x, 3 * x + noise, critical=1.96)
        hits += slope.low <= 3 <= slope.high
    assert hits / runs >= (0.93 if phi == 0 else 0.88)


def test_the_slope_is_robust():
    """A tenth of the values being far off does not matter."""
    x = np.arange(16.0)
    y = 2 * x
    y[5] += 1000
    assert theil_sen(x, y).value == pytest.approx(2)
