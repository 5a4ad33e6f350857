"""Events as log entries."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping

from gaudi3_rt import events
from gaudi3_rt.events import Event, Subscription
from gaudi3_rt.log._entry import FIELDS
from gaudi3_rt.log._levels import level_number

_log = logging.getLogger("gaudi3_rt.events")
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def subscribe(*kinds: type[Event], levels: Mapping[type[Event], int | str] | None = None) -> Subscription:
    """Writes every event of these kinds (all, if none is given) to the log until the subscription is closed.

    The entry's text is the name of the kind (``RetryScheduled`` is ``retry_scheduled``), its fields are the event's.

    Args:
        *kinds: classes of events; their subclasses count.
        levels: of an entry, by kind; the nearest class counts. Other kinds have their ``log_level``.

    Raises:
        InvalidConfigurationError: a level is none.
    """
    by_kind = {kind: level_number(level) for kind, level in (levels or {}).items()}

    def write(event: Event) -> None:
        kind = type(event)
        level = next((by_kind[c] for c in kind.__mro__ if c in by_kind), kind.log_level)
        if _log.isEnabledFor(level):
            fields = {f.name: getattr(event, f.name) for f in dataclasses.fields(event) if f.name != "time"}
            _log.log(level, _WORD.sub("_", kind.__name__).lower(), extra={FIELDS: fields})

    return events.subscribe(write, *kinds, inline=True)
