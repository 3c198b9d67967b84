"""launcher.logs.tee: worker output from pipes to consoles and files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.logs import LogsDest, WorkerOutput

pytestmark = pytest.mark.asyncio


class Screen:
    """Two files that stand for the launcher's stdout and stderr."""

    def __init__(self, folder: Path) -> None:
        self.paths = (folder / "screen.out", folder / "screen.err")
        self.fds = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in self.paths]

    @property
    def out(self) -> bytes:
        """What was shown on stdout."""
        return self.paths[0].read_bytes()

    @property
    def err(self) -> bytes:
        """What was shown on stderr."""
        return self.paths[1].read_bytes()


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    """Return a screen whose descriptors are closed at the end."""
    screen = Screen(tmp_path)
    yield screen
    for fd in screen.fds:
        os.close(fd)


def dest(
    stdouts: dict[int, str] | None = None,
    stderrs: dict[int, str] | None = None,
    *,
    tee_stdouts: dict[int, str] | None = None,
    tee_stderrs: dict[int, str] | None = None,
) -> LogsDest:
    """Return destinations, nothing by default."""
    return LogsDest(stdouts or {}, stderrs or {}, tee_stdouts or {}, tee_stderrs or {}, {})


def output(screen: Screen, where: LogsDest) -> WorkerOutput:
    """Return the output of two workers on a screen."""
    prefixes = {0: "[w0]:", 1: "[w1]:"}
    return WorkerOutput(where, prefixes, stdout=screen.fds[0], stderr=screen.fds[1])


async def run(target: WorkerOutput, *writes: tuple[int, int, bytes]) -> None:
    """Play workers that write (local rank, stream, data) and end."""
    descriptors = {rank: target.open(rank) for rank in {rank for rank, _, _ in writes}}
    for rank, stream, data in writes:
        os.write(descriptors[rank][stream], data)
    for rank in descriptors:
        target.hand_over(rank)
    await target.drain()


async def test_plain_output_goes_to_the_same_stream_unchanged(screen: Screen) -> None:
    """Without tee there is no prefix; stdout stays stdout and stderr stderr."""
    await run(output(screen, dest()), (0, 1, b"out\r\n\xff"), (0, 2, b"err\n"))

    assert screen.out == b"out\r\n\xff"
    assert screen.err == b"err\n"


async def test_teed_output_is_shown_with_prefix_and_kept_without(
    screen: Screen, tmp_path: Path
) -> None:
    """The file has the worker's bytes, the console has prefixed lines."""
    path = str(tmp_path / "stdout.log")
    target = output(screen, dest({0: path}, tee_stdouts={0: path}))
    await run(target, (0, 1, b"one\ntwo\n"))

    assert screen.out == b"[w0]:one\n[w0]:two\n"
    assert Path(path).read_bytes() == b"one\ntwo\n"


async def test_tee_without_file(screen: Screen) -> None:
    """A teed stream without path is only shown."""
    await run(output(screen, dest(tee_stderrs={1: ""})), (1, 2, b"hi\n"))

    assert screen.err == b"[w1]:hi\n"


async def test_redirected_output_goes_straight_to_its_file(screen: Screen, tmp_path: Path) -> None:
    """The worker has the file itself, and nothing is shown."""
    path = tmp_path / "stderr.log"
    target = output(screen, dest(stderrs={0: str(path)}))
    os.write(target.open(0)[2], b"hidden\n")

    assert path.read_bytes() == b"hidden\n"
    target.hand_over(0)
    await target.drain()
    assert screen.err == b""
    assert target.stderr_tail(0) == ("hidden",)


async def test_output_thrown_away_keeps_its_tail(screen: Screen) -> None:
    """Output to /dev/null is not shown, but the failure report can quote it."""
    target = output(screen, dest({0: os.devnull}, {0: os.devnull}))
    await run(target, (0, 1, b"out\n"), (0, 2, b"err\n"))

    assert (screen.out, screen.err) == (b"", b"")
    assert target.stderr_tail(0) == ("err",)


async def test_tail_has_the_last_thirty_lines(screen: Screen) -> None:
    """Of stderr only, however it is shown."""
    target = output(screen, dest(tee_stderrs={0: ""}))
    await run(target, (0, 2, b"".join(b"%d\n" % n for n in range(100))), (0, 1, b"out\n"))

    assert target.stderr_tail(0) == tuple(str(n) for n in range(70, 100))


async def test_unfinished_line_is_passed_on_after_a_while(screen: Screen) -> None:
    """A prompt appears though its line never ends; the worker is still there."""
    target = output(screen, dest())
    os.write(target.open(0)[1], b"Name: ")
    while screen.out != b"Name: ":
        await asyncio.sleep(0.01)

    target.hand_over(0)
    await target.drain()


async def test_long_line_is_passed_on_in_parts(screen: Screen) -> None:
    """A line of more than 64 KiB does not wait for its end, and has one prefix."""
    target = output(screen, dest(tee_stdouts={0: ""}))
    fd = target.open(0)[1]
    for _ in range(4):
        await asyncio.to_thread(os.write, fd, b"x" * (1 << 15))
    while not screen.out:
        await asyncio.sleep(0)
    os.write(fd, b"end\n")
    target.hand_over(0)
    await target.drain()

    assert screen.out == b"[w0]:" + b"x" * (1 << 17) + b"end\n"


@pytest.mark.slow
async def test_pipe_held_open_by_a_stranger_is_given_up(screen: Screen) -> None:
    """After a second of silence, with what there was of the last line."""
    target = output(screen, dest())
    stranger = os.dup(target.open(0)[1])
    os.write(stranger, b"half")
    target.hand_over(0)
    async with asyncio.timeout(5):
        await target.drain()

    os.close(stranger)
    assert screen.out == b"half"


@pytest.mark.slow
async def test_console_that_takes_nothing_holds_nobody_up_for_ever(tmp_path: Path) -> None:
    """Workers wait a while for a stalled console, then their output is dropped."""
    reading, writing = os.pipe()
    target = WorkerOutput(dest(), {0: "", 1: ""}, stdout=writing, stderr=writing)
    fd = target.open(0)[1]
    data = (b"x" * 1023 + b"\n") * 4096
    async with asyncio.timeout(12):
        written = 0
        while written < len(data):
            written += await asyncio.to_thread(os.write, fd, data[written:])
        target.hand_over(0)
        await target.drain()

    assert written == len(data)
    os.close(reading)  # lets the thread go
    os.close(writing)


@pytest.mark.slow
async def test_two_floods_lose_and_mix_nothing(screen: Screen) -> None:
    """Two workers at full speed: every line arrives whole, in its worker's order."""
    target = output(screen, dest(tee_stdouts={0: "", 1: ""}))
    count = 100_000

    def flood(fd: int) -> None:
        with open(fd, "wb", buffering=1000, closefd=True) as file:  # cuts lines anywhere
            file.writelines(b"line %d\n" % number for number in range(count))

    fds = [os.dup(target.open(rank)[1]) for rank in (0, 1)]
    for rank in (0, 1):
        target.hand_over(rank)
    await asyncio.gather(*(asyncio.to_thread(flood, fd) for fd in fds), target.drain())

    lines = screen.out.splitlines()
    for rank in (0, 1):
        prefix = b"[w%d]:" % rank
        mine = [line for line in lines if line.startswith(prefix)]
        assert mine == [b"%bline %d" % (prefix, number) for number in range(count)]
    assert len(lines) == 2 * count
