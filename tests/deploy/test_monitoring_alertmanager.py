"""Who is told of which alert, and are secrets only in files?"""

import re
from pathlib import Path

import pytest
from _monitoring import MONITORING, alerts, load, need, run

CONFIG = MONITORING / "alertmanager" / "alertmanager.yml"


def test_amtool_accepts_the_configuration_and_its_templates():
    """Alertmanager 0.25 knows every field."""
    need("amtool")
    output = run("amtool", "check-config", str(CONFIG), cwd=CONFIG.parent)
    assert "SUCCESS" in output
    assert re.search(r"- [1-9] templates", output)


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"severity": "critical"}, "on_call"),
        ({"severity": "warning"}, "team"),
        ({"severity": "info"}, "programs"),
        ({"severity": "critical", "simulated": "false"}, "on_call"),
        ({"severity": "critical", "simulated": "true"}, "programs"),
        ({"severity": "warning", "simulated": "true"}, "programs"),
    ],
    ids=str,
)
def test_alerts_are_routed_by_severity_and_nobody_is_called_for_simulated_ones(labels, receiver):
    """As amtool walks the tree of routes."""
    need("amtool")
    pairs = [f"{key}={value}" for key, value in labels.items()]
    assert run("amtool", "config", "routes", "test", f"--config.file={CONFIG}", *pairs).strip() == receiver


def test_on_call_is_told_by_every_channel_and_programs_by_webhook_alone():
    """Who is called, who is told, and what only programs hear."""
    receivers = {one["name"]: {key for key in one if key != "name"} for one in load(CONFIG)["receivers"]}
    assert receivers["on_call"] == {"pagerduty_configs", "slack_configs", "email_configs", "webhook_configs"}
    assert receivers["team"] == receivers["on_call"] - {"pagerduty_configs"}
    assert receivers["programs"] == {"webhook_configs"}


def test_secrets_are_only_in_files_that_git_ignores():
    """No file of ours has one, and none that a user writes is committed."""
    for path in MONITORING.rglob("*.y*ml"):
        text = path.read_text("utf-8")
        assert not re.search(
            r"\b(api_url|routing_key|service_key|\w*password|credentials|bearer_token|\w*token):", text
        )
    assert (MONITORING / "alertmanager" / "secrets" / ".gitignore").read_text().split() == ["*", "!.gitignore"]
    files = [Path(one) for one in re.findall(r"_file: (\S+)", CONFIG.read_text("utf-8"))]
    assert files
    assert {one.parent.name for one in files} == {"secrets"}


def test_a_warning_is_silent_while_the_same_trouble_is_critical():
    """The labels that make it the same trouble, and names of alerts that exist."""
    same, cause = load(CONFIG)["inhibit_rules"]
    assert same["source_matchers"] == ['severity="critical"']
    assert {"alertname", "node", "device", "instance", "rank"} <= set(same["equal"])
    twice = {one["alert"] for one in alerts() if one["labels"]["severity"] == "critical"} & {
        one["alert"] for one in alerts() if one["labels"]["severity"] == "warning"
    }
    assert "HPUHighTemperature" in twice
    names = {one["alert"] for one in alerts()}
    for matchers in (cause["source_matchers"], cause["target_matchers"]):
        assert set(re.findall(r"[A-Z]\w+", matchers[0])) <= names
