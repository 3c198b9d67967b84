"""`launcher.health.http`: what is a request, and what strangers may send instead."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from launcher.health.http import HttpError, Request, Response, parse_head


@pytest.mark.parametrize(
    "head",
    [
        b"GET /status HTTP/1.1",
        b"GET /status?x=1 HTTP/1.0\r\nHost: a",
        b"GET /status HTTP/1.1\nHost: a\nX: \xe4\ncontent-length: 0",
    ],
)
def test_requests(head: bytes) -> None:
    """The path comes without its query; fields are looked at and passed over."""
    assert parse_head(head) == Request("GET", "/status")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0\0\0",
        b"get /status HTTP/1.1",
        b"GET status HTTP/1.1",
        b"GET  /status HTTP/1.1",
        b"GET /status HTTP/2.0",
        b"GET /a b HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET / HTTP/1.1\r\nno field",
        b"GET / HTTP/1.1\r\nHost : a",
        b"GET / HTTP/1.1\r\n folded: x",
        b"GET / HTTP/1.1\r\nHost: a\0b",
        b"GET / HTTP/1.1\r\nHost: a\rb",
    ],
)
def test_what_is_none(head: bytes) -> None:
    """It is a bad request."""
    with pytest.raises(HttpError) as caught:
        parse_head(head)
    assert caught.value.status is HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("field", [b"Content-Length: 5", b"transfer-encoding: chunked"])
def test_bodies_are_refused(field: bytes) -> None:
    """Nothing is to be read after the head."""
    with pytest.raises(HttpError) as caught:
        parse_head(b"POST / HTTP/1.1\r\n" + field)
    assert caught.value.status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_a_response_tells_its_length() -> None:
    """In bytes; without the body it is the same head."""
    whole = Response("é\n").render()
    head, _, body = whole.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 3\r\n" in head
    assert body == "é\n".encode()
    assert Response("é\n").render(has_body=False) == head + b"\r\n\r\n"
