"""`launcher.timer.TimerServer`: who is killed, when, and what hostile writers can do: nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from launcher.timer import Expired, TimerServer
from launcher.timer.messages import Message, encode

pytestmark = pytest.mark.asyncio


class Watch:
    """A server, and what it has said."""

    def __init__(self, path: Path) -> None:
        self.said: asyncio.Queue[Expired] = asyncio.Queue()
        self.server = TimerServer(str(path), self.said.put_nowait, asyncio.get_running_loop())

    async def write(self, *data: Message | bytes) -> None:
        """Write to the pipe, and let the server read it."""
        descriptor = os.open(self.server.path, os.O_WRONLY)
        for part in data:
            os.write(descriptor, encode(part) if isinstance(part, Message) else part)
        os.close(descriptor)
        # What comes last has been read once its timer has fired.
        child = subprocess.Popen(["sleep", "60"])
        try:
            line = encode(Message(child.pid, "mark", time.time(), "mark"))
            descriptor = os.open(self.server.path, os.O_WRONLY)
            os.write(descriptor, line)
            os.close(descriptor)
            while (await asyncio.wait_for(self.said.get(), 10)).scope != "mark":
                pass
        finally:
            child.kill()
            child.wait()


@pytest_asyncio.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    """Return a server that is closed at the end."""
    watch = Watch(tmp_path / "timer")
    yield watch
    watch.server.close()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that would sleep for a minute."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


async def test_an_overdue_process_is_killed(watch: Watch, child: subprocess.Popen[bytes]) -> None:
    """And the block is named."""
    line = encode(Message(child.pid, "load", time.time() + 0.2, "1", rank=2))
    (Path(watch.server.path)).write_bytes(line)
    expired = await asyncio.wait_for(watch.said.get(), 10)

    assert (expired.pid, expired.rank, expired.scope) == (child.pid, 2, "load")
    assert str(expired) == "'load' took longer than 0.2 s"
    assert child.wait(10) == -signal.SIGKILL


async def test_a_stopped_process_is_killed(watch: Watch, child: subprocess.Popen[bytes]) -> None:
    """It need not run for that."""
    child.send_signal(signal.SIGSTOP)
    Path(watch.server.path).write_bytes(encode(Message(child.pid, "x", time.time(), "1")))

    assert (await asyncio.wait_for(watch.said.get(), 10)).pid == child.pid
    assert child.wait(10) == -signal.SIGKILL


async def test_the_end_of_a_block_ends_its_timer_alone(
    watch: Watch, child: subprocess.Popen[bytes]
) -> None:
    """The outer block of the same name is still watched."""
    now = time.time()
    outer = Message(child.pid, "x", now + 0.5, "outer")
    inner = Message(child.pid, "x", now + 0.3, "inner")
    await watch.write(outer, inner, inner._replace(expiration=-1.0))
    Path(watch.server.path).write_bytes(encode(outer._replace(expiration=now)))

    assert (await asyncio.wait_for(watch.said.get(), 10)).pid == child.pid


async def test_a_released_process_lives(watch: Watch, child: subprocess.Popen[bytes]) -> None:
    """All its blocks have ended; nothing is kept of it."""
    begun = Message(child.pid, "x", time.time() + 60, "1")
    await watch.write(begun, begun._replace(expiration=-1.0))

    assert watch.server._timers == {}
    assert child.poll() is None


async def test_a_round_that_is_over_is_forgotten(
    watch: Watch, child: subprocess.Popen[bytes]
) -> None:
    """`clear` drops all timers and what they hold."""
    before = len(os.listdir("/proc/self/fd"))
    await watch.write(*(Message(child.pid, "x", time.time() + 60, f"{n}") for n in range(20)))
    assert len(watch.server._timers) == 20
    watch.server.clear()

    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_process_that_has_ended_needs_no_killing(watch: Watch) -> None:
    """Neither before its message is read nor after."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    later = subprocess.Popen(["sleep", "60"])
    await watch.write(
        Message(gone.pid, "x", time.time(), "1"), Message(later.pid, "y", time.time() + 60, "1")
    )
    later.kill()
    later.wait()
    key = (later.pid, "1")
    watch.server._expire(key, Message(later.pid, "y", 0.0, "1"), 1.0)

    assert watch.said.empty()
    assert watch.server._timers == {}


@pytest.mark.parametrize(
    "data",
    [
        b"\n\n\n",
        b"not json\n",
        b"[" * 4000 + b"\n",
        b"\xff" * 3000 + b"\n",
        b"x" * 60_000 + b"\n",
        b'{"version": 1, "pid": 1, "scope_id": "x", "expiration_time": NaN, "signal": 9}\n',
    ],
    ids=["empty", "text", "nested", "bytes", "long", "nan"],
)
async def test_what_makes_no_sense_is_passed_over(
    watch: Watch, data: bytes, child: subprocess.Popen[bytes]
) -> None:
    """With a warning; the next message is read as ever."""
    await watch.write(data)

    assert child.poll() is None


async def test_a_line_may_come_in_pieces(watch: Watch, child: subprocess.Popen[bytes]) -> None:
    """Whoever writes more than a page at once is not understood wrongly."""
    line = encode(Message(child.pid, "x", time.time(), "1"))
    descriptor = os.open(watch.server.path, os.O_WRONLY)
    os.write(descriptor, line[:10])
    await asyncio.sleep(0)
    os.write(descriptor, line[10:])
    os.close(descriptor)

    assert (await asyncio.wait_for(watch.said.get(), 10)).pid == child.pid


async def test_too_many_timers_are_not_kept(
    watch: Watch, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a bound on what a program can make the launcher hold."""
    monkeypatch.setattr("launcher.timer.server._MAX_TIMERS", 3)
    begun = [Message(child.pid, "x", time.time() + 60, f"{n}") for n in range(5)]
    ended = [message._replace(expiration=-1.0) for message in begun[:1]]
    await watch.write(*begun, *ended)

    assert len(watch.server._timers) == 2


async def test_only_this_user_can_open_the_pipe_and_it_goes(watch: Watch) -> None:
    """Closing twice does no harm."""
    mode = os.stat(watch.server.path).st_mode
    watch.server.close()
    watch.server.close()

    assert stat.S_ISFIFO(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert not os.path.exists(watch.server.path)
