"""Scrapes: what they see and when, side by side, in forked children, and of registries of others."""

import os
import queue
import sys
import threading

import pytest
from _counted import LONG, figures, step
from _scrape import scrape, scrape_text
from prometheus_client import CollectorRegistry

from gaudi3_rt import events, metrics
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.metrics import _metrics


def test_a_queue_without_room_is_refused():
    """And the registry can be used again."""
    registry = CollectorRegistry()
    with pytest.raises(ParameterValidationError, match="capacity"):
        metrics.Metrics(registry, capacity=0).__enter__()
    with metrics.Metrics(registry):
        pass


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


def test_a_scrape_sees_what_was_emitted_before_it(counting, monkeypatch):
    """Though events linger until they are counted."""
    monkeypatch.setattr(_metrics, "PATIENCE", LONG)
    step(1)
    assert scrape(counting.registry)["training_steps_total"] == {"": 1}


def test_a_scrape_as_the_block_ends():
    """In another thread, between two looks at the subscription."""

    class Ending(metrics.Metrics):
        looks = 0

        @property
        def _subscription(self):
            self.looks += 1
            return self.given if self.looks == 1 else None

        @_subscription.setter
        def _subscription(self, given):
            self.given, self.looks = given, 0

    with Ending(system=False) as counted:
        assert counted.flush(LONG)
        counted.looks = 0


def test_an_interrupt_at_the_end(monkeypatch):
    """Leaves nothing in the registry."""
    registry = CollectorRegistry()
    counted = metrics.Metrics(registry, system=False).__enter__()
    subscription = counted._subscription

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(subscription, "flush", interrupted)
        with pytest.raises(KeyboardInterrupt):
            counted.__exit__(None, None, None)
    subscription.close(LONG)
    assert list(registry.collect()) == []


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
