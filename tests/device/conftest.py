"""What tests of devices share: a machine with HPUs that is a folder."""

import pytest
from _host_tree import Host


@pytest.fixture
def host(tmp_path):
    """A machine without HPUs, to add some."""
    folder = tmp_path / "host"
    folder.mkdir()
    return Host(folder)
