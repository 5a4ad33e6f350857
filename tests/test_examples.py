"""The examples train, compare, report, can be stopped and refuse nonsense."""

import importlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from gaudi3_rt.monitor import read_history

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = ("--width=32", "--layers=1", "--heads=2", "--context=32", "--batch-size=4", "--threads=1")
LIMIT = 240  # seconds for one process: a slow machine that also builds matplotlib's font cache


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Caches go where pytest cleans up; one place for all tests, because matplotlib's takes seconds to build."""
    return {**os.environ, "MPLCONFIGDIR": str(tmp_path_factory.mktemp("matplotlib"))}


@pytest.fixture(scope="module")
def load(environment):
    """Loads a script as a module: importing torch anew for every bad value would take a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", environment["MPLCONFIGDIR"])
        patch.syspath_prepend(EXAMPLES)  # where the scripts find their model
        yield importlib.import_module


def command(script, *arguments):
    """The command line of a script."""
    return [sys.executable, str(EXAMPLES / script), *arguments]


def run(environment, folder, script, *arguments):
    """Runs it to its end."""
    return subprocess.run(  # noqa: S603
        command(script, *arguments),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def check_report(folder, stdout, steps):
    """Table, JSON and plot are there and agree; returns the facts."""
    facts = json.loads((folder / "train_stdlib.json").read_text(encoding="utf-8"))
    assert facts["finished_steps"] == steps
    reference, ours = facts["runs"]["torch"], facts["runs"]["gaudi3_rt"]
    for result in (reference, ours):
        assert all(len(result[key]) == steps for key in ("losses", "tail_ms", "step_ms"))
        assert all(map(math.isfinite, [*result["losses"], result["train_loss"], result["validation_loss"]]))
        assert all(ms > 0 for ms in result["tail_ms"])
        assert f"{result['train_loss']:.4f}" in stdout
        assert f"{result['validation_loss']:.4f}" in stdout
        assert f"{result['tail_median_ms']:.3f}" in stdout
    assert {"platform", "cpus", "torch", "isa", "threads"} <= facts["machine"].keys()
    difference = max(abs(a - b) for a, b in zip(reference["losses"], ours["losses"], strict=True))
    assert facts["comparison"]["largest_loss_difference"] == difference
    assert f"{difference:.2g} (step" in stdout

    check_picture(folder / "train_stdlib.png")
    for name in ("train_stdlib.json", "train_stdlib.png"):
        assert f"wrote {folder / name}" in stdout
    return facts


def check_picture(path):
    """It is a picture of a readable size, and not an empty one."""
    picture = path.read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture[12:16] == b"IHDR"
    assert picture[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", picture[16:24])
    assert width >= 800
    assert height >= 400
    assert len(picture) > 10_000  # an empty canvas of this size compresses to less


def test_both_runs_agree(environment, tmp_path):
    """The first losses are equal, the others nearly so, and the report says it."""
    done = run(environment, tmp_path, "train_stdlib.py", *SMALL, "--steps=6", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "step 6/6: loss" in done.stderr
    facts = check_report(tmp_path, done.stdout, 6)
    reference, ours = facts["runs"]["torch"], facts["runs"]["gaudi3_rt"]
    assert ours["losses"][0] == reference["losses"][0]  # same weights, same batch, no update yet
    assert 4.5 < ours["losses"][0] < 5.2  # a uniform guess among 129 characters costs ln 129 = 4.86
    assert len(set(ours["losses"])) == 6
    assert facts["comparison"]["largest_loss_difference"] < 1e-4
    assert abs(ours["validation_loss"] - reference["validation_loss"]) < 1e-4


def test_same_seed_same_curve(load, tmp_path, monkeypatch):
    """A seed decides everything."""
    curves = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = [*SMALL, "--steps=3", f"--seed={seed}", f"--out={tmp_path / name}"]
        monkeypatch.setattr(sys, "argv", ["train_stdlib.py", *arguments])
        assert load("train_stdlib").main() == 0
        facts = json.loads((tmp_path / name / "train_stdlib.json").read_text(encoding="utf-8"))
        curves.append([facts["runs"][run]["losses"] for run in ("torch", "gaudi3_rt")])
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_interrupt_still_reports(environment, tmp_path):
    """Ctrl-C ends the training after a step, reports what was done, and exits with 130."""
    arguments = command("train_stdlib.py", *SMALL, "--steps=1000000", f"--out={tmp_path}")
    with subprocess.Popen(  # noqa: S603
        arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        guard = threading.Timer(LIMIT, process.kill)  # reading a pipe has no timeout of its own
        guard.start()
        try:
            seen = []
            for line in process.stderr:
                seen.append(line)
                if line.startswith("step 10/"):
                    process.send_signal(signal.SIGINT)
                    break
            stdout, stderr = process.communicate()
        finally:
            guard.cancel()
            process.kill()
    assert process.returncode == 130, "".join(seen) + stderr
    assert "Traceback" not in stderr
    facts = json.loads((tmp_path / "train_stdlib.json").read_text(encoding="utf-8"))
    steps = facts["finished_steps"]
    assert 10 <= steps < 1_000_000
    assert f"stopped by Ctrl-C after {steps} of 1000000 steps" in stdout
    check_report(tmp_path, stdout, steps)


def test_storages_are_compared(environment, tmp_path):
    """Each storage is trained on what float32 is trained on; table, JSON and plot agree, and do so again."""
    reports = []
    for name in ("a", "b"):
        arguments = ["--steps=4", "--seeds=2", "--workers=1", "--storage", "bf16-stochastic-int8", "bf16-split"]
        done = run(environment, tmp_path, "compare_storage.py", *arguments, f"--out={name}")
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        check_picture(tmp_path / name / "compare_storage.png")
        reports.append((done.stdout.replace(f"wrote {name}", "wrote"), json.loads(_read(tmp_path / name))))
    (stdout, facts), again = reports
    facts["settings"].pop("out")
    again[1]["settings"].pop("out")
    assert (stdout, facts) == again

    runs, summaries = facts["runs"], facts["summaries"]
    assert list(runs) == ["float32", "bf16-stochastic-int8", "bf16-split"]
    for name, its in runs.items():
        assert [len(run["losses"]) for run in its] == [4, 4]
        differences = [
            ours["validation_loss"] - theirs["validation_loss"]
            for ours, theirs in zip(its, runs["float32"], strict=True)
        ]
        assert summaries[name]["differences"] == differences
        # Rounding moves the first loss by a thousandth; another batch or other weights by a hundredth and more.
        firsts = [(ours["losses"][0], theirs["losses"][0]) for ours, theirs in zip(its, runs["float32"], strict=True)]
        assert all(abs(ours - theirs) < 2e-3 for ours, theirs in firsts)
        assert f"{summaries[name]['mean_loss']:.4f}" in stdout
    assert runs["float32"][0]["losses"] != runs["float32"][1]["losses"]
    spread = abs(runs["float32"][0]["validation_loss"] - runs["float32"][1]["validation_loss"]) / 2**0.5
    assert summaries["float32"]["spread"] == pytest.approx(spread)
    its = summaries["bf16-split"]
    assert its["in_spreads"] == pytest.approx(sum(its["differences"]) / 2 / spread)
    # Exactly for split and float32; vectors keep float32 moments beside int8.
    assert summaries["float32"]["bytes_per_parameter"] == 12
    assert summaries["bf16-split"]["bytes_per_parameter"] == 12
    assert 4.0625 < summaries["bf16-stochastic-int8"]["bytes_per_parameter"] < 4.2


def test_bits_do_not_depend_on_processes(environment, load, tmp_path, monkeypatch, capsys):
    """As many processes under torchrun as there are logical shards print what one process does, to the last digit."""
    world = 2  # tests/reduce/test_tree_under_torchrun.py has other numbers
    arguments = [*SMALL, "--steps=3", f"--shards={world}"]
    script = [str(EXAMPLES / "train_distributed.py"), *arguments]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(  # noqa: S603
        [*launcher, *script],
        cwd=tmp_path,
        env={**environment, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert f"{world} logical shards on {world} processes" in done.stderr
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines()[:-1]]
    assert 4.5 < losses[0] < 5.2
    assert len(set(losses)) == 3

    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", script)
    try:
        assert load("train_distributed").main() == 0
    finally:
        torch.set_num_threads(threads)
    alone = capsys.readouterr()
    assert f"{world} logical shards on 1 process\n" in alone.err
    assert alone.out == done.stdout


def _read(folder):
    return (folder / "compare_storage.json").read_text(encoding="utf-8")


def test_more_processes_than_shards(load, monkeypatch, capsys):
    """Each process needs a shard."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit) as error:
        load("train_distributed").parse(["--shards=2"])
    assert error.value.code == 2
    assert capsys.readouterr().err.endswith("error: --shards 2 for 3 processes: each needs at least one\n")


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("train_stdlib", ["--steps=0"], "argument --steps: '0' given, must be a whole number >= 1"),
        ("train_stdlib", ["--batch-size=2.5"], "argument --batch-size: '2.5' given, must be a whole number >= 1"),
        ("train_stdlib", ["--context=5000"], "argument --context: '5000' given, must be a whole number from 1 to 1024"),
        ("train_stdlib", ["--lr=-0.1"], "argument --lr: '-0.1' given, must be a finite number > 0"),
        ("train_stdlib", ["--lr=nan"], "argument --lr: 'nan' given, must be a finite number > 0"),
        (
            "train_stdlib",
            ["--max-grad-norm=many"],
            "argument --max-grad-norm: 'many' given, must be a finite number > 0",
        ),
        (
            "train_stdlib",
            ["--width=30", "--heads=4"],
            "--width 30 with --heads 4: the width must be a multiple of 2 x heads = 8",
        ),
        ("train_stdlib", ["--seed=-1"], "argument --seed: '-1' given, must be a whole number >= 0"),
        ("compare_storage", ["--seeds=1"], "argument --seeds: '1' given, must be a whole number >= 2"),
        ("compare_storage", ["--lr=0"], "argument --lr: '0' given, must be a finite number > 0"),
        ("compare_storage", ["--out=file"], "--out file: not a folder that can be written to (File exists)"),
        ("train_distributed", ["--shards=1"], "argument --shards: '1' given, must be a whole number from 2 to 64"),
        (
            "train_distributed",
            ["--width=30", "--heads=4"],
            "--width 30 with --heads 4: the width must be a multiple of 2 x heads = 8",
        ),
        ("train_stdlib", ["--out=file"], "--out file: not a folder that can be written to (File exists)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_values(load, tmp_path, monkeypatch, capsys, script, arguments, sentence):
    """One sentence says what was given and what is allowed; exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as error:
        load(script).parse(arguments)
    assert error.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {sentence}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_watched_training(environment, tmp_path):
    """Leaves a history of every step, with what the optimizer and the software HPU told, and says where it is."""
    done = run(
        environment, tmp_path, "train_watched.py",
        "--steps=12", "--batch-size=2", "--context=16", "--port=0", "--simulate", "--overheat=6",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "none, because the port is 0" in done.stderr
    history = read_history(tmp_path / "build" / "watched")
    steps = history.steps()
    assert [step["step"] for step in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"] < 6
    assert all(step["gradient_norm"] > 0 and step["phases"].keys() >= {"data", "optimizer"} for step in steps)


def test_only_a_software_hpu_overheats(load, monkeypatch, capsys):
    """Wrong usage, and what to do."""
    monkeypatch.setattr(sys, "argv", ["train_watched.py", "--overheat=6"])
    with pytest.raises(SystemExit, match="2"):
        load("train_watched").main()
    assert "give --simulate, too" in capsys.readouterr().err
