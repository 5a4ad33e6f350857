"""``gaudi3-rt memory``: lines when piped, one line on a terminal, JSON, a summary, plans."""

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gaudi3_rt import memory
from gaudi3_rt.cli._app import app
from gaudi3_rt.testing import SoftwareHPU

COMMAND = [sys.executable, "-m", "gaudi3_rt.cli", "memory"]


def run(*arguments):
    """A command in this process."""
    return CliRunner().invoke(app, ["memory", *arguments])


def test_watch_piped_is_a_line_for_each_sample():
    """Data on stdout, the summary on stderr; no control characters."""
    done = run("watch", "--pid", str(os.getpid()), "--interval", "0.001", "--count", "3")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(f"process {os.getpid()}: " in line and " of " in line and "peak" in line for line in lines)
    assert "\x1b" not in done.stdout
    assert f"process {os.getpid()}: 3 samples in 0 s" in done.stderr
    assert "no leak seen" in done.stderr


def test_watch_as_json():
    """One object a line, with the schema of all devices."""
    done = run("watch", "--pid", str(os.getpid()), "--interval", "0.001", "--count", "2", "--json")
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(samples) == 2
    assert set(memory.MemoryStats.__dataclass_fields__) < set(samples[0])
    assert samples[0]["peak"] >= samples[0]["allocated"] > 10**7
    assert samples[0]["time"].endswith("Z")
    assert samples[0]["leak_bytes_per_second"] is None


def test_watch_without_a_process_is_the_machine():
    """All that is taken."""
    done = run("watch", "--count", "1")
    assert done.exit_code == 0
    assert "this machine: " in done.stdout


def test_watch_of_devices():
    """A line for each at each sample: all that is taken of it, marked as simulated; nothing is acquired."""
    with SoftwareHPU(count=3, memory="64 MiB") as hpu:
        first, _, last = hpu.devices()
        last.open()
        last.allocate("16 MiB")
        done = run("watch", "--device", "simulated:2,0", "--interval", "0.001", "--count", "2", "--json")
        assert not first.is_open
        text = run("watch", "--device", "simulated:2", "--count", "1")
    assert done.exit_code == 0, done.output
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["device"] for one in samples] == ["simulated:2", "simulated:0"] * 2
    assert [one["allocated"] for one in samples] == [16 << 20, 0] * 2
    assert {(one["limit"], one["simulated"]) for one in samples} == {(64 << 20, True)}
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == ["2 (simulated)", "0 (simulated)"]
    assert "simulated:2 (simulated): 16.00 MiB of 64.00 MiB (25 %), peak 16.00 MiB" in text.stdout
    assert "simulated:2 (simulated): 1 sample in 0 s" in text.stderr


def test_watch_of_a_device_that_tells_nothing():
    """Status 1 if none does; else the others are shown, and it is said which does not."""
    with SoftwareHPU(count=2, script="step 0: telemetry unavailable on rank 0") as hpu:
        assert hpu.devices()[0].telemetry().memory_used_bytes is None
        alone = run("watch", "--device", "simulated:0", "--count", "1")
        both = run("watch", "--device", "simulated", "--count", "1")
    silent = "the memory of simulated:0 cannot be read: its sensors do not answer"
    assert alone.exit_code == 1
    assert both.exit_code == 0
    assert silent in alone.stderr
    assert silent in both.stderr
    assert "simulated:1 (simulated): " in both.stdout


def test_watch_takes_devices_or_a_process():
    """Status 2 for both, and for what means nothing; 1 for what is not there."""
    assert run("watch", "--device", "cpu", "--pid", "1").exit_code == 2
    assert run("watch", "--device", "gpu:0").exit_code == 2
    missing = run("watch", "--device", "simulated:0")
    assert missing.exit_code == 1
    assert "is not there" in missing.stderr


def test_watch_ends_with_the_process():
    """Without --count; status 0, because something was seen."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        watching = subprocess.Popen(  # noqa: S603 (this Python)
            [*COMMAND, "watch", "--pid", str(child.pid), "--interval", "0.01"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first = watching.stdout.readline()
        child.communicate(b"\n", timeout=60)
    _, errors = watching.communicate(timeout=60)
    assert f"process {child.pid}" in first
    assert watching.returncode == 0
    assert re.search(rf"process {child.pid}: \d+ samples? in ", errors)


def test_watch_of_no_process_fails():
    """Status 1 and a sentence."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    done = run("watch", "--pid", str(child.pid), "--count", "1")
    assert done.exit_code == 1
    assert done.stderr == (
        f"the memory of process {child.pid} cannot be read: there is no such process, or it is not yours\n"
    )


