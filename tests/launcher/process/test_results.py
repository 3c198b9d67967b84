"""launcher.process.results: a value through a pipe, in one message."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from launcher.process.results import IncomingResult, encode_result, send_result


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return a pipe whose reading end does not block."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("value", [None, "text", [bytearray(b""), bytearray(b"x" * 1000)]])
def test_a_value_arrives_however_it_is_cut(pipe: tuple[int, int], value: object, step: int) -> None:
    """Byte by byte or at once, buffers of no length among them, and nothing after it is read."""
    reading, writing = pipe
    send_result(writing, encode_result(value))
    os.write(writing, b"tail")
    result = IncomingResult()
    while result.read(reading, step):
        assert not result.is_complete

    assert result.value() == value
    assert os.read(reading, 10) == b"tail"


def test_arrays_travel_beside_the_pickle(pipe: tuple[int, int]) -> None:
    """Their bytes are a part of their own, and the receiver may write to them."""
    reading, writing = pipe
    array = np.arange(1000)
    message = encode_result({"a": array})
    send_result(writing, message)
    result = IncomingResult()
    result.read(reading, 1 << 20)

    assert len(message) == 3
    received = result.value()["a"]  # type: ignore[index]
    assert (received == array).all()
    assert received.flags.writeable


def test_what_is_not_there_yet_is_waited_for(pipe: tuple[int, int]) -> None:
    """An empty pipe is no end."""
    reading, writing = pipe
    result = IncomingResult()

    assert result.read(reading, 100)
    send_result(writing, encode_result(7))
    assert not result.read(reading, 100)
    assert result.value() == 7


def test_the_end_of_the_pipe_ends_the_reading() -> None:
    """A worker that dies in the middle leaves an incomplete message."""
    reading, writing = os.pipe()
    os.write(writing, encode_result("text")[0][:5])
    os.close(writing)
    result = IncomingResult()

    assert not result.read(reading, 100)
    assert not result.is_complete
    os.close(reading)
