"""Counting: whatever events come, the exposition is what a simple model of them says."""

import math
import os
import queue
import sys
import threading

import pytest
from _scrape import of_section, scrape, scrape_text
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gaudi3_rt import errors, events, metrics
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.metrics._catalogue import BOUNDS, DURATIONS
from gaudi3_rt.metrics._store import LONGEST_LABEL
from gaudi3_rt.testing import FakeClock

LONG = 30.0  # seconds until a test gives up; none waits for it


@pytest.fixture
def counting():
    """Metrics of events alone, with a clock that stands."""
    with metrics.Metrics(system=False, rank=0, clock=FakeClock()) as counted:
        yield counted


def figures(counted):
    """What a scrape gets, but for what is always there."""
    assert counted.flush(LONG)
    found = scrape(counted.registry)
    for name in ("build_info", "events_dropped_total", "retries_total"):
        found.pop(name)
    return found


def step(number=1, seconds=0.5, **fields):
    """A step is done."""
    events.emit(events.StepCompleted, step=number, seconds=seconds, **fields)


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
    """What the last word on each is."""
    done, saved = of(history, events.StepCompleted), of(history, events.CheckpointCompleted)
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


def test_a_queue_without_room_is_refused():
    """And the registry can be used again."""
    registry = CollectorRegistry()
    with pytest.raises(ParameterValidationError, match="capacity"):
        metrics.Metrics(registry, capacity=0).__enter__()
    with metrics.Metrics(registry):
        pass


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


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf])
def test_no_amount_makes_a_counter_fall_or_useless(counting, amount):
    """Nor one that is no number."""
    step(samples=8)
    step(samples=amount)
    assert figures(counting)["training_samples_total"] == {"": 8}


def test_a_bucket_has_what_is_at_its_bound(counting):
    """Prometheus's buckets are "less or equal"."""
    step(seconds=0.5)
    buckets = figures(counting)["training_step_duration_seconds_bucket"]
    assert (buckets["le=0.25"], buckets["le=0.5"]) == (0, 1)


def test_phases_beyond_the_bound_are_other(counting):
    """However many names there are, no time is lost and the exposition stays small."""
    long = "x" * (LONGEST_LABEL + 1)
    for number in range(100):
        step(phases={f"phase {number}": 1.0, long: 2.0})
    found = figures(counting)["training_phase_duration_seconds_sum"]
    assert len(found) == BOUNDS["phase"] + 1
    assert found["phase=other"] == 100 - BOUNDS["phase"] + 200
    step(phases={"phase 0": 1.0})
    assert figures(counting)["training_phase_duration_seconds_sum"]["phase=phase 0"] == 2


def sampled(name="hpu:0", *, interval_seconds=5.0, simulated=False, **fields):
    """A device says something."""
    events.emit(events.DeviceSampled, device=name, simulated=simulated, interval_seconds=interval_seconds, **fields)


def test_devices_beyond_the_bound_are_left_out(counting, caplog):
    """Temperatures have no sum, and neither have energies that devices count themselves; said once."""
    for number in range(100):
        sampled(f"hpu:{number}", temperature_celsius=30.0, energy_joules=5.0)
    found = figures(counting)
    for name in ("device_temperature_celsius", "device_energy_joules_total"):
        assert len(found[name]) == BOUNDS["device"]
        assert "device=other,simulated=false" not in found[name]
    assert caplog.text.count("there are more values of device, simulated than are exposed") == 1


@pytest.mark.parametrize("text", ["a\nb", 'quoted "x" \\', "\udc80", "", "é", "other"])
def test_any_text_is_a_label(counting, text):
    """What cannot be written in UTF-8 breaks no scrape."""
    step(phases={text: 1.0})
    (label,) = figures(counting)["training_phase_duration_seconds_sum"]
    assert label == f"phase={text}".replace("\udc80", "?")


def test_a_sensor_that_stops_is_absent(counting):
    """At once if the others go on, or if the device says that it cannot be read; else after three intervals."""
    everything = {"temperature_celsius": 40.0, "power_watts": 300.0, "ecc_corrected": 2, "memory_peak_bytes": 7}
    sampled(**everything)
    sampled("hpu:1", interval_seconds=60.0, **everything)
    sampled(**{**everything, "power_watts": None})
    found = figures(counting)
    assert set(found["device_power_watts"]) == {"device=hpu:1,simulated=false"}
    assert len(found["device_temperature_celsius"]) == 2
    events.emit(events.TelemetryUnavailable, device="hpu:0", reason="lost")
    found = figures(counting)
    assert set(found["device_ecc_errors_total"]) == {"device=hpu:1,kind=corrected,simulated=false"}
    assert len(found["device_memory_peak_bytes"]) == 2
    events.emit(events.MemoryUnreadable, device="hpu:0", simulated=False, error="lost")
    assert len(figures(counting)["device_memory_peak_bytes"]) == 1
    sampled(**everything)
    assert len(figures(counting)["device_power_watts"]) == 2
    counting._clock.advance(14.9)
    assert len(figures(counting)["device_power_watts"]) == 2
    counting._clock.advance(0.2)
    found = figures(counting)
    assert {next(iter(samples)) for samples in of_section(found, "device_power", "device_memory").values()} == {
        "device=hpu:1,simulated=false"
    }
    counting._clock.advance(180)
    assert of_section(figures(counting), "device") == {}


