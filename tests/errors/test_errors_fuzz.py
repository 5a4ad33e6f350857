"""Any text, any context, any chain: nothing crashes, nothing grows without bound, no secret comes out.

Some dozens of examples as part of the tests; 100,000 with ``python -m pytest --hypothesis-profile=fuzz``.
"""

import json
import pickle
import re

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import errors
from gaudi3_rt.cli._app import app
from gaudi3_rt.errors._classify import ROWS

PLANTED = "hunter2-kestrel-0451"
FRAGMENTS = sorted(
    {"synStatus", "26", "[Errno 28]", "Device", "failed", "gloo/transport/", "\n", "[error 2002]", "\x00"}
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=30,
)
messages = st.text() | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=20)).map(" ".join)


@given(messages)
def test_classify_takes_any_text(text):
    """It answers from the table, or says that it does not know."""
    found = errors.classify(text)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    if found.row:
        (row,) = [row for row in ROWS if row.id == found.row]
        assert row.compiled.search(text)
        assert found.error is row.error
    elif not found.recognized:
        assert not any(row.compiled.search(text) for row in ROWS)
        assert not found.retryable
    assert len(found.matched) < 400


@given(messages, st.sampled_from([RuntimeError, OSError, ValueError, KeyError, errors.TrainingStepError]))
def test_exceptions_of_any_text(text, kind):
    """Ours, with the foreign one as its cause; described, pickled, written."""
    error = kind(text)
    ours = errors.from_exception(error)
    assert ours is error or ours.__cause__ is error
    json.dumps(ours.to_dict(), allow_nan=False)
    assert pickle.loads(pickle.dumps(ours)).to_dict() == ours.to_dict()  # noqa: S301 (our own)
    assert errors.exit_code(error) in {1, 78}


@given(st.dictionaries(st.text(), anything), st.text())
def test_any_context_is_json(context, message):
    """Strict JSON of bounded size."""
    error = errors.DataValidationError(message, context=context)
    text = json.dumps(error.to_dict(), allow_nan=False)
    assert len(text) < 10_000 * (1 + len(context))
    assert len(error.describe().splitlines()) <= 60 + 22 * len(context)


@given(
    st.sampled_from(["password", "api_key", "AUTHORIZATION", "client_secret", "token"]),
    st.lists(st.sampled_from(["request", "config", "0"]), max_size=4),
    messages,
)
def test_planted_secret_does_not_come_out(name, path, text):
    """In a field with a secret's name, at any depth, in every form of an error."""
    context = {name: PLANTED}
    for outer in path:
        context = {outer: [context]}
    error = errors.ServiceUnavailableError(text, context=context)
    assert PLANTED not in json.dumps(error.to_dict())
    assert PLANTED not in error.describe()
    assert PLANTED not in pickle.loads(pickle.dumps(error)).describe()  # noqa: S301 (our own)
    outer_error = RuntimeError("outer")
    outer_error.__cause__ = error
    assert PLANTED not in errors.from_exception(outer_error).describe()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_patterns_take_linear_time(row):
    """Every repetition has a bound, so no text makes a pattern go over it again and again."""
    assert not re.search(r"(?<!\\)[*+]|\{\d+,\}", row.pattern)


@given(messages.filter(lambda text: text.strip() and not text.startswith("-")))
def test_explain_takes_any_text(text):
    """Status 0 or 1, and no traceback."""
    result = CliRunner().invoke(app, ["explain", "-"], input=text.replace("\r", ""))
    assert result.exit_code in {0, 1}, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
