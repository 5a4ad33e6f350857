"""What every error carries, code, advice and facts; and that it keeps them in copies, pickles and JSON."""

import copy
import enum
import json
import multiprocessing
import pickle
import threading
import traceback
from pathlib import Path

import pytest
import torch

from gaudi3_rt import errors

CLASSES = list(errors.codes().values())

# Codes are in logs, dashboards and scripts: none may ever mean something else.
CODES = {
    1000: "ConfigurationError",
    1001: "InvalidConfigurationError",
    1002: "MissingConfigurationError",
    2000: "HardwareError",
    2001: "HPUNotAvailableError",
    2002: "HPUMemoryError",
    2003: "HPUDriverError",
    3000: "TrainingError",
    3001: "TrainingStepError",
    3002: "GradientOverflowError",
    3003: "OptimizerError",
    4000: "ValidationError",
    4001: "ParameterValidationError",
    4002: "DataValidationError",
    5000: "ResourceError",
    5001: "InsufficientMemoryError",
    5002: "InsufficientStorageError",
    6000: "NetworkError",
    6001: "NetworkConnectionError",
    6002: "ServiceUnavailableError",
    7000: "CheckpointError",
    7001: "CheckpointCorruptError",
    7002: "CheckpointNotFoundError",
    9000: "Gaudi3RTError",
    9001: "UnrecognizedError",
}


def test_codes_are_stable_and_unique():
    """Every exported class has a code of its own, within its category's thousand."""
    kinds = errors.codes()
    assert {code: kinds[code].__name__ for code in CODES} == CODES
    exported = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Gaudi3RTError)
    }
    assert exported == set(CLASSES)
    assert len({kind.code for kind in exported}) == len(exported)
    for kind in exported:
        assert 1000 <= kind.code <= 9999
        assert len({other.category for other in exported if other.code // 1000 == kind.code // 1000}) == 1


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_gives_advice(kind):
    """Besides the base, which knows nothing; only what waits on others is retryable by itself."""
    assert kind.__doc__
    assert kind.default_suggestions or kind is errors.Gaudi3RTError
    assert kind.default_retryable == issubclass(kind, errors.NetworkError)
    assert kind.__module__ == "gaudi3_rt.errors"


def made(kind):
    """An error with everything."""
    error = kind("it broke", context={"step": 12}, suggestions=["mend it"], retryable=True)
    error.__cause__ = RuntimeError("outer cause")
    error.__cause__.__cause__ = errors.CheckpointError("inner", context={"shard": 3})
    error.__cause__.__cause__.__context__ = OSError(28, "full")
    return error


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])  # noqa: S301
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_copies_keep_everything(kind, twin):
    """Also the causes, which Python's own pickling of exceptions drops."""
    error = made(kind)
    error.extra = "more"
    other = twin(error)
    assert other is not error
    assert type(other) is kind
    assert other.to_dict() == error.to_dict()
    assert [cause["type"] for cause in other.to_dict()["causes"]] == ["RuntimeError", "CheckpointError", "OSError"]
    assert (other.suggestions, other.retryable, other.extra, str(other)) == (("mend it",), True, "more", str(error))
    assert other.__cause__.__cause__.context == {"shard": 3}
    assert other.__suppress_context__ is True
    other.context["step"] = 13
    assert error.context == {"step": 12}


def test_named_arguments_survive():
    """A class with a constructor of its own."""
    error = errors.HPUNotAvailableError("too few", 8, ["hpu:0"], context={"host": "a"})
    other = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    assert (other.requested_devices, other.available_devices) == (8, ("hpu:0",))
    assert other.context == {"requested_devices": 8, "available_devices": ["hpu:0"], "host": "a"}


class Unpicklable(Exception):  # noqa: N818 (a name of somebody else's)
    """Pickles, but cannot be loaded: its constructor wants more than the message."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def test_what_cannot_be_pickled_becomes_text():
    """One lock in the context, or one foreign cause, does not lose the error."""
    error = errors.TrainingStepError("x", context={"lock": threading.Lock(), "step": 1})
    error.__cause__ = Unpicklable("this", "that")
    other = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    assert other.context["step"] == 1
    assert "lock" in other.context["lock"]
    assert str(other.__cause__) == "Unpicklable: this and that"


def test_cycle_of_causes_is_bounded():
    """A chain that comes back to itself, in dictionaries and in pickles."""
    a, b = errors.NetworkError("a"), errors.NetworkError("b")
    a.__cause__, b.__cause__ = b, a
    assert [cause["message"] for cause in a.to_dict()["causes"]] == ["b"]
    assert [cause["message"] for cause in pickle.loads(pickle.dumps(a)).to_dict()["causes"]] == ["b"]  # noqa: S301
    long = errors.NetworkError("start")
    last = long
    for i in range(100):
        last.__context__ = ValueError(i)
        last = last.__context__
    assert len(long.to_dict()["causes"]) == 20


def fail(queue):
    """In another process."""
    queue.put(made(errors.HPUMemoryError))


def test_error_crosses_processes():
    """As torch.multiprocessing and data-loader workers hand them over."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=fail, args=(queue,))
    process.start()
    error = queue.get(timeout=120)
    process.join()
    queue.close()
    queue.join_thread()
    assert error.to_dict() == made(errors.HPUMemoryError).to_dict()


class Colour(enum.IntEnum):
    """Some enum."""

    RED = 3


class Broken:
    """A value that cannot be shown."""

    def __str__(self):  # noqa: D105 (fails)
        raise ValueError


