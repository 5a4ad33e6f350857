"""Panels and dashboards of Grafana, with titles, units and explanations from the catalogue of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from gaudi3_rt.metrics import CATALOGUE, PREFIX

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
UNITS = {
    "seconds": "s",
    "bytes": "bytes",
    "celsius": "celsius",
    "watts": "watt",
    "joules": "joule",
    "hertz": "hertz",
    "ratio": "percentunit",
    "": "short",
}
"""Grafana's names of the units of the catalogue."""
_METRICS = {metric.name.removeprefix(PREFIX): metric for metric in CATALOGUE}

Steps = tuple[tuple[float | None, str], ...]


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        title: above it.
        metric: of the catalogue, without prefix: says unit and explanation.
        queries: PromQL and legend of each.
        kind: ``lines``, ``stack``, ``stat``, ``states``, ``heatmap`` or ``table``.
        unit: if it is not the metric's.
        text: explanation, if it is not the metric's.
        width: of 24.
        thresholds: from which value on which colour; the first value is None.
        values: texts and colours of values.
        least: lowest value of the axis, and most: the highest.
        log: a logarithmic axis.
    """

    title: str
    metric: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "lines"
    unit: str | None = None
    text: str | None = None
    width: int = 12
    height: int = 8
    thresholds: Steps = ()
    values: tuple[tuple[str, str, str], ...] = ()
    least: float | None = None
    most: float | None = None
    log: bool = False

    def build(self) -> Any:
        """One of the SDK's builders, which have no class in common that says what they can."""
        metric = _METRICS[self.metric]
        builder: Any = _BUILDERS[self.kind]()
        builder.title(self.title).description(self.text or metric.help).datasource(DATASOURCE)
        builder.unit(self.unit or UNITS[metric.unit]).span(self.width).height(self.height)
        if self.least is not None:
            builder.min(self.least)
        if self.most is not None:
            builder.max(self.most)
        if self.thresholds:
            steps = [models.Threshold(value=value, color=colour) for value, colour in self.thresholds]
            builder.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        if self.values:
            builder.mappings([_value_map(self.values)])
        if self.log:
            scale = common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG).log(10)
            builder.scale_distribution(scale)
        for number, (expression, legend) in enumerate(self.queries):
            builder.with_target(self._query(expression, legend, chr(ord("A") + number)))
        return builder

    def _query(self, expression: str, legend: str, ref_id: str) -> prometheus.Dataquery:
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(ref_id).datasource(DATASOURCE)
        if self.kind in {"stat", "table"}:
            query.instant()
        else:
            query.range()
        if self.kind == "table":
            query.format(prometheus_models.PromQueryFormat.TABLE)
        if self.kind == "heatmap":
            query.format(prometheus_models.PromQueryFormat.HEATMAP)
        return query


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def build_dashboard(
    uid: str, title: str, text: str, variables: Sequence[tuple[str, str, str]], rows: Sequence[Row]
) -> models.Dashboard:
    """A dashboard. ``variables`` are name, label and the query for its values."""
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["gaudi3_rt"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            dashboard.DashboardLink("gaudi3_rt")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["gaudi3_rt"])
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .annotation(_alerts_annotation())
    )
    for name, label, query in variables:
        builder.with_variable(
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(DATASOURCE)
            .query(query)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.NUMERICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(selected=True, text="All", value="$__all"))
        )
    for row in rows:
        builder.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            builder.with_panel(panel.build())
    return builder.build()


def _alerts_annotation() -> dashboard.AnnotationQuery:
    """Marks on all panels when alerts of the rules beside this were firing."""
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("red")
        .expr('ALERTS{alertstate="firing", severity=~"critical|warning"}')
    )


def _value_map(values: tuple[tuple[str, str, str], ...]) -> models.ValueMap:
    return models.ValueMap(
        options={
            value: models.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, text, colour) in enumerate(values)
        }
    )


def _lines() -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST)
    legend.placement(common_models.LegendPlacement.BOTTOM).show_legend(True).calcs([])
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    tooltip.sort(common_models.SortOrder.DESCENDING)
    return timeseries.Panel().legend(legend).tooltip(tooltip).line_width(1).fill_opacity(0)


def _stack() -> timeseries.Panel:
    return _lines().fill_opacity(40).stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))


def _stat() -> stat.Panel:
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    return stat.Panel().reduce_options(last).graph_mode(common_models.BigValueGraphMode.NONE)


def _heatmap() -> heatmap.Panel:
    """Buckets are those of Prometheus, so there is nothing to calculate."""
    even = common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LINEAR)
    return heatmap.Panel().calculate(False).y_axis(heatmap.YAxisConfig().unit("s")).scale_distribution(even)


_BUILDERS = {
    "lines": _lines,
    "stack": _stack,
    "stat": _stat,
    "states": lambda: statetimeline.Panel().row_height(0.8).line_width(0).fill_opacity(70),
    "heatmap": _heatmap,
    "table": lambda: table.Panel().show_header(True),
}
