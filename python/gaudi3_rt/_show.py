"""How an error shows a value that it refuses: secrets masked, shortened."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

from gaudi3_rt._forms import has_credentials
from gaudi3_rt._redact import MASK, redact

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_LONGEST_INTEGER = 1024  # bits


def show(value: Any, name: str = "") -> str:
    """A value in at most 80 characters; of lists and mappings only their size, of other objects only their type.

    Args:
        value: anything; nothing of the user's code is called.
        name: of its field: some names mean that the value is a secret.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return f"a mapping of {len(value)}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"a list of {len(value)}"
    if type(value) not in {str, int, float, bool, type(None)}:
        return f"an object of type {type(value).__name__}"
    if isinstance(value, str) and has_credentials(value):
        return MASK
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:  # Python does not write out very long ones
        return f"an integer of {value.bit_length()} bits"
    return _SHORT.repr(redact(value, name))
