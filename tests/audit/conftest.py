"""Where the log of a test is."""

import pytest


@pytest.fixture
def path(tmp_path):
    """Of a log that does not exist yet."""
    return tmp_path / "audit.jsonl"
