"""What hangs, and is let go."""

import threading

import pytest
from _rounds import join_checks


@pytest.fixture
def release():
    """Lets what hangs go, at the end at the latest, and waits for its threads."""
    event = threading.Event()
    yield event
    event.set()
    join_checks()
