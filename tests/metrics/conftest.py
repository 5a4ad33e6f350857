"""Metrics of events alone."""

import pytest

from gaudi3_rt import metrics
from gaudi3_rt.testing import FakeClock


@pytest.fixture
def counting():
    """Metrics of events alone, with a clock that stands."""
    with metrics.Metrics(system=False, rank=0, clock=FakeClock()) as counted:
        yield counted
