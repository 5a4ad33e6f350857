"""The catalogue: names that Prometheus accepts, each with a value that comes from somewhere, and nothing besides."""

import re
import shutil
import subprocess
from collections import namedtuple
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch
from _scrape import scrape
from prometheus_client import generate_latest

from gaudi3_rt import events, metrics
from gaudi3_rt.metrics import CATALOGUE, PREFIX, _catalogue, _system, _translate
from gaudi3_rt.metrics._exposition import prometheus

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
LONG = 30.0  # seconds until a test gives up; none waits for it
READINGS = [
    field.name
    for field in fields(events.DeviceSampled)
    if field.name not in {"time", "device", "simulated", "interval_seconds"}
]
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum")}


class Machine:
    """psutil, with one number from which all of its figures follow."""

    def __init__(self, number):
        self.number = number

    def install(self, patch):
        """In the place of psutil's functions."""
        number = self.number
        cpu = namedtuple("cpu", "user idle")  # noqa: PYI024 (as psutil's)
        patch.setattr("gaudi3_rt._cpu_times._at_import", (0.0, 0.0))
        patch.setattr(psutil, "cpu_times", lambda: cpu(number, 100 - number))
        memory = namedtuple("memory", "total available")  # noqa: PYI024
        patch.setattr(psutil, "virtual_memory", lambda: memory(1000 + number, 500))
        disks = namedtuple("disks", "read_bytes write_bytes")  # noqa: PYI024
        patch.setattr(psutil, "disk_io_counters", lambda: disks(10 * number, 20 * number))
        nic = namedtuple("nic", "bytes_recv bytes_sent")  # noqa: PYI024
        traffic = {"lo": nic(10**9, 10**9), "eth0": nic(number, 2 * number), "eth1": nic(1, 1)}
        patch.setattr(psutil, "net_io_counters", lambda *, pernic: traffic if pernic else None)
        patch.setattr(_system, "_mountpoints_of_disks", lambda: ["/data"])
        usage = namedtuple("usage", "total used free")  # noqa: PYI024
        patch.setattr(psutil, "disk_usage", lambda path: usage(10**6, number, 3 * number) if path == "/data" else None)


def job(number):
    """Events of every kind, with figures that follow from one number."""
    run = {"run_id": "run", "rank": 0, "local_rank": 0, "world_size": 1}
    events.emit(events.RunStarted, start_step=number, **run)
    for _ in range(number):
        events.emit(
            events.StepCompleted,
            time=1e9 + number,
            step=2 * number,
            seconds=number / 8,
            phases={"forward": number / 16, "rest": number / 16},
            samples=number,
            tokens=10 * number * number,
            loss=1 / number,
            accuracy=number / 100,
            gradient_norm=2 / number,
            learning_rate=3 / number,
            skipped=True,
        )
        events.emit(events.CheckpointCompleted, time=2e9 + number, step=1, seconds=number, bytes=number)
        events.emit(events.NonFiniteLoss, step=1, loss=float("nan"))
        call = {"function": "f", "error": "E", "code": 2001}
        events.emit(events.RetryScheduled, attempt=1, max_attempts=3, delay_seconds=1.0, **call)
        events.emit(events.RetryExhausted, attempts=3, reason="not retryable", **call)
    events.emit(events.StepCompleted, step=3 * number, seconds=0.5, samples=number, tokens=number)
    if number % 2:
        events.emit(events.TrainingStalled, step=1, seconds=9.0, limit_seconds=3.0)


def device(number):
    """A device says something."""
    figures = {name: number + place for place, name in enumerate(READINGS)}
    events.emit(events.DeviceSampled, device="hpu:0", simulated=False, interval_seconds=5.0, **figures)


def drop(number):
    """A hook that cannot keep up loses so many records."""
    with events.subscribe(lambda _: None, events.DeviceReleased, capacity=1) as slow, slow._changed:
        for _ in range(number + 1):
            events.emit(events.DeviceReleased, device="hpu:0")


def everything(number):
    """A scrape of a process in which all of this happened."""
    with pytest.MonkeyPatch.context() as patch:
        Machine(number).install(patch)
        checks = {"disk": ["healthy", "degraded", "critical"][number % 3]}
        with metrics.Metrics(health=lambda: checks) as counted:
            before = scrape(counted.registry)["events_dropped_total"][""]
            job(number)
            device(number)
            drop(number)
            assert counted.flush(LONG)
            found = scrape(counted.registry)
            found["events_dropped_total"][""] -= before
            return found, generate_latest(counted.registry).decode()


def exposed_names(metric):
    """Of its samples, without the prefix."""
    name = metric.name.removeprefix(PREFIX)
    return {name + suffix for suffix in SUFFIXES.get(metric.type, ("",))}


