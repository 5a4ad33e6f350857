"""Checks from configurations: types told apart, thresholds handed on, mistakes named; and the command."""

import json

import pytest
from click.testing import CliRunner

from gaudi3_rt import config, errors, health
from gaudi3_rt.cli._app import app
from gaudi3_rt.health._checks import BY_TYPE
from gaudi3_rt.testing import SoftwareHPU

CHECKS = """\
check_interval_seconds: 5
temperature_warning_celsius: 80
memory_critical_ratio: null
checks:
  - type: hpu_device
    device: simulated:0
  - type: hpu_device
    device: simulated:0
    name: hot
    temperature_critical_celsius: 120
    temperature_warning_celsius: 110
  - type: system_resources
    open_files_critical_ratio: null
  - type: file_system
    path: .
    free_warning_ratio: null
    free_critical_ratio: null
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where files are written and found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "health.yaml").write_text(CHECKS)
    indented = "".join(f"  {line}\n" for line in CHECKS.splitlines())
    (tmp_path / "run.yaml").write_text(f"max_steps: 10\nhealth:\n{indented}")
    return tmp_path


def run(*arguments):
    """The command."""
    return CliRunner().invoke(app, ["health", *arguments], prog_name="gaudi3-rt")


def test_a_section_and_a_file_of_its_own_are_the_same(folder):
    """And both are what the whole configuration says."""
    assert folder
    own = config.load_health("health.yaml", environ={})
    assert own == config.load_health("run.yaml", environ={}) == config.load("run.yaml", environ={}).config.health
    assert config.validate_health_config(own.model_dump()).config == own
    assert config.load_health("health.yaml", environ={"GAUDI3_RT_HEALTH__CHECK_INTERVAL_SECONDS": "7"}) != own
    assert config.load_health(environ={}) == config.HealthConfig()


def test_thresholds_of_the_section_are_those_of_its_devices(folder):
    """Unless a device has its own, of that value."""
    assert folder
    monitor = config.load_health("health.yaml", environ={}).build()
    first, hot = monitor.checks[:2]
    assert (first.temperature_warning_celsius, first.temperature_critical_celsius) == (80, 95)
    assert (hot.temperature_warning_celsius, hot.temperature_critical_celsius) == (110, 120)
    assert (first.memory_warning_ratio, hot.memory_critical_ratio) == (0.9, None)
    assert monitor.interval_seconds == 5
    assert list(monitor.statuses()) == ["simulated:0", "hot", "system_resources", "file_system"]
    with SoftwareHPU(script="temperature 85 C"):
        assert monitor.check_now().results[0].status is health.HealthStatus.DEGRADED


def test_a_section_without_checks_has_the_usual_ones():
    """With its thresholds, and steps if they are due."""
    section = config.HealthConfig(step_timeout_seconds=300.0, temperature_critical_celsius=99.0)
    checks = section.build(2).checks
    assert [one.label for one in checks] == [
        "hpu:0",
        "hpu:1",
        "system_resources",
        "working_directory",
        "training_steps",
    ]
    assert checks[0].temperature_critical_celsius == 99
    assert checks[-1].stale_critical_seconds == 300
    usual = health.HpuDeviceCheck()
    assert {
        name: getattr(config.HealthConfig(), name) for name in type(usual).model_fields if hasattr(section, name)
    } == {name: getattr(usual, name) for name in type(usual).model_fields if hasattr(section, name)}


@pytest.mark.parametrize(
    ("checks", "path", "words"),
    [
        ([{"type": "hpu_devic"}], "checks[0].type", "did you mean hpu_device?"),
        ([{"path": "x"}], "checks[0].type", "say which check: hpu_device, system_resources, file_system"),
        ([{"type": "file_system"}], "checks[0].path", "is needed: The folder."),
        ([{"type": "network"}, {"type": "tcp_service", "host": "a", "port": "80"}], "checks[1].port", "an integer"),
        (
            [{"type": "network", "timeout_second": 3}],
            "checks[0].timeout_second",
            "did you mean checks[0].timeout_seconds?",
        ),
        (
            [{"type": "network", "url": 3}],
            "checks[0].url",
            "known here: name, critical, timeout_seconds, type, interfaces",
        ),
        ([{"type": "network", "interfaces": ["eth0", 3]}], "checks[0].interfaces[1]", "allowed: text"),
        ([{"type": "http_service", "url": "http://b:hunter2@h/"}], "checks[0].url", "user name or password"),
        ([{"type": "file_system", "path": "x", "name": "a b"}], "checks[0].name", "letters, digits"),
        ([], "checks", "at least"),
        ("all", "checks", "a list"),
    ],
)
def test_mistakes_are_named(checks, path, words):
    """Where, what was seen, what is allowed."""
    for kind, document in (
        ("health", {"checks": checks}),
        ("training", {"max_steps": 1, "health": {"checks": checks}}),
    ):
        result = getattr(config, f"validate_{kind}_config")(document)
        found = {one.path: str(one) for one in result.errors}
        where = path if kind == "health" else f"health.{path}"
        assert where in found, found
        assert words.replace("checks[", where[: where.index("checks")] + "checks[") in found[where] or path == "checks"
        assert "hunter2" not in str(found)


def test_every_check_is_in_the_schema():
    """By its type, which a configuration has to say."""
    parts = config.json_schema(model=config.HealthConfig)["$defs"]
    for name, kind in BY_TYPE.items():
        schema = parts[kind.__name__]
        assert schema["properties"]["type"]["const"] == name
        assert schema["required"][0] == "type"
        assert all("description" in one for one in schema["properties"].values())
        assert kind.model_fields["type"].default == name
    public = {getattr(health, name) for name in health.__all__ if name.endswith("Check")}
    assert set(BY_TYPE.values()) == public - {health.FunctionCheck, health.HealthCheck, health.Check}


# The command


def test_the_command(folder):
    """Status by what was found: 0, or 1 if something is critical; with --strict also if it is degraded."""
    assert folder
    for script, code, strict in (("temperature 50 C", 0, 0), ("temperature 85 C", 0, 1), ("temperature 97 C", 1, 1)):
        with SoftwareHPU(script=script):
            done = run("--config", "health.yaml")
            assert (done.exit_code, run("--config", "run.yaml", "--strict").exit_code) == (code, strict), done.output
        assert "simulated:0 (simulated)" in done.stdout
        assert f"{script.split()[1]} °C" in done.stdout
        assert done.stdout.splitlines()[-1].startswith("all together: ")


def test_the_command_in_json(folder):
    """With details, since it is for those on the machine."""
    (folder / "gone.yaml").write_text("checks: [{type: file_system, path: /nowhere/at/all}]\n")
    done = run("--config", "gone.yaml", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["version"], found["status"]) == (1, 1, "critical")
    assert found["checks"][0]["detail"] == "/nowhere/at/all"


def test_the_command_without_a_configuration():
    """The default checks of this machine."""
    done = run()
    assert done.exit_code in {0, 1}
    assert "system_resources" in done.stdout
    assert "working_directory" in done.stdout


def test_the_command_with_a_wrong_configuration(folder):
    """Status 78, and every mistake."""
    (folder / "bad.yaml").write_text("checks: [{type: nothing}]\ncheck_intervall_seconds: 3\n")
    done = run("--config", "bad.yaml")
    assert (done.exit_code, done.stdout) == (78, "")
    assert "checks[0].type" in done.stderr
    assert "did you mean check_interval_seconds?" in done.stderr
    with pytest.raises(errors.InvalidConfigurationError):
        config.load_health("bad.yaml")
