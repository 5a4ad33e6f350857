"""Each test of delivery ends its subscriptions."""

import logging

import pytest
from _delivered import workers

from gaudi3_rt import events


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    assert events._dispatch._table.subscriptions == ()
    assert workers() == 0


@pytest.fixture(autouse=True)
def _levels(caplog):
    caplog.set_level(logging.INFO)
