"""YAML 1.2's core types, with the line of every key; duplicate keys, aliases and tags are refused.

PyYAML follows YAML 1.1, where ``on`` is true, ``1e-3`` is text, ``010`` is 8 and ``1:30`` is 90. Here ``1e-3`` is a
number and the others are text, which a field that wants a number or a boolean then refuses by name.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_DEEPEST = 32
_TAG = "tag:yaml.org,2002:"


class YamlError(ValueError):
    """A text is not YAML, or more than a configuration needs of it."""


class _Loader(yaml.SafeLoader):
    """Makes nodes only: nothing is constructed from a tag."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as in the base)
    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            msg = f"line {mark.line + 1}: aliases (*name) and merge keys are not taken; write the value again"
            raise YamlError(msg)
        self.depth += 1
        if self.depth > _DEEPEST:
            msg = f"nested deeper than {_DEEPEST}"
            raise YamlError(msg)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_FORMS = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
)
for _name, _pattern, _first in _FORMS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def parse(text: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """What a document says, and the line of each key of its mappings, by path.

    Raises:
        YamlError: what is wrong, with its line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        msg = f"{where}{error.problem}"
        raise YamlError(msg) from None  # the error itself quotes the text around it, which may hold a secret
    except yaml.YAMLError as error:
        msg = f"not YAML: {type(error).__name__}"
        raise YamlError(msg) from None
    lines: dict[tuple[str, ...], int] = {}
    return (None if node is None else _value(node, (), lines)), lines


def plain(text: str) -> bool:
    """Whether a text may stand without quotes and is still text, also for readers of YAML 1.1."""
    simple = re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./-]*", text) is not None
    typed = any(re.fullmatch(pattern, text) for _, pattern, _ in _FORMS)
    return simple and not typed and re.fullmatch(r"(?i)y|yes|n|no|on|off|true|false|null", text) is None


def _value(node: Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> Any:
    line = node.start_mark.line + 1
    match node:
        case MappingNode(tag=tag) if tag == f"{_TAG}map":
            return _mapping(node, path, lines)
        case SequenceNode(tag=tag) if tag == f"{_TAG}seq":
            return [_value(item, (*path, str(i)), lines) for i, item in enumerate(node.value)]
        case ScalarNode():
            return _scalar(node, line)
    msg = f"line {line}: the tag {node.tag} is not taken"
    raise YamlError(msg)


def _mapping(node: MappingNode, path: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode) or key_node.tag != f"{_TAG}str":
            msg = f"line {line}: a key has to be text"
            raise YamlError(msg)
        key: str = key_node.value
        if key == "<<":
            msg = f"line {line}: merge keys (<<) are not taken; write the values again"
            raise YamlError(msg)
        place = (*path, key)
        if key in found:
            msg = f"line {line}: the key {key[:80]!r} is there twice; first in line {lines[place]}"
            raise YamlError(msg)
        lines[place] = line
        found[key] = _value(value_node, place, lines)
    return found


def _scalar(node: ScalarNode, line: int) -> Any:
    text = node.value
    try:
        match node.tag.removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return {"true": True, "false": False}[text.lower()]
            case "int":
                return int(text)
            case "float":
                return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    except (ValueError, KeyError):
        msg = f"line {line}: a value does not fit its type"
        raise YamlError(msg) from None
    msg = f"line {line}: the tag {node.tag} is not taken"
    raise YamlError(msg)
