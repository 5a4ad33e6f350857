"""What several files of tests of configurations use."""

import pytest
from _config_run import RUN

from gaudi3_rt.config import load


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with run.yaml; loads there, without the variables of this process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "run.yaml").chmod(0o600)
    return lambda path="run.yaml", environ=(), **rest: load(path, environ=dict(environ), **rest)
