"""The commands of ``gaudi3-rt``."""

import click

from gaudi3_rt import __version__
from gaudi3_rt.cli._tpc import tpc


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gaudi3-rt")
def app() -> None:
    """Tools of gaudi3_rt."""


app.add_command(tpc)
