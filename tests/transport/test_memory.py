"""Links in memory: what they have to themselves beside the conformance suite."""

from __future__ import annotations

import asyncio
import functools

import pytest

from asyncrpc.transport import Address, MemoryNetwork, memory_pair
from tests.transport.links import Recorder, recorder, serving

pytestmark = pytest.mark.asyncio

ADDRESS = Address.parse("memory://server")


async def test_pair() -> None:
    """Two handlers can be linked without a network."""
    near, far = memory_pair(Recorder(), Recorder())
    near.write(b"there")
    far.write(b"back")

    assert await recorder(far).received(5) == b"there"
    assert await recorder(near).received(4) == b"back"
    near.close()
    await far.wait_closed()


async def test_nothing_is_delivered_within_a_write() -> None:
    """Bytes arrive in a later turn, so that a handler is never entered twice."""
    near, far = memory_pair(Recorder(), Recorder())
    near.write_parts([b"data"])

    assert recorder(far).data == b""
    await recorder(far).received(4)
    near.close()
    await far.wait_closed()


async def test_written_memory_may_be_reused() -> None:
    """What arrives is what was written, whatever becomes of the writer's memory."""
    near, far = memory_pair(Recorder(), Recorder())
    memory = bytearray(b"first")
    near.write_parts([memoryview(memory)])
    memory[:] = b"other"

    assert await recorder(far).received(5) == b"first"
    near.close()
    await far.wait_closed()


async def test_reset() -> None:
    """Abort loses what is in flight and tells the other side that it was reset."""
    near, far = memory_pair(Recorder(), Recorder())
    near.write_parts([b"lost"])
    near.abort()

    assert await recorder(near).ended() is None
    assert isinstance(await recorder(far).ended(), ConnectionResetError)
    assert recorder(far).data == b""


async def test_back_pressure_has_two_marks() -> None:
    """Above 512 KiB the writer waits, until half of that is read."""
    near, far = memory_pair(Recorder(), Recorder(room=1 << 16))
    far.pause_reading()
    for _ in range(8):
        near.write_parts([bytes(1 << 16)])
    assert near.is_writable
    near.write_parts([b"x"])
    assert not near.is_writable
    marks: list[int] = []
    recorder(near).on_ready = lambda: marks.append(near.unsent)
    recorder(far).on_data = lambda: marks.append(near.unsent)
    far.resume_reading()
    await recorder(far).received((8 << 16) + 1)
    await asyncio.sleep(0)

    assert marks == [*((left << 16) + 1 for left in range(7, 0, -1)), 1, 0, 0]
    near.close()
    await far.wait_closed()


async def test_repeatable_order() -> None:
    """The same program gives the same order of events."""

    async def run() -> list[str]:
        events: list[str] = []
        pairs = [memory_pair(Recorder(), Recorder()) for _ in range(3)]
        for number, (near, far) in enumerate(pairs):
            recorder(near).on_data = functools.partial(events.append, f"near {number}")
            recorder(far).on_data = functools.partial(events.append, f"far {number}")
        for near, far in pairs:
            near.write(b"x")
            far.write(b"y")
        for near, far in pairs:
            await recorder(far).received(1)
            await recorder(near).received(1)
            near.close()
            await far.wait_closed()
        return events

    assert await run() == await run()


async def test_nobody_listens() -> None:
    """A name nobody listens on refuses, by name and as the system would."""
    with pytest.raises(ConnectionError, match="memory://server: connection refused") as caught:
        await MemoryNetwork().connect(ADDRESS, Recorder(), timeout=1.0)

    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_networks_are_apart() -> None:
    """A listener is known to its own network alone."""
    async with serving(MemoryNetwork(), ADDRESS):
        with pytest.raises(ConnectionError):
            await MemoryNetwork().connect(ADDRESS, Recorder(), timeout=1.0)


async def test_listener_that_closes_meanwhile() -> None:
    """A connect that is under way when the listener closes is refused."""
    network = MemoryNetwork()
    async with serving(network, ADDRESS) as server:
        task = asyncio.create_task(server.connect())
        await asyncio.sleep(0)
        await server.listener.close()

        with pytest.raises(ConnectionError):
            await task
    assert server.streams == []
