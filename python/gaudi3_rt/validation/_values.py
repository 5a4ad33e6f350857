"""Is this text, number, path or URL what it should be? It comes back unchanged, or an error says why not."""

from __future__ import annotations

import math
import numbers
import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from gaudi3_rt._forms import path_fault, url_fault
from gaudi3_rt._show import show
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.validation._files import open_beneath

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_LINE_ENDS_AND_TAB = "\n\r\t"


@dataclass(frozen=True, kw_only=True)
class DataValidator:
    """Checks values from outside the program; nothing is trimmed, cut, escaped or converted.

    Every method takes the value and the name of its field, which errors mention, and returns the value itself. Errors
    are :class:`~gaudi3_rt.errors.ParameterValidationError` (also a ``ValueError``) with field, seen value (secrets
    masked, shortened) and what is allowed, as message and as ``context``.

    Attributes:
        root: the folder that paths are relative to and may not leave; None allows paths to be checked in form only.
        schemes: of URLs that are allowed, in lower case; HTTPS:// in a URL is https.
        block_private: refuse URLs whose host is an address of this machine or of a private or link-local network.
        max_length: of any text, in characters.
        max_matched_length: of a text that is compared with a pattern: an unfortunate pattern takes a time that grows
            with the square of the length or worse.
    """

    root: str | os.PathLike[str] | None = None
    schemes: Collection[str] = ("https",)
    block_private: bool = False
    max_length: int = 4096
    max_matched_length: int = 256

    def __post_init__(self) -> None:
        """Refuses one text for ``schemes``, a collection of its letters, and capitals, which no URL's scheme keeps."""
        if isinstance(self.schemes, str):
            msg = f"schemes={self.schemes!r}: must be a collection of schemes, like ({self.schemes!r},)"
            raise ParameterValidationError(msg, context={"field": "schemes"})
        if any(scheme != scheme.lower() for scheme in self.schemes):
            msg = f"schemes={self.schemes!r}: must be in lower case"
            raise ParameterValidationError(msg, context={"field": "schemes"})

    def string(
        self,
        value: Any,
        field: str,
        *,
        min_length: int = 0,
        max_length: int | None = None,
        pattern: str | re.Pattern[str] | None = None,
        charset: Collection[str] | None = None,
    ) -> str:
        """Text.

        Args:
            value: the text.
            field: its name.
            min_length: in characters.
            max_length: in characters; never more than that of the validator.
            pattern: the whole text has to match it. Avoid repeats inside of repeats, such as ``(a+)+``: their time
                doubles with each character, which no limit of length makes harmless.
            charset: the characters that are allowed, e.g. ``string.ascii_letters``; all but control characters and
                lone surrogates if not given (tabs and line ends are allowed then).

        Raises:
            ParameterValidationError: it is not text, or not as described.
        """
        limit = min(self.max_length, self.max_length if max_length is None else max_length)
        if not isinstance(value, str):
            _refuse(value, field, "text")
        if not min_length <= len(value) <= limit:
            _refuse(value, field, f"text of {min_length} to {limit} characters; it has {len(value)}")
        wrong = next((i for i, c in enumerate(value) if not _is_allowed(c, charset)), None)
        if wrong is not None:
            wanted = "printable characters, tabs and line ends" if charset is None else "characters of its set"
            _refuse(value, field, f"{wanted}; character {wrong} is U+{ord(value[wrong]):04X}")
        if pattern is not None:
            if len(value) > self.max_matched_length:
                _refuse(value, field, f"at most {self.max_matched_length} characters; it has {len(value)}")
            if re.fullmatch(pattern, value) is None:
                text = pattern if isinstance(pattern, str) else pattern.pattern
                _refuse(value, field, f"text that matches {text}")
        return value

    def number(
        self,
        value: Any,
        field: str,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        integer: bool = False,
        finite: bool = True,
    ) -> Any:
        """A real number, also NumPy's; a boolean is none, and neither is text.

        Args:
            value: the number.
            field: its name.
            minimum: least value that is allowed.
            maximum: greatest value that is allowed.
            integer: only integers; 1.0 is none.
            finite: neither infinite nor NaN. Where it may be, NaN still is in no range.

        Raises:
            ParameterValidationError: it is not a number, or not as described.
        """
        kind: Any = numbers.Integral if integer else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            _refuse(value, field, "an integer" if integer else "a number")
        if finite and not isinstance(value, numbers.Integral) and not math.isfinite(value):
            _refuse(value, field, "a finite number")
        low, high = minimum is None or value >= minimum, maximum is None or value <= maximum
        if not (low and high):
            least = "" if minimum is None else f" >= {minimum}"
            most = "" if maximum is None else f" <= {maximum}"
            _refuse(value, field, f"a number{' and'.join(filter(None, (least, most)))}")
        return value

    def identifier(self, value: Any, field: str, *, max_length: int = 63) -> str:
        """A name: an ASCII letter or ``_``, then letters, digits, ``_``, ``.`` and ``-``.

        Raises:
            ParameterValidationError: it is none, or too long.
        """
        if not isinstance(value, str) or len(value) > max_length or not _IDENTIFIER.fullmatch(value):
            _refuse(value, field, f"a letter or _, then letters, digits, _ . and -; at most {max_length} together")
        return value

    def path(self, value: Any, field: str, *, must_exist: bool = False) -> Any:
        """A relative path that stays below ``root``, also after its symbolic links are followed.

        It says how things are now. Who can change the folder can put a link there a moment later: to read a file of
        such a folder, use :meth:`open`.

        Args:
            value: text or a ``Path``; without NUL and ``..``.
            field: its name.
            must_exist: below ``root`` there has to be something of that name.

        Raises:
            ParameterValidationError: it is no such path.
        """
        text = os.fspath(value) if isinstance(value, Path) else value
        self.string(text, field, min_length=1)
        root = None if self.root is None else Path(self.root)
        if (fault := path_fault(text, root)) is not None:
            _refuse(text, field, f"a relative path inside of its root; it {fault}")
        if must_exist and not os.path.exists(text if root is None else root / text):  # noqa: PTH110 (Path.exists raises)
            _refuse(text, field, "a path that exists")
        return value

    def open(self, value: Any, field: str) -> BinaryIO:
        """Opens a file below ``root`` for reading, in binary. No symbolic link on the way is followed.

        The folders are opened one in the other, so nothing that is renamed or linked meanwhile leads elsewhere.

        Raises:
            ParameterValidationError: the path is not as for :meth:`path`, or leads over a symbolic link, or to
                something that is no regular file.
            FileNotFoundError: there is no such file.
        """
        if self.root is None:
            msg = f"{field}: a validator without a root opens no files; give it one: DataValidator(root=...)"
            raise ParameterValidationError(msg, context={"field": field})
        text = os.fspath(value) if isinstance(value, Path) else value
        self.string(text, field, min_length=1)
        if (fault := path_fault(text, None)) is not None:
            _refuse(text, field, f"a relative path inside of its root; it {fault}")
        try:
            return open_beneath(self.root, Path(text).parts)
        except (IsADirectoryError, NotADirectoryError, ValueError) as error:
            refusal = _refusal(text, field, "a regular file, and no symbolic links on the way to it")
            raise refusal from error

    def url(self, value: Any, field: str) -> str:
        """A URL with a host, one of ``schemes``, and no user name or password in it.

        With ``block_private``, hosts that are written as addresses are looked at in every notation that resolvers
        take. Names are not looked up: what they lead to is for the one who connects to check.

        Raises:
            ParameterValidationError: it is no such URL.
        """
        self.string(value, field, min_length=1)
        fault = url_fault(value, self.schemes, block_private=self.block_private)
        if fault is not None:
            _refuse(value, field, f"a URL of {', '.join(sorted(self.schemes))}; it {fault}")
        checked: str = value
        return checked


def _is_allowed(character: str, charset: Collection[str] | None) -> bool:
    if charset is not None:
        return character in charset
    return character in _LINE_ENDS_AND_TAB or unicodedata.category(character) not in {"Cc", "Cs"}


def _refuse(value: Any, field: str, allowed: str) -> NoReturn:
    raise _refusal(value, field, allowed)


def _refusal(value: Any, field: str, allowed: str) -> ParameterValidationError:
    seen = show(value, field)
    message = f"{field}: seen {seen}; allowed: {allowed}"
    return ParameterValidationError(message, context={"field": field, "seen": seen, "allowed": allowed})
