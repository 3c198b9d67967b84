"""`launcher.timer.messages`: lines that fit one write, and what is no message."""

from __future__ import annotations

import json

import pytest

from launcher.timer.messages import MAX_LINE, Message, decode, encode

MESSAGE = Message(pid=7, scope="load", expiration=12.5, key="3", rank=1)
FIELDS = {"version": 1, "pid": 7, "scope_id": "s", "expiration_time": 2, "signal": 15}


def test_a_message_survives() -> None:
    """One line of JSON."""
    line = encode(MESSAGE)

    assert line.count(b"\n") == 1
    assert decode(line) == MESSAGE


def test_the_longest_line_is_written_at_once() -> None:
    """A scope that is too long is cut, whatever its letters."""
    line = encode(MESSAGE._replace(scope="\U0001f600" * 5000))

    assert len(line) <= MAX_LINE
    assert decode(line).scope


def test_torchs_messages_are_understood() -> None:
    """Its scope tells its blocks apart."""
    assert decode(json.dumps(FIELDS).encode()) == Message(7, "s", 2.0, "s", None, 15)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"pid": 0},
        {"pid": -1},
        {"pid": True},
        {"pid": 1 << 40},
        {"scope_id": None},
        {"key": 3},
        {"expiration_time": "x"},
        {"expiration_time": float("nan")},
        {"expiration_time": float("inf")},
        {"expiration_time": 10**400},
        {"expiration_time": True},
        {"signal": 0},
        {"signal": "9"},
        {"signal": 65},
        {"rank": "0"},
    ],
)
def test_other_fields_are_refused(change: dict[str, object]) -> None:
    """By a ValueError that names the field."""
    with pytest.raises(ValueError, match=next(iter(change))):
        decode(json.dumps({**FIELDS, **change}).encode())


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"{}"])
def test_other_lines_are_refused(line: bytes) -> None:
    """By a ValueError, whatever they are."""
    with pytest.raises(ValueError):
        decode(line)
