"""The audit log: what was written is found again, and whatever was changed is found out."""

import errno
import fcntl
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt.audit import AuditLog, _chain, _log, verify
from gaudi3_rt.cli._app import app
from gaudi3_rt.errors import DataValidationError, InsufficientStorageError, ParameterValidationError

PLANTED = "zq81-Hunter.22"


def write(path, count, **fields):
    """So many records."""
    with AuditLog(path, actor="alice", clock=lambda: 1.8e9) as log:
        return [log.append("step.done", number=i, **fields) for i in range(count)]


@pytest.fixture
def path(tmp_path):
    """Of a log that does not exist yet."""
    return tmp_path / "audit.jsonl"


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


def damage(lines, kind, rng):
    """The lines of a file, changed in one way; none if that changes nothing."""
    changed = list(lines)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == "flip":
        line = bytearray(changed[i])
        line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
        changed[i] = bytes(line)
    elif kind == "delete":
        del changed[rng.randrange(len(lines) - 1)]
    elif kind == "swap":
        changed[i], changed[j] = changed[j], changed[i]
    elif kind == "copy":
        changed.insert(j, changed[i])
    elif kind == "insert":
        changed.insert(i, rng.choice([b"\n", b"{}\n", b'{"seq":0}\n', b"x\n", lines[i].replace(b"alice", b"bobby")]))
    elif kind == "forge":  # a record that is good by itself
        record = json.loads(changed[i])
        fields = {"number": 99}
        changed[i], _ = _chain.encode(
            _chain.Link(record["seq"], record["prev_hash"]), record["time"], "alice", "x", fields
        )
    elif kind == "rewrite":  # the same record in other words
        changed[i] = json.dumps(json.loads(changed[i])).encode() + b"\n"
    else:
        line = bytearray(changed[i])
        del line[rng.randrange(len(line))]
        changed[i] = bytes(line)
    return changed if b"".join(changed) != b"".join(lines) else None


@given(
    st.integers(2, 8),
    st.sampled_from(["flip", "delete", "swap", "copy", "insert", "forge", "rewrite", "shorten"]),
    st.integers(0, 2**32),
)
def test_every_damage_is_found(tmp_path_factory, count, kind, seed):
    """Edits, deletions, swaps, insertions, flipped bits: the first bad line is one that differs."""
    path = tmp_path_factory.mktemp("audit") / "a"
    head = write(path, count)[-1]
    lines = path.read_bytes().splitlines(keepends=True)
    changed = damage(lines, kind, random.Random(seed))
    if changed is None:
        return
    path.write_bytes(b"".join(changed))
    result = verify(path, head)
    assert not result.ok
    first = next(
        (i for i, pair in enumerate(zip(lines, changed, strict=False)) if pair[0] != pair[1]),
        min(len(lines), len(changed)),
    )
    assert result.first_bad_line in {first + 1, first + 2}
    assert result.records >= first
    is_last_forged = kind == "forge" and first == count - 1  # like cutting off: only a head tells
    assert verify(path).ok == is_last_forged


def test_missing_records_at_the_end(path):
    """Only a head that was kept tells; a file that has grown since is good."""
    heads = write(path, 5)
    whole = path.read_bytes().splitlines(keepends=True)
    assert all(verify(path, head).ok for head in ("0" * 64, *heads))
    path.write_bytes(b"".join(whole[:3]))
    assert verify(path).ok
    result = verify(path, heads[4])
    assert (result.ok, result.first_bad_line, result.records) == (False, 4, 3)
    assert "the anchored head is not in the file" in result.reason
    with pytest.raises(ParameterValidationError, match="is not a hash"):
        verify(path, "abc")


def test_a_crash_at_any_byte(path, monkeypatch):
    """Wherever a file ends, it is opened and goes on with all complete records; also after a second crash."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no disk is what this is about
    write(path, 2)
    path.write_bytes(path.read_bytes()[:-30])
    write(path, 1)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        is_torn = length not in {0, *ends}
        assert verify(path).ok == (not is_torn)
        complete = sum(end <= length for end in ends)
        write(path, 1)
        result = verify(path)
        assert result.ok
        assert result.records == complete + is_torn + 1
        assert (complete + 1 in result.torn_lines) == (is_torn or (complete < 2 <= len(result.torn_lines)))


def test_what_a_crash_left_cannot_be_changed(path):
    """The record after it vouches for it."""
    write(path, 2)
    path.write_bytes(path.read_bytes()[:-30])
    write(path, 1)
    assert verify(path).torn_lines == (2,)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"alice", b"bobby", 1) + lines[2])
    assert verify(path).first_bad_line == 2


def test_a_damaged_end_takes_no_records(path):
    """Nor does a file that was cut off or replaced under a writer."""
    write(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"number":2', b'"number":3'))
    with pytest.raises(DataValidationError, match="not what was written"):
        AuditLog(path)
    path.write_bytes(whole)
    with AuditLog(path) as log:
        path.write_bytes(whole[: whole.index(b"\n") + 1])
        with pytest.raises(DataValidationError, match="replaced or cut off"):
            log.append("x")
        path.unlink()
        with pytest.raises(FileNotFoundError):
            log.append("x")
    assert not path.exists()


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


def test_a_signal_handler_is_not_left_waiting(path, monkeypatch):
    """For what it interrupted; that goes on, and so does the log."""
    refused = []

    def handler(*_):
        for call in (lambda: log.append("preempted"), log.head):
            with pytest.raises(RuntimeError, match="signal handler interrupted; set a flag"):
                call()
            refused.append(call)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        log = AuditLog(path)
        with monkeypatch.context() as patch:
            patch.setattr(_log.os, "fsync", lambda _: signal.raise_signal(signal.SIGUSR1))
            log.append("step")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 2
    log.append("preempted")
    assert (verify(path).ok, verify(path).records) == (True, 2)


def test_a_full_disk(path, monkeypatch):
    """The error says so; what was written is a torn line, and the next record goes on after it."""
    written = os.write

    def fill(descriptor, data):
        if len(data) > 100:
            return written(descriptor, data[:-100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with AuditLog(path) as log:
        log.append("a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fill)
            for _ in range(2):
                with pytest.raises(InsufficientStorageError, match="No space left"):
                    log.append("b")
        log.append("c")
    result = verify(path)
    assert (result.ok, result.torn_lines) == (True, (2,))
    assert [json.loads(line[line.rindex(b'{"actor":') :])["event"] for line in path.read_bytes().splitlines()] == [
        "a",
        "audit.torn_line",
        "c",
    ]


def test_on_disk_before_the_call_returns(path, monkeypatch):
    """What was written is synchronised, and so is the folder of a new file."""
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (synced.append(str(Path(f"/proc/self/fd/{d}").readlink())), real(d)))
    with AuditLog(path) as log:
        log.append("a")
    assert synced == [str(path.parent), str(path)]


WRITER = """
import sys
from gaudi3_rt.audit import AuditLog
with AuditLog(sys.argv[1], actor=sys.argv[2]) as log:
    print(flush=True)
    sys.stdin.readline()
    for i in range(30):
        log.append("x", i=i)
