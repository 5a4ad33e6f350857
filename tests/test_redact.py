"""Redaction: what is a secret goes, what only looks like one stays, and no value gets in the way."""

import copy
import dataclasses
import datetime as dt
import enum
import math
import pathlib
from collections import OrderedDict, UserDict, deque, namedtuple

import numpy as np
import pydantic
import pytest
import torch
from _secret_corpus import HARMLESS_NAMES, LOOKALIKES, SECRET_NAMES, SECRETS
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _redact
from gaudi3_rt._redact import MASK, is_secret_name, redact, redact_text

PLANTED = "zq81-Hunter.22"


def test_recall_and_false_positives_on_the_corpus():
    """All of it: no secret is left, and no look-alike is touched."""
    left = [text for text, secret in SECRETS if secret in redact_text(text)]
    touched = [text for text in LOOKALIKES if redact_text(text) != text]
    recall = 1 - len(left) / len(SECRETS)
    false_positives = len(touched) / len(LOOKALIKES)
    assert (recall, left) == (1.0, [])
    assert (false_positives, touched) == (0.0, [])


@pytest.mark.parametrize("text", [text for text, _ in SECRETS])
def test_what_is_masked_stays_as_it_is(text):
    """Texts are redacted more than once on their way, and surroundings stay."""
    once = redact_text(text)
    assert MASK in once
    assert redact_text(once) == once


def test_surroundings_stay():
    """Only the secret goes."""
    assert redact_text("GET /a?token=abcdefgh12&page=2") == f"GET /a?token={MASK}&page=2"
    assert redact_text("postgres://bob:pw12@h:5432/db?x=1") == f"postgres://bob:{MASK}@h:5432/db?x=1"
    assert redact_text("{'password': 'a b', 'user': 'bob'}") == f"{{'password': '{MASK}', 'user': 'bob'}}"
    assert redact_text("password=abcd, user=bob (secret=x1y2z3)") == f"password={MASK}, user=bob (secret={MASK})"


def test_names():
    """Of fields, options, headers and variables."""
    assert [name for name in SECRET_NAMES if not is_secret_name(name)] == []
    assert [name for name in HARMLESS_NAMES if is_secret_name(name)] == []


def test_values_of_secret_names():
    """Whatever their type; what tells nothing stays."""
    for value in (PLANTED, 1234, 3.5, [PLANTED], {"a": PLANTED}, PLANTED.encode(), torch.ones(3)):
        assert redact(value, "password") == MASK
    for value in (None, "", b"", True, False):
        assert redact(value, "password") is value
    assert redact(17, "token") == 17


@dataclasses.dataclass
class Record:
    """A record with a secret."""

    password: str
    nested: object = None


class Model(pydantic.BaseModel):
    """The same, of pydantic."""

    model_config = pydantic.ConfigDict(extra="allow")
    api_key: str
    hidden: pydantic.SecretStr = pydantic.SecretStr("")


Pair = namedtuple("Pair", "user password")  # noqa: PYI024 (as users have them)


class Kind(str, enum.Enum):
    """An enumeration of texts."""

    A = "a"


