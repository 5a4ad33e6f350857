"""What all commands of gaudi3-rt have in common: help, errors and exit statuses, logs, completion, colours."""

import importlib.util
import os
import pty
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import gaudi3_rt_command
from gaudi3_rt import __version__, errors
from gaudi3_rt.cli import _commands
from gaudi3_rt.cli._app import COMMANDS, app

COMMAND = [sys.executable, "-W", "error", "-c", "from gaudi3_rt_command import main; main()"]


def run(*arguments, **options):
    """The command, in this process."""
    return CliRunner().invoke(app, arguments, prog_name="gaudi3-rt", **options)


def commands(group=app, path=()):
    """Every command below a group, with its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.fixture
def failing(monkeypatch):
    """Adds a command that raises what it is told to, and logs."""

    def add(error):
        @click.command()
        def fail():
            import logging  # noqa: PLC0415 (of this command)

            logging.getLogger("gaudi3_rt.somewhere").info("it begins")
            raise error

        monkeypatch.setitem(app.commands, "fail", fail)

    return add


def test_help_names_every_command_with_what_it_does():
    """In its group, on one line of 80 columns, uncut."""
    text = run("--help").stdout
    for title, group in COMMANDS.items():
        section = text.split(f"\n{title}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines()] == list(group)
        assert all(
            line.split(maxsplit=1)[1].endswith(".") and not line.endswith("...") for line in section.splitlines()
        )


@pytest.mark.parametrize("path", [(), *(path for path, _ in commands())], ids=" ".join)
def test_help_of_each_command(path):
    """Says what it does first, and fits into 80 columns."""
    for option in ("-h", "--help"):
        result = run(*path, option)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: gaudi3-rt{''.join(f' {name}' for name in path)} ")
        usage, said, *_ = result.stdout.split("\n\n")
        assert usage
        assert said.strip().endswith((".", ":"))
        assert max(map(len, result.stdout.splitlines())) <= 80
    assert run(*path, "--no-such-option").exit_code == 2


@pytest.mark.parametrize(("name", "said"), [("devces", "Did you mean 'devices'?"), ("xyz", "No such command 'xyz'.\n")])
def test_a_name_that_is_no_command(name, said):
    """Wrong usage; the nearest command is named if one is near."""
    result = run(name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_version():
    """The package's."""
    assert run("--version").stdout == run("-V").stdout == f"gaudi3-rt, version {__version__}\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidConfigurationError("wrong"), 78),
        (errors.MissingConfigurationError("wrong", retryable=True), 78),
        (errors.ServiceUnavailableError("wrong"), 75),
        (errors.HPUNotAvailableError("wrong", retryable=True), 75),
        (errors.HPUNotAvailableError("wrong"), 1),
        (errors.ParameterValidationError("wrong"), 2),
        (errors.DataValidationError("wrong"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_message_and_a_status(failing, error, status):
    """Code, message and advice on standard error; nothing on standard output; a traceback only if asked for."""
    failing(error)
    result = run("fail")
    assert (result.exit_code, result.stdout) == (status, "")
    first, *advice = result.stderr.splitlines()
    assert first == f"error {error.code}: wrong"
    assert advice == [f"  - {suggestion}" for suggestion in error.suggestions]
    for debugged in (run("--debug", "fail"), run("fail", env={"GAUDI3_RT_DEBUG": "1"})):
        assert debugged.exit_code == status
        assert debugged.stderr.startswith("Traceback (most recent call last):")
        assert debugged.stderr.endswith(result.stderr)


def test_statuses_are_those_of_the_system():
    """``sysexits.h``, and 128 + the number of the signal."""
    assert (_commands.TRY_LATER, _commands.CONFIGURATION) == (os.EX_TEMPFAIL, os.EX_CONFIG)
    assert _commands.INTERRUPTED == 130


def test_an_error_shows_no_secret(failing):
    """Neither in its message nor in its advice."""
    failing(errors.NetworkError("no answer", suggestions=["look"], context={"token": "hunter2"}))
    assert "hunter2" not in run("fail").output


def test_tracebacks_and_logs_show_no_secret(failing, monkeypatch):
    """Nor does what others have logged or raised."""
    error = errors.NetworkError("no answer")
    error.__cause__ = RuntimeError("https://bob:hunter2@host refused")
    failing(error)
    monkeypatch.setattr(_commands, "describe", lambda _: _log("token=%s", "hunter2hunter2") or "")
    said = run("--debug", "fail").stderr
    assert "token=[redacted]" in said
    assert "bob:[redacted]@host refused" in said
    assert "hunter2" not in said


def _log(*words):
    import logging  # noqa: PLC0415 (for this one)

    logging.getLogger("gaudi3_rt.somewhere").warning(*words)


def test_interrupt(failing):
    """No traceback, and the status that shells give it."""
    failing(KeyboardInterrupt())
    result = run("fail")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_logs_go_to_standard_error(failing):
    """As much as -v and -q say; afterwards the logger is as before."""
    failing(errors.DataValidationError("wrong"))
    line = "INFO gaudi3_rt.somewhere: it begins"
    assert line in run("-v", "fail").stderr
    assert all(line not in run(*options, "fail").stderr for options in ((), ("-q",)))
    assert run("-v", "-q", "fail").exit_code == 2
    import logging  # noqa: PLC0415 (for this one)

    assert logging.getLogger("gaudi3_rt").level == logging.NOTSET


@pytest.mark.parametrize(("typed", "offered"), [("gaudi3-rt do", "doctor"), ("gaudi3-rt devices --", "--json")])
def test_completion(typed, offered):
    """Of commands and options, as the shell asks for it."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_GAUDI3_RT_COMPLETE": "bash_complete"}
    assert f"plain,{offered}" in run(env=words).stdout


def test_completion_is_mentioned():
    """As the line to put into a shell's start file."""
    assert "_GAUDI3_RT_COMPLETE=bash_source gaudi3-rt" in run("--help").stdout
    assert "complete -o nosort -F" in run(env={"_GAUDI3_RT_COMPLETE": "bash_source"}).stdout


@pytest.mark.skipif(importlib.util.find_spec("gaudi3_rt_command") is None, reason="not installed")
def test_a_torch_whose_plugin_fails_can_be_examined(tmp_path):
    """Stock torch beside Habana's plugin: ``import torch`` fails, doctor says why and what mends it."""
    info = tmp_path / "habana_torch_plugin-1.22.1.6.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: habana-torch-plugin\nVersion: 1.22.1.6\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ndevice_backend = habana_frameworks:__autoload\n")
    (tmp_path / "habana_frameworks.py").write_text("raise ImportError('undefined symbol')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def python(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(  # noqa: S603 (our own code)
            command, capture_output=True, text=True, check=False, timeout=120, env=environment
        )

    plain = python("-c", "import torch")
    assert "Failed to load the backend extension" in plain.stderr
    examined = python(*COMMAND[1:], "doctor")
    assert examined.returncode == 78, examined.stderr
    assert "is not Gaudi's build" in examined.stdout
    assert "habanalabs-installer.sh install --type pytorch" in examined.stdout


def test_plugins_are_left_out_only_while_torch_is_imported(monkeypatch):
    """Processes that a command starts have the user's own environment; and what the user says comes first."""
    monkeypatch.delenv(gaudi3_rt_command.AUTOLOAD, raising=False)
    with gaudi3_rt_command.without_plugins():
        assert os.environ[gaudi3_rt_command.AUTOLOAD] == "0"
    assert gaudi3_rt_command.AUTOLOAD not in os.environ
    monkeypatch.setenv(gaudi3_rt_command.AUTOLOAD, "1")
    with gaudi3_rt_command.without_plugins():
        assert os.environ[gaudi3_rt_command.AUTOLOAD] == "1"


def in_a_terminal(*arguments, **environment):
    """What a command writes to a terminal of 80 columns."""
    ours, its = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    variables |= {"TERM": "xterm-256color", "COLUMNS": "80", **environment}
    with subprocess.Popen([*COMMAND, *arguments], stdout=its, stdin=its, stderr=its, env=variables):  # noqa: S603
        os.close(its)
        written = b""
        while True:
            try:
                read = os.read(ours, 1 << 16)
            except OSError:  # the other end was closed
                break
            if not read:
                break
            written += read
        os.close(ours)
    return written.decode()


def test_colours_only_in_a_terminal_without_no_color():
    """And there lines fit; in a pipe they are whole."""
    coloured = in_a_terminal("doctor")
    assert "\x1b[" in coloured
    plain = in_a_terminal("doctor", NO_COLOR="1")
    assert "\x1b" not in plain
    assert "all is well" in plain or "warning" in plain
    assert max(map(len, plain.splitlines())) <= 80
    piped = run("doctor").stdout
    assert "\x1b" not in piped
    assert not [line for line in piped.splitlines() if line != line.rstrip()]
