"""`asyncrpc.store.etcd.refusals`: what each answer of etcd means for caller and gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncrpc.errors import Delivery, StatusCode, StoreError
from asyncrpc.store import EtcdAddress
from asyncrpc.store.etcd.refusals import (
    MemberError,
    RefusedError,
    StaleTokenError,
    check_version,
    refusal,
    refusal_of,
    translated,
)

ADDRESS = EtcdAddress((("h", 1),), "p")


def answer(status: int, text: str, **fields: Any) -> Exception:
    """Return what a reply in etcd's form means."""
    fields = {"error": text, "message": text, **fields}
    return refusal_of(status, json.dumps(fields).encode(), ADDRESS, "trainer")


@pytest.mark.parametrize(
    ("status", "code", "text", "may_have_run"),
    [
        (503, 14, "etcdserver: no leader", True),
        (503, 14, "etcdserver: leader changed", True),
        (503, 14, "etcdserver: request timed out", True),
        (504, 4, "context deadline exceeded", True),
        (503, 8, "etcdserver: too many requests", False),
    ],
)
def test_what_passes_is_tried_elsewhere(
    status: int, code: int, text: str, may_have_run: bool
) -> None:
    """And it is known whether the request may have been carried out."""
    error = answer(status, text, code=code)

    assert isinstance(error, MemberError)
    assert (error.may_have_run, error.is_hopeless) == (may_have_run, False)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (16, "etcdserver: invalid auth token"),
        (3, "etcdserver: user name is empty"),
        (3, "etcdserver: revision of auth store is old"),
    ],
)
def test_tokens_are_renewed(code: int, text: str) -> None:
    """However etcd says so."""
    assert isinstance(answer(400, text, code=code), StaleTokenError)


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        (7, "etcdserver: permission denied", StatusCode.PERMISSION_DENIED),
        (3, "etcdserver: request is too large", StatusCode.RESOURCE_EXHAUSTED),
        (5, "etcdserver: requested lease not found", StatusCode.ABORTED),
    ],
)
def test_what_is_refused_is_final(code: int, text: str, status: StatusCode) -> None:
    """Nothing was carried out, and trying again would not help."""
    error = answer(400, text, code=code)

    assert isinstance(error, RefusedError)
    assert (error.code, error.delivery) == (status, Delivery.EXECUTED)
    assert str(error).startswith("etcd at etcd://h:1/p")


def test_rights_that_are_missing_are_named() -> None:
    """With the user and the keys."""
    text = str(answer(403, "etcdserver: permission denied", code=7))

    assert "user 'trainer' needs read and write access to all keys that begin with /p/" in text


def test_errors_in_a_stream_have_another_form() -> None:
    """They mean the same."""
    error = {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}

    assert isinstance(refusal({"error": error}, ADDRESS, ""), MemberError)


def test_what_is_no_json_comes_from_something_else() -> None:
    """A wrong path, a wrong protocol, or a proxy in between."""
    missing = refusal_of(404, b"404 page not found", ADDRESS, "")
    wrong = refusal_of(400, b"Client sent an HTTP request to an HTTPS server.\n", ADDRESS, "")
    busy = refusal_of(502, b"<html>bad gateway</html>", ADDRESS, "")

    assert isinstance(missing, StoreError)
    assert "no v3 gateway" in str(missing)
    assert isinstance(wrong, MemberError)
    assert isinstance(busy, MemberError)
    assert (wrong.is_hopeless, busy.is_hopeless) == (True, False)
    assert str(wrong) == "HTTP 400: Client sent an HTTP request to an HTTPS server."


@pytest.mark.parametrize(
    ("text", "is_final"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", True),
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol", False),
        ("Connection reset by peer", False),
    ],
)
def test_a_certificate_is_refused_for_good(text: str, is_final: bool) -> None:
    """A member that dies while TLS begins comes back."""
    with pytest.raises(MemberError) as caught, translated():
        raise OSError(text)

    assert caught.value.is_hopeless is is_final


@pytest.mark.parametrize("version", ["3.4.0", "3.5.1", "3.10.2", "4.0.0-rc.1"])
def test_versions_that_have_what_is_needed(version: str) -> None:
    """Later ones too."""
    check_version(version, ADDRESS)
