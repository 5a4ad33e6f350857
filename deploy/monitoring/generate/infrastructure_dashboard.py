"""The dashboard of machines and endpoints: CPU, memory, disks, network, health checks, retries, errors, versions."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from gaudi3_rt.metrics import HEALTH, PREFIX
from panels import Panel, Row, build_dashboard
from recording_rules import ENDPOINT

_SELECTED = '{instance=~"$instance"}'
_ENDPOINT = "{{instance}}"
_COLOURS = {"healthy": "green", "degraded": "orange", "critical": "red", "unknown": "purple"}


def infrastructure_dashboard() -> models.Dashboard:
    """One line for each machine, or for each endpoint."""
    return build_dashboard(
        "gaudi3-rt-infrastructure",
        "gaudi3_rt: infrastructure",
        "Machines that trainings run on, their endpoints, and what the runtime met.",
        (("instance", "Endpoint", f"label_values({PREFIX}build_info, instance)"),),
        (
            Row(
                "Endpoints",
                (
                    Panel(
                        "Answering",
                        "build_info",
                        ((f"sum(up{_SELECTED})", ""),),
                        "stat",
                        text="Endpoints that answered the last scrape.",
                        width=4,
                    ),
                    Panel(
                        "Alerts firing",
                        "health_status",
                        (('count(ALERTS{alertstate="firing", severity=~"critical|warning"}) or vector(0)', ""),),
                        "stat",
                        text="Critical ones and warnings, of all machines.",
                        width=4,
                        thresholds=((None, "green"), (1.0, "red")),
                    ),
                    Panel(
                        "Health checks",
                        "health_status",
                        ((_metric("health_status"), "{{check}}, {{instance}}"),),
                        "states",
                        values=tuple((str(HEALTH[name]), name, _COLOURS[name]) for name in HEALTH),
                        width=16,
                    ),
                    Panel("Versions", "build_info", ((_metric("build_info"), ""),), "table", width=24, height=6),
                ),
            ),
            Row(
                "Machines",
                (
                    Panel(
                        "CPU",
                        "system_cpu_utilization_ratio",
                        ((_machine(_metric("system_cpu_utilization_ratio")), "{{node}}"),),
                        least=0,
                        most=1,
                    ),
                    Panel(
                        "Memory in use",
                        "system_memory_used_bytes",
                        (
                            (_machine(_metric("system_memory_used_bytes")), "{{node}}"),
                            (_machine(_metric("system_memory_total_bytes")), "memory of {{node}}"),
                        ),
                        least=0,
                    ),
                    Panel(
                        "File systems",
                        "system_disk_used_bytes",
                        (
                            (
                                " / ".join(
                                    _machine(_metric(f"system_disk_{what}_bytes")) for what in ("used", "total")
                                ),
                                "{{mountpoint}} on {{node}}",
                            ),
                        ),
                        unit="percentunit",
                        text="Share of each file system that is taken.",
                        least=0,
                        most=1,
                    ),
                    Panel(
                        "Disks",
                        "system_disk_read_bytes_total",
                        (
                            (_machine_rate("system_disk_read_bytes_total"), "read on {{node}}"),
                            (_machine_rate("system_disk_written_bytes_total"), "written on {{node}}"),
                        ),
                        unit="Bps",
                        text="Read from and written to all disks.",
                        least=0,
                    ),
                    Panel(
                        "Network",
                        "system_network_received_bytes_total",
                        (
                            (_machine_rate("system_network_received_bytes_total"), "received on {{node}}"),
                            (_machine_rate("system_network_transmitted_bytes_total"), "sent on {{node}}"),
                        ),
                        unit="Bps",
                        text="All interfaces but loopback.",
                        least=0,
                    ),
                ),
            ),
            Row(
                "Runtime",
                (
                    _counted("Failed calls", "retries_total", "outcome"),
                    _counted("Errors by code", "errors_total", "code"),
                    Panel(
                        "Events dropped",
                        "events_dropped_total",
                        ((f"increase({_metric('events_dropped_total')}[15m])", _ENDPOINT),),
                        text="In 15 minutes. What a slow subscriber has missed; its figures are too low.",
                        least=0,
                    ),
                ),
            ),
        ),
    )


def _metric(name: str) -> str:
    return f"{PREFIX}{name}{_SELECTED}"


def _machine(expression: str) -> str:
    """Several ranks of a machine see the same of it."""
    return f"max without ({ENDPOINT}) ({expression})"


def _machine_rate(name: str) -> str:
    return _machine(f"rate({_metric(name)}[$__rate_interval])")


def _counted(title: str, metric: str, label: str) -> Panel:
    expression = f"sum by (instance, {label}) (increase({_metric(metric)}[15m]))"
    return Panel(f"{title} in 15 minutes", metric, ((expression, f"{{{{{label}}}}}, {_ENDPOINT}"),), least=0)
