"""What a run says: entries with time, rank, step and run id, as JSON or for a console, without secrets.

Modules log through :mod:`logging`, and nothing is written until :func:`configure_logging` is called.
"""

from gaudi3_rt.log._configure import LoggingHandle, configure_logging, get_logger
from gaudi3_rt.log._context import Binding, bind, context, in_context, unbind
from gaudi3_rt.log._events import subscribe
from gaudi3_rt.log._operation import operation

__all__ = [
    "Binding",
    "LoggingHandle",
    "bind",
    "configure_logging",
    "context",
    "get_logger",
    "in_context",
    "operation",
    "subscribe",
    "unbind",
]
