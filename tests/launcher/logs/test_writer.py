"""launcher.logs.writer: output to descriptors that may block."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.logs.writer import Writer

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
LINE = b"x" * 1023 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return reading and writing end of a pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def read_all(fd: int) -> bytes:
    """Read a pipe to its end."""
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def fill(writer: Writer, fd: int) -> int:
    """Write until the writer is full; return the number of lines."""
    count = 0
    while not writer.is_full:
        writer.write(fd, LINE * 64)
        count += 64
    return count


async def test_chunks_are_written_in_order(tmp_path: Path) -> None:
    """Everything queued is written before close returns."""
    with (tmp_path / "out").open("wb") as one, (tmp_path / "err").open("wb") as two:
        writer = Writer(lambda: None)
        for number in range(1000):
            writer.write((one, two)[number % 2].fileno(), b"%d\n" % number)
        await writer.close()

    assert (tmp_path / "out").read_bytes() == b"".join(b"%d\n" % n for n in range(0, 1000, 2))
    assert (tmp_path / "err").read_bytes() == b"".join(b"%d\n" % n for n in range(1, 1000, 2))


async def test_writer_without_output_has_no_thread() -> None:
    """Closing one that never wrote is immediate."""
    writer = Writer(lambda: None)
    await writer.close()

    assert not writer.is_full


async def test_full_queue_asks_to_wait_and_says_when_there_is_room(pipe: tuple[int, int]) -> None:
    """A reader that is slow holds its writers up; nothing is lost."""
    reading, writing = pipe
    has_room = asyncio.Event()
    writer = Writer(has_room.set)
    count = fill(writer, writing)
    data = asyncio.create_task(asyncio.to_thread(read_all, reading))
    await has_room.wait()

    assert not writer.is_full
    await writer.close()
    os.close(writing)
    assert await data == LINE * count


@pytest.mark.slow
async def test_stalled_reader_loses_output_and_is_told(pipe: tuple[int, int]) -> None:
    """After the stall timeout output is counted instead of kept; later ones arrive again."""
    reading, writing = pipe
    resumed = asyncio.Event()
    writer = Writer(resumed.set, stall_timeout=0.05)
    count = fill(writer, writing)
    await resumed.wait()
    resumed.clear()
    assert not writer.is_full
    writer.write(writing, LINE * 3)

    data = asyncio.create_task(asyncio.to_thread(read_all, reading))
    await resumed.wait()
    writer.write(writing, b"later\n")
    await writer.close()
    os.close(writing)
    lines = (await data).splitlines()
    assert lines[:-2] == [LINE.strip()] * count
    assert lines[-2:] == [b"launcher: output was not taken, 3 lines dropped", b"later"]


async def test_reader_that_is_gone_swallows_everything(pipe: tuple[int, int]) -> None:
    """A closed console is no error, and never blocks."""
    reading, writing = pipe
    os.close(reading)
    writer = Writer(lambda: None)
    for _ in range(100):
        writer.write(writing, b"x" * MIB)
        await asyncio.sleep(0)
    await writer.close()

    assert not writer.is_full


async def test_what_cannot_be_written_to_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Of a full disk people want to know which, and nobody waits for it."""
    full = os.open("/dev/full", os.O_WRONLY)
    writer = Writer(lambda: None)
    for _ in range(3):
        writer.write(full, LINE)
    await writer.close()
    os.close(full)

    assert caplog.messages == [
        "output of workers cannot be written to /dev/full: No space left on device"
    ]


@pytest.mark.slow
async def test_close_gives_up_on_a_stalled_reader(pipe: tuple[int, int]) -> None:
    """The end of the job does not wait for a console that takes nothing."""
    reading, writing = pipe
    writer = Writer(lambda: None)
    writer.write(writing, b"x" * MIB)
    async with asyncio.timeout(5):
        await writer.close()

    os.close(reading)  # lets the thread go


async def test_without_a_thread_output_is_written_all_the_same(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may have used up the processes we are allowed; their last words explain it."""
    reading, writing = pipe

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer = Writer(lambda: None)
    writer.write(writing, b"one\n")
    writer.write(writing, b"two\n")
    await writer.close()
    os.close(writing)

    assert read_all(reading) == b"one\ntwo\n"
    assert not writer.is_full