def test_to_dict_is_json_whatever_the_context():
    """Bounded text for what JSON lacks; no numbers of tensors, no cycles."""
    cyclic = {"name": "c"}
    cyclic["self"] = cyclic
    deep = []
    for _ in range(1000):
        deep = [deep]
    error = errors.DataValidationError(
        "x" * 100_000,
        context={
            "tensor": torch.arange(1000.0, dtype=torch.bfloat16),
            "scalar": torch.tensor(float("nan")),
            "array": torch.arange(3).numpy(),
            "number": torch.arange(3).numpy()[0],
            "path": Path("/data/x"),
            "bytes": b"\xff\x00abc",
            "enum": Colour.RED,
            "nan": float("nan"),
            "inf": float("-inf"),
            "cyclic": cyclic,
            "deep": deep,
            "long": list(range(100_000)),
            "wide": {i: i for i in range(1000)},
            "text": "y" * 1_000_000,
            "set": {1},
            "huge": 10**5000,
            "surrogate": "\ud800",
            "broken": Broken(),
            "error": KeyError("k"),
            7: "number as a name",
        },
    )
    text = json.dumps(error.to_dict(), allow_nan=False)
    assert len(text) < 40_000
    shown = json.loads(text)["context"]
    assert shown["tensor"] == "Tensor(shape=(1000,), dtype=torch.bfloat16, device=cpu)"
    assert shown["array"].startswith("ndarray(shape=(3,), dtype=int64")
    assert shown["path"] == "/data/x"
    assert shown["enum"] == "Colour.RED"
    assert shown["nan"] == "nan"
    assert shown["cyclic"] == {"name": "c", "self": "<the same object again>"}
    assert shown["long"][:2] == [0, 1]
    assert shown["long"][-1] == "... 99950 more"
    assert shown["wide"]["..."] == "950 more"
    assert shown["huge"].startswith("<integer of ")
    assert "cannot be had" in shown["broken"]
    assert shown["error"] == "KeyError: 'k'"
    assert shown["7"] == "number as a name"
    assert error.to_dict()["message"].endswith("(98000 more characters)")


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter22",
        "https://me:hunter22@host/x failed",
        "Authorization: Basic dXNlcjpodW50ZXIyMg==",
        "named",
    ],
)
@pytest.mark.parametrize("place", ["message", "suggestion", "context", "key", "cause", "our cause"])
def test_secrets_do_not_appear(place, text):
    """In fields by name, at any depth, and in texts by their form, wherever one can stand."""
    context = {"api_key": "hunter22", "request": {"password": "hunter22"}} if text == "named" else {}
    message, suggestion = ("x " + text if place == name else "x" for name in ("message", "suggestion"))
    context |= {"context": {"note": [text]}, "key": {text: 1}}.get(place, {})
    error = errors.ServiceUnavailableError(message, context=context, suggestions=[suggestion])
    if place == "cause":
        error.__cause__ = RuntimeError(text)
    elif place == "our cause":
        error.__cause__ = errors.NetworkError(text, context=context)
    outer = RuntimeError("outer")
    outer.__cause__ = error
    for shown in (
        json.dumps(error.to_dict()),
        error.describe(),
        json.dumps(errors.classify(error).to_dict()),
        json.dumps(errors.classify(f"train: {error}").to_dict()),
        errors.from_exception(outer).describe(),
        pickle.loads(pickle.dumps(error)).describe(),  # noqa: S301 (our own)
    ):
        assert "hunter22" not in shown
        assert "dXNlcjpodW50ZXIyMg" not in shown


def test_reading():
    """One line in a traceback, with the code at its end; all of it in describe."""
    failed = errors.InsufficientStorageError("step-000123 was not saved", context={"free_bytes": 0})
    failed.__cause__ = OSError(28, "No space left on device")
    last = traceback.format_exception(type(failed), failed, None)[-1]
    described = failed.describe().splitlines()
    assert last == "gaudi3_rt.errors.InsufficientStorageError: step-000123 was not saved [error 5002]\n"
    assert described == [
        "InsufficientStorageError, error 5002 (resource): step-000123 was not saved",
        "  free_bytes: 0",
        "  caused by OSError: [Errno 28] No space left on device",
        "  try again: does not help without a change",
        "  - Run: df -h and df -i on the named folder, and quota -s",
        "  - Keep fewer checkpoints, or write to another file system",
    ]


def test_reading_of_a_table():
    """A fact of several lines stays one, of bounded size; everything else is in one line, and says if it is cut."""
    table = "who    bytes\n------ -----\n\nparams    12  \n"
    facts = {"report": table, "rows": "\n".join(map(str, range(25))), "long": "x" * 400, "two\nlines": 1}
    failed = errors.InsufficientMemoryError("full", context=facts, suggestions=())
    failed.__cause__ = RuntimeError("one\ntwo " + "y" * 400)
    assert failed.describe().splitlines()[1:] == [
        "  report:",
        "    who    bytes",
        "    ------ -----",
        "",
        "    params    12",
        "  rows:",
        *(f"    {n}" for n in range(20)),
        "    ... (5 more lines)",
        f"  long: {'x' * 300}...",
        "  two lines: 1",
        f"  caused by RuntimeError: one two {'y' * 292}...",
        "  try again: does not help without a change",
    ]


def test_arguments_are_value_errors():
    """What is wrong with an argument can be caught as Python's own functions raise it."""
    assert issubclass(errors.ParameterValidationError, ValueError)
    assert issubclass(errors.DataValidationError, ValueError)
