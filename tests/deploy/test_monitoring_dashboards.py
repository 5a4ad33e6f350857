"""Are the dashboards those of the catalogue: generated, complete, with units, variables and known series?"""

import json
import re
import runpy

import pytest
from _monitoring import EXPOSED, MONITORING, load, recorded, series_names

from gaudi3_rt.metrics import CATALOGUE

NAMES = ("device", "infrastructure", "training")


def dashboard(name):
    """One of them, as Grafana would read it."""
    return json.loads((MONITORING / "grafana" / "dashboards" / f"{name}.json").read_text("utf-8"))


def panels(name):
    """Its panels without the headings."""
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def expressions(name):
    """All queries of its panels."""
    return [target["expr"] for panel in panels(name) for target in panel["targets"]]


def test_what_is_generated_is_what_is_committed():
    """Nobody has edited one by hand, or changed the catalogue alone."""
    pytest.importorskip("grafana_foundation_sdk", reason="needs grafana-foundation-sdk (Python 3.11)")
    texts = runpy.run_path(str(MONITORING / "generate"))["generated"]()
    assert set(texts) == {"prometheus/rules/recorded.yml", *(f"grafana/dashboards/{name}.json" for name in NAMES)}
    for path, text in texts.items():
        assert (MONITORING / path).read_text("utf-8") == text, f"{path}: run python deploy/monitoring/generate"


@pytest.mark.parametrize("name", NAMES)
def test_the_sdk_reads_a_dashboard_and_writes_it_the_same(name):
    """It has nothing that Grafana's schema does not know."""
    pytest.importorskip("grafana_foundation_sdk", reason="needs grafana-foundation-sdk (Python 3.11)")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: PLC0415 (skipped where it is missing)
    from grafana_foundation_sdk.cog.plugins import register_default_plugins  # noqa: PLC0415
    from grafana_foundation_sdk.models.dashboard import Dashboard  # noqa: PLC0415

    register_default_plugins()
    before = dashboard(name)
    after = json.loads(json.dumps(Dashboard.from_json(dashboard(name)), cls=JSONEncoder))
    assert after == before


def test_every_metric_is_on_a_dashboard():
    """What the catalogue gains is seen."""
    shown = "\n".join(expression for name in NAMES for expression in expressions(name))
    for metric in CATALOGUE:
        alias = metric.name.replace("gaudi3_rt_", "gaudi3_rt:", 1)
        assert re.search(rf"\b({metric.name}|{alias}:max)(_bucket|_sum|_count)?\b", shown), metric.name


@pytest.mark.parametrize("name", NAMES)
def test_queries_use_series_that_exist_and_variables_that_are_defined(name):
    """Also the queries of the variables themselves."""
    known = EXPOSED | recorded()
    variables = {variable["name"] for variable in dashboard(name)["templating"]["list"]}
    assert (
        variables
        >= {"datasource"}
        | {
            "device": {"node", "device"},
            "training": {"instance", "rank"},
            "infrastructure": {"instance"},
        }[name]
    )
    queries = [variable["query"] for variable in dashboard(name)["templating"]["list"]]
    for expression in [*expressions(name), *queries]:
        assert series_names(expression) <= known, expression
        assert set(re.findall(r"\$(?!__)\{?(\w+)", expression)) <= variables, expression


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_units_texts_a_data_source_and_room(name):
    """No panel lies on another."""
    taken = set()
    for panel in dashboard(name)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in panels(name):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_panels_with_one_metric_have_its_unit():
    """Seconds are shown as seconds."""
    units = {"seconds": "s", "bytes": "bytes", "celsius": "celsius", "watts": "watt", "hertz": "hertz"}
    checked = set()
    for name in NAMES:
        for panel in panels(name):
            plain = re.sub(r"\{.*?\}", "", panel["targets"][0]["expr"])
            for metric in CATALOGUE:
                if metric.unit in units and plain == metric.name and metric.type == "gauge":
                    assert panel["fieldConfig"]["defaults"]["unit"] == units[metric.unit], panel["title"]
                    checked.add(metric.unit)
    assert checked


def test_provisioned_data_source_is_the_prometheus_of_the_compose_file():
    """Both files say the same address."""
    (source,) = load(MONITORING / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    command = load(MONITORING / "compose.yaml")["services"]["prometheus"]["command"]
    assert f"--web.listen-address={source['url'].removeprefix('http://')}" in command
    assert source["type"] == "prometheus"
