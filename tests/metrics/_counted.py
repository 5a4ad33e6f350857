"""Events that are counted, and the figures that come of them."""

from _scrape import scrape

from gaudi3_rt import events

LONG = 30.0  # seconds until a test gives up; none waits for it


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


def sampled(name="hpu:0", *, interval_seconds=5.0, simulated=False, **fields):
    """A device says something."""
    events.emit(events.DeviceSampled, device=name, simulated=simulated, interval_seconds=interval_seconds, **fields)
