"""A clock that the test moves, and every event of it."""

import pytest

from gaudi3_rt import events
from gaudi3_rt.testing import FakeClock


@pytest.fixture
def clock():
    """Time that the test moves."""
    return FakeClock(1000.0)


@pytest.fixture
def seen():
    """Every event of the test."""
    with events.capture_events() as captured:
        yield captured
