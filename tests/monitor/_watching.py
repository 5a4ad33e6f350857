"""Monitors on a clock of the test, and what they have told."""

from gaudi3_rt.monitor import TrainingMonitor


def watch(clock, **options):
    """A monitor without threads, on a clock of the test."""
    return TrainingMonitor(clock=clock, **{"stall_seconds": None, **options})


def fail(error):
    """As training code does."""
    raise error


def of(seen, kind):
    """The events of a class."""
    return [event for event in seen if isinstance(event, kind)]
