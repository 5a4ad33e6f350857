"""The table of the classifier: which texts and exceptions of other software mean which error of ours.

The first row that matches decides, so a row stands before those that would also take its messages: what an operation
says before its status code, a status code before "Generic failure". Every row has a message in
``tests/errors/messages.json`` that only it takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gaudi3_rt.errors._base import Gaudi3RTError

DEVICES = "gaudi3-rt devices"
DOCTOR = "gaudi3-rt doctor"
DMESG = "dmesg -T | grep -i habanalabs | tail -50"
DEVICE_LOG = "cat $HABANA_LOGS/dfa_log.txt"
GRAPH_LOG = "run again with LOG_LEVEL_ALL=3 ENABLE_CONSOLE=true, and read the first error"
SMALLER = "use a smaller batch or shorter sequences; gaudi3_rt.memory.explain_oom says who holds the memory"
ON_CPU = "run the same step on the CPU; then give the failing operation other shapes or another dtype"
FIRST_RANK = "restart the job from its last checkpoint; read the log of the rank that failed first"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of error of other software.

    Attributes:
        id: its name, stable.
        pattern: what its text contains; searched without regard to case.
        error: the class that it becomes.
        cause: the likely cause, a sentence.
        retryable: whether the same call may succeed later without a change.
        next_command: what to run or do next.
        source: where the message and its meaning were seen.
        types: names of exception classes, ``module.Name`` or ``Name`` for built-in ones, that need no text to match.
        errnos: names of ``errno`` values, likewise for an ``OSError``.
    """

    id: str
    pattern: str
    error: type[Gaudi3RTError]
    cause: str
    next_command: str
    source: str
    retryable: bool = False
    types: tuple[str, ...] = ()
    errnos: tuple[str, ...] = ()
    compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compiled", re.compile(self.pattern, re.IGNORECASE))
