"""Do rules and configuration of Prometheus say what they should: by promtool, by the catalogue, by the docs?"""

import re
from collections import Counter

import pytest
import yaml
from _monitoring import (
    EXPOSED,
    MONITORING,
    PROMETHEUS,
    RULE_FILES,
    alerts,
    load,
    need,
    recorded,
    rules,
    run,
    series_names,
)
from _problems import ROOT

TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOK = ROOT / "docs" / "monitoring.md"


def test_promtool_accepts_the_configuration_and_its_rules():
    """Prometheus 2.42 knows every field and parses every expression."""
    need("promtool")
    output = run("promtool", "check", "config", "prometheus/prometheus.yml")
    assert f"SUCCESS: {len(RULE_FILES)} rule files found" in output
    assert output.count(" rules found") == len(RULE_FILES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool_passes_the_unit_tests_of_the_rules(path):
    """Firing, silence, values and texts."""
    need("promtool")
    run("promtool", "test", "rules", path.name, cwd=path.parent)


def test_every_alert_has_unit_tests_of_firing_and_of_not_firing():
    """By name and severity."""
    fires, is_silent = Counter(), Counter()
    for path in TESTS:
        for case in load(path)["tests"]:
            for check in case.get("alert_rule_test", ()):
                fires.update((check["alertname"], one["exp_labels"]["severity"]) for one in check.get("exp_alerts", ()))
                is_silent.update([check["alertname"]] if not check.get("exp_alerts") else [])
    expected = {(rule["alert"], rule["labels"]["severity"]) for rule in alerts()}
    assert set(fires) == expected
    assert set(is_silent) >= {name for name, _ in expected}


def test_every_recorded_series_has_a_unit_test_with_a_value():
    """Older names and units included."""
    tested = {
        name[0]
        for path in TESTS
        for case in load(path)["tests"]
        for check in case.get("promql_expr_test", ())
        for sample in check["exp_samples"]
        if (name := re.match(r"(?!ALERTS\b)[\w:]+", sample["labels"]))
    }
    assert tested == recorded()


def test_rules_use_series_that_exist():
    """Those of the catalogue, and those that rules make."""
    known = EXPOSED | recorded()
    for rule in rules():
        assert series_names(rule["expr"]) <= known, rule


def test_alerts_say_what_where_and_how_much():
    """Severity, summary, description with value and place, and where to read on."""
    for rule in alerts():
        annotations = rule["annotations"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, rule["alert"]
        assert not annotations["summary"].endswith(".")
        assert "$value" in annotations["description"], rule["alert"]
        assert re.search(r"\$labels\.(instance|node)|instance", annotations["description"]), rule["alert"]
        assert annotations["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"


def test_alerts_on_devices_say_that_a_device_is_simulated():
    """With a unit test of each text. The vendor's exporter has no such devices."""
    shown = {
        (check["alertname"], one["exp_labels"]["severity"])
        for path in TESTS
        for case in load(path)["tests"]
        for check in case.get("alert_rule_test", ())
        for one in check.get("exp_alerts", ())
        if one["exp_labels"].get("simulated") == "true"
    }
    texts = {(rule["alert"], rule["labels"]["severity"]): rule["annotations"]["description"] for rule in alerts()}
    says = {alert for alert, text in texts.items() if '{{ if eq $labels.simulated "true" }}' in text}
    assert says == shown
    names = {rule["alert"] for rule in alerts() if re.search(r"\bgaudi3_rt[_:]device_", rule["expr"])}
    assert {name for name, _ in says} == names | {"HealthCheckFailing"}


def sections():
    """Of the docs, by alert."""
    found = {}
    for section in RUNBOOK.read_text("utf-8").split("\n### ")[1:]:
        name, _, text = section.partition("\n")
        found[name] = text.split("\n## ")[0]
    return found


def test_the_docs_say_of_every_alert_what_it_means_where_to_look_and_what_to_do():
    """Each has a section, and no section lacks its alert."""
    assert set(sections()) == {rule["alert"] for rule in alerts()}
    for name, text in sections().items():
        for part in ("**Means.** ", "**Look.** ", "**Do.** "):
            assert text.count(part) == 1, (name, part)


WORDS = {
    "1m": "a minute",
    "2m": "two minutes",
    "5m": "five minutes",
    "10m": "ten minutes",
    "15m": "15 minutes",
    "1h": "an hour",
    "6h": "six hours",
    "1800": "half an hour",
    "3600": "an hour",
    "0.05": "5 %",
    "0.1": "a tenth",
    "0.2": "20 %",
    "0.3": "30 %",
    "0.9": "90 %",
    "0.95": "95 %",
    "0.97": "97 %",
    "2": "twice",
    "5": "five",
    "10": "ten",
}
"""How the docs say a number of a rule; others they say as they are."""


def test_the_docs_say_the_thresholds_and_times_of_every_alert():
    """What is compared with, of how long a time, and for how long."""
    for rule in alerts():
        numbers = re.findall(r"[<>] (\d[\d.]*)", rule["expr"]) + re.findall(r"\[(\w+)\]", rule["expr"])
        means = " ".join(sections()[rule["alert"]].split("**Look.**")[0].split())
        for number in {*numbers, rule.get("for", "0")} - {"0"}:
            said = re.escape(WORDS.get(number, number))
            assert re.search(rf"(?<![\w.]){said}(?!\w)", means), (rule["alert"], number)


def test_the_docs_list_every_older_name():
    """Users look for them there."""
    older = {name for name in recorded() if not name.startswith("gaudi3_rt:")}
    text = RUNBOOK.read_text("utf-8")
    assert not [name for name in older if f"`{name}`" not in text]


def test_targets_are_ports_of_local_ranks_on_loopback():
    """Every job finds its targets in files that exist."""
    (group,) = load(PROMETHEUS / "targets" / "training.yml")
    assert group["targets"] == [f"127.0.0.1:{9200 + rank}" for rank in range(8)]
    jobs = {job["job_name"]: job for job in load(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    for job in jobs.values():
        (discovery,) = job["file_sd_configs"]
        (pattern,) = discovery["files"]
        assert list(PROMETHEUS.glob(pattern)), pattern


def test_compose_uses_files_that_exist_pinned_images_and_loopback():
    """It cannot run here, so it is read."""
    services = load(MONITORING / "compose.yaml")["services"]
    assert set(services) == {"prometheus", "alertmanager", "grafana"}
    for service in services.values():
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (MONITORING / source).exists(), source
        text = yaml.safe_dump(service)
        assert re.search(r"(web\.listen-address=|GF_SERVER_HTTP_ADDR: )127\.0\.0\.1\b", text)
        assert "ports" not in service  # the network of the machine: what listens is what the addresses say
    mounted = {volume.split(":")[1] for volume in services["grafana"]["volumes"]}
    (provider,) = load(MONITORING / "grafana/provisioning/dashboards/gaudi3_rt.yml")["providers"]
    assert provider["options"]["path"] in mounted
