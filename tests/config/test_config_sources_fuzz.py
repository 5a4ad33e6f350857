"""Whatever files, variables and assignments hold ends in a configuration, or in one clear error without secrets."""

import json

from _configs import JSON, TEXTS, mutated, valid
from _fuzz import examples
from hypothesis import assume, given
from hypothesis import strategies as st

from gaudi3_rt.config import json_schema, load
from gaudi3_rt.config._load import examine
from gaudi3_rt.config._sources import _leaves, _lines_of_json
from gaudi3_rt.config._yaml import YamlError, parse
from gaudi3_rt.errors import ConfigurationError

SCHEMA = json_schema()


@examples(60)
@given(JSON)
def test_json_is_yaml(document):
    """Whatever JSON can say, the YAML reader takes for the same, or refuses by name."""
    text = json.dumps(document)
    assume(text.count("[") + text.count("{") < 20 and "\\ud" not in text)  # PyYAML does not join surrogates
    refusal = ""
    try:
        found, _ = parse(text)
    except YamlError as error:
        refusal = str(error)
    assert ("merge keys" in refusal and "<<" in text) if refusal else found == document


AWKWARD = st.text('ab"\\:{}[], \n', max_size=6)


@examples(100)
@given(
    st.dictionaries(
        AWKWARD,
        st.recursive(
            AWKWARD | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(AWKWARD, inner), max_leaves=8
        ),
    ),
    st.sampled_from([None, 0, 3]),
)
def test_lines_of_json_are_those_of_yaml(document, indent):
    """Of each setting, by a reader that only looks for keys and ends of lines."""
    text = json.dumps(document, indent=indent)
    lines, (_, wanted) = _lines_of_json(text), parse(text)
    assert {path: lines[path] for path, _ in _leaves(document)} == {path: wanted[path] for path, _ in _leaves(document)}


@examples(60)
@given(st.text(max_size=200))
def test_any_text_as_a_file(text):
    """YAML or not, there is a value or an error of its own type, and lines are lines of the text."""
    try:
        document, lines = parse(text)
    except YamlError:
        return
    assert all(1 <= line <= text.count("\n") + text.count("\r") + len(text) + 1 for line in lines.values())
    assert isinstance(document, dict) or not lines or isinstance(document, list)


@examples(60)
@given(
    st.dictionaries(st.text("ABCDEFGHIJ_", max_size=12).map("GAUDI3_RT_".__add__), TEXTS, max_size=3), st.lists(TEXTS)
)
def test_any_variables_and_assignments(environ, assignments):
    """They are taken or refused; nothing is passed over in silence."""
    done = examine(None, environ=environ, assignments=assignments, values={"max_steps": 1})
    if environ or assignments:
        assert any(one.severity == "error" for one in done.findings)


SECRETS = [
    "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1b",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1b2C",
    "https://me:hunter2hunter2@example.org/x",
    "postgresql://admin:hunter2hunter2@db/x",
]


@examples(100)
@given(mutated(valid(SCHEMA)), st.sampled_from(SECRETS), st.randoms(use_true_random=False), st.booleans())
def test_no_secret_in_any_output(document, secret, random, as_key):
    """Planted as a value or as a key, anywhere, it is in no message, no record and no representation."""
    holders = [document]
    for holder in holders:
        holders += [
            one
            for one in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(one, dict | list) and one
        ]
    holder = random.choice(holders)
    if as_key and isinstance(holder, dict):
        holder[secret] = 1
    elif holder:
        holder[random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))] = secret
    else:
        holder["run_name"] = secret
    core = "hunter2hunter2" if "hunter2" in secret else secret
    try:
        loaded = load(None, environ={}, **document)
        seen = [str(loaded.warnings), str([one.to_dict() for one in loaded.warnings])]
        assert any("looks like a secret" in one.message for one in loaded.warnings)
    except ConfigurationError as error:
        seen = [str(error), repr(error), str(error.to_dict()), repr(error.context), str(error.suggestions)]
    except TypeError:
        assume(False)  # a key that is an argument of load
    assert not any(core in text for text in seen), seen
