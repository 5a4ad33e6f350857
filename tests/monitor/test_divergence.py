"""When a loss counts as diverged: not for noise, spikes, warm-up or swings, but whenever it really leaves its level."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaudi3_rt import events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.monitor import Divergence, TrainingMonitor
from gaudi3_rt.monitor._divergence import DivergenceWatch

LENGTH = 2000
STEPS = np.arange(LENGTH)
LEVELS = {
    "constant": np.full(LENGTH, 3.0),
    "exponential": 8 * np.exp(-STEPS / 400) + 2,
    "power law": 10 * (STEPS + 1.0) ** -0.3,
    "stairs": 8.0 - STEPS // 500,
    "negative": -5 - STEPS / 1000,
    "zero": np.zeros(LENGTH),
}
NOISES = {
    "normal": lambda random: random.normal(size=LENGTH),
    "laplace": lambda random: random.laplace(size=LENGTH),
    "uniform": lambda random: random.uniform(-1, 1, LENGTH),
    "lognormal": lambda random: random.lognormal(size=LENGTH),
    "student": lambda random: random.standard_t(2, LENGTH),
    "none": lambda _: np.zeros(LENGTH),
}
SEEDS = st.integers(0, 2**32 - 1)


def diverged(losses, **rule):
    """At which of the losses it was said, each time."""
    watch = DivergenceWatch(Divergence(**rule))
    return [i for i, loss in enumerate(losses) if watch.update(float(loss)) is not None]


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    level=st.sampled_from(list(LEVELS)),
    noise=st.sampled_from(list(NOISES)),
    size=st.floats(1e-6, 0.5),
    scale=st.floats(1e-6, 1e6),
)
def test_no_false_alarm(seed, level, noise, size, scale):
    """White noise of many kinds on losses that stay or fall, in any unit, with spikes of up to eight steps."""
    random = np.random.default_rng(seed)
    losses = LEVELS[level] + size * NOISES[noise](random)
    for start in range(0, LENGTH, 200):
        first = start + random.integers(150)
        losses[first : first + random.integers(1, 9)] += random.choice([1, 100, np.inf])
    losses[random.integers(0, LENGTH, 5)] = np.nan
    assert diverged(scale * losses) == []


def test_rate_of_false_alarms():
    """Of 300 runs of 2000 steps with white noise at most one is called diverged."""
    random = np.random.default_rng(1)
    levels = list(LEVELS.values())
    noises = list(NOISES.values())
    runs = [levels[i % 6] + random.uniform(0.01, 0.5) * noises[i // 6 % 6](random) for i in range(300)]
    assert sum(bool(diverged(losses)) for losses in runs) <= 1


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    level=st.sampled_from(["constant", "exponential", "power law", "stairs"]),
    noise=st.sampled_from(list(NOISES)),
    shape=st.sampled_from(["jump", "line", "exponential", "swinging"]),
    start=st.integers(500, 1400),
)
def test_real_divergence(seed, level, noise, shape, start):
    """Said after it began, and before the loss is much higher than the noise; not again and again."""
    random = np.random.default_rng(seed)
    after = np.maximum(STEPS - start, 0)
    rise = {
        "jump": 3.0 * (after > 0),
        "line": after / 50,
        "exponential": 0.1 * np.expm1(np.minimum(after / 60, 20)),
        "swinging": 2 * (after > 0) * (2 + np.sin(after / 5)),
    }[shape]
    found = diverged(LEVELS[level] + 0.1 * NOISES[noise](random) + rise)
    assert 1 <= len(found) <= 2
    assert start < found[0]
    assert rise[found[0] - 20] <= 6.0


def test_spikes_hide_no_rise():
    """Lone spikes, one in each block and of every size, make the noise no wider."""
    random = np.random.default_rng(0)
    losses = 2 + 0.01 * random.normal(size=LENGTH)
    losses[5::10] += random.uniform(0, 50, LENGTH // 10)
    assert diverged(losses) == []
    losses[1000:] += 0.5
    (found,) = diverged(losses)
    assert 1000 < found < 1040


def test_what_was_usual_before_is_no_divergence():
    """Of a loss that swings, at most the first swing is news; a rise far above the swings is news again."""
    swings = 3 + np.sin(STEPS / 30)
    assert len(diverged(swings)) <= 1
    (_, found) = diverged(swings + 5 * (STEPS > 1500))
    assert 1500 < found < 1550


def test_restarts_of_the_learning_rate():
    """The first one is news, the others are not; what really diverges among them is told within a cycle."""
    random = np.random.default_rng(5)
    steps = np.arange(8000)
    cosine = 1 + np.cos(np.pi * (steps % 1000) / 1000)
    swings = (2 + 8 * (steps + 1.0) ** -0.35) * (1 + 0.175 * cosine) + 0.05 * random.normal(size=8000)
    assert len(diverged(swings)) <= 2
    assert [found for found in diverged(swings + np.maximum(steps - 5300, 0) / 400) if 5300 < found < 6300] != []


def test_said_anew_after_it_was_back():
    """Each divergence once; a level that stays is the usual one after the window."""
    random = np.random.default_rng(3)
    noise = 0.05 * random.normal(size=4000)
    steps = np.arange(4000)
    twice = 2 + noise + 2 * ((steps > 500) & (steps < 700)) + 8 * ((steps > 1500) & (steps < 1700))
    assert [found // 100 for found in diverged(twice)] == [5, 15]
    stairs = 2 + noise + 2 * (steps > 500) + 8 * (steps > 2500)
    assert [found // 100 for found in diverged(stairs, window=1000)] == [5, 25]


def test_warmup_says_nothing():
    """A loss that rises at the very beginning is not judged."""
    losses = np.concatenate([np.linspace(1, 9, 200), np.full(500, 9.0)])
    assert diverged(losses, warmup=0) != []
    assert diverged(losses, warmup=250) == []


def test_as_an_event():
    """With the loss of now, the usual one, and the limit."""
    with events.capture_events(events.Anomaly) as seen, TrainingMonitor(stall_seconds=None) as monitor:
        for step_number in range(400):
            with monitor.step() as step:
                step.loss = 2.0 if step_number < 300 else 4.0
    (found,) = seen
    assert isinstance(found, events.LossDiverged)
    assert (found.loss, found.usual_loss, found.step) == (4.0, 2.0, 320)
    assert found.limit == pytest.approx(2.2)


def test_losses_that_are_not_finite():
    """Told at the first of a row, and not taken for divergence."""
    with events.capture_events(events.Anomaly) as seen, TrainingMonitor(stall_seconds=None) as monitor:
        for loss in (1.0, np.nan, np.inf, 1.0, -np.inf, 1.0):
            with monitor.step() as step:
                step.loss = loss
    assert [(type(event), event.step, event.kind) for event in seen] == [
        (events.NonFiniteLoss, 2, "non_finite_loss"),
        (events.NonFiniteLoss, 5, "non_finite_loss"),
    ]


@pytest.mark.parametrize("rule", [{"deviations": 0}, {"rise": -1}, {"window": 50}, {"warmup": -1}])
def test_rules_out_of_range(rule):
    """The message begins with the option."""
    with pytest.raises(ParameterValidationError, match=f"^{next(iter(rule))}="):
        Divergence(**rule)
