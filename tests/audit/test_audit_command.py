"""``gaudi3-rt audit-log verify``: what it prints, and its exit status."""

import json

from _written import write
from click.testing import CliRunner

from gaudi3_rt.cli._app import app


def command(*arguments):
    """Exit status and output of ``gaudi3-rt audit-log verify``."""
    result = CliRunner().invoke(app, ["audit-log", "verify", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_command(path):
    """Says how far it is good, and where not."""
    head = write(path, 3)[-1]
    status, text = command(path)
    assert status == 0
    assert "3 records, all as they were written; no head was given, so the end is not checked" in text
    assert text.endswith(f"head {head}\n")
    assert "the given head is among them" in command(path, "--head", head)[1]
    status, text = command(path, "--head", "f" * 64)
    assert status == 1
    assert f"{path}:4: the anchored head is not in the file" in text
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":7'))
    status, text = command(path)
    assert status == 1
    assert f"{path}:2: its content is not what its hash was made of" in text
    assert "1 records before that are as they were written" in text
    status, text = command(path, "--json")
    assert (status, json.loads(text)["first_bad_line"]) == (1, 2)


def test_command_tells_of_torn_lines(path):
    """Which are no error."""
    write(path, 1)
    path.write_bytes(path.read_bytes()[:-5])
    assert "a crash while it was written" in command(path)[1]
    write(path, 1)
    status, text = command(path)
    assert status == 0
    assert f"{path}:1: begins with what a crash left of a record" in text


def test_command_with_wrong_arguments(path):
    """Is a usage error."""
    assert command(path)[0] == 2
    write(path, 1)
    status, text = command(path, "--head", "abc")
    assert status == 2
    assert "is not a hash" in text