"""


def test_processes_threads_and_forked_children(path):
    """All at once, in one chain."""
    others = [
        subprocess.Popen(  # noqa: S603 (our own code)
            [sys.executable, "-c", WRITER, str(path), f"process {n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for n in range(2)
    ]
    with AuditLog(path, actor="threads") as log:
        for other in others:
            other.stdout.readline()
        child = os.fork()
        if child == 0:
            for i in range(30):
                log.append("x", actor="child", i=i)
            os._exit(0)
        for other in others:
            other.stdin.write(b"\n")
            other.stdin.flush()
        threads = [threading.Thread(target=lambda: [log.append("x", i=i) for i in range(30)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.waitpid(child, 0)[1] == 0
        for other in others:
            other.communicate()
            assert other.returncode == 0
        assert verify(path, log.head()).records == 180


FORKED = """
import os, signal, sys, threading
from gaudi3_rt.audit import AuditLog, verify
log = AuditLog(sys.argv[1], actor="a")
entered, go_on, sync = threading.Event(), threading.Event(), os.fsync
def slow(descriptor):
    if threading.current_thread() is not threading.main_thread():
        entered.set()
        go_on.wait(60)
    sync(descriptor)
os.fsync = slow
thread = threading.Thread(target=log.append, args=("thread",))
thread.start()
entered.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(60)
    log.append("child")
    os._exit(0)
go_on.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0, "the child waited for a lock that nobody has"
log.append("parent")
print(verify(sys.argv[1]).records)
"""


def test_a_fork_while_a_thread_writes(path):
    """The child has neither the thread that would unlock, nor the lock of its file."""
    done = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-c", FORKED, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


def test_verifying_while_a_record_is_half_written(path, monkeypatch):
    """A run that goes on is no crash: the reader waits for the writer, and reads what was there then."""
    results, begun, written, flock = [], threading.Event(), os.write, fcntl.flock

    def look():
        results.append(verify(path))
        begun.set()

    reader = threading.Thread(target=look)

    def flock_seen(file, operation):
        if threading.current_thread() is reader:
            begun.set()
        return flock(file, operation)

    def write_half(descriptor, data):
        half = written(descriptor, data[:50])
        reader.start()
        assert begun.wait(60)
        monkeypatch.setattr(os, "write", written)
        return half

    with AuditLog(path) as log:
        log.append("a")
        monkeypatch.setattr(fcntl, "flock", flock_seen)
        monkeypatch.setattr(os, "write", write_half)
        log.append("b")
        reader.join(60)
    assert [(one.ok, one.records) for one in results] == [(True, 2)]


def test_actor_is_the_user(path):
    """If none is given."""
    with AuditLog(path) as log:
        assert log.actor == subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607


def command(*arguments):
    """Exit status and output of ``gaudi3-rt audit-log verify``."""
    result = CliRunner().invoke(app, ["audit-log", "verify", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_command(path):
    """Says how far it is good, and where not."""
    head = write(path, 3)[-1]
    status, text = command(path)
    assert status == 0
    assert "3 records, all as they were written; no head was given, so the end is not checked" in text
    assert text.endswith(f"head {head}\n")
    assert "the given head is among them" in command(path, "--head", head)[1]
    status, text = command(path, "--head", "f" * 64)
    assert status == 1
    assert f"{path}:4: the anchored head is not in the file" in text
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":7'))
    status, text = command(path)
    assert status == 1
    assert f"{path}:2: its content is not what its hash was made of" in text
    assert "1 records before that are as they were written" in text
    status, text = command(path, "--json")
    assert (status, json.loads(text)["first_bad_line"]) == (1, 2)


def test_command_tells_of_torn_lines(path):
    """Which are no error."""
    write(path, 1)
    path.write_bytes(path.read_bytes()[:-5])
    assert "a crash while it was written" in command(path)[1]
    write(path, 1)
    status, text = command(path)
    assert status == 0
    assert f"{path}:1: begins with what a crash left of a record" in text


def test_command_with_wrong_arguments(path):
    """Is a usage error."""
    assert command(path)[0] == 2
    write(path, 1)
    status, text = command(path, "--head", "abc")
    assert status == 2
    assert "is not a hash" in text
