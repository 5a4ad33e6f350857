"""Logs begin without a run's environment, and leave logging as it was."""

import logging

import pytest

from gaudi3_rt import log
from gaudi3_rt.log import _configure

VARIABLES = (
    "RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID",
    "GAUDI3_RT_LOG_LEVEL", "GAUDI3_RT_LOG_FORMAT", "NO_COLOR",
)  # fmt: skip


def state():
    """Of the loggers that a configuration touches."""
    return [
        (one.level, one.propagate, [h for h in one.handlers if not isinstance(h, logging.NullHandler)])
        for one in map(logging.getLogger, ("gaudi3_rt", "", "py.warnings", "train"))
    ]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    before = state()
    yield
    assert _configure._active is None
    assert state() == before
    log.unbind(*log.context())
