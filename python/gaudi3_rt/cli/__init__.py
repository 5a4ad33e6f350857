"""The command ``gaudi3-rt``. It needs the extra ``cli``; nothing else of the package does."""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of ``gaudi3-rt``."""
    try:
        import click  # noqa: F401, PLC0415 (only the command needs it)
    except ImportError:
        sys.exit('gaudi3-rt needs click; install it with: pip install "gaudi3_rt[cli]"')
    from gaudi3_rt.cli._app import app  # noqa: PLC0415

    app()
