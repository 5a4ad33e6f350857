"""What every error of gaudi3_rt carries: a stable code, a message, facts, advice, and whether trying again can help."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

from typing_extensions import Self

from gaudi3_rt._redact import redact
from gaudi3_rt.errors._describe import MAX_TEXT, chain, jsonable, text_of

_MOST_LINES = 20
_WIDEST = 300  # characters


class Gaudi3RTError(Exception):
    """Base of all errors of this package.

    ``str(error)`` is the message and the code; :meth:`describe` adds facts, causes and advice, :meth:`to_dict` gives
    all of it to machines. An error keeps everything when it is copied or pickled, its causes too.

    Args:
        message: what was seen, what is allowed, what to do; one or two sentences.
        context: facts about this occurrence, by name; values that ``json`` can write, or that ``str`` describes.
        suggestions: what to do next, the likeliest first; the class's own when not given.
        retryable: whether the same call may succeed later without a change; the class's own when not given.

    The cause is set with ``raise ... from cause``, as for any exception.
    """

    code: ClassVar[int] = 9000
    """Stable number, 1000 to 9999; the thousands are the category."""
    category: ClassVar[str] = "unknown"
    default_retryable: ClassVar[bool] = False
    default_suggestions: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        message: str,
        *,
        context: Mapping[str, Any] | None = None,
        suggestions: Sequence[str] | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.context: dict[str, Any] = dict(context or {})
        self.suggestions = tuple(self.default_suggestions if suggestions is None else suggestions)
        self.retryable = self.default_retryable if retryable is None else retryable

    def __str__(self) -> str:
        return f"{self.message} [error {self.code}]"

    def describe(self) -> str:
        """Some lines for a person: the error, its facts, what caused it, whether to try again, what to do.

        A fact of several lines, such as a table, keeps them, up to 20. Secrets are redacted.
        """
        fields = self.to_dict()
        lines = [f"{fields['type']}, error {fields['code']} ({fields['category']}): {fields['message']}"]
        lines += [line for name, value in fields["context"].items() for line in _fact(name, value)]
        lines += [f"  caused by {cause['type']}: {_one_line(cause['message'])}" for cause in fields["causes"]]
        lines.append(f"  try again: {'may help' if fields['retryable'] else 'does not help without a change'}")
        lines += [f"  - {suggestion}" for suggestion in fields["suggestions"]]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it as values for JSON, with secrets redacted; ``causes`` goes from the nearest to the first.

        A value of ``context`` that JSON does not have becomes text: tensors by shape and type, everything else as
        ``str`` shows it. Texts, containers and the chain of causes are bounded, so cycles and huge values are safe.
        """
        fields: dict[str, Any] = {
            "type": type(self).__name__,
            "code": self.code,
            "category": self.category,
            "message": text_of(self.message),
            "context": jsonable(self.context),
            "suggestions": [text_of(suggestion) for suggestion in self.suggestions],
            "retryable": self.retryable,
            "causes": [_cause(error) for error in chain(self)],
        }
        redacted: dict[str, Any] = redact(fields)
        return redacted

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions lose their causes when they are pickled; and one value that cannot be pickled would lose them all.
        links = [(error is before.__cause__, _portable(error)) for before, error in _pairs(self)]
        return _restore, (*_own_parts(self), self.__suppress_context__, links)

    def __copy__(self) -> Self:
        return self._copied(dict(self.context))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._copied(deepcopy(self.context, memo))

    def _copied(self, context: dict[str, Any]) -> Self:
        twin: Self = _made(type(self), self.args, {**self.__dict__, "context": context})
        twin.__cause__, twin.__context__ = self.__cause__, self.__context__
        twin.__suppress_context__ = self.__suppress_context__
        return twin


def _fact(name: str, value: object) -> list[str]:
    """``name: value``; a text of several lines below its name, for a table that is squeezed is no table."""
    text = str(value).rstrip().splitlines()
    if len(text) <= 1:
        return [f"  {_one_line(name)}: {_one_line(value)}"]
    left_out = len(text) - _MOST_LINES
    shown = [f"    {_cut(line)}".rstrip() for line in text[:_MOST_LINES]]
    return [f"  {_one_line(name)}:", *shown, *([f"    ... ({left_out} more lines)"] if left_out > 0 else [])]


def _one_line(value: object) -> str:
    return _cut(" ".join(str(value).split()))


def _cut(line: str) -> str:
    return line if len(line) <= _WIDEST else f"{line[:_WIDEST]}..."


def _cause(error: BaseException) -> dict[str, Any]:
    if isinstance(error, Gaudi3RTError):
        return {"type": type(error).__name__, "code": error.code, "message": text_of(error.message)}
    return {"type": type(error).__name__, "message": text_of(error)}


def _pairs(error: BaseException) -> list[tuple[BaseException, BaseException]]:
    """Each error of the chain after the one it led to."""
    causes = chain(error)
    return list(zip([error, *causes], causes, strict=False))


def _own_parts(error: Gaudi3RTError) -> tuple[type[Gaudi3RTError], tuple[Any, ...], dict[str, Any]]:
    """An error without its causes, as values that pickle."""
    state = {name: _value(value) for name, value in error.__dict__.items()}
    state["context"] = {name: _value(value) for name, value in error.context.items()}
    return type(error), tuple(_value(item) for item in error.args), state


def _portable(error: BaseException) -> Any:
    """A cause as something that pickles: parts of our own errors, other errors themselves or as text."""
    if isinstance(error, Gaudi3RTError):
        return _own_parts(error)
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (what was just written; many exceptions fail only here)
    except Exception:  # noqa: BLE001 (whatever pickling somebody's exception raises)
        return RuntimeError(f"{type(error).__name__}: {text_of(error)}")
    return error


def _value(value: Any) -> Any:
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 (same)
    except Exception:  # noqa: BLE001 (same)
        return text_of(value, MAX_TEXT)
    return value


def _made(kind: type[Any], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """An error from its parts. Its constructor is not called: only its class knows what that takes."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


def _restore(
    kind: type[Gaudi3RTError],
    args: tuple[Any, ...],
    state: dict[str, Any],
    suppressed: bool,
    links: list[tuple[bool, Any]],
) -> Gaudi3RTError:
    error: Gaudi3RTError = _made(kind, args, state)
    last: BaseException = error
    for is_cause, parts in links:
        following = parts if isinstance(parts, BaseException) else _made(*parts)
        if is_cause:
            last.__cause__ = following
        else:
            last.__context__ = following
        last = following
    error.__suppress_context__ = suppressed
    return error
