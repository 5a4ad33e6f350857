"""Counting: whatever events come, the exposition is what a simple model of them says."""

import math

import pytest
from _counted import figures, step
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import errors, events, metrics
from gaudi3_rt.metrics._catalogue import DURATIONS

# The model

seconds = st.one_of(st.sampled_from(DURATIONS), st.floats(0, 2000), st.sampled_from([math.nan, -1.0, math.inf]))
counts = st.none() | st.integers(0, 10**6)
figure = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf])
steps = st.builds(
    events.StepCompleted,
    time=st.floats(1, 2e9),
    step=st.integers(1, 10**6),
    seconds=seconds,
    phases=st.dictionaries(st.sampled_from(["forward", "backward", "my own"]), seconds),
    samples=counts,
    tokens=counts,
    loss=figure,
    accuracy=st.none() | st.floats(0, 1),
    gradient_norm=figure,
    learning_rate=st.none() | st.floats(0, 1),
    skipped=st.booleans(),
)
anomalies = st.sampled_from(
    [
        events.NonFiniteLoss(step=1, loss=math.nan),
        events.NonFiniteGradient(step=1),
        events.LossDiverged(step=1, loss=3.0, usual_loss=1.0, limit=2.0),
        events.TrainingStalled(step=1, seconds=9.0, limit_seconds=3.0),
        events.StragglerDetected(step=1, rank=3, seconds=2.0, usual_seconds=1.0, reported_by=0),
    ]
)
codes = st.sampled_from([2001, 9001, 12345])
any_event = st.one_of(
    steps,
    steps,
    anomalies,
    st.builds(events.CheckpointCompleted, time=st.floats(1, 2e9), step=st.just(1), seconds=seconds, bytes=counts),
    st.builds(events.TrainingResumed, step=st.just(1), seconds=st.just(1.0)),
    st.builds(
        events.RunStarted,
        run_id=st.just("run"),
        rank=st.just(0),
        local_rank=st.just(0),
        world_size=st.just(1),
        start_step=st.integers(0, 1000),
    ),
    st.builds(
        events.RunFinished,
        step=st.just(1),
        outcome=st.just("failed"),
        error=st.just("E"),
        code=st.none() | codes,
    ),
    st.builds(
        events.RetryScheduled,
        function=st.just("f"),
        attempt=st.just(1),
        max_attempts=st.just(3),
        delay_seconds=st.just(1.0),
        error=st.just("E"),
        code=codes,
    ),
    st.builds(
        events.RetryExhausted,
        function=st.just("f"),
        attempts=st.just(3),
        reason=st.sampled_from(["attempts", "budget", "not retryable"]),
        error=st.just("E"),
        code=codes,
    ),
)


def is_duration(value):
    """What a histogram can count."""
    return 0 <= value < math.inf


def histogram(name, label, values):
    """What is exposed of durations."""
    values = [value for value in values if is_duration(value)]
    if not values:
        return {}
    bounds = [*map(float, DURATIONS), math.inf]
    words = [*(str(bound) for bound in bounds[:-1]), "+Inf"]
    buckets = {
        ",".join(sorted(filter(None, (label, f"le={word}")))): sum(value <= bound for value in values)
        for word, bound in zip(words, bounds, strict=True)
    }
    return {
        f"{name}_bucket": buckets,
        f"{name}_count": {label: len(values)},
        f"{name}_sum": {label: pytest.approx(math.fsum(values))},
    }


def last(values):
    """The last that is not None."""
    return next((value for value in reversed(values) if value is not None), None)


def of(history, *kinds):
    """Those of these classes."""
    return [one for one in history if isinstance(one, kinds)]


def gauges(history):
    """What the last word on each is; a run that starts takes away what was said of the one before."""
    began = max((index for index, one in enumerate(history) if isinstance(one, events.RunStarted)), default=0)
    done, saved = of(history[began:], events.StepCompleted), of(history[began:], events.CheckpointCompleted)
    stalls = {events.TrainingStalled: 1, events.RunFinished: None}
    relevant = of(history, events.RunStarted, events.StepCompleted, events.TrainingResumed, *stalls)
    numbered = of(history, events.RunStarted, events.StepCompleted)
    found = {
        "training_step": last([getattr(one, "start_step", getattr(one, "step", None)) for one in numbered]),
        "training_stalled": stalls.get(type(relevant[-1]), 0) if relevant else None,
        "training_last_step_timestamp_seconds": last([one.time for one in done]),
        "training_loss": last([one.loss for one in done]),
        "training_accuracy_ratio": last([one.accuracy for one in done]),
        "training_gradient_norm": last([one.gradient_norm for one in done]),
        "training_learning_rate": last([one.learning_rate for one in done]),
        "training_last_checkpoint_timestamp_seconds": last([one.time for one in saved]),
        "training_checkpoint_size_bytes": saved[-1].bytes if saved else None,
    }
    pace = of(history, events.StepCompleted, *stalls)
    for what in ("samples", "tokens"):
        count = getattr(pace[-1], what, None) if pace else None
        has_rate = count is not None and pace[-1].seconds > 0
        found[f"training_{what}_per_second"] = count / pace[-1].seconds if has_rate else None
    return {name: {"": value} for name, value in found.items() if value is not None}