def test_watch_on_a_terminal_keeps_one_line_and_ends_on_ctrl_c():
    """The line is drawn again in place; the summary comes on the interrupt, with status 0."""
    master, slave = pty.openpty()
    watching = subprocess.Popen(  # noqa: S603 (this Python)
        [*COMMAND, "watch", "--interval", "0.05"],
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "120"},
    )
    os.close(slave)
    seen = b""
    while seen.count(b"this machine: ") < 3:
        seen += os.read(master, 4096)
    watching.send_signal(signal.SIGINT)
    try:
        while True:
            seen += os.read(master, 4096)
    except OSError:  # the other end is closed
        pass
    _, errors = watching.communicate(timeout=60)
    os.close(master)
    assert watching.returncode == 0
    assert "this machine: " in errors
    assert "samples in" in errors
    assert "Traceback" not in errors
    assert b"\x1b[2K" in seen  # a line is cleared before it is drawn again
    assert b"\x1b[1;31m" not in seen


def test_plan_says_whether_it_fits():
    """7 G parameters in bfloat16 with 8-bit moments: 2 + 2 + 2 + 1/64 bytes each, or so."""
    done = run("plan", "--params", "7B", "--option", "moments_dtype=int8", "--option", "rounding=stochastic")
    assert done.exit_code == 0, done.output
    assert "exp_avg_codes" in done.stdout
    assert "gaudi3: fits: 39" in done.stdout
    assert "gaudi2: fits: 39" in done.stdout
    assert "activations are not included" in done.stdout


def test_plan_of_as_many_parameters_as_can_be_counted():
    """All that is kept is still a number of bytes."""
    done = run("plan", "--params", "1e15", "--dtype", "float64", "--optimizer", "torch.AdamW")
    assert done.exit_code == 0, done.output
    assert "gaudi3: does not fit: 28" in done.stdout


def test_plan_as_json_and_its_status():
    """Status 1 if it does not fit into the device that was asked for; shards divide."""
    wanted = ["plan", "--params", "70e9", "--optimizer", "torch.AdamW", "--device", "gaudi3", "--json"]
    done = run(*wanted)
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["total"] >= 70e9 * (2 + 2 + 2 + 2)
    assert found["fits"]["gaudi3"]["fits"] is False
    shared = run(*wanted, "--shards", "8")
    assert shared.exit_code == 0
    assert json.loads(shared.stdout)["kept"] == pytest.approx(found["kept"] / 8, rel=1e-4)


def test_plan_takes_a_model_of_many_matrices():
    """A step that makes copies of one tensor at a time does not need as much as the whole model."""
    done = run("plan", "--params", "7B", "--optimizer", "torch.AdamW", "--json")
    items = {one["name"] or one["kind"]: one for one in json.loads(done.stdout)["items"]}
    assert items["parameters"]["tensors"] > 1
    assert items["parameters"]["bytes"] == pytest.approx(14e9, rel=1e-4)
    largest = items["parameters"]["bytes"] // items["parameters"]["tensors"]
    assert largest <= items["step workspace"]["bytes"] <= 4 * largest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--params", "seven"], "no number of parameters"),
        (["--params", "0"], "no number of parameters"),
        (["--params", "1e400"], "from 1 to 1e+15"),
        (["--params", "1.1e15"], "from 1 to 1e+15"),
        (["--params", "7e9", "--optimizer", "Adamant"], "known are FusedAdagrad"),
        (["--params", "7e9", "--optimizer", "os.path"], "no optimizer"),
        (["--params", "7e9", "--option", "moments_dtype"], "not KEY=VALUE"),
    ],
)
def test_plan_checks_its_arguments(arguments, message):
    """Status 2 and what is allowed."""
    done = run("plan", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_plan_passes_on_what_the_optimizer_refuses():
    """Status 2 and its sentence; 1 is for what does not fit."""
    done = run("plan", "--params", "7e9", "--option", "moments_dtype=int4", "--device", "gaudi3")
    assert done.exit_code == 2
    assert done.stderr.startswith("error 4001: the optimizer cannot be made")
    assert "moments_dtype" in done.stderr
    assert "Traceback" not in done.stderr
