"""What ends a training script: its status, its advice, and what torchrun shows of it, with real processes."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from gaudi3_rt import errors

SCRIPT = """
import os, sys
from gaudi3_rt import errors

@errors.record
def main():
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        {failure}

if __name__ == "__main__":
    main()
"""
NO_MEMORY = 'raise RuntimeError("[Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::2048 (0)MB")'
BAD_CONFIGURATION = 'raise errors.InvalidConfigurationError("batch_size is -1; it has to be positive")'


# Runs scripts, each as the main module of a process of its own; torch is imported before these are forked, once.
FORKS = """
import json, os, runpy, sys
import gaudi3_rt.errors
ended = []
for path in sys.argv[1:]:
    with open(path + ".printed", "w") as printed:
        child = os.fork()
        if child == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            break
    ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    print(json.dumps(ended))
    sys.exit()
runpy.run_path(path, run_name="__main__")
"""


def python(folder, *arguments):
    """A process that torchrun did not start, in a folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "RANK", "PYTEST"))}
    return subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        timeout=300,
    )


@pytest.fixture
def run(tmp_path):
    """Runs the script in a process of its own: its status and what it printed."""

    def run(failure, *launcher):
        script = tmp_path / "train.py"
        script.write_text(SCRIPT.format(failure=failure), encoding="utf-8")
        done = python(tmp_path, *launcher, str(script))
        return done.returncode, done.stdout + done.stderr

    return run


def test_torchrun_shows_code_and_advice(run, tmp_path):
    """Its root-cause summary has the traceback, our code, and what to do; the error file has them as fields."""
    status, text = run(
        NO_MEMORY, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--log-dir={tmp_path / 'logs'}"
    )
    assert status == 1
    summary = text[text.index("Root Cause (first observed failure)") :]
    assert "Traceback (most recent call last)" in summary
    assert "HPUMemoryError, error 2002 (hardware)" in summary
    assert "try again: does not help without a change" in summary
    assert "  - use a smaller batch" in summary
    (path,) = re.findall(r"error_file: (\S+error\.json)", summary)
    content = json.loads(Path(path).read_text(encoding="utf-8"))["message"]
    assert content["message"].startswith("RuntimeError: [Rank:0] FATAL ERROR")
    assert content["message"].endswith("[error 2002]")
    assert content["extraInfo"]["timestamp"].isdigit()
    assert content["extraInfo"]["gaudi3_rt"]["classification"]["row"] == "device_allocation"
    assert content["extraInfo"]["gaudi3_rt"]["error"]["code"] == 2002


def test_torchrun_lists_the_status_of_a_configuration_error(run):
    """The worker ends with 78; torchrun says so, and ends with 1 itself."""
    status, text = run(BAD_CONFIGURATION, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert status == 1
    assert re.search(r"exitcode  : 78 ", text)
    assert "InvalidConfigurationError, error 1001" in text


STATUSES = {
    BAD_CONFIGURATION: 78,
    'raise AssertionError("Unknown backend type hccl")': 78,
    NO_MEMORY: 1,
    'raise KeyError("x")': 1,
    "sys.exit(75)": 75,
    "pass": 0,
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How the script ended with each failure: its status and what it printed."""
    folder = tmp_path_factory.mktemp("scripts")
    scripts = [folder / f"{n}.py" for n in range(len(STATUSES))]
    for script, failure in zip(scripts, STATUSES, strict=True):
        script.write_text(SCRIPT.format(failure=failure), encoding="utf-8")
    done = python(folder, "-c", FORKS, *map(str, scripts))
    assert done.returncode == 0, done.stderr
    printed = [Path(f"{script}.printed").read_text(encoding="utf-8") for script in scripts]
    return dict(zip(STATUSES, zip(json.loads(done.stdout), printed, strict=True), strict=True))


@pytest.mark.parametrize(("failure", "status"), STATUSES.items())
def test_status_without_torchrun(ended, failure, status):
    """78 for what needs another configuration, known by class or by text; others as ever."""
    found, text = ended[failure]
    assert found == status, text
    assert text.count("Traceback (most recent call last)") == (1 if "raise" in failure else 0)
    assert ("error 9001 (unknown)" in text) == ("KeyError" in failure)


def test_context_manager_and_async_functions(capsys, monkeypatch):
    """All forms record, and let the error go on."""
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)

    @errors.record()
    async def main(x):
        await asyncio.sleep(0)
        if x:
            raise OSError(28, "No space left on device")
        return 7

    assert asyncio.run(main(0)) == 7
    with pytest.raises(OSError, match="No space"):
        asyncio.run(main(1))
    with pytest.raises(OSError, match="No space"), errors.record():
        raise OSError(28, "No space left on device")
    assert capsys.readouterr().err.count("InsufficientStorageError, error 5002") == 2
    assert main.__name__ == "main"


def test_interrupts_are_not_touched(tmp_path, monkeypatch, capsys):
    """Ctrl-C and sys.exit write no error file."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    for kind in (KeyboardInterrupt, SystemExit):
        with pytest.raises(kind), errors.record():
            raise kind
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


def test_launcher_in_a_launcher_hands_the_file_on(tmp_path, monkeypatch):
    """A script that itself starts workers reports their first failure, not its own traceback."""
    child = tmp_path / "child.json"
    child.write_text(json.dumps({"message": {"message": "m", "extraInfo": {"py_callstack": "s", "timestamp": "5"}}}))
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "parent.json"))
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=9, error_file=str(child))
    with pytest.raises(ChildFailedError), errors.record():
        raise ChildFailedError("trainer", {0: failure})  # noqa: EM101 (its first argument is a name)
    content = json.loads((tmp_path / "parent.json").read_text())
    assert content["message"]["message"] == "m"
    assert content["message"]["errorCode"] == 9


def test_error_file_that_cannot_be_written_hides_nothing(tmp_path, monkeypatch, caplog):
    """The error goes on; the log says that torchrun will not show it."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "missing" / "error.json"))
    with pytest.raises(KeyError), errors.record():
        raise KeyError
    assert "torchrun will not show this error" in caplog.text


def test_error_file_has_no_secrets(tmp_path, monkeypatch):
    """Fields are redacted by name, texts and tracebacks by form, in it as everywhere."""
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    secret = "hunter" + str(22)
    failed = errors.ServiceUnavailableError(f"http://me:{secret}@host", context={"api_key": secret})
    failed.__cause__ = RuntimeError(f"password={secret}")
    with pytest.raises(errors.ServiceUnavailableError), errors.record():
        raise failed
    assert json.loads(path.read_text())["message"]["extraInfo"]["gaudi3_rt"]["error"]["code"] == 6002
    assert "hunter22" not in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["error.json"]