def counters(history):
    """How often each was there."""
    done, started = of(history, events.StepCompleted), of(history, events.RunStarted)
    found = {}
    if done or started:
        found["training_steps_total"] = {"": len(done)}
        found["training_skipped_steps_total"] = {"": sum(one.skipped for one in done)}
    for what in ("samples", "tokens"):
        told = [getattr(one, what) for one in done if getattr(one, what) is not None]
        found[f"training_{what}_total"] = {"": sum(told)} if told else {}
    wrong = [one.kind for one in of(history, events.Anomaly)]
    kinds = ["non_finite_loss", "non_finite_gradient", "loss_divergence", "stall", "straggler"]
    found["training_anomalies_total"] = {
        f"kind={kind}": wrong.count(kind) for kind in (kinds if started else dict.fromkeys(wrong))
    }
    failed = [one.code for one in of(history, events.RetryScheduled, events.RetryExhausted)]
    failed += [one.code for one in of(history, events.RunFinished) if one.code is not None]
    labels = [str(code) if code in errors.codes() else "other" for code in failed]
    found["errors_total"] = {f"code={label}": labels.count(label) for label in labels}
    return {name: samples for name, samples in found.items() if samples}


def histograms(history):
    """All durations, counted."""
    done = of(history, events.StepCompleted)
    waited = [one.seconds for one in of(history, events.CheckpointCompleted)]
    found = {
        **histogram("training_step_duration_seconds", "", [one.seconds for one in done]),
        **histogram("training_checkpoint_duration_seconds", "", waited),
    }
    for phase in ("forward", "backward", "my own"):
        values = [one.phases[phase] for one in done if phase in one.phases]
        for name, samples in histogram("training_phase_duration_seconds", f"phase={phase}", values).items():
            found.setdefault(name, {}).update(samples)
    return found


@given(st.lists(any_event, max_size=25))
def test_any_events(history):
    """Nothing more, nothing less, in both formats."""
    with metrics.Metrics(system=False, rank=0) as counted:
        for event in history:
            events.emit(lambda event=event: event)
        assert_same(figures(counted), {**gauges(history), **counters(history), **histograms(history)})


def assert_same(got, expected):
    """Equal, and NaN equal to NaN."""
    assert got.keys() == expected.keys()
    for name, samples in expected.items():
        assert got[name].keys() == samples.keys(), name
        for labels, value in samples.items():
            found = got[name][labels]
            is_nan = isinstance(value, float) and math.isnan(value)
            assert math.isnan(found) if is_nan else found == value, (name, labels)


# What is easily wrong


def test_what_a_stall_and_the_end_take_away(counting):
    """Nobody trains at the speed of the last step then; what was counted stays."""
    rates = {"training_samples_per_second", "training_tokens_per_second"}
    events.emit(events.RunStarted, run_id="run", rank=0, local_rank=0, world_size=1, start_step=0)
    step(samples=4, tokens=8)
    assert rates < figures(counting).keys()
    events.emit(events.TrainingStalled, step=1, seconds=9.0, limit_seconds=3.0)
    found = figures(counting)
    assert not rates & found.keys()
    assert found["training_stalled"] == {"": 1}
    step(samples=4, tokens=8)
    found = figures(counting)
    assert rates < found.keys()
    assert found["training_stalled"] == {"": 0}
    step(samples=4)
    assert figures(counting).keys() & rates == {"training_samples_per_second"}
    events.emit(events.RunFinished, step=3, outcome="completed")
    found = figures(counting)
    assert not (rates | {"training_stalled"}) & found.keys()
    assert (found["training_steps_total"], found["training_samples_total"]) == ({"": 3}, {"": 12})


def test_a_run_that_goes_on_counts_its_own_steps(counting):
    """Prometheus takes a counter that falls for one that began anew: it has to begin at 0; the number is a gauge.

    Going back to a checkpoint in the process makes no counter fall.
    """
    run = {"run_id": "run", "rank": 0, "local_rank": 0, "world_size": 1}
    events.emit(events.RunStarted, start_step=1000, **run)
    before = figures(counting)
    assert (before["training_step"], before["training_steps_total"]) == ({"": 1000}, {"": 0})
    step(1001, samples=8)
    step(1002, samples=8)
    events.emit(events.RunStarted, start_step=1000, **run)
    step(1001, samples=8)
    after = figures(counting)
    assert (after["training_step"], after["training_steps_total"]) == ({"": 1001}, {"": 3})
    assert after["training_samples_total"] == {"": 24}


def test_a_second_run_of_a_process_does_not_begin_with_the_figures_of_the_first(counting):
    """Else it would seem to stand still in its first step, with a loss that it never had."""
    step(loss=math.nan, accuracy=0.5, gradient_norm=1.0, learning_rate=0.1)
    events.emit(events.CheckpointCompleted, step=1, seconds=1.0, bytes=7)
    events.emit(events.RunFinished, step=1, outcome="completed")
    stays = {f"training_last_{what}_timestamp_seconds" for what in ("step", "checkpoint")}
    stays |= {f"training_{what}" for what in ("loss", "accuracy_ratio", "gradient_norm", "learning_rate")}
    stays |= {"training_checkpoint_size_bytes"}
    assert stays < figures(counting).keys()
    events.emit(events.RunStarted, run_id="second", rank=0, local_rank=0, world_size=1, start_step=0)
    found = figures(counting)
    assert not stays & found.keys()
    assert found["training_steps_total"] == {"": 1}
