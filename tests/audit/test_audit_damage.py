"""Whatever was changed, cut off or torn by a crash is found out, and nothing is written behind it."""

import errno
import json
import os
import random

import pytest
from _written import write
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt.audit import AuditLog, _chain, verify
from gaudi3_rt.errors import DataValidationError, InsufficientStorageError, ParameterValidationError


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
