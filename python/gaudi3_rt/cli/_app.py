"""The commands of ``gaudi3-rt``: which there are, in which groups, and what they have in common."""

import logging

import click

from gaudi3_rt import __version__
from gaudi3_rt._config import DEBUG_VARIABLE
from gaudi3_rt.cli._commands import Commands, logging_to_stderr

COMMANDS = {
    "This machine": {
        "doctor": "gaudi3_rt.cli._doctor:doctor",
        "health": "gaudi3_rt.cli._health:health_command",
        "devices": "gaudi3_rt.cli._devices:devices",
        "memory": "gaudi3_rt.cli._memory:memory_group",
    },
    "A run": {
        "top": "gaudi3_rt.cli._top:top",
        "report": "gaudi3_rt.cli._report:report",
        "config": "gaudi3_rt.cli._config:config",
        "convert-state": "gaudi3_rt.cli._convert_state:convert_state",
        "explain": "gaudi3_rt.cli._explain:explain",
        "audit-log": "gaudi3_rt.cli._audit:audit_log",
    },
    "Optimizers": {
        "audit": "gaudi3_rt.cli._numerics:audit",
    },
    "Kernels": {
        "tpc": "gaudi3_rt.cli._tpc:tpc",
    },
}
"""Commands by group, in the order of ``--help``; where each one is. It is imported when it is used."""

EPILOG = """
\b
Examples:
  gaudi3-rt doctor                  can this machine train, and if not, why
  gaudi3-rt doctor --json --strict  the same as the first step of a job
  gaudi3-rt devices hpu:0,2-3       what this means here, and who has them

\b
Exit status:
  0 done    1 failed    2 wrong usage    75 try again later
  78 configuration is wrong, do not try again    130 interrupted

Data go to standard output, everything else to standard error. NO_COLOR=1 turns colours off; where there is no
terminal there are none.

\b
Completion of commands and options, for bash (also zsh, fish):
  eval "$(_GAUDI3_RT_COMPLETE=bash_source gaudi3-rt)"
"""

LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
_NORMAL = 1


@click.group(
    cls=Commands, commands_by_group=COMMANDS, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, "-V", "--version", prog_name="gaudi3-rt")
@click.option("-v", "--verbose", count=True, help="Log what is done; twice for details.")
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
@click.option("--debug", is_flag=True, envvar=DEBUG_VARIABLE, help=f"Show tracebacks of errors.  [{DEBUG_VARIABLE}=1]")
@click.pass_context
def app(context: click.Context, verbose: int, quiet: bool, debug: bool) -> None:
    """Tools of gaudi3_rt, fused optimizers for Intel Gaudi and CPUs.

    Nothing needs a Gaudi; what is emulated or simulated says so.
    """
    if verbose and quiet:
        message = "-v and -q exclude each other"
        raise click.UsageError(message)
    context.obj = {"debug": debug}
    level = LEVELS[0 if quiet else min(_NORMAL + verbose, len(LEVELS) - 1)]
    context.with_resource(logging_to_stderr(level))
