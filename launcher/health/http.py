"""The few bytes of HTTP/1.1 that a health endpoint needs: one request, one response, no body.

Pure. Takes from the request what the first line says and checks the rest only for its form; a
connection serves one request, so nothing that follows the head matters. Called by the server.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NamedTuple

__all__ = ("MAX_HEAD", "HttpError", "Request", "Response", "parse_head")

MAX_HEAD = 8192  # bytes; what servers commonly take
_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]", re.ASCII)
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*")


class HttpError(Exception):
    """A request cannot be served.

    Args:
        status: what the response says.
        text: why, one line.
    """

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class Request(NamedTuple):
    """What somebody asks for."""

    method: str
    path: str
    """Without the query."""


class Response(NamedTuple):
    """What is answered."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    allow: str = ""
    """Methods that the path knows, if the one that was asked for is not among them."""

    def render(self, *, has_body: bool = True) -> bytes:
        """Return the bytes of the response.

        Args:
            has_body: whether the body follows, of which the head tells the length anyway.
        """
        body = self.body.encode(errors="backslashreplace")
        fields = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        if self.allow:
            fields.append(f"Allow: {self.allow}")
        head = "\r\n".join((*fields, "", "")).encode("ascii")
        return head + body if has_body else head


def parse_head(head: bytes) -> Request:
    """Read the head of a request.

    Args:
        head: up to the empty line, without it; lines end with CRLF or LF.

    Returns:
        The request.

    Raises:
        HttpError: it is no head of HTTP/1, or one whose body would have to be read.
    """
    first, *fields = head.replace(b"\r\n", b"\n").split(b"\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, "expected METHOD /path HTTP/1.1")
    for field in fields:
        if _FIELD.fullmatch(field) is None:
            raise HttpError(HTTPStatus.BAD_REQUEST, "expected header fields, name: value")
        name, _, value = field.lower().partition(b":")
        has_body = name == b"transfer-encoding" or (
            name == b"content-length" and value.strip() != b"0"
        )
        if has_body:
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "expected a request without body")
    method, target = line.groups()
    return Request(method.decode(), target.partition(b"?")[0].decode())
