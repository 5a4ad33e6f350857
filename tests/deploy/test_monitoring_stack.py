"""Does ``make monitor-up`` refuse what it should, and does ``make monitor-down`` end only what that started?"""

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest
import yaml
from _monitoring import MONITORING, need
from _problems import ROOT
from _watched import free_ports, run_stack

PORTS = ("--prometheus-port", "--alertmanager-port")


@pytest.fixture
def programs(tmp_path):
    """A folder with programs of these names that would fail if they were started."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("prometheus", "prometheus-alertmanager"):
        (folder / name).write_text("#!/bin/sh\nexit 3\n", "utf-8")
        (folder / name).chmod(0o755)
    return folder


def up(state, *options, path=None):
    """``stack.py up`` on free ports, with this PATH."""
    ports = [text for pair in zip(PORTS, map(str, free_ports(2)), strict=True) for text in pair]
    environment = dict(os.environ) if path is None else {**os.environ, "PATH": str(path)}
    return run_stack("up", "--state", state, *ports, *options, env=environment)


def test_it_says_how_to_install_what_is_missing(tmp_path, programs):
    """Both, or one of them; nothing is started."""
    done = up(tmp_path / "state", path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: prometheus and alertmanager are not installed. "
        "On Debian and Ubuntu: apt-get install prometheus prometheus-alertmanager\n"
    )
    (programs / "prometheus-alertmanager").unlink()
    done = up(tmp_path / "state", path=programs)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "alertmanager is not installed. On Debian and Ubuntu: apt-get install prometheus-alertmanager\n"
    )


def test_a_port_that_is_taken_is_named_with_what_to_do(tmp_path, programs):
    """Its owner goes on."""
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        done = up(tmp_path / "state", "--alertmanager-port", str(port), path=programs)
    assert done.returncode == 1
    assert f"port {port} for alertmanager" in done.stderr
    assert f"make monitor-up ALERTMANAGER_PORT={port + 1}" in done.stderr
    assert "systemctl disable --now prometheus-alertmanager" in done.stderr


def test_ports_have_to_be_two_and_possible(tmp_path, programs):
    """Wrong usage has status 2."""
    (port,) = free_ports(1)
    done = up(tmp_path / "state", *(text for name in PORTS for text in (name, str(port))), path=programs)
    assert done.returncode == 1
    assert f"both programs were given port {port}" in done.stderr
    for wrong in ("0", "65536", "many"):
        done = up(tmp_path / "state", "--prometheus-port", wrong, path=programs)
        assert done.returncode == 2
        assert f"'{wrong}' is no port" in done.stderr


def test_a_program_that_ends_at_once_leaves_nothing_behind(tmp_path, programs):
    """Its last words are shown, and the other one is ended too."""
    (programs / "prometheus").write_text("#!/bin/sh\necho this is why >&2\nexit 3\n", "utf-8")
    sleeper = f"#!{sys.executable}\nimport time\ntime.sleep(600)\n"
    (programs / "prometheus-alertmanager").write_text(sleeper, "utf-8")
    state = tmp_path / "state"
    done = up(state, path=programs)
    assert done.returncode == 1
    assert "prometheus has ended" in done.stderr
    assert "this is why" in done.stderr
    assert not (state / "processes.json").exists()
    assert not [one for one in psutil.process_iter() if str(programs) in " ".join(_command_line(one))]


def test_real_programs_that_reject_their_configuration_are_told_of(tmp_path):
    """Prometheus itself says what is wrong."""
    need("prometheus", "prometheus-alertmanager")
    config = tmp_path / "config"
    for name in ("prometheus", "alertmanager"):
        (config / name).mkdir(parents=True)
    prometheus = yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text("utf-8"))
    prometheus["global"]["scrape_interval"] = "often"
    (config / "prometheus" / "prometheus.yml").write_text(yaml.safe_dump(prometheus), "utf-8")
    alertmanager = (MONITORING / "alertmanager" / "alertmanager.yml").read_text("utf-8")
    (config / "alertmanager" / "alertmanager.yml").write_text(alertmanager, "utf-8")
    done = up(tmp_path / "state", "--config", config)
    assert done.returncode == 1
    assert 'not a valid duration string: \\"often\\"' in done.stderr


def test_down_ends_nothing_that_it_does_not_know(tmp_path):
    """A process that got the id of one that has ended long ago goes on."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        try:
            record = {"name": "prometheus", "pid": stranger.pid, "mark": "--config.file=x", "url": "http://127.0.0.1:1"}
            (tmp_path / "processes.json").write_text(json.dumps([record]), "utf-8")
            done = run_stack("down", "--state", tmp_path)
            assert done.returncode == 0
            assert done.stdout.startswith("nothing runs from ")
            assert stranger.poll() is None
            assert not (tmp_path / "processes.json").exists()
        finally:
            stranger.kill()


def test_a_state_folder_that_cannot_be_used_is_one_line(tmp_path):
    """As after sudo make monitor-up: no traceback."""
    (tmp_path / "file").touch()
    done = run_stack("down", "--state", tmp_path / "file" / "state")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_down_ends_what_was_started(tmp_path):
    """And says which."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--mark=mine"]) as mine:
        record = {"name": "prometheus", "pid": mine.pid, "mark": "--mark=mine", "url": "http://127.0.0.1:1"}
        (tmp_path / "processes.json").write_text(json.dumps([record]), "utf-8")
        try:
            done = run_stack("down", "--state", tmp_path)
            assert (done.returncode, done.stdout) == (0, "ended prometheus\n")
            assert mine.wait(10) != 0
        finally:
            mine.kill()


def test_channels_without_their_secrets_are_left_out(tmp_path):
    """No file, or an empty one; with its file, a channel is on."""
    sys.path.insert(0, str(MONITORING))
    try:
        import stack_config  # noqa: PLC0415 (beside a script)
    finally:
        sys.path.remove(str(MONITORING))
    folder = tmp_path / "alertmanager"
    (folder / "secrets").mkdir(parents=True)
    (folder / "alertmanager.yml").write_text(
        (MONITORING / "alertmanager" / "alertmanager.yml").read_text("utf-8"), "utf-8"
    )
    (folder / "secrets" / "slack_api_url").write_text("https://hooks.example.org/x", "utf-8")
    (folder / "secrets" / "smtp_password").touch()
    text, missing = stack_config.alertmanager_config(folder)
    assert {name for name, absent in missing.items() if not absent} == {"slack"}
    on_call, team, programs = yaml.safe_load(text)["receivers"]
    assert set(on_call) == set(team) == {"name", "slack_configs"}
    assert set(programs) == {"name"}
    assert on_call["slack_configs"][0]["api_url_file"] == str(folder / "secrets" / "slack_api_url")
    assert "hooks.example.org" not in text


def test_make_needs_no_package_to_start_or_end_it(tmp_path):
    """Machines that only watch have neither PyTorch nor a compiler; ports are as chosen."""
    for target in ("monitor-up", "monitor-down"):
        command = ["make", "--dry-run", "--no-print-directory", target, f"watcher={tmp_path}"]
        command += ["PROMETHEUS_PORT=1234", "ALERTMANAGER_PORT=1235"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 (make)
        assert "torch" not in done.stdout
        assert "psutil" in done.stdout
        asked = done.stdout.splitlines()[-1]
        assert asked.startswith(f"{tmp_path}/bin/python deploy/monitoring/stack.py {target.removeprefix('monitor-')}")
        assert ("--prometheus-port 1234 --alertmanager-port 1235" in asked) == (target == "monitor-up")


def _command_line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []
