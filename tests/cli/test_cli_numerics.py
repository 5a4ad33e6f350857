"""``gaudi3-rt audit``: exit statuses, what is written where, and one sentence for each wrong argument."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gaudi3_rt.cli._app import app
from gaudi3_rt.numerics import Passport

QUICK = ("--check", "defaults", "--check", "closure")
MODULE = """
import os
import torch

print("hello from Python")
os.system("echo hello from a program")
NUMBER = 5
class Wrong(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, eps=1e-5, **options):
        super().__init__(params, lr=lr, eps=eps, **options)
class Makers:
    make = torch.optim.AdamW
"""


def run(*arguments):
    """The command, in this process."""
    return CliRunner().invoke(app, ["audit", *arguments], prog_name="gaudi3-rt")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A name that nothing else has, of a module in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audited_by_cli.py").write_text(MODULE)
    yield "audited_by_cli"
    sys.modules.pop("audited_by_cli", None)


def test_all_checks_hold(module):
    """Status 0; the path is as before."""
    before = list(sys.path)
    result = run(f"{module}:Makers.make", *QUICK)
    assert result.exit_code == 0, result.output
    assert "All checks hold: 2 pass" in result.stdout
    assert sys.path == before


def test_one_check_does_not_hold(module):
    """Status 1, and where the code is that shows it."""
    result = run(f"{module}:Wrong", *QUICK)
    assert result.exit_code == 1
    row = next(line for line in result.stdout.splitlines() if line.startswith("defaults"))
    assert "differs" in row
    assert "eps=1e-05" in row
    assert "Not all checks hold: 1 pass, 1 differ" in result.stdout
    assert "--markdown FILE" in result.stderr


def test_files(module, tmp_path):
    """The document and the picture, beside the table; dtypes are those asked for."""
    result = run("torch.optim:SGD", "--like", "torch.optim.SGD", "--check", "formula", "--dtype", "float64",
                 "--markdown", "audit.md", "--plot", "audit.png")  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    assert module
    assert "| formula | float64 | pass |" in (tmp_path / "audit.md").read_text(encoding="utf-8")
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_standard_output_is_the_passport_alone(module, tmp_path):
    """Whatever modules and programs print."""
    command = [sys.executable, "-m", "gaudi3_rt.cli", "audit", f"{module}:Wrong", *QUICK, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)  # noqa: S603 (our own command)
    assert result.returncode == 1
    passport = Passport.from_dict(json.loads(result.stdout))
    assert [(check.name, check.status) for check in passport.checks] == [("defaults", "differs"), ("closure", "pass")]
    assert passport.subject == "audited_by_cli.Wrong"
    assert sorted(result.stderr.splitlines()) == ["hello from Python", "hello from a program"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_module:AdamW"], "module 'no_such_module' does not import: ModuleNotFoundError: No module named"),
        (["audited_by_cli:Wrnog"], "module 'audited_by_cli' has no 'Wrnog'; did you mean 'Wrong'?"),
        (["audited_by_cli:Makers.mak"], "module 'audited_by_cli' has no 'Makers.mak'"),
        (["audited_by_cli:NUMBER"], "is a int, which cannot be called"),
        (["broken:AdamW"], "module 'broken' does not import: ZeroDivisionError: division by zero"),
        (["ends:AdamW"], "module 'ends' does not import: SystemExit: 3"),
        (["torch.optim.AdamW"], "must be a module and a factory in it, such as torch.optim:AdamW"),
        (["torch.optim:AdamW", "--like", "adamW2"], "there is no specification 'adamW2'; "),
        (["torch.optim:AdamW", "--check", "eps"], "there is no check 'eps'"),
        (["torch.optim:AdamW", "--dtype", "int8"], "'int8' is not one of"),
        (["torch.optim:AdamW", "--device", "tpu?"], "'tpu?' is no device"),
        (["torch.optim:AdamW", "--markdown", "nowhere/a.md"], "there is no folder"),
        (["torch.optim:AdamW", "--check", "closure", "--plot", "a.png"], "give --check formula, too"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(module, tmp_path, arguments, said):
    """Status 2 and one sentence, before anything runs."""
    assert module
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_the_traceback_of_a_module_that_does_not_import(module, tmp_path):
    """Where it is asked for."""
    assert module
    (tmp_path / "broken.py").write_text("1 / 0\n")
    result = CliRunner().invoke(app, ["--debug", "audit", "broken:AdamW"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "broken.py" in result.stderr


@pytest.mark.skipif(importlib.util.find_spec("habana_frameworks") is not None, reason="here it may be there")
def test_a_device_that_is_not_there():
    """Status 1: the command may be right elsewhere."""
    result = run("torch.optim:AdamW", "--device", "hpu", *QUICK)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no tensor can be made on device 'hpu': " in result.stderr


def test_a_file_that_cannot_be_written(module, tmp_path):
    """Status 1, and the table is not lost."""
    assert module
    result = run("torch.optim:AdamW", "--check", "formula", "--dtype", "float64", "--plot", "audit.nothing")
    assert result.exit_code == 1
    assert "All checks hold" in result.stdout
    assert "'audit.nothing' is not written" in result.stderr
    assert os.listdir(tmp_path) == ["audited_by_cli.py"]  # noqa: PTH208 (names are enough)
