"""The classifier against messages that were really seen: each row is reached, and nothing harmless is an error."""

import asyncio
import builtins
import errno
import inspect
import json
import socket
import ssl
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.rendezvous import RendezvousTimeoutError

from gaudi3_rt import errors
from gaudi3_rt.errors._classify import ROWS
from gaudi3_rt.testing import _messages

MESSAGES = json.loads(Path(__file__).with_name("messages.json").read_text(encoding="utf-8"))

BENIGN = """
2026-11-22 10:00:00 | INFO | step 137 loss 2.3026 lr 0.0003 grad_norm 1.0 tokens/s 50231
{'loss': 1.37, 'grad_norm': 0.42, 'learning_rate': 2.6e-05, 'epoch': 0.26}
epoch 3/10:  26%|##6       | 137/512 [00:20<01:12,  5.03it/s, loss=0.503]
memory: allocated 14.49 GB, reserved 98.62 GB, peak 20.1 GB, limit 98.62 GB
saved checkpoint step-000503 in 12.2 s to /data/checkpoints (1.2 GB free of 2 TB on device)
Device: hpu, 8 devices found, driver 1.24.2, synStatus 0 [Success].
error: 0.0502, accuracy: 0.9429, code: 200, status: 200
HTTP Request: GET https://example.invalid/model "HTTP/1.1 200 OK"
exit code: 0
exitcode  : 1 (pid: 1370)
[rank0]:[W1122 ProcessGroup.cpp:42] Warning: using gloo, timeout 1800 s
PT_HPU_LAZY_MODE = 0, PT_HPU_RECIPE_CACHE_CONFIG = /tmp/cache,false,1024
gradient clipping at 1.0; gradients are accumulated over 8 steps
validation error 0.137, memory error rate 0
Loading checkpoint shards: 100%|##########| 503/503
connected to 10.0.0.2:29500 as rank 1 of 16
warmup 26 steps; compiled 26 graphs in 31 s
""".strip().splitlines()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m["row"])
def test_message(message):
    """Its row and class are those that it is labelled with."""
    found = errors.classify(message["text"])
    assert (found.row, found.error.__name__) == (message["row"], message["error"])
    assert found.recognized
    assert found.matched
    assert found.matched.split("\n")[0] in message["text"]


