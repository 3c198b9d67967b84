"""A request that has to wait or to be sent again keeps all that it was."""

from __future__ import annotations

import pytest

from asyncrpc.agent.request import Request
from asyncrpc.wire import CHUNK_SIZE, DEDUP, HEADER, FrameReader, HeaderMap, MessageType, Transfer

KIND = int(MessageType.PYTHON_CALL)


def read(message: bytes | Transfer) -> list[object]:
    """Return what the peer reads: type, flags, depth, call, function, map, body, buffers."""
    frames: list[object] = []
    parts = [message] if isinstance(message, bytes) else []
    if isinstance(message, Transfer):
        message.ident = 1
        while (chunk := message.next_chunk()) is not None:
            parts += [bytes(part) for part in chunk]
    reader = FrameReader(max_message_size=1 << 30)
    data = memoryview(b"".join(parts))
    while data:
        memory = reader.get_buffer()
        count = min(len(memory), len(data))
        memory[:count] = data[:count]
        data = data[count:]
        for frame in reader.received(count):
            *fields, _, meta, body, found = frame
            frames += [*fields, bytes(meta or b""), bytes(body), *map(bytes, found)]
    return frames


@pytest.mark.parametrize("size", [0, 10, CHUNK_SIZE + 1])
@pytest.mark.parametrize("buffers", [(), (b"a" * 5000, b"b" * 6000)])
@pytest.mark.parametrize("headers", [HeaderMap(), HeaderMap(attempt=3, context="c")])
def test_taken_back_and_sent_again(
    size: int, buffers: tuple[bytes, ...], headers: HeaderMap
) -> None:
    """The frame made of a request taken back is the one that never left."""
    views = [memoryview(buffer) for buffer in buffers]
    request = Request(
        KIND, 7, b"x" * size, views, function=3, flags=DEDUP, depth=2, meta=headers.encode()
    )
    first = request.frame(0.0)
    again = Request.take_back(first).frame(0.0)
    third = Request.take_back(again).frame(0.0)
    expected = read(first)

    assert headers.encode() == expected[5]
    assert expected == read(again) == read(third)


def test_time_goes_on_while_it_waits() -> None:
    """What is left of the deadline is taken when the frame is made."""
    request = Request(KIND, 7, b"", deadline=10.0)
    frame = request.frame(4.0)

    assert isinstance(frame, bytes)
    assert 6.0 == HEADER.unpack_from(frame)[7]
