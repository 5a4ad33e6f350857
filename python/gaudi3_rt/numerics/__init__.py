"""Numerics that can be proven: the audit of any optimizer, and the conversion of the state of any optimizer."""

from gaudi3_rt.numerics._battery import BATTERY, audit
from gaudi3_rt.numerics._oracle import SPECIFICATIONS, Reference, Specification
from gaudi3_rt.numerics._passport import Check, Figure, Passport, Status
from gaudi3_rt.numerics.convert import Certificate, Conversion, convert_state

CHECKS = tuple(entry.name for entry in BATTERY)
"""Names of all checks, in order."""

__all__ = [
    "CHECKS",
    "SPECIFICATIONS",
    "Certificate",
    "Check",
    "Conversion",
    "Figure",
    "Passport",
    "Reference",
    "Specification",
    "Status",
    "audit",
    "convert_state",
]