def test_every_row_is_reached_and_explained():
    """No row is shadowed by one before it, and none lacks a word of what it says."""
    assert {message["row"] for message in MESSAGES} == {row.id for row in ROWS}
    assert len({row.id for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.cause.endswith((".", "say.")), row.id
        assert row.next_command, row.id
        assert row.source, row.id
    assert all(message["source"] for message in MESSAGES)


@pytest.mark.parametrize("line", BENIGN)
def test_ordinary_lines_are_not_recognised(line):
    """Progress, metrics and successes, with the numbers of status codes in them."""
    assert not errors.classify(line).recognized, errors.classify(line)


def test_status_26_has_several_causes():
    """The code alone says nothing; what stands beside it does."""
    rows = {errors.classify(message["text"]).row for message in MESSAGES if "26 [Gener" in message["text"]}
    assert rows == {"acquire_generic_failure", "graph_compile_failed", "node_create_failed", "syn_status_26"}


def test_what_passes_and_what_does_not():
    """A busy device may be had later; one of an unknown kind never."""
    assert errors.classify("synStatus=20 [Device already acquired]").retryable
    assert not errors.classify("Invalid server type (4[OCP1]): failed with synapse error: 20").retryable
    assert not errors.classify("synStatus=26 [Generic failure] Device acquire failed.").retryable
    assert errors.classify(ConnectionResetError()).retryable
    assert not errors.classify("gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer").retryable
    for message in MESSAGES:
        found = errors.classify(message["text"])
        if issubclass(found.error, errors.HPUMemoryError | errors.InsufficientMemoryError):
            assert not found.retryable, message


@pytest.mark.parametrize("status", _messages.STATUS)
def test_what_the_software_hpu_says_is_recognised(status):
    """Code that users test with it meets the classes that it would meet on a Gaudi."""
    (row,) = [row for row in ROWS if row.id == f"syn_status_{status}"]
    assert row.cause.startswith(_messages.STATUS[status])
    acquired = errors.classify(RuntimeError(_messages.acquire_failed(status)))
    launched = errors.classify(RuntimeError(_messages.launch_failed(status, rank=3)))
    special = {_messages.GENERIC: ("acquire_generic_failure", "graph_compile_failed")}
    assert (acquired.row, launched.row) == special.get(status, (row.id, row.id))
    assert acquired.retryable == (status in {17, 20, 22})


def test_what_the_software_hpu_says_of_memory_is_recognised():
    """A tensor and a workspace; and no message of its is left out of these tests."""
    allocation = errors.classify(_messages.allocation_failed(1 << 30, rank=3))
    workspace = errors.classify(_messages.workspace_failed(1 << 30, rank=3))
    assert (allocation.row, workspace.row) == ("device_allocation", "workspace_allocation")
    assert allocation.error is workspace.error is errors.HPUMemoryError
    assert {name for name, value in vars(_messages).items() if inspect.isfunction(value)} == {
        "acquire_failed", "launch_failed", "allocation_failed", "workspace_failed",
    }  # fmt: skip


def test_unknown_is_said_to_be_unknown():
    """No guess, no retry."""
    for unknown in ("", "something new went wrong", KeyError("x"), ValueError("loss is 3")):
        found = errors.classify(unknown)
        assert (found.code, found.retryable, found.recognized) == (9001, False, False)
        assert found.cause == "Not recognised."
    assert "KeyError" in errors.classify(KeyError("x")).matched


@pytest.mark.parametrize(
    ("exception", "row"),
    [
        (OSError(errno.ENOSPC, "Kein Speicherplatz"), "disk_full"),
        (OSError(errno.EDQUOT, ""), "quota"),
        (OSError(errno.EROFS, ""), "read_only"),
        (PermissionError(errno.EACCES, ""), "permission"),
        (OSError(errno.EMFILE, ""), "open_files"),
        (MemoryError(), "host_memory"),
        (torch.OutOfMemoryError("x"), "device_allocation"),
        (BrokenPipeError(), "connection"),
        (TimeoutError(), "connection"),
        (asyncio.TimeoutError(), "connection"),
        (socket.gaierror(-2, ""), "name_resolution"),
        (OSError(errno.EADDRINUSE, ""), "address_in_use"),
        (RendezvousTimeoutError(), "rendezvous"),
        (FloatingPointError(), "gradients_not_finite"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_exceptions_are_known_by_class_and_errno(exception, row):
    """In every language: no text is needed."""
    assert errors.classify(exception).row == row


def test_names_of_exception_classes_exist():
    """A row that names a class of torch, Python or pyhlml names one that is there."""
    import importlib  # noqa: PLC0415 (only this test)

    for row in ROWS:
        for name in row.types:
            module, _, attribute = name.rpartition(".")
            if module in {"pyhlml.hlml_error", "safetensors_rust"}:
                continue  # made when their libraries are loaded
            assert issubclass(getattr(importlib.import_module(module or "builtins"), attribute), Exception), name
        for name in row.errnos:
            assert hasattr(errno, name)


def test_causes_are_asked_when_the_exception_says_nothing():
    """By ``from`` and without it, but not what was suppressed."""

    def save():
        raise OSError(errno.ENOSPC, "full")

    def raised(how):
        failed = RuntimeError("cannot save")
        try:
            try:
                save()
            except OSError as full:
                if how == "context":
                    raise failed  # noqa: B904 (the case at hand)
                raise failed from (full if how == "from" else None)
        except RuntimeError as error:
            return error

    assert errors.classify(raised("from")).row == "disk_full"
    assert errors.classify(raised("context")).row == "disk_full"
    assert not errors.classify(raised("none")).recognized


class _BackportGroupError(Exception):
    """A group as the package exceptiongroup has them for Python 3.10."""

    def __init__(self, message, exceptions):
        super().__init__(message, exceptions)
        self.exceptions = tuple(exceptions)


_BackportGroupError.__module__, _BackportGroupError.__qualname__ = "exceptiongroup", "BaseExceptionGroup"
GROUPS = [kind for kind in (getattr(builtins, "ExceptionGroup", None), _BackportGroupError) if kind]


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_means_its_most_telling_member(group):
    """What does not pass, before what does; what others follow from, before these; a retry has to help all of them."""
    full, reset, bug = OSError(errno.ENOSPC, "full"), ConnectionResetError(), KeyError("lr")
    ours = errors.CheckpointCorruptError("step-7 is damaged")
    lost = RuntimeError("gloo/transport/tcp/pair.cc:1 Connection reset by peer")
    for members, wanted, retryable in (
        ([reset, full], (5002, "disk_full"), False),
        ([lost, full], (5002, "disk_full"), False),
        ([full, ours], (7001, ""), False),
        ([RuntimeError("hcclSocketError"), ssl.SSLCertVerificationError()], (6000, "certificate"), False),
        ([reset, TimeoutError()], (6001, "connection"), True),
        ([reset, bug], (6001, "connection"), False),
        ([bug, group("inner", [bug, group("innermost", [full])])], (5002, "disk_full"), False),
    ):
        found = errors.classify(group("unhandled errors in a TaskGroup", members))
        assert (found.code, found.row, found.retryable) == (*wanted, retryable)
    assert errors.classify(group("x", [reset, full, OSError(errno.ENOSPC, "b")])).matched == "OSError: [Errno 28] full"
    assert not errors.classify(group("Connection reset by peer", [bug])).recognized
    assert "member: OSError: [Errno 28] full" in errors.from_exception(group("x", [reset, full])).describe()


@pytest.mark.parametrize("group", GROUPS)
def test_groups_among_causes(group):
    """They are asked like other causes; a member that is raised again while its group is handled ends the search."""
    outer, bug = RuntimeError("outer"), KeyError("lr")
    outer.__cause__ = group("inner", [bug, OSError(errno.ENOSPC, "full")])
    assert errors.classify(outer).row == "disk_full"
    bug.__context__ = group("x", [bug])  # as "raise caught.exceptions[0]" sets it
    assert not errors.classify(bug).recognized
    deep = OSError(errno.ENOSPC, "full")
    for _ in range(2000):
        deep = group("z", [deep])
    assert not errors.classify(deep).recognized
    failed = group("y", [bug])
    failed.__context__ = OSError(errno.ENOSPC, "full")
    assert errors.classify(failed).row == "disk_full"


def test_our_errors_are_known_as_objects_and_as_text():
    """An instance speaks for itself; a line of a log is known by the code in it."""
    error = errors.HPUMemoryError("full", suggestions=["smaller"], retryable=False)
    found = errors.classify(error)
    assert (found.error, found.cause, found.next_command, found.source) == (
        errors.HPUMemoryError,
        "full",
        "smaller",
        "gaudi3_rt",
    )
    assert errors.classify(f"train.py: {error}").code == 2002
    assert errors.classify(errors.NetworkConnectionError("gone", retryable=False)).retryable is False


def test_from_exception():
    """Ours, with the foreign one as its cause; ours stay themselves."""
    foreign = RuntimeError("synStatus=20 [Device already acquired] Device acquire failed.")
    ours = errors.from_exception(foreign)
    assert type(ours) is errors.HPUNotAvailableError
    assert ours.__cause__ is foreign
    assert ours.retryable
    assert "Device already acquired" in ours.message
    assert ours.context["row"] == "syn_status_20"
    assert ours.suggestions[0].startswith("gaudi3-rt devices")
    assert errors.from_exception(ours) is ours
    assert type(errors.from_exception(KeyError("x"))) is errors.UnrecognizedError


def test_a_whole_log_is_bounded_and_shows_the_line():
    """The first 100,000 and the last 100,000 characters are read, and only the line that matched is shown."""
    line = "RuntimeError: [Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::268435456 (256)MB"
    log = "step 1 loss 2.0\n" * 50_000 + line + "\nbye\n"
    found = errors.classify(log)
    assert found.row == "device_allocation"
    assert found.matched == line
    assert len(errors.classify("x" * 10_000 + "MemoryError " + "y" * 10_000).matched) < 400


def test_an_exception_without_a_text():
    """One whose ``str`` fails is unknown, and nothing breaks."""

    class BrokenError(Exception):
        def __str__(self):
            raise ValueError

    assert not errors.classify(BrokenError()).recognized
    assert "BrokenError" in str(errors.from_exception(BrokenError()))
