"""The memory that large messages are received into."""

from __future__ import annotations

import psutil
import pytest

from asyncrpc.wire import FrameReader, MessageType, Transfer, allocate_buffer
from asyncrpc.wire.frame import HEADER

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
