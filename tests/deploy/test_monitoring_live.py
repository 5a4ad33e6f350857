"""Does it work for real: a training on the software HPU, Debian's Prometheus and Alertmanager, and who is told?"""

import base64
import json
import re

import pytest
from _monitoring import MONITORING, need, recorded
from _watched import listener, wait_until, watched

from gaudi3_rt import endpoints
from gaudi3_rt.metrics import Metrics

SECONDS = 60
"""Until something has to have happened that usually takes two."""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A training that is watched."""
    need("prometheus", "prometheus-alertmanager")
    with watched(tmp_path_factory.mktemp("monitoring")) as everything:
        yield everything


def queries():
    """Those of all panels and annotations, by PromQL as Grafana would send it; and those of variables."""
    panels, variables = set(), set()
    for path in sorted((MONITORING / "grafana" / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text("utf-8"))
        expressions = [
            target["expr"]
            for panel in dashboard["panels"]
            for target in panel.get("targets", ())
            if panel["type"] != "row"
        ]
        panels |= {filled(expression) for expression in expressions}
        variables |= {filled(one["query"]) for one in dashboard["templating"]["list"] if one["type"] == "query"}
    return panels, variables


def filled(expression):
    """With all values of the variables."""
    return re.sub(r"\$(node|device|instance|rank)\b", ".*", expression.replace("$__rate_interval", "10s"))


def test_every_query_of_the_dashboards_returns_data(live):
    """Panels by their PromQL, variables by the values of their labels."""
    panels, variables = queries()
    assert len(panels) > 40
    wait_until(lambda: [one for one in panels if not live.values(one)], SECONDS, "without data")
    for variable in variables:
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable).groups()
        assert live.ask(f"label/{label}/values", match=metric), variable


def test_every_rule_is_evaluated_and_every_recorded_series_has_data(live):
    """Prometheus has no error with any, and older names are there."""
    wait_until(lambda: [one for one in recorded() if not live.values(one)], SECONDS, "without data")
    found = [rule for group in live.ask("rules")["groups"] for rule in group["rules"]]
    wait_until(
        lambda: [
            rule["name"]
            for group in live.ask("rules")["groups"]
            for rule in group["rules"]
            if rule["health"] == "unknown"
        ],
        SECONDS,
        "not evaluated",
    )
    assert not [(rule["name"], rule["lastError"]) for rule in found if rule["health"] == "err"]
    hottest = live.ask("query", query="hpu_temperature_celsius")["result"]
    assert {(one["metric"]["device"], one["metric"]["simulated"]) for one in hottest} == {
        ("simulated:0", "true"),
        ("hpu:5", "false"),
    }


def test_a_device_that_overheats_is_told_to_programs_and_to_nobody_else(live):
    """It is simulated, and the message says so."""
    live.overheat()
    who, said = live.heard.wait_for("/alerts", "HPUHighTemperature", SECONDS)
    assert who == "Bearer token-of-the-test"
    assert said["receiver"] == "programs"
    (alert,) = [one for one in said["alerts"] if one["labels"]["severity"] == said["commonLabels"]["severity"]]
    assert alert["labels"]["device"] == "simulated:0"
    assert alert["labels"]["simulated"] == "true"
    assert alert["annotations"]["description"].startswith("simulated:0 on 127.0.0.1 is at 97 °C")
    assert alert["annotations"]["description"].endswith("It is simulated.")
    _, said = live.heard.wait_for("/alerts", "The check simulated:0 at ", SECONDS)
    assert said["receiver"] == "programs"
    called = json.dumps([said for path, _, said in live.heard.messages if path != "/alerts"])
    assert "HPUHighTemperature" not in called
    assert "simulated:0" not in called


def goes_away(live, node, **labels):
    """A training that is discovered from a file, scraped, and gone in the middle of its run."""
    bound = listener()
    instance = f"127.0.0.1:{bound.getsockname()[1]}"
    with endpoints.serve(live.registry, False, listener=bound):
        live.discover(node, instance, **labels)
        under_way = f'gaudi3_rt:training_under_way:bool{{instance="{instance}"}}'
        wait_until(lambda: live.values(under_way) != ["1"], SECONDS, "not scraped")
    return instance


def test_a_training_that_is_gone_is_told_to_the_team_and_calls_nobody(live):
    """Slack, e-mail, webhook."""
    instance = goes_away(live, "second")
    description = f"{instance} has not answered for a minute."
    _, slack = live.heard.wait_for("/slack", description, SECONDS)
    assert slack["channel"] == "#training"
    assert "What to do: docs/monitoring.md#traininggone" in slack["attachments"][0]["text"]
    login, mail = live.heard.wait_for("smtp", "TrainingGone", SECONDS)
    assert base64.b64decode(login.removeprefix("PLAIN ")).endswith(b"password-of-the-test")
    assert "Subject: [warning, 1] TrainingGone on second" in mail
    _, said = live.heard.wait_for("/alerts", description, SECONDS)
    assert said["receiver"] == "team"
    assert "TrainingGone" not in json.dumps([said for path, _, said in live.heard.messages if path == "/pagerduty"])


def test_a_training_that_would_have_waited_at_its_end_calls_somebody(live):
    """As its target's label says; it has crashed."""
    instance = goes_away(live, "waiting", lingers="true")
    live.heard.wait_for("/pagerduty", f"{instance} has not answered for a minute.", SECONDS)


def test_a_critical_health_check_calls_somebody(live):
    """PagerDuty hears of it, and the others too."""
    bound = listener()
    with (
        Metrics(health=lambda: {"checkpoints": "critical"}) as critical,
        endpoints.serve(critical, False, listener=bound),
    ):
        live.discover("third", f"127.0.0.1:{bound.getsockname()[1]}")
        _, page = live.heard.wait_for("/pagerduty", "The check checkpoints at ", SECONDS)
        live.heard.wait_for("/slack", "The check checkpoints at ", SECONDS)
    assert page["routing_key"] == "routing-key-of-the-test"
    assert page["event_action"] == "trigger"
    assert page["payload"]["severity"] == "critical"
    assert page["payload"]["summary"] == "[critical, 1] HealthCheckFailing on third"


def test_a_second_start_is_refused_and_changes_nothing(live):
    """It says what runs where."""
    done = live.stack("up", "--prometheus-port", str(live.ports[0]), "--alertmanager-port", str(live.ports[1]))
    assert done.returncode == 1
    assert f"http://127.0.0.1:{live.ports[0]}" in done.stderr
    assert f"stack.py down --state {live.state} ends them" in done.stderr
    assert live.values("up")
