"""The audit log: what was written is found again, without secrets, whatever its fields are."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from _written import write
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt.audit import AuditLog, _log, verify

PLANTED = "zq81-Hunter.22"


def test_records(path):
    """Number, time, actor, event, fields, and two hashes."""
    with AuditLog(path, actor="alice", clock=lambda: 1.8e9) as log:
        assert log.head() == "0" * 64
        first = log.append("checkpoint.deleted", step=7, path="x")
        second = log.append("restored", actor="bob")
        assert log.head() == second
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0] == {
        "seq": 0, "time": "2027-01-15T08:00:00.000000Z", "actor": "alice", "event": "checkpoint.deleted",
        "fields": {"step": 7, "path": "x"}, "prev_hash": "0" * 64, "hash": first,
    }  # fmt: skip
    assert (records[1]["actor"], records[1]["fields"], records[1]["prev_hash"]) == ("bob", {}, first)
    result = verify(path)
    assert (result.ok, result.records, result.head, result.torn_lines) == (True, 2, second, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_hash_is_the_documented_one(path):
    """SHA-256 of the rest of the record as canonical JSON: checked without our code."""
    write(path, 1, text="é\u2028")
    record = json.loads(path.read_bytes())
    claimed = record.pop("hash")
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    done = subprocess.run(["sha256sum"], input=text, capture_output=True, text=True, check=True)  # noqa: S607
    assert done.stdout.split()[0] == claimed


@given(
    secret=st.text("abcdefghijkmnpqrstuvwxyzABCDEFGH23456789-_.!", min_size=10, max_size=40),
    where=st.sampled_from(["actor", "event", "field", "nested"]),
)
def test_no_planted_secret_is_written(tmp_path_factory, secret, where):
    """Wherever it is planted."""
    secret = f"q{secret}q"
    path = tmp_path_factory.mktemp("audit") / "a"
    text = f"password={secret}"
    with AuditLog(path, actor=text if where == "actor" else "alice") as log:
        log.append(
            text if where == "event" else "x", token=secret if where == "field" else "", x=[{"u": f"x://u:{secret}@h"}]
        )
    assert secret not in path.read_text()
    assert verify(path).ok


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.text() | st.floats() | st.integers(),
            lambda v: st.lists(v) | st.dictionaries(st.integers() | st.text(), v),
            max_leaves=10,
        ),
    )
)
def test_any_fields(tmp_path_factory, fields):
    """Are one good record."""
    path = tmp_path_factory.mktemp("audit") / "a"
    with AuditLog(path) as log:
        log.append("x", fields=fields)
    assert verify(path).records == 1


def test_going_on(path):
    """Opened again, the chain goes on; fields named as parts of a record are fields."""
    write(path, 2)
    with AuditLog(path) as log:
        log.append("x", seq=9, event="y", hash="z")
    result = verify(path)
    assert (result.ok, result.records) == (True, 3)
    assert json.loads(path.read_text().splitlines()[2])["fields"] == {"seq": 9, "event": "y", "hash": "z"}


def test_a_long_file_is_opened_by_its_end(path, monkeypatch):
    """Also when its last record is longer than what is read at once."""
    monkeypatch.setattr(_log, "_TAIL", 64)
    write(path, 30, text="x" * 500)
    write(path, 1)
    assert verify(path).records == 31


def test_symbolic_links_are_refused(path, tmp_path):
    """Somebody else may have put it there."""
    (tmp_path / "target").touch()
    path.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        AuditLog(path)


def test_on_disk_before_the_call_returns(path, monkeypatch):
    """What was written is synchronised, and so is the folder of a new file."""
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (synced.append(str(Path(f"/proc/self/fd/{d}").readlink())), real(d)))
    with AuditLog(path) as log:
        log.append("a")
    assert synced == [str(path.parent), str(path)]


def test_actor_is_the_user(path):
    """If none is given."""
    with AuditLog(path) as log:
        assert log.actor == subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607
