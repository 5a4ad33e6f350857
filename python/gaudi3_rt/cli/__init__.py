"""The command ``gaudi3-rt``. It needs the extra ``cli``; nothing else of the package does."""

import sys

__all__ = ["main"]


def main() -> None:
    """What ``gaudi3-rt`` does."""
    try:
        import click  # noqa: F401, PLC0415 (only the command needs it)
        import rich  # noqa: F401, PLC0415 (same)
    except ImportError as error:
        sys.exit(f'gaudi3-rt needs {error.name}; install it with: pip install "gaudi3_rt[cli]"')
    from gaudi3_rt.cli._app import app  # noqa: PLC0415

    app(prog_name="gaudi3-rt")
