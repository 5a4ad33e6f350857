"""gaudi3-rt config: what it prints, where, and its status."""

import json
import os
import pty
import subprocess
import sys

import jsonschema
import pytest
import yaml
from _configs import valid
from _fuzz import examples
from click.testing import CliRunner
from hypothesis import given

from gaudi3_rt.cli._app import app
from gaudi3_rt.cli._config import _yaml
from gaudi3_rt.config import json_schema, validate_training_config
from gaudi3_rt.config._yaml import parse

GOOD = "max_steps: 1000\noptimizer:\n  lr: 3e-4\n  name: adamw\nrun_name: 1e-3 and on\n"
WARNED = GOOD + "dataset: {path: data, num_workers: 0}\ntracking_uri: http://mlflow.example.org\n"
BAD = "max_steps: many\nlearning_rate: 3\n"


@pytest.fixture
def gaudi3_rt(tmp_path, monkeypatch):
    """Runs the command where there are good.yaml, warned.yaml and bad.yaml: its status, output and errors."""
    monkeypatch.chdir(tmp_path)
    for name in [one for one in os.environ if one.startswith("GAUDI3_RT_")]:
        monkeypatch.delenv(name)
    for name, text in (("good", GOOD), ("warned", WARNED), ("bad", BAD)):
        (tmp_path / f"{name}.yaml").write_text(text)
        (tmp_path / f"{name}.yaml").chmod(0o600)

    def run(*arguments, **environ):
        result = CliRunner().invoke(app, ["config", *arguments], env=environ)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_check(gaudi3_rt):
    """A line for each finding, then the verdict; the status is the verdict."""
    assert gaudi3_rt("check", "good.yaml") == (0, "good.yaml: valid\n", "")
    status, text, _ = gaudi3_rt("check", "warned.yaml")
    assert status == 0
    assert [line.split(":")[0] for line in text.splitlines()] == [
        "warning (security, medium)",
        "warning (performance, medium)",
        "warned.yaml",
    ]
    assert text.endswith("\nwarned.yaml: valid, 2 warnings\n")
    status, text, _ = gaudi3_rt("check", "bad.yaml")
    assert (status, text) == (
        78,
        """\
error: max_steps: seen 'many'; allowed: an integer (file bad.yaml:1)
error: learning_rate: unknown key; did you mean optimizer.lr? (file bad.yaml:2)
bad.yaml: invalid, 2 errors
""",
    )


def test_strict(gaudi3_rt):
    """Warnings fail then."""
    assert gaudi3_rt("check", "--strict", "good.yaml")[0] == 0
    status, text, _ = gaudi3_rt("check", "--strict", "warned.yaml")
    assert status == 78
    assert text.endswith("warned.yaml: invalid, 2 warnings\n")


def test_check_json(gaudi3_rt):
    """The same for programs."""
    status, text, _ = gaudi3_rt("check", "--json", "bad.yaml")
    found = json.loads(text)
    assert status == 78
    assert (found["file"], found["valid"], found["warnings"]) == ("bad.yaml", False, [])
    assert [one["path"] for one in found["errors"]] == ["max_steps", "learning_rate"]
    assert found["errors"][0]["origin"] == "file bad.yaml:1"
    status, text, _ = gaudi3_rt("check", "--json", "warned.yaml")
    assert (status, json.loads(text)["valid"], len(json.loads(text)["warnings"])) == (0, True, 2)


def test_values_from_variables_and_options(gaudi3_rt):
    """The command line wins over variables, and they over the file."""
    environ = {"GAUDI3_RT_SEED": "5", "GAUDI3_RT_MAX_STEPS": "6"}
    status, text, _ = gaudi3_rt("show", "good.yaml", "--set", "seed=7", "--json", "--origin", **environ)
    found = json.loads(text)
    assert status == 0
    assert (found["config"]["seed"], found["config"]["max_steps"]) == (7, 6)
    origins = found["origins"]
    assert (origins["seed"], origins["max_steps"], origins["optimizer.lr"]) == (
        "--set seed",
        "env GAUDI3_RT_MAX_STEPS",
        "file good.yaml:3",
    )
    status, text, _ = gaudi3_rt("check", "good.yaml", GAUDI3_RT_MAXSTEPS="1")
    assert status == 78
    assert "did you mean GAUDI3_RT_MAX_STEPS?" in text


def test_show(gaudi3_rt):
    """YAML of all values, with their origins as comments, that any reader of YAML takes for the same."""
    status, text, _ = gaudi3_rt("show", "good.yaml", "--origin")
    assert status == 0
    lines = [line.split("#") for line in text.splitlines()]
    assert {left.strip(): right.strip() for left, right in (line for line in lines if len(line) == 2)}.items() >= {
        "max_steps: 1000": "file good.yaml:1",
        "lr: 0.0003": "file good.yaml:3",
        "eps: 1.0e-08": "default",
    }.items()
    plain = gaudi3_rt("show", "good.yaml")[1]
    assert plain == gaudi3_rt("show", "--yaml", "good.yaml")[1]
    assert "#" not in plain
    values = json.loads(gaudi3_rt("show", "good.yaml", "--json")[1])
    assert values["run_name"] == "1e-3 and on"
    for document in (text, plain):
        assert parse(document)[0] == yaml.safe_load(document) == values


