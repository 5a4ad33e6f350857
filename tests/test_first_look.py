"""The first look at a text, after which most get no other: it misses nothing that the other looks would see."""

import re
from unittest import mock

import pytest
from _fuzz import examples
from _secret_corpus import HARMLESS_NAMES, LOOKALIKES, SECRET_NAMES, SECRETS
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _secrets
from gaudi3_rt._redact import MASK, redact
from gaudi3_rt._secrets import FORMS, is_secret_name, look_at_name, mask_text

PLANTED = "zq81-Hunter.22"
TRIGGERS = sorted({trigger for form in FORMS for trigger in form.triggers})
NAMED = [trigger for form in FORMS if form.named for trigger in form.triggers]
SEPARATORS = [":", "=", "=>", " := ", " == ", "': '", '\\": \\"', ": str = ", ":\n", " ", "\t", "\u2003=", "\u00a0:"]
# Letters whose other case is of another length, or ASCII.
ODD = ["\u0130", "\u0131", "\u212a", "\u017f", "\u1e9e", "\u03a3", "\ufb01", "\ud800", "\u2028", "\x00"]
PIECES = st.one_of(
    st.sampled_from([f(trigger) for trigger in TRIGGERS for f in (str, str.upper, str.title)]),
    st.sampled_from(SEPARATORS),
    st.sampled_from([PLANTED, "user", ".", "_", "-", '"', "'", "\\", "]", ",", "&", "@", "://", *ODD]),
    st.sampled_from([*SECRET_NAMES, *HARMLESS_NAMES]),
    st.sampled_from([text for text, _ in SECRETS] + LOOKALIKES),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def mask_after_all_looks(text):
    """What is masked if the first look finds nothing harmless."""
    with mock.patch.object(_secrets, "_may_show_secret", return_value=True):
        return mask_text(text)


@examples(400)
@given(TEXTS)
def test_it_misses_nothing(text):
    """Of mixtures of triggers, names, separators, quotes, and letters that change their length."""
    assert mask_text(text) == mask_after_all_looks(text)


@pytest.mark.parametrize("text", [text for text, _ in SECRETS] + LOOKALIKES)
def test_it_misses_nothing_of_the_corpus(text):
    """In any case, among other texts."""
    for variant in (text, text.upper(), text.lower(), f"{text} key", f"secret: x {text} done", f"\u0130{text}"):
        assert mask_text(variant) == mask_after_all_looks(variant)


@examples(400)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([*SECRET_NAMES, *HARMLESS_NAMES, *NAMED, "", "_", "-", ".", "7", "\u0130", "\u212a"]),
            st.text("abcdehiknoprstuwyAPIKETS_-.1", max_size=6),
        ),
        max_size=6,
    ).map("".join)
)
def test_every_secret_name_has_a_trigger(name):
    """So that a text without one has no value of such a name."""
    if is_secret_name(name):
        assert any(trigger in name.lower() for trigger in NAMED)


def test_every_name_is_looked_at_once():
    """However often it has a trigger: otherwise the time would grow with the square of a text's length."""
    for name in ("key" * 1000, "pass\u0130" * 1000, "token" + '"' * 1000, "secret" + " " * 1000):
        assert len(_secrets._NAMED.findall(name.lower() + "&")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "epoch 3 done: loss 0.4512, lr 0.0003, grad norm 1.25, 1234 samples/s, checkpoint written to runs/a.pt",
        "rank 0: read /data/tokens/train in 3.2 s (prefetch=4), 512 tokens per step",
        "grad_norm 1.25 at step-3 of my_model, local_rank: 3",
        "monkey patched 3 passes; keyed by name",
    ],
)
def test_it_is_enough_for_what_training_logs(text):
    """Words with triggers in them cost nothing more, unless a value follows them."""
    with mock.patch.object(_secrets, "FORMS", None):
        assert mask_text(text) == text


class Key(str):
    """A key that is not quite a text."""

    __slots__ = ()


@pytest.mark.parametrize("name", [*SECRET_NAMES, *HARMLESS_NAMES, "myAuth", "siteCookie", "PWD"])
def test_verdicts_of_keys_are_of_one_spelling(name):
    """Whichever spelling or type of the same name was looked at before."""
    for spell in [str, str.upper, str.lower, str.title, str.swapcase, Key] * 2:
        key = spell(name)
        is_secret = is_secret_name.__wrapped__(str(key))
        assert redact({key: PLANTED}) == {key: MASK if is_secret else PLANTED}


def test_keys_that_equal_others_keep_their_type():
    """What is remembered of names is of texts alone."""
    for key in (1, True, 1.0, "1", None, "None", False, 0, "0"):
        ((shown, value),) = redact({key: PLANTED}).items()
        assert (shown, type(shown), value) == (key, type(key), PLANTED)


def test_what_is_remembered_is_bounded():
    """A program that makes up names forever does not grow."""
    for look in (look_at_name, is_secret_name):
        for number in range(look.cache_info().maxsize + 10):
            look(f"name-{number}")
        assert look.cache_info().currsize == look.cache_info().maxsize
    assert redact({"password": PLANTED, "name-1": 1}) == {"password": MASK, "name-1": 1}


@pytest.mark.parametrize("value", [PLANTED, 3.5, 17, [PLANTED], {"a": PLANTED}])
def test_values_of_any_type_behind_a_described_name(value):
    """As environment variables are given: a number is no less a secret than a text."""
    assert redact({"name": "DB_PASSWORD", "value": value}) == {"name": "DB_PASSWORD", "value": MASK}
    assert redact({"name": "MASTER_PORT", "value": 3.5}) == {"name": "MASTER_PORT", "value": 3.5}


def test_triggers_are_what_a_pattern_can_begin_with():
    """As they are put into one."""
    assert all(re.escape(trigger) == trigger == trigger.lower() for trigger in NAMED)
