"""``gaudi3-rt convert-state``: the state of an optimizer in a file, in the layout of another library."""

import json
from pathlib import Path
from typing import Any

import click
import torch

from gaudi3_rt.cli._output import console, grid, show
from gaudi3_rt.numerics.convert import LAYOUTS, Options, convert_file, names_in

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "uint8": torch.uint8}
_OPTIMIZERS = ("AdamW", "Adam", "SGD", "Lion", "Adagrad")
_EPILOG = """
\b
Examples:
  gaudi3-rt convert-state checkpoint.pt torch.pt --to torch
  gaudi3-rt convert-state in.pt out.pt --from hpex --to gaudi3_rt
  gaudi3-rt convert-state rank0.pt rank1.pt out.pt --to torch --shards 4
"""


@click.command(name="convert-state", epilog=_EPILOG)
@click.argument("source", metavar="IN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to", "layout", required=True, type=click.Choice(list(LAYOUTS)), help="Library that will load OUT.")
@click.option(
    "--from",
    "origin",
    default="auto",
    type=click.Choice(["auto", *LAYOUTS]),
    help="Library that saved IN.",
    show_default=True,
)
@click.option("--optimizer", type=click.Choice(_OPTIMIZERS), help="Class, where the file does not say it.")
@click.option("--key", metavar="KEY", help="Where in IN the state is, e.g. optimizer or optimizer_states.0.")
@click.option(
    "--params",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="State of the model: names and shapes, to match parameters; flat shards and ZeRO need it.",
)
@click.option(
    "--match", default="auto", type=click.Choice(["auto", "name", "order"]), help="How to match with --params."
)
@click.option("--step", type=click.IntRange(0), help="Updates that were made, where the file has lost the count.")
@click.option(
    "--moments-dtype", type=click.Choice(list(_DTYPES)), help="Of the moments in OUT; uint8: codes of 8 bits."
)
@click.option("--shards", type=click.IntRange(1), metavar="M", help="Write M files, one for each rank.")
@click.option(
    "--sharding",
    default="rows",
    type=click.Choice(["rows", "flat"]),
    show_default=True,
    help="How shards are cut: each parameter by rows, or a group by elements.",
)
@click.option("--allow-lossy", is_flag=True, help="Convert also what OUT has no place for, or goes on with otherwise.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--steps", type=click.IntRange(1), default=8, show_default=True, help="Updates to compare.")
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
def convert_state(
    source: tuple[Path, ...],
    target: Path,
    layout: str,
    origin: str,
    key: str | None,
    params: Path | None,
    moments_dtype: str | None,
    overwrite: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Convert the state of an optimizer, and say what that does.

    IN is a file of torch.save, or one for each rank; it is never executed and never written to. OUT appears when it is
    complete. Both sides take a few updates before that, and the certificate says how far they are apart; if it is more
    than rounding, OUT is written with --allow-lossy only.
    """
    options = Options(
        source=origin,
        target=layout,
        params=None if params is None else names_in(params),
        moments_dtype=None if moments_dtype is None else _DTYPES[moments_dtype],
        **rest,
    )
    written, certificate = convert_file(source, target, options, key=key, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({"written": list(map(str, written)), **certificate.to_dict()}))
        return
    rows = grid()
    for label, text in certificate.rows():
        rows.add_row(label, text)
    for path in written:
        rows.add_row("written", str(path))
    show(console(), rows)
