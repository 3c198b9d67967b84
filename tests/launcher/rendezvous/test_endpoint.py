"""`launcher.rendezvous.endpoint`: endpoints as users write them, and ports nobody uses."""

from __future__ import annotations

import socket

import pytest

from launcher.rendezvous.endpoint import free_port, parse_endpoint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("localhost", 7)),
        ("host", ("host", 7)),
        ("host-1.example.org:80", ("host-1.example.org", 80)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::1]", ("::1", 7)),
        (" host ", ("host", 7)),
    ],
)
def test_host_and_port_are_told_apart(text: str, expected: tuple[str, int]) -> None:
    """The default stands in for a port that is not named."""
    assert parse_endpoint(text, 7) == expected


@pytest.mark.parametrize(
    "text", ["-x", "a..b", "a b:1", "[::1:80", "[host]:1", "::1", "[::1]x", ":1"]
)
def test_a_bad_host_is_refused(text: str) -> None:
    """The text is torchrun's."""
    with pytest.raises(ValueError, match="must be a dot-separated list of labels") as caught:
        parse_endpoint(text, 7)

    assert f"'{text}'" in str(caught.value)


@pytest.mark.parametrize("text", ["h:", "h:x", "h:-1", "h:65536", "h:9999999999", "[::1]:x"])
def test_a_bad_port_is_refused(text: str) -> None:
    """The text is torchrun's."""
    with pytest.raises(ValueError, match="must be an integer between 0 and 65535") as caught:
        parse_endpoint(text, 7)

    assert f"'{text}'" in str(caught.value)


def test_a_free_port_can_be_listened_on_without_reuse() -> None:
    """Nothing of ours is left on it."""
    port = free_port("127.0.0.1")

    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()

        assert server.getsockname()[1] == port


def test_free_ports_are_not_given_twice() -> None:
    """What the caller has given away already is left out."""
    given: set[int] = set()
    for _ in range(50):
        given.add(free_port("127.0.0.1", given))

    assert len(given) == 50