@pytest.mark.parametrize(
    "text", ["naïve", "\U0001f600", "\U000e0001", "a\u2028b\x85c", "\ufeff", "\x7f", 'q"\\', "on", "1e-3"]
)
def test_shown_texts_read_back(text):
    """Whatever is in them."""
    shown = _yaml({"run_name": text}, None)
    assert parse(shown)[0] == yaml.safe_load(shown) == {"run_name": text}


@examples(40)
@given(valid(json_schema()))
def test_shown_yaml_reads_back(document):
    """Any configuration, by our reader and by one of YAML 1.1."""
    result = validate_training_config(document)
    if not result.is_valid:
        return
    text = _yaml(result.sanitized_value, lambda _: "file x.yaml:1")
    assert parse(text)[0] == result.sanitized_value
    assert yaml.safe_load(text) == result.sanitized_value


def test_show_of_an_invalid_configuration(gaudi3_rt):
    """Nothing on the standard output; what is wrong on the other one."""
    status, text, wrong = gaudi3_rt("show", "bad.yaml")
    assert (status, text) == (78, "")
    assert wrong.endswith("bad.yaml: invalid, 2 errors\n")


def test_root(gaudi3_rt, tmp_path):
    """Paths that lead out are errors then."""
    assert gaudi3_rt("check", "good.yaml", "--root", str(tmp_path))[0] == 0
    status, text, _ = gaudi3_rt("check", "good.yaml", "--root", ".", "--set", "output_dir=../x")
    assert status == 78
    assert "output_dir: goes up by '..'" in text


def test_usage_errors(gaudi3_rt, tmp_path):
    """Status 2, as all commands have; files that cannot be read are invalid."""
    for arguments in (
        ("check",),
        ("check", "none.yaml"),
        ("show", "good.yaml", "--json", "--yaml"),
        ("schema", "--draft", "4"),
    ):
        status, text, wrong = gaudi3_rt(*arguments)
        assert (status, text) == (2, "")
        assert "Usage: " in wrong
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "run.ini").write_text("a = 3")
    for name, message in (("broken.yaml", "line 1, column 5: "), ("run.ini", "its suffix '.ini' is none of")):
        status, text, _ = gaudi3_rt("check", name)
        assert status == 78
        assert text.startswith(f"error: {name}: {message}")


@pytest.mark.parametrize("draft", ["2020-12", "draft-7"])
def test_schema(gaudi3_rt, draft):
    """It is the one of the package, and judges what show writes."""
    status, text, _ = gaudi3_rt("schema", "--draft", draft)
    assert status == 0
    assert json.loads(text) == json_schema(draft)
    shown = json.loads(gaudi3_rt("show", "good.yaml", "--json")[1])
    jsonschema.validate(shown, json.loads(text))


def test_secrets(gaudi3_rt, tmp_path):
    """Are in no output."""
    token = "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1b"
    (tmp_path / "secret.yaml").write_text(f"{GOOD}run_name_: {token}\noutput_dir: {token}\n")
    for arguments in (("check",), ("check", "--json"), ("show",), ("show", "--json", "--origin")):
        for more in ((), ("--set", "run_name_=null"), ("--set", f"seed={token}")):
            status, *texts = gaudi3_rt(*arguments, "secret.yaml", *more)
            assert status == 78
            assert token not in "".join(texts)
    (tmp_path / "secret.yaml").write_text(f"{GOOD}output_dir: {token}\n")
    for arguments in (("check",), ("check", "--json"), ("show",), ("show", "--json", "--origin")):
        status, *texts = gaudi3_rt(*arguments, "secret.yaml")
        assert status == 0
        assert token not in "".join(texts)
    assert "looks like a secret" in gaudi3_rt("check", "secret.yaml")[1]


@pytest.mark.usefixtures("gaudi3_rt")
def test_lines_fit_a_terminal(tmp_path):
    """Of 80 columns; where there is none, a finding is one line."""
    command = [sys.executable, "-m", "gaudi3_rt.cli", "config", "check", "warned.yaml"]
    environ = {**os.environ, "COLUMNS": "80"}
    piped = subprocess.run(  # noqa: S603 (our own command)
        command, capture_output=True, text=True, cwd=tmp_path, env=environ, check=True
    )
    assert len(piped.stdout.splitlines()) == 3
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, cwd=tmp_path, env=environ) as process:  # noqa: S603 (same)
        os.close(theirs)
        text = b""
        while chunk := _read(ours):
            text += chunk
    os.close(ours)
    assert process.returncode == 0
    lines = text.decode().splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == " ".join(piped.stdout.split())
    assert "\x1b" not in text.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""
