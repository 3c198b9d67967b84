"""Addresses: what they mean, how they print, and which texts are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.transport import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:80", Address("tcp", "127.0.0.1", 80)),
        ("tcp://host.example:0", Address("tcp", "host.example", 0)),
        ("tls://h:65535", Address("tls", "h", 65535)),
        ("tcp://[::1]:5", Address("tcp", "::1", 5)),
        ("tls://[fe80::1%eth0]:5", Address("tls", "fe80::1%eth0", 5)),
        ("unix:///run/x y.sock", Address("unix", path="/run/x y.sock")),
        ("unix:///" + "x" * 106, Address("unix", path="/" + "x" * 106)),
        ("memory://worker0", Address("memory", "worker0")),
    ],
)
def test_parse_and_print(text: str, address: Address) -> None:
    """Reading and printing are inverse."""
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must look like tcp://"),
        ("localhost:80", "must look like tcp://"),
        ("http://h:80", "must start with tcp://"),
        ("memory://", "must start with"),
        ("tcp://", "must give a host and a port"),
        ("tcp://host", "must give a host and a port"),
        ("tcp://:80", "must give a host and a port"),
        ("tcp://[]:80", "must give a host and a port"),
        ("tcp://a b:80", "must give a host and a port"),
        ("tcp://a\0:80", "must give a host and a port"),
        ("tcp://h/path:80", "must give a host and a port"),
        ("tcp://::1:80", "must put an IPv6 host in brackets"),
        ("tcp://[::1:80", "must put an IPv6 host in brackets"),
        ("tcp://h:", "must give a port from 0 to 65535, got ''"),
        ("tcp://h:65536", "got '65536'"),
        ("tcp://h:-1", "got '-1'"),
        ("tcp://h:+1", r"got '\+1'"),
        ("tcp://h: 1", "got ' 1'"),
        ("tcp://h:１", "got '１'"),
        ("tcp://h:" + "9" * 5000, "must give a port"),
        ("unix://relative", "must name an absolute path of at most 107 bytes"),
        ("unix://", "must name an absolute path"),
        ("unix:///" + "x" * 107, "must name an absolute path"),
        ("unix:///" + "ä" * 54, "must name an absolute path"),
        ("unix:///a\0b", "must name an absolute path"),
    ],
)
def test_texts_that_are_no_address(text: str, rule: str) -> None:
    """The error names the text and says what was expected."""
    with pytest.raises(ValueError, match=rule) as caught:
        Address.parse(text)

    assert repr(text) in str(caught.value)


@given(st.text(max_size=40) | st.text(max_size=20).map("tcp://{}:1".format))
def test_any_text(text: str) -> None:
    """Any text is an address that prints and reads as itself, or a ValueError."""
    try:
        address = Address.parse(text)
    except ValueError:
        return

    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "is_local"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.9.9.9:1", True),
        ("tls://localhost:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://[0:0::1]:1", True),
        ("unix:///x", True),
        ("memory://x", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("tcp://10.0.0.1:1", False),
        ("tcp://127.example:1", False),
        ("tcp://127.0.0.1.example:1", False),
    ],
)
def test_locality(text: str, is_local: bool) -> None:
    """Only what no other machine can reach is local."""
    assert Address.parse(text).is_local is is_local