def test_every_metric_has_a_value_that_came_from_somewhere():
    """Another run on another machine has another one; nothing is exposed that is not in the catalogue."""
    throughput = {"training_samples_per_second", "training_tokens_per_second"}
    (one, _), (other, _), (third, _) = everything(3), everything(4), everything(8)
    assert set(one) == set().union(*map(exposed_names, CATALOGUE)) - throughput  # it has stalled
    assert set(other) == set(third) == set(one) | throughput
    constant = {name for name in other if list(other[name].values()) == list(third[name].values())}
    assert constant == {"build_info", "training_stalled"}
    assert (one["training_stalled"], other["training_stalled"]) == ({"": 1}, {"": 0})
    labels = dict(pair.split("=", 1) for pair in next(iter(one["build_info"])).split(","))
    assert labels["version"] == version("gaudi3_rt")
    assert labels["torch"] == torch.__version__


def test_figures_of_the_machine():
    """Each from the right reading: loopback is no network, what is available is not used."""
    found, _ = everything(30)
    assert {name: value for name, value in found.items() if name.startswith("system_")} == {
        "system_cpu_utilization_ratio": {"": pytest.approx(0.3)},
        "system_memory_used_bytes": {"": 530},
        "system_memory_total_bytes": {"": 1030},
        "system_disk_used_bytes": {"mountpoint=/data": 30},
        "system_disk_total_bytes": {"mountpoint=/data": 120},
        "system_disk_read_bytes_total": {"": 300},
        "system_disk_written_bytes_total": {"": 600},
        "system_network_received_bytes_total": {"": 31},
        "system_network_transmitted_bytes_total": {"": 61},
    }


def test_figures_of_a_device():
    """Each from the right field."""
    found, _ = everything(5)
    place = {name: 5 + place for place, name in enumerate(READINGS)}
    at = "device=hpu:0,simulated=false"
    assert found["device_clock_hertz"] == {at: place["clock_hertz"]}
    assert found["device_energy_joules_total"] == {at: place["energy_joules"]}
    assert found["device_ecc_errors_total"] == {
        "device=hpu:0,kind=corrected,simulated=false": place["ecc_corrected"],
        "device=hpu:0,kind=uncorrected,simulated=false": place["ecc_uncorrected"],
    }
    for name in (*_translate.SENSORS, *_translate.OWN_MEMORY):
        assert found[f"device_{name}"] == {at: place[name]}, name


def test_promtool_finds_nothing_to_complain_of():
    """Names, units, help and types."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    _, text = everything(4)
    checked = subprocess.run(  # noqa: S603 (found on the path)
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert text.count("# TYPE") == len(CATALOGUE)


def test_names():
    """Prometheus's rules: a prefix, base units at the end, ``_total`` for counters and for nothing else."""
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in CATALOGUE:
        assert re.fullmatch(rf"{PREFIX}[a-z][a-z0-9_]*[a-z]", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert not re.search(r"percent|_ms|milli|_mb|mega|_gb|minutes|hours", metric.name)
        assert metric.help.endswith(".")
        assert len(metric.help) < 130
        assert metric.type != "histogram" or metric.unit == "seconds"
    assert [metric.unit for metric in CATALOGUE if metric.name.endswith("_joules_total")] == ["joules"]


def test_every_label_is_bounded():
    """All but those of the build, which has one of each."""
    bounded = {label for metric in CATALOGUE for label in metric.labels} - {"version", "torch", "python"}
    assert bounded == set(_catalogue.BOUNDS)


def test_older_names():
    """Each once, made from metrics of the catalogue."""
    older = [name for metric in CATALOGUE for name, _ in metric.older]
    assert len(set(older)) == len(older)
    assert {"hpu_utilization_percent", "hpu_power_watts", "batch_processing_time", "training_loss"} <= set(older)
    for metric in CATALOGUE:
        for _, expression in metric.older:
            assert metric.name in expression.format(name=metric.name)
        assert not metric.vendor or metric.vendor.startswith("habanalabs_")


def test_describe_is_what_collect_gives():
    """A registry knows our names before there is a sample; with units, so that both formats have one name."""
    families = {family.name: family for family in metrics.Metrics(system=False)._exposition.describe()}
    assert set(families) == {metric.name.removesuffix("_total") for metric in CATALOGUE}
    assert all(families[metric.name.removesuffix("_total")].unit == metric.unit for metric in CATALOGUE)
    assert prometheus().CollectorRegistry


def row(metric):
    """Of the page's table."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    older = ", ".join(f"`{name}`" for name, _ in metric.older)
    name = metric.name.removeprefix(PREFIX)
    return f"| `{name}` | {metric.type} | {labels} | {metric.help} | {metric.source} | {older} |"


def test_the_page_has_the_catalogue():
    """Row by row; what to paste is in the message."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    wanted = [row(metric) for metric in CATALOGUE]
    assert [line for line in rows if line.count("|") == 7] == wanted, "\n".join(wanted)