CARRIERS = {
    "dict": lambda s: {"password": s},
    "mapping": lambda s: UserDict(password=s),
    "ordered": lambda s: OrderedDict(token=s),
    "key": lambda s: {f"password={s}": 1},
    "tuple key": lambda s: {("password", s): f"secret={s}"},
    "list": lambda s: [f"password={s}"],
    "tuple": lambda s: (1, [f"password={s}"]),
    "pair": lambda s: [("Authorization", s)],
    "set": lambda s: {f"password={s}"},
    "deque": lambda s: deque([{"secret": s}]),
    "values": lambda s: {"a": f"password={s}"}.values(),
    "command": lambda s: ["train.py", "--api-key", s],
    "environment": lambda s: [{"name": "HF_TOKEN", "value": s}],
    "dataclass": lambda s: Record(s, Record(s)),
    "pydantic": lambda s: Model(api_key=s, hidden=s, extra={"token": s}),
    "named tuple": lambda s: Pair("bob", s),
    "exception": lambda s: ValueError("password", {"password": s}),
    "bytes": lambda s: f"password={s}".encode(),
    "path": lambda s: pathlib.Path(f"/x/password={s}"),
    "object": lambda s: type("Client", (), {"__repr__": lambda _: f"Client(password={s!r})"})(),
    "url": lambda s: f"https://bob:{s}@host/x",
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_carrier(carrier):
    """Of secrets, at depth; the original stays as it was."""
    value = CARRIERS[carrier](PLANTED)
    before = copy.deepcopy(value) if carrier not in {"object", "values", "exception"} else None
    assert PLANTED not in repr(redact({"a": [value]}))
    if before is not None:
        assert value == before


@given(
    carriers=st.lists(st.sampled_from(sorted(CARRIERS)), min_size=1, max_size=4),
    secret=st.text("abcdefghijkmnpqrstuvwxyzABCDEFGH23456789-_.!", min_size=10, max_size=40),
    wrap=st.lists(st.sampled_from(["list", "dict", "dataclass"]), max_size=6),
)
def test_planted_secrets(carriers, secret, wrap):
    """Any mixture of carriers in any nesting."""
    secret = f"q{secret}q"
    value = [CARRIERS[c](secret) for c in carriers]
    for kind in wrap:
        value = [value] if kind == "list" else {"x": value} if kind == "dict" else Record("", value)
    assert secret not in repr(redact(value))


def test_plain_values_stay():
    """Nothing to hide, nothing to change."""
    kept = {
        "step": 3, "loss": 0.5, "ok": True, "none": None, "when": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
        "path": pathlib.Path("/runs/x"), "kind": Kind.A, 7: "seven", "nan": math.inf,
    }  # fmt: skip
    assert redact(kept) == kept
    assert redact((1, {3, 2})) == [1, [2, 3]]


def test_tensors_are_described_not_read():
    """A number on the CPU is a number; a device is not waited for."""
    assert redact(torch.tensor(0.5)) == 0.5
    assert redact(np.float32(0.5)) == 0.5
    assert redact(torch.zeros(2, 3, dtype=torch.bfloat16)) == "Tensor(shape=[2, 3], dtype=torch.bfloat16, device=cpu)"
    assert redact(torch.zeros((), device="meta")) == "Tensor(shape=[], dtype=torch.float32, device=meta)"
    assert redact(np.zeros(4)) == "ndarray(shape=[4], dtype=float64, device=cpu)"


def test_cycles_and_bounds():
    """Of depth, number, length."""
    loop = {"a": 1}
    loop["self"] = [loop]
    assert redact(loop) == {"a": 1, "self": ["[cycle]"]}
    deep = PLANTED
    for _ in range(2000):
        deep = {"password": "", "x": deep}
    assert "left out" in repr(redact(deep))
    assert redact(list(range(5000)))[-1] == "... 4000 more"
    assert redact(dict.fromkeys(range(5000)))["..."] == "4000 more"
    assert len(repr(redact([["x" * 1000] * 900] * 900))) < 2 * _redact.MAX_CHARACTERS
    assert redact(1 << 100_000) == "<integer of more than 4096 bits>"
    shared = ["a"]
    assert redact([shared, shared]) == [["a"], ["a"]]


def test_a_cut_leaves_no_beginning_of_a_secret():
    """Wherever the cut falls in it."""
    token = SECRETS[20][0].split()[-1]
    for offset in range(0, 60, 3):
        text = "word " * (_redact.MAX_TEXT // 5 - 12) + "x" * offset + f" {token} and more" + " tail" * 30
        shown = redact_text(text)
        assert token[:8] not in shown
        assert shown.endswith(f"[cut: {len(text)} characters]")


class Hostile:
    """Raises whatever is done with it."""

    def __getattribute__(self, name):
        """Of any attribute."""
        raise RuntimeError(name)

    def __str__(self):
        """Of a text."""
        raise RuntimeError


def test_hostile_values():
    """Never raise."""

    class BadMapping(UserDict):
        def items(self):
            raise RuntimeError

    assert redact({"a": Hostile()}) == {"a": "<unreadable Hostile>"}
    assert redact({"name": Hostile(), "value": 1}) == {"name": "<unreadable Hostile>", "value": 1}
    assert redact([BadMapping(x=1), 2])[1] == 2
    assert redact("\ud800 password=abcdefgh") == f"\ud800 password={MASK}"


@given(
    st.recursive(
        st.none() | st.text() | st.binary() | st.floats() | st.integers(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
        max_leaves=20,
    )
)
def test_any_value(value):
    """Is copied without an exception, and left as it was."""
    before = repr(value)
    redact(value)
    assert repr(value) == before
