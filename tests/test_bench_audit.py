"""The audit of other libraries: its page has the figures of passports, and names what was not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

from gaudi3_rt.numerics import Passport

ROOT = Path(__file__).parents[1]
STAND_IN = """\
import os, time
import torch

class {name}(torch.optim.AdamW):
    def step(self, closure=None):
        {fault}
"""
ABSENT = "raise ModuleNotFoundError('it is not here')"


def run(tmp_path, *arguments, modules):
    """The page, the passports and what was printed, with stand-ins for modules, of version 1.2."""
    stubs = tmp_path / "stubs"
    for name, code in modules.items():
        *packages, module = name.split(".")
        folder = stubs.joinpath(*packages)
        folder.mkdir(parents=True)
        for package in (folder, *folder.parents[: len(packages) - 1]):
            package.joinpath("__init__.py").touch()
        folder.joinpath(f"{module}.py").write_text(code)
        info = stubs / f"{name.partition('.')[0]}-1.2.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Name: {name.partition('.')[0]}\nVersion: 1.2\n")
    done = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "bench/audit_peers.py", "--out", str(tmp_path), "--jobs", "2", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(stubs),
            "MPLCONFIGDIR": str(tmp_path.parent / "matplotlib"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "audit_peers.md").read_text()
    passports = json.loads((tmp_path / "audit_peers.json").read_text())
    return page, {name: Passport.from_dict(values) for name, values in passports.items()}


def test_rows_are_those_of_passports(tmp_path):
    """Counts, figures and sentences; a peer that is not installed is named, and has no row of figures."""
    names = ("hpex", "torch AdamW, for-loop", "bitsandbytes Lion")
    arguments = ("--only", *names, "--check", "defaults", "eps-placement", "nesterov")
    page, passports = run(tmp_path, *arguments, modules={"bitsandbytes.optim": ABSENT})
    assert list(passports) == ["torch AdamW, for-loop", "gaudi3_rt compat.hpex FusedAdamW"]
    ours = passports["gaudi3_rt compat.hpex FusedAdamW"]
    assert (
        f"| gaudi3_rt compat.hpex FusedAdamW | {ours.versions['gaudi3_rt']} | torch.optim.AdamW | no | 0 | 3 |" in page
    )
    assert "| torch.optim.AdamW | yes | 3 | 0 | 0 | 2 |" in page
    rows = [line for line in page.splitlines() if line.startswith(("| defaults", "| eps-placement", "| nesterov"))]
    told = [check for check in ours.checks if not check.ok]
    assert told
    for check in told:
        (row,) = (row for row in rows if row.startswith(f"| {check.name} |"))
        assert check.dtype in row
        assert f"{check.figure} (bound " in row
        assert f"{check.figure.bound:.3g}" in row
        assert row.endswith(f"{check.consequence} |")
    assert "- bitsandbytes Lion: ModuleNotFoundError: it is not here" in page
    assert "| bitsandbytes Lion | - | lion | not run | - | - | - | - |" in page
    assert "`lion` is arXiv:2302.06675" in page
    assert "### torch" not in page


def test_subjects_that_die_or_hang_are_named(tmp_path):
    """With their versions, and without ending the run."""
    modules = {
        "deepspeed.ops.adam": STAND_IN.format(name="DeepSpeedCPUAdam", fault="os.abort()"),
        "torchao.optim": STAND_IN.format(name="_AdamW", fault="time.sleep(1000)"),
    }
    arguments = ("--only", "CPUAdam", "_AdamW", "--check", "closure", "--seconds", "5")
    page, passports = run(tmp_path, *arguments, modules=modules)
    assert passports == {}
    assert "- DeepSpeed CPUAdam: died: SIGABRT" in page
    assert "| DeepSpeed CPUAdam | 1.2 | torch.optim.AdamW | not run |" in page
    assert "no answer within 5 s" in page
    assert "_AdamW | 1.2 | torch.optim.AdamW | not run |" in page
