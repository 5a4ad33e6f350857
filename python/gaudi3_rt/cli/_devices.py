"""``gaudi3-rt devices``: which devices there are, how they are, and who has them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from gaudi3_rt import device
from gaudi3_rt._redact import redact
from gaudi3_rt.cli._output import NOTHING, amount, console, show, table
from gaudi3_rt.doctor import status_of

FORMAT_VERSION = 1
"""Of the JSON; a higher one when a key goes or changes its meaning."""

_NUMBERS = ("memory used", "total", "temp", "power", "util")


EXAMPLES = """
\b
Examples:
  gaudi3-rt devices
  gaudi3-rt devices hpu:0,2-3
  gaudi3-rt devices --json | jq '.devices[].memory_used_bytes'
"""


@click.command(epilog=EXAMPLES)
@click.argument("spec", required=False)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, with sizes in bytes.")
def devices(spec: str | None, is_json: bool) -> None:
    """List devices: what they are doing, and who has them.

    SPEC chooses among them as acquiring does: auto, cpu, 8 (so many HPUs), hpu, hpu:0,2-3. Without it all are listed.
    No device is acquired, and none has to be free.

    ECC counts corrected / uncorrected memory errors since the driver was loaded. The exit status is 1 if SPEC names
    devices that are not there, 2 if it means nothing.
    """
    out = console()
    found: list[dict[str, Any]] = [redact(asdict(status_of(one))) for one in device.devices(spec)]
    if is_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, "devices": found}, indent=2), file=out.file)
    else:
        show(out, device_table(found))


def device_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Devices as rows; what a device does not tell is a dash."""
    rows = table("device", "memory used", "total", "temp", "power", "util", "ECC", "holders", right=_NUMBERS)
    for one in found:
        name = f"{one['name']} (simulated)" if one["simulated"] else one["name"]
        rows.add_row(
            name,
            amount(one["memory_used_bytes"]),
            amount(one["memory_total_bytes"]),
            _number(one["temperature_celsius"], "{:.0f} °C"),
            _number(one["power_watts"], "{:.0f} W"),
            _number(one["utilization_ratio"], "{:.0%}"),
            _errors(one["ecc_corrected"], one["ecc_uncorrected"]),
            "\n".join(f"{holder['pid']} {holder['command']}" for holder in one["holders"]) or NOTHING,
        )
    return rows


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def _errors(corrected: int | None, uncorrected: int | None) -> str:
    if corrected is None and uncorrected is None:
        return NOTHING
    return f"{NOTHING if corrected is None else corrected}/{NOTHING if uncorrected is None else uncorrected}"
