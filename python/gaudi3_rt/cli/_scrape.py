"""What endpoints of a run say now: their metrics, fetched side by side and put into figures of one rank each."""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from gaudi3_rt._forms import is_loopback
from gaudi3_rt._redact import redact_text

PREFIX = "gaudi3_rt_"
_LARGEST = 16 << 20  # bytes; more is not an endpoint of ours
_TIMEOUT = 2.0  # seconds
_LATE = f"no answer within {_TIMEOUT:g} s"

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """What one endpoint said.

    Attributes:
        time: when it was asked, seconds of a monotonic clock.
        samples: values by name without our prefix, and by their labels.
        error: why it said nothing; empty if it did.
    """

    time: float
    samples: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)
    error: str = ""

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample with these labels among others; None if there is none."""
        wanted = set(labels.items())
        return next((v for have, v in self.samples.get(name, {}).items() if have >= wanted), None)

    def by(self, name: str, label: str) -> dict[str, float]:
        """Samples of a metric by one of their labels; of equal ones the sum."""
        found: dict[str, float] = {}
        for labels, value in self.samples.get(name, {}).items():
            key = dict(labels).get(label, "")
            found[key] = found.get(key, 0) + value
        return found


def scrape_all(urls: Sequence[str], token: str | None, now: float) -> list[Scrape]:
    """Asks all endpoints at the same time; one that does not answer in 2 s has an error instead."""
    with ThreadPoolExecutor(max_workers=min(32, len(urls))) as pool:
        return list(pool.map(lambda url: _scrape(url, token, now), urls))


def _scrape(url: str, token: str | None, now: float) -> Scrape:
    try:
        text = _get(url, token)
        samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith(PREFIX):
                    labels = frozenset(sample.labels.items())
                    samples.setdefault(sample.name.removeprefix(PREFIX), {})[labels] = float(sample.value)
    except urllib.error.HTTPError as error:
        with error:
            return Scrape(now, error=f"HTTP {error.code} {error.reason}")
    except (OSError, ValueError, KeyError, IndexError) as error:  # the parser raises the last two for what is no metric
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return Scrape(now, error=_LATE)
        return Scrape(now, error=redact_text(str(getattr(reason, "strerror", None) or reason)))
    if not samples:
        return Scrape(now, error=f"answers, but with no metric that begins with {PREFIX}")
    return Scrape(now, samples)


def _get(url: str, token: str | None) -> str:
    deadline = time.monotonic() + _TIMEOUT
    request = urllib.request.Request(url, headers={"Accept": "text/plain"})  # noqa: S310 (checked by the command)
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    # What the environment says of proxies is not meant for this machine.
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(url).hostname or "") else []
    with urllib.request.build_opener(*proxies).open(request, timeout=_TIMEOUT) as answer:
        content = bytearray()
        while part := answer.read1(1 << 16):
            content += part
            if len(content) > _LARGEST:
                message = f"answers with more than {_LARGEST >> 20} MiB"
                raise ValueError(message)
            if time.monotonic() > deadline:  # the timeout is for each part
                raise TimeoutError(_LATE)
    return content.decode("utf-8")


def rank_figures(now: Scrape, before: Scrape | None, wall_time: float) -> dict[str, Any]:
    """What is shown of one process. Rates are of the time since the scrape before, or what the process says itself.

    Args:
        now: what it says.
        before: what it said; None at first.
        wall_time: now, in seconds since the epoch.
    """
    stamp = now.value("training_last_step_timestamp_seconds")
    stalled = now.value("training_stalled")
    steps = _mean_duration(now, before, "training_step_duration_seconds")
    phases = {
        name: seconds
        for name in now.by("training_phase_duration_seconds_sum", "phase")
        if (seconds := _growth(now, before, "training_phase_duration_seconds_sum", phase=name)) is not None
    }
    total = sum(phases.values())
    anomalies = now.by("training_anomalies_total", "kind")
    return {
        "rank": next(iter(now.by("build_info", "rank")), None),
        "state": "no run" if stalled is None else "stalled" if stalled else "training",
        "step": _whole(now.value("training_step")),
        "loss": now.value("training_loss"),
        "gradient_norm": now.value("training_gradient_norm"),
        "step_seconds": steps,
        "samples_per_second": _rate(now, before, "samples"),
        "tokens_per_second": _rate(now, before, "tokens"),
        "phases": {name: part / total for name, part in sorted(phases.items(), key=lambda row: -row[1])}
        if total > 0
        else {},
        "last_step_age_seconds": None if stamp is None else max(0.0, wall_time - stamp),
        "skipped_steps": _whole(now.value("training_skipped_steps_total")),
        "anomalies": {kind: n for kind, count in anomalies.items() if (n := _whole(count))},
        "devices": [_device(now, name) for name in sorted(_devices(now))],
    }


def _growth(now: Scrape, before: Scrape | None, name: str, **labels: str) -> float | None:
    """Of a counter since the scrape before; all of it if there is none, or if the process began anew."""
    value = now.value(name, **labels)
    earlier = before.value(name, **labels) if before is not None else None
    return value if value is None or earlier is None or earlier > value else value - earlier


def _mean_duration(now: Scrape, before: Scrape | None, name: str) -> float | None:
    """Of what ended since the scrape before; if nothing did, of all."""
    for earlier in (before, None):
        seconds, count = _growth(now, earlier, f"{name}_sum"), _growth(now, earlier, f"{name}_count")
        if seconds is not None and count:
            return seconds / count
    return None


def _rate(now: Scrape, before: Scrape | None, what: str) -> float | None:
    name = f"training_{what}_total"
    value, earlier = now.value(name), None if before is None else before.value(name)
    if before is None or value is None or earlier is None or earlier > value:
        return now.value(f"training_{what}_per_second")
    return (value - earlier) / (now.time - before.time)


def _devices(now: Scrape) -> set[tuple[str, bool]]:
    names = [name for name in now.samples if name.startswith("device_")]
    rows = (dict(labels) for name in names for labels in now.samples[name])
    return {(row["device"], row.get("simulated") == "true") for row in rows if "device" in row}


def _device(now: Scrape, key: tuple[str, bool]) -> dict[str, Any]:
    name, simulated = key
    readings = {
        reading: now.value(f"device_{reading}", device=name)
        for reading in (
            "memory_used_bytes",
            "memory_allocated_bytes",
            "memory_peak_bytes",
            "utilization_ratio",
            "temperature_celsius",
            "power_watts",
        )
    }
    total = now.value("device_memory_total_bytes", device=name) or now.value("device_memory_limit_bytes", device=name)
    errors = now.value("device_ecc_errors_total", device=name, kind="uncorrected")
    return {
        "device": name,
        "simulated": simulated,
        **readings,
        "memory_total_bytes": total,
        "ecc_uncorrected": _whole(errors),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)
