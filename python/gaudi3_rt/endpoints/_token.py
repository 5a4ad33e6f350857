"""The token that clients have to send, from an argument or a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gaudi3_rt.errors import InvalidConfigurationError, MissingConfigurationError, ParameterValidationError

_SHORTEST = 16
_FORM = re.compile(rf"[A-Za-z0-9._~+/=-]{{{_SHORTEST},4096}}")  # RFC 6750
_ALLOWED = f"{_SHORTEST} or more of the characters A-Z a-z 0-9 - . _ ~ + / ="


def read_token(token: str | None, file: str | os.PathLike[str] | None) -> str | None:
    """The token; None for none. No message shows it.

    Raises:
        ParameterValidationError: it is not fit to be sent, or both are given.
        MissingConfigurationError: the file cannot be read.
        InvalidConfigurationError: what the file holds is not fit to be sent.
    """
    if token is not None and file is not None:
        msg = "token and token_file exclude each other"
        raise ParameterValidationError(msg)
    if file is None:
        if token is not None and _FORM.fullmatch(token) is None:
            msg = f"token has {len(token)} characters; allowed: {_ALLOWED}"
            raise ParameterValidationError(msg)
        return token
    try:
        held = Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not ASCII"
        msg = f"token_file {os.fspath(file)!r}: {why}"
        raise MissingConfigurationError(
            msg, suggestions=["Write the token into the file, readable by you alone"]
        ) from None
    if _FORM.fullmatch(held) is None:
        msg = f"token_file {os.fspath(file)!r} holds {len(held)} characters; allowed: {_ALLOWED}"
        raise InvalidConfigurationError(msg, suggestions=["Make one: openssl rand -hex 32"])
    return held
