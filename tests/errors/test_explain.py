"""gaudi3-rt explain: what it prints and returns."""

import json

import pytest
from click.testing import CliRunner

from gaudi3_rt import errors
from gaudi3_rt.cli._app import app

BUSY = "RuntimeError: synStatus=20 [Device already acquired] Device acquire failed."


@pytest.fixture
def explain():
    """Runs the command: its exit status and output."""

    def explain(*arguments, given=None):
        result = CliRunner().invoke(app, ["explain", *arguments], input=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return explain


def test_known_message(explain):
    """One fact a line, for people."""
    status, text = explain(BUSY)
    assert status == 0
    lines = dict(line.split(":", 1) for line in text.splitlines())
    assert lines["error"].strip() == "HPUNotAvailableError, 2001 (hardware)"
    assert lines["likely cause"].strip().startswith("Device already acquired. Another process")
    assert lines["retry"].strip() == "may help"
    assert lines["do next"].strip().startswith("gaudi3-rt devices")
    assert lines["seen as"].strip() == BUSY
    assert "huggingface/tgi-gaudi#93" in lines["source"]


def test_words_without_quotes(explain):
    """As they come from the shell."""
    assert explain(*BUSY.split()) == explain(BUSY)


def test_log_on_standard_input(explain):
    """Only the line that matters is shown."""
    status, text = explain("-", given=f"step 1\nstep 2\n{BUSY}\nbye\n")
    assert status == 0
    assert f"{BUSY}\n" in text
    assert "step 2" not in text


def test_unknown_message(explain):
    """Said so, with status 1."""
    status, text = explain("the moon is full")
    assert status == 1
    assert text.startswith("Not recognised.\n  - Read the first error in the log")


def test_json(explain):
    """Everything, for programs; the same status."""
    status, text = explain("--json", BUSY)
    assert status == 0
    assert json.loads(text) == errors.classify(BUSY).to_dict()
    status, text = explain("--json", "the moon is full")
    assert status == 1
    assert json.loads(text)["recognized"] is False


def test_codes(explain):
    """One by its number, and all of them."""
    status, text = explain("2002")
    assert status == 0
    assert text.startswith("HPUMemoryError, 2002 (hardware): A device's memory is exhausted.\nretry: does not help")
    assert all(f"  - {suggestion}" in text for suggestion in errors.HPUMemoryError.default_suggestions)
    assert json.loads(explain("--json", "2002")[1])["type"] == "HPUMemoryError"
    assert explain("1999")[0] == 1
    status, text = explain("--list")
    assert status == 0
    assert [int(line.split()[0]) for line in text.splitlines()] == list(errors.codes())
    assert [entry["code"] for entry in json.loads(explain("--list", "--json")[1])] == list(errors.codes())


@pytest.mark.parametrize(
    ("arguments", "given"), [((), None), (("--list", "x"), None), (("-",), " \n"), (("",), None)], ids=str
)
def test_wrong_use(explain, arguments, given):
    """Status 2 and what to give."""
    status, text = explain(*arguments, given=given)
    assert status == 2
    assert "Error: " in text


@pytest.mark.parametrize("arguments", [("--json",), ()])
@pytest.mark.parametrize(
    "text", [f"password=hunter2 {BUSY}", f"http://me:hunter2@host {BUSY}", "api_key=hunter2 is full [error 2002]"]
)
def test_secrets_are_not_repeated(explain, arguments, text):
    """What is shown of a line is shown without them."""
    status, shown = explain(*arguments, text)
    assert status == 0
    assert "hunter2" not in shown
    assert "[redacted]" in shown


def test_log_with_bytes_of_no_encoding(explain):
    """As a crash leaves them: the rest is read."""
    status, text = explain("-", given=b"\xff\xfe\x00\n" + BUSY.encode() + b"\n")
    assert status == 0
    assert f"{BUSY}\n" in text
