"""The audit of other libraries: its page has the figures of passports, and names what was not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gaudi3_rt.numerics import Passport

ROOT = Path(__file__).parents[1]
LION = """\
import os, time
import torch

class DeepSpeedCPUAdam(torch.optim.AdamW):
    def step(self, closure=None):
        {fault}
"""


def run(tmp_path, *arguments, modules=None):
    """The page, the passports and what was printed, with stand-ins for modules."""
    stubs = tmp_path / "stubs"
    for name in ("bitsandbytes", "torchao"):
        stubs.joinpath(name).mkdir(parents=True)
        stubs.joinpath(name, "__init__.py").write_text(f"raise ModuleNotFoundError('there is no {name} here')")
    for name, code in (modules or {}).items():
        folder = stubs.joinpath(*name.split(".")[:-1])
        folder.mkdir(parents=True)
        for i in range(len(name.split(".")) - 1):
            stubs.joinpath(*name.split(".")[: i + 1], "__init__.py").touch()
        folder.joinpath(name.split(".")[-1] + ".py").write_text(code)
        stubs.joinpath("deepspeed-1.2.dist-info").mkdir()
        stubs.joinpath("deepspeed-1.2.dist-info", "METADATA").write_text("Name: deepspeed\nVersion: 1.2\n")
    done = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "bench/audit_peers.py", "--out", str(tmp_path), *arguments],
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
    page = (tmp_path / "audit_peers.md").read_text()
    passports = json.loads((tmp_path / "audit_peers.json").read_text())
    return done, page, {name: Passport.from_dict(values) for name, values in passports.items()}


def test_rows_are_those_of_passports(tmp_path):
    """Counts, figures and sentences; a peer that is not installed is named, and has no row of figures."""
    names = ("hpex", "torch AdamW, for-loop", "bitsandbytes Lion")
    done, page, passports = run(tmp_path, "--only", *names, "--check", "defaults", "eps-placement", "nesterov")
    assert done.returncode == 0, done.stdout + done.stderr
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
        assert any(row.split(" | ")[0] == f"| {check.name}" and str(check.figure) in row for row in rows)
        assert any(check.consequence[:40] in row for row in rows)
    assert "- bitsandbytes Lion: ModuleNotFoundError: there is no bitsandbytes here" in page
    assert "| bitsandbytes Lion | - | lion | not run | - | - | - | - |" in page
    assert "### torch" not in page


@pytest.mark.parametrize(
    ("fault", "said"), [("os.abort()", "died: SIGABRT"), ("time.sleep(1000)", "no answer within 5 s")]
)
def test_a_subject_that_dies_or_hangs_is_named(fault, said, tmp_path):
    """With its version, and without ending the run."""
    modules = {"deepspeed.ops.adam": LION.format(fault=fault)}
    arguments = ("--only", "CPUAdam", "--check", "formula", "--seconds", "5")
    done, page, passports = run(tmp_path, *arguments, modules=modules)
    assert done.returncode == 0, done.stdout + done.stderr
    assert passports == {}
    assert f"- DeepSpeed CPUAdam: {said}" in page
    assert "| DeepSpeed CPUAdam | 1.2 | torch.optim.AdamW | not run |" in page
