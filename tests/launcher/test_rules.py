"""`launcher.rules`: what texts mean. Most rules are tested by their options, in test_options."""

from __future__ import annotations

import pytest

from launcher.rules import to_address, to_signals


def test_signals_are_taken_once_each_in_order() -> None:
    """The prefix may be missing, names may repeat, none is fine."""
    names = [number.name for number in to_signals("SIGUSR1,TERM,SIGUSR1")]

    assert names == ["SIGUSR1", "SIGTERM"]
    assert to_signals("") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("29600", ("127.0.0.1", 29600)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::]:65535", ("::", 65535)),
        ("node:80", ("node", 80)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """Loopback, unless a host says where."""
    assert to_address(text) == expected


@pytest.mark.parametrize("text", ["", "0", "65536", "x", ":80", "a:", "::1:80", "-1", "8 0", "٣"])
def test_other_addresses(text: str) -> None:
    """They are refused with the rule."""
    with pytest.raises(ValueError, match=r"expected \[HOST:\]PORT, a port from 1 to 65535"):
        to_address(text)
