"""Pictures of a run as files, and one page with everything that opens without a network."""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from gaudi3_rt import __version__
from gaudi3_rt._units import bytes_text, duration_text, number_text, seconds_text
from gaudi3_rt.report._gather import Happening, RunData
from gaudi3_rt.report._summary import summary

_SHOWN = 200  # of what happened; a page with more is not read
_NOTHING = "not given"


def write_report(run: RunData, folder: str | Path) -> dict[str, Path]:
    """Writes ``report.html`` and a PNG for each picture that there are data for.

    Args:
        run: what ``gather`` has read.
        folder: is made if it is missing; files of an earlier report are replaced.

    Returns:
        By name (``report``, ``loss``, ``throughput``, ``time_split``, ``memory``, ``devices``), where it is.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
        OSError: the folder cannot be made or written to.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 (only for pages)

        from gaudi3_rt.report._charts import CHARTS, charts  # noqa: PLC0415 (matplotlib, only for pictures)
    except ImportError as error:
        msg = f'a report needs {error.name}; install it with: pip install "gaudi3_rt[report]"'
        raise ImportError(msg, name=error.name) from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written, pictures = {}, []
    for name, figure in charts(run):
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        written[name] = folder / f"{name}.png"
        _replace(written[name], png.getvalue())
        pictures.append((name, base64.b64encode(png.getvalue()).decode("ascii")))
    for name in CHARTS.keys() - written.keys():  # of an earlier report
        (folder / f"{name}.png").unlink(missing_ok=True)
    page = Environment(loader=PackageLoader("gaudi3_rt", "report"), autoescape=True, undefined=StrictUndefined)
    text = page.get_template("page.html").render(_content(run), pictures=pictures, version=__version__)
    written["report"] = folder / "report.html"
    _replace(written["report"], text.encode())
    return written


def _replace(path: Path, content: bytes) -> None:
    """Who has the page of a running training open never reads half of the next one, however many write it."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        new.write_bytes(content)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _content(run: RunData) -> dict[str, Any]:
    found = summary(run)
    happenings = run.happenings[:_SHOWN]
    return {
        "summary": found,
        "facts": facts(found),
        "began": _clock(run.began),
        "ended": _clock(run.ended),
        "lasted": duration_text(run.ended - run.began),
        "happenings": [_row(one) for one in happenings],
        "left_out": len(run.happenings) - len(happenings),
        "ranks": [
            (
                rank,
                steps.count,
                int(steps.number[-1]),
                seconds_text(float(np.median(steps.seconds))),
                seconds_text(float(np.quantile(steps.seconds, 0.95))),
                _optional(steps.total("samples"), _count),
            )
            for rank, steps in run.ranks.items()
        ],
    }


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A summary as lines for people; what nobody measured is said to be not given."""
    rows = [
        ("outcome", found["outcome"]),
        ("ranks", str(found["world_size"])),
        ("restarts", str(found["restarts"])),
        ("steps", _count(found["steps"]) + (f", the last is {found['last_step']}" if found["last_step"] else "")),
        ("skipped steps", _count(found["skipped_steps"])),
        ("samples", _optional(found["samples"], _count)),
        ("tokens", _optional(found["tokens"], _count)),
        ("loss at the end", _optional(found["loss"], number_text)),
        ("samples per second", _optional(found["samples_per_second"], number_text)),
        ("tokens per second", _optional(found["tokens_per_second"], number_text)),
        ("median step", _optional(found["step_seconds"], seconds_text)),
    ]
    if found["phases"]:
        rows.append(("time of a step", ", ".join(f"{name} {share:.1%}" for name, share in found["phases"].items())))
    if found["slowest_rank"]:
        slow = found["slowest_rank"]
        rows.append(("slowest rank", f"{slow['rank']}, median step {seconds_text(slow['step_seconds'])}"))
    counts = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in found["anomalies"].items())
    rows += [("anomalies", counts or "none"), ("checkpoints", str(found["checkpoints"]))]
    if found["steps_kept"] < found["steps"]:
        text = (
            f"{_count(found['steps_kept'])} steps are kept, older ones for their neighbours too: totals are estimates"
        )
        rows.append(("history", text))
    if found["damaged_lines"]:
        rows.append(("damaged lines", f"{found['damaged_lines']} of the history could not be read"))
    rows += [(f"peak memory, {name}", bytes_text(peak)) for name, peak in found["peak_memory_bytes"].items()]
    return rows


def _row(happening: Happening) -> dict[str, Any]:
    details = {name: value for name, value in happening.details.items() if value is not None}
    return {
        "time": _clock(happening.time),
        "kind": happening.kind.replace("_", " "),
        "step": happening.step,
        "rank": happening.rank,
        "details": ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in details.items()),
    }


def _plain(value: Any) -> str:
    return number_text(value) if isinstance(value, float) else str(value)


def _optional(value: Any, text: Any) -> str:
    return _NOTHING if value is None else str(text(value))


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
