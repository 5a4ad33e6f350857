"""What tests of doctor share."""

import pytest
from _fake_host import FakeHost


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A machine without HPUs."""
    return FakeHost(tmp_path, monkeypatch)
