"""What a request asks for, and an answer as bytes: the part of HTTP/1.1 that a few pages for machines need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from gaudi3_rt._json import json_line

JSON = "application/json"
# Not the standard library's parser: it takes folded headers, lone line feeds and lines that are no header, and sees no
# Content-Length behind those. A body that is not seen would be taken for the next request.
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]{1,8192}) HTTP/(1\.[01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*([\t -~\x80-\xff]*)")
_MOST_HEADERS = 100


class BadRequestError(Exception):
    """Bytes that are no request."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        method: as it was sent.
        path: without what follows a question mark.
        query: what follows it.
        headers: by lower-case name; of several with one name, with commas between.
        keeps_alive: whether the connection may stay open.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    keeps_alive: bool


@dataclass(frozen=True)
class Response:
    """An answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, *, with_body: bool, keeps_alive: bool) -> bytes:
        """The bytes to send; a HEAD gets the length of what a GET would get, and no body."""
        fields = {
            "Date": formatdate(usegmt=True),
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "keep-alive" if keeps_alive else "close",
            **self.headers,
        }
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            *(f"{k}: {v}" for k, v in fields.items()),
            "",
            "",
        ]
        return "\r\n".join(lines).encode("latin-1") + (self.body if with_body else b"")


def answer(status: HTTPStatus, content: Mapping[str, Any], **headers: str) -> Response:
    """An answer in JSON; underscores in the names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, json_line(content).encode() + b"\n", headers=named)


def error(status: HTTPStatus, message: str, **headers: str) -> Response:
    """What went wrong, in JSON."""
    return answer(status, {"error": message}, **headers)


def parse(head: bytes) -> Request:
    """A request from its first byte to the empty line.

    Raises:
        BadRequestError: it is none.
    """
    first, *lines = head.strip(b"\r\n").split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None or len(lines) > _MOST_HEADERS:
        raise BadRequestError
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise BadRequestError
        name, value = header[1].decode("ascii").lower(), header[2].decode("latin-1").strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    try:
        target = urlsplit(found[2].decode("ascii"))
    except ValueError:
        raise BadRequestError from None
    wishes = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    is_new = found[3] == b"1.1"
    keeps_alive = not has_body and "close" not in wishes and (is_new or "keep-alive" in wishes)
    return Request(found[1].decode("ascii"), target.path, target.query, headers, keeps_alive)