def test_what_is_simulated_is_labelled(counting):
    """A software HPU's figures are never another series' ones."""
    sampled("simulated:0", simulated=True, power_watts=220.0)
    assert figures(counting) == {"device_power_watts": {"device=simulated:0,simulated=true": 220}}


def test_dropped_records_are_counted_also_of_hooks_that_are_gone(counting):
    """By all queues of the process."""

    def dropped():
        return scrape(counting.registry)["events_dropped_total"][""]

    before, go_on, entered = dropped(), threading.Event(), threading.Event()

    def slow(_):
        entered.set()
        go_on.wait(LONG)

    with events.subscribe(slow, events.StepCompleted, capacity=2):
        step()
        assert entered.wait(LONG)
        for _ in range(5):
            step()
        go_on.set()
    assert dropped() - before == 3


def test_health_is_asked_at_every_scrape(counting, caplog):
    """Words become numbers; checks that fail break nothing and are logged once."""
    statuses = {"disk": "healthy", "hpu": "DEGRADED", "memory": "critical", "net": "unknown", "odd": "whatever"}
    counting.health = lambda: statuses
    expected = {"check=disk": 0, "check=hpu": 1, "check=memory": 2, "check=net": 3, "check=odd": 3}
    assert figures(counting)["health_status"] == expected
    statuses["disk"] = "critical"
    assert figures(counting)["health_status"]["check=disk"] == 2
    counting.health = lambda: 1 / 0
    assert "health_status" not in figures(counting)
    assert caplog.text.count("health cannot be read") == 1


# Around it


def test_who_emits_does_not_count():
    """The thread of the subscription does; a scrape that takes its time delays nobody."""
    counters = queue.Queue()
    with metrics.Metrics(system=False) as counted:
        count = counted._store.add
        counted._store.add = lambda *given: counters.put(threading.current_thread()) or count(*given)
        with counted._store.lock:
            step()
        counted.flush(LONG)
        assert counters.get(timeout=LONG) is not threading.current_thread()


def test_a_scrape_sees_what_was_emitted_before_it(counting):
    """Though events linger until they are counted."""
    step(1)
    assert scrape(counting.registry)["training_steps_total"] == {"": 1}


def test_a_registry_of_somebody_else():
    """Is given back as it was; a second Metrics in it is refused, with nothing half done."""
    registry = CollectorRegistry()
    with metrics.Metrics(registry, system=False, rank=7) as counted:
        assert counted.registry is registry
        assert set(scrape(registry, rank="7")["build_info"].values()) == {1}
        with pytest.raises(ParameterValidationError, match="give each Metrics a registry of its own"):
            metrics.Metrics(registry).__enter__()
        with pytest.raises(ParameterValidationError, match="being counted already"):
            counted.__enter__()
    assert list(registry.collect()) == []
    assert events._dispatch._table.subscriptions == ()


def test_rank_is_that_of_the_run(monkeypatch):
    """As torchrun says it."""
    monkeypatch.setenv("RANK", "3")
    with metrics.Metrics(system=False) as counted:
        assert scrape(counted.registry, rank="3")["retries_total"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_counts_for_itself(counting):
    """Also if the parent was counting at that moment; the parent's figures are the parent's."""
    step()
    counting.flush(LONG)
    with counting._store.lock:
        child = os.fork()
        if child == 0:
            step()
            ended = counting.flush(LONG)
            os._exit(0 if ended and counting._counted()["training_steps_total"] == {(): 2} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert figures(counting)["training_steps_total"] == {"": 1}


def test_scrapes_side_by_side(counting):
    """While events come; each is whole, and no counter falls."""
    stop, seen = threading.Event(), queue.Queue()

    def scraping():
        before = 0
        while not stop.is_set():
            found = scrape_text(counting.registry).get("training_steps_total", {"": 0})[""]
            seen.put(found >= before)
            before = found

    threads = [threading.Thread(target=scraping) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        step(number, phases={"forward": 0.1})
    stop.set()
    for thread in threads:
        thread.join(LONG)
    assert all(seen.get() for _ in range(seen.qsize()))
    assert figures(counting)["training_steps_total"] == {"": 200}


def test_without_prometheus_client(monkeypatch):
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r'pip install "gaudi3_rt\[ops\]"'):
        metrics.Metrics()
