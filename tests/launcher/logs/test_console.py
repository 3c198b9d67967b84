"""launcher.logs.console: several workers on one console."""

from __future__ import annotations

import os

from launcher.logs.console import Console, is_same_file
from launcher.logs.writer import Writer


class Recorder(Writer):
    """A writer that only remembers."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, fd: int, data: bytes) -> None:
        self.text += data


def shown(*parts: tuple[str, bytes, bytes, bool]) -> bytes:
    """Return what a console shows for parts of (owner, data, prefix, is_whole)."""
    recorder = Recorder()
    console = Console(recorder)
    for owner, data, prefix, is_whole in parts:
        console.show(1, owner, data, prefix, is_whole=is_whole)
    return recorder.text


def test_every_line_gets_the_prefix() -> None:
    """Also after carriage returns, whose bytes are kept."""
    assert shown(("a", b"1\n2\r3\r\n", b"P:", True)) == b"P:1\nP:2\rP:3\r\n"


def test_rest_of_a_line_follows_its_start() -> None:
    """A line passed on in parts has one prefix."""
    assert shown(("a", b"Name: ", b"P:", False), ("a", b"x\ny\n", b"P:", True)) == (
        b"P:Name: x\nP:y\n"
    )


def test_line_of_another_worker_does_not_join_an_unfinished_one() -> None:
    """An unfinished line is broken off, and its rest begins a line of its own."""
    parts = (("a", b"50", b"A:", False), ("b", b"hi\n", b"B:", True), ("a", b" %\n", b"A:", True))

    assert shown(*parts) == b"A:50\nB:hi\nA: %\n"


def test_output_without_prefix_is_kept_byte_for_byte() -> None:
    """One worker's own output is never changed."""
    data = b"\r\n\n\x00\xffa\rb\n"

    assert shown(("a", data, b"", True), ("a", b"tail", b"", False)) == data + b"tail"


def test_is_same_file() -> None:
    """Two descriptors of one pipe are the same, closed ones are nothing."""
    reading, writing = os.pipe()
    other = os.dup(writing)
    try:
        assert is_same_file(writing, other)
        assert not is_same_file(writing, -1)
    finally:
        for fd in (reading, writing, other):
            os.close(fd)


def test_an_unfinished_line_can_be_ended() -> None:
    """Once, and where its beginning went."""
    recorder = Recorder()
    console = Console(recorder)
    console.end_line()
    console.show(1, "a", b"half", b"", is_whole=False)
    console.end_line()
    console.end_line()

    assert recorder.text == b"half\n"
