"""Recording rules: one series for each device, whoever measured it, and the names that older dashboards ask for."""

from __future__ import annotations

from gaudi3_rt.metrics import CATALOGUE, PREFIX, Metric

ENDPOINT = "instance, job, rank"
"""Labels that say who measured, not what: several ranks of a machine see the same device."""
VENDOR_ONLY = "Serial, UUID, driver, fit, id, pod_name, pod_namespace, spi"
"""Labels that only the vendor's exporter has; ``id`` is the number in ``hpu:0``."""

_PHASE_MEAN = (
    f'rate({PREFIX}training_phase_duration_seconds_sum{{phase="%s"}}[5m])'
    f" / rate({PREFIX}training_phase_duration_seconds_count[5m])"
)
_MORE_OLDER_NAMES = (
    ("training_samples_total", f"{PREFIX}training_samples_total"),
    ("training_accuracy", f"{PREFIX}training_accuracy_ratio"),
    ("model_forward_time", _PHASE_MEAN.replace("%s", "forward")),
    ("backward_pass_time", _PHASE_MEAN.replace("%s", "backward")),
    ("optimizer_step_time", _PHASE_MEAN.replace("%s", "optimizer")),
    ("cpu_utilization_percent", f"100 * {PREFIX}system_cpu_utilization_ratio"),
    ("memory_usage_bytes", f"{PREFIX}system_memory_used_bytes"),
    ("disk_io_bytes", f"{PREFIX}system_disk_read_bytes_total + {PREFIX}system_disk_written_bytes_total"),
    (
        "network_io_bytes",
        f"{PREFIX}system_network_received_bytes_total + {PREFIX}system_network_transmitted_bytes_total",
    ),
)
"""Older names that are a part or a sum of metrics, beside those that the catalogue has with each metric."""


def device_series(metric: Metric) -> str:
    """Name of the series that is one for each device."""
    return f"gaudi3_rt:{metric.name.removeprefix(PREFIX)}:max"


def rule_groups() -> list[dict[str, object]]:
    """Groups of a rule file."""
    devices = [metric for metric in CATALOGUE if metric.vendor]
    older = [
        (name, expression.replace("{name}", device_series(metric) if metric.vendor else metric.name))
        for metric in CATALOGUE
        for name, expression in metric.older
    ]
    return [
        {
            "name": "gaudi3_rt_devices",
            "rules": [{"record": device_series(metric), "expr": _merged(metric)} for metric in devices],
        },
        {
            "name": "gaudi3_rt_older_names",
            "rules": [{"record": name, "expr": expression} for name, expression in (*older, *_MORE_OLDER_NAMES)],
        },
    ]


def _merged(metric: Metric) -> str:
    """What trainings measured; of devices that none of them did, what the vendor's exporter says."""
    vendor_name, _, conversion = metric.vendor.partition(" ")
    return (
        f"max without ({ENDPOINT}) ({metric.name})\n"
        "or on (node, device)\n"
        f"max without ({ENDPOINT}, {VENDOR_ONLY}) (\n"
        f'  label_replace(label_replace({vendor_name}, "device", "hpu:$1", "id", "(.+)"),'
        ' "simulated", "false", "", "")\n'
        f"){f' {conversion}' if conversion else ''}\n"
    )
