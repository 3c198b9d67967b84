"""The memory that large messages are received into."""

from __future__ import annotations

import struct

import psutil
import pytest

from asyncrpc.errors import MessageTooLargeError, RemoteProtocolError
from asyncrpc.wire import Frame, FrameReader, MessageType, Transfer, allocate_buffer
from asyncrpc.wire.frame import HEADER, SHARED

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1])
def test_memory_is_exact_and_writable(size: int) -> None:
    """It has the size asked for, reads as zeros and can be written to its last byte."""
    memory = memoryview(allocate_buffer(size))
    if size:
        memory[-1:] = b"\xff"

    assert memory.nbytes == size
    assert memory.readonly is False
    assert memory[: size - 1] == bytes(max(size - 1, 0))


def test_large_memory_is_taken_as_it_is_filled() -> None:
    """What is announced and not sent costs nothing."""
    process = psutil.Process()
    before = process.memory_info().rss
    memory = memoryview(allocate_buffer(512 * MIB))
    memory[:1] = b"x"

    assert process.memory_info().rss - before < 32 * MIB


def test_mapping_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has none, or refuses, or maps in another way, serves as well."""
    import mmap

    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)  # an advice that no system knows
    assert memoryview(allocate_buffer(8 * MIB)).nbytes == 8 * MIB
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    assert memoryview(allocate_buffer(8 * MIB)).nbytes == 8 * MIB
    monkeypatch.delattr(mmap, "MAP_PRIVATE")
    assert isinstance(allocate_buffer(8 * MIB), bytearray)


def test_large_message_arrives_in_mapped_memory() -> None:
    """A message above the size from which memory is mapped arrives whole, and may be kept."""
    content = bytes(range(256)) * (9 * MIB // 256)
    header = HEADER.pack(0, int(MessageType.PYTHON_CALL), 0, 0, 1, 0, 0, 0.0)
    transfer = Transfer(header, (b"", b"body", memoryview(content)), call=1)
    reader = FrameReader(max_message_size=1 << 30)
    frames = []
    while (parts := transfer.next_chunk()) is not None:
        view = memoryview(b"".join(parts))
        while view:
            room = reader.get_buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            frames += reader.received(count)
            view = view[count:]

    ((*_, buffers),) = frames
    del reader
    assert buffers[0] == content


class Memory:
    """Shared memory of which both ends are here."""

    def __init__(self, size: int = 64 * MIB, least: int = 4096) -> None:
        self.memory = memoryview(bytearray(size))
        self.least = least
        self.next = 0
        self.handed: list[int] = []
        self.freed: list[int] = []
        self.most = size  # bytes that it has pages for

    def take(self, size: int) -> int | None:
        if size < self.least or self.next + size > self.memory.nbytes:
            return None
        place = self.next
        self.next += size
        return place

    def put(self, place: int, data: memoryview) -> bool:
        if place + data.nbytes > self.most:
            return False
        self.memory[place : place + data.nbytes] = data
        return True

    def hand_over(self, place: int) -> None:
        self.handed.append(place)

    def free(self, place: int) -> None:
        self.freed.append(place)

    def show(self, place: int, length: int) -> memoryview:
        if place + length > self.memory.nbytes:
            raise ValueError("it does not lie there")
        return self.memory[place : place + length]


def message(*buffers: bytes, ident: int = 1, body: bytes = b"body") -> Transfer:
    """Return a large message on its way out."""
    header = HEADER.pack(0, int(MessageType.PYTHON_CALL), 0, 0, ident, 0, 0, 0.0)
    transfer = Transfer(header, (b"", body, *buffers), call=ident)
    transfer.ident = ident
    return transfer


def receive(reader: FrameReader, *chunks: bytes) -> list[Frame]:
    """Give a reader all bytes of some chunks."""
    frames = []
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            room = reader.get_buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            frames += reader.received(count)
            view = view[count:]
    return frames


def chunks(transfer: Transfer, memory: Memory | None = None) -> list[bytes]:
    """Return all chunks of a transfer; the pieces that were only copied are empty."""
    found = []
    while (parts := transfer.next_chunk(memory)) is not None:
        found.append(b"".join(parts))
    return found


BUFFERS = (b"a" * (2 * MIB + 1), b"small", b"", b"b" * MIB, b"c" * 4096)


def test_large_buffers_go_through_memory() -> None:
    """Buffers that find a place take it piece by piece; map, body and the rest do not."""
    memory = Memory()
    reader = FrameReader(max_message_size=1 << 30)
    reader.open_window(memory.show)
    sent = chunks(message(*BUFFERS, body=b"body" * 4096), memory)
    (frame,) = receive(reader, *sent)

    assert list(BUFFERS) == [bytes(buffer) for buffer in frame[8]]
    assert b"body" * 4096 == frame[7]
    assert 2 == sent.count(b"")  # of the three pieces of the first buffer
    assert [0, 2 * MIB + 1, 3 * MIB + 1] == memory.handed
    assert [] == memory.freed
    memory.memory[0] = 0
    assert 0 == frame[8][0][0]  # no copy was made


def test_buffers_without_place_go_through_the_stream() -> None:
    """A buffer that finds no place, or no pages when half of it is there, arrives as ever."""
    small, poor = Memory(size=MIB), Memory()
    poor.most = MIB
    for memory in (small, poor):
        reader = FrameReader(max_message_size=1 << 30)
        reader.open_window(memory.show)
        (frame,) = receive(reader, *chunks(message(*BUFFERS), memory))

        assert list(BUFFERS) == [bytes(buffer) for buffer in frame[8]]
    assert ([0], []) == (small.handed, small.freed)
    assert ([], [0, 2 * MIB + 1, 3 * MIB + 1]) == (poor.handed, poor.freed)


def test_place_of_an_incomplete_buffer_is_given_back() -> None:
    """A message that is withdrawn frees what the receiver has not been told of, and no more."""
    memory = Memory()
    transfer = message(*BUFFERS)
    for _ in range(3):
        transfer.next_chunk(memory)
    transfer.leave_memory()
    transfer.leave_memory()

    assert [0] == memory.freed
    transfer = message(*BUFFERS)
    chunks(transfer, memory)
    transfer.leave_memory()
    assert [0] == memory.freed


def shared(place: int, length: int, ident: int = 1) -> bytes:
    """Return the chunk that says where a section is."""
    payload = struct.pack("<QQ", place, length)
    return HEADER.pack(16, int(MessageType.CHUNK), SHARED, 0, ident, 0, 0, 0.0) + payload


@pytest.mark.parametrize(
    ("before", "chunk"),
    [
        (0, shared(0, 4)),  # nothing was announced
        (1, shared(0, 4)),  # the body
        (2, shared(0, 4, ident=2)),
        (2, shared(0, MIB - 1)),
        (2, shared(0, MIB + 1)),
        (2, shared(0, 0)),
        (2, shared(1 << 40, MIB)),
        (3, shared(0, MIB)),  # part of it came already
        (2, HEADER.pack(8, int(MessageType.CHUNK), SHARED, 0, 1, 0, 0, 0.0) + bytes(8)),
        (2, HEADER.pack(24, int(MessageType.CHUNK), SHARED, 0, 1, 0, 0, 0.0) + bytes(24)),
    ],
)
def test_sections_that_may_not_be_shared(before: int, chunk: bytes) -> None:
    """Only whole buffers that were announced may lie in shared memory, where there is some."""
    reader = FrameReader(max_message_size=1 << 30)
    reader.open_window(Memory().show)
    receive(reader, *chunks(message(bytes(MIB)))[:before])

    with pytest.raises(RemoteProtocolError, match="shared chunk"):
        receive(reader, chunk)


def test_nothing_is_shared_without_leave() -> None:
    """A peer cannot say that a buffer is in shared memory when there is none."""
    reader = FrameReader(max_message_size=1 << 30)
    receive(reader, *chunks(message(bytes(MIB)))[:2])

    with pytest.raises(RemoteProtocolError, match="without leave"):
        receive(reader, shared(0, MIB))


def test_limit_holds_for_shared_buffers() -> None:
    """A message above the limit is refused when it is announced, wherever its buffers are."""
    memory = Memory()
    reader = FrameReader(max_message_size=MIB)
    reader.open_window(memory.show)

    with pytest.raises(MessageTooLargeError):
        receive(reader, *chunks(message(bytes(MIB)), memory))
