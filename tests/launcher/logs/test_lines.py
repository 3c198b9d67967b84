"""launcher.logs.lines: whole lines out of bytes cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.logs.lines import LineAssembler, LineFilter, LineTail

CHUNKS = st.lists(st.text("ab\r\n", max_size=6).map(str.encode), max_size=12)


def test_lines_are_held_until_they_are_whole() -> None:
    """Only data up to the last line end comes out."""
    lines = LineAssembler()

    assert lines.feed(b"one\ntw") == b"one\n"
    assert lines.feed(b"o") == b""
    assert lines.feed(b"\nthree\n") == b"two\nthree\n"
    assert lines.unfinished == 0


def test_carriage_return_ends_a_line() -> None:
    """A progress bar is passed on when its next state begins."""
    lines = LineAssembler()

    assert lines.feed(b"10 %\r20 %") == b"10 %\r"
    assert lines.take_unfinished() == b"20 %"


def test_carriage_return_at_the_end_waits_for_its_newline() -> None:
    r"""\r\n is one line end, however it was cut."""
    lines = LineAssembler()

    assert lines.feed(b"one\r") == b""
    assert lines.feed(b"\ntwo\r\n") == b"one\r\ntwo\r\n"


@given(CHUNKS)
def test_no_byte_is_lost_or_invented(chunks: list[bytes]) -> None:
    """Whatever the cuts: all bytes come out in order, and only whole lines before the end."""
    lines = LineAssembler()
    wholes = [lines.feed(chunk) for chunk in chunks]

    assert all(whole[-1:] in (b"", b"\n", b"\r") for whole in wholes)
    assert b"".join(wholes) + lines.take_unfinished() == b"".join(chunks)


def test_tail_keeps_the_last_lines() -> None:
    """The oldest lines go first; an unfinished one counts."""
    tail = LineTail(2)
    tail.feed(b"one\ntwo\nthr")
    tail.feed(b"ee\nfour")

    assert tail.lines() == ("three", "four")


TRACEBACK = b"Traceback (most recent call last):\n  File x, line 1\n    f()\n"


@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize("end", [b"", b"detail"])
def test_tail_keeps_what_a_long_exception_began_with(step: int, end: bytes) -> None:
    """It names the exception, and the rest of its message may be as long as it likes."""
    data = (
        b"noise\n" + TRACEBACK + b"ValueError: 99 things\n" + b"detail\n" * (100 - bool(end)) + end
    )
    tail = LineTail(12)
    for start in range(0, len(data), step):
        tail.feed(data[start : start + step])

    assert tail.lines() == ("ValueError: 99 things", "... 96 more lines ...", *("detail",) * 4)


@pytest.mark.parametrize("count", [5, 20_000])
def test_tail_leaves_exceptions_alone_that_are_near_or_far(count: int) -> None:
    """Among the last lines one is there anyway; long before them, it was no end."""
    tail = LineTail(6)
    tail.feed(TRACEBACK + b"ValueError: x\n" + b"noise\n" * count)

    assert tail.lines() == (("ValueError: x",) if count == 5 else ("noise",)) + ("noise",) * 5


def test_tail_bounds_its_lines() -> None:
    """A line without end does not fill the memory."""
    tail = LineTail(2)
    for _ in range(100):
        tail.feed(b"x" * 1000)

    assert len(tail.lines()[0]) == 4096


def test_tail_shows_bytes_that_are_no_text() -> None:
    """Broken UTF-8 is replaced, not refused."""
    tail = LineTail(1)
    tail.feed(b"\xff\n")

    assert tail.lines() == ("\ufffd",)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_filter_picks_lines_however_they_are_cut(step: int) -> None:
    """Those with any of the texts, with the prefix, with their own ends."""
    data = b"one\ntwo\r\nthree\nfour\n\xff two"
    lines = LineFilter(["tw", "four"], b"[0]:")
    found = b"".join(lines.feed(data[i : i + step]) for i in range(0, len(data), step))

    assert found + lines.finish() == b"[0]:two\r\n[0]:four\n[0]:\xff two\n"
    assert lines.finish() == b""
