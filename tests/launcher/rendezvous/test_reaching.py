"""`launcher.rendezvous.reaching`: a long wait for the run's store is told once, with its reason."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncrpc.errors import StatusCode
from asyncrpc.store import StoreConnectionError
from launcher.rendezvous import reaching
from launcher.rendezvous.reaching import reach

pytestmark = pytest.mark.asyncio

LIMIT = 10.0  # seconds, of which none is waited for


class Stub:
    """Stands for a store that is there from some attempt on.

    Args:
        failures: how many attempts fail.
    """

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.timeouts: list[float] = []
        self.is_closed = False

    async def connect(self, timeout: float) -> Any:
        """Fail, or return the store."""
        self.timeouts.append(timeout)
        await asyncio.sleep(0)
        if len(self.timeouts) <= self.failures:
            raise StoreConnectionError("nobody listens")
        return self

    async def close(self) -> None:
        """Say that the store was let go of."""
        self.is_closed = True


def deadline() -> float:
    """Return when to give up."""
    return asyncio.get_running_loop().time() + LIMIT


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "_QUIET", 0.0)


async def test_what_is_there_is_not_talked_about(caplog: pytest.LogCaptureFixture) -> None:
    """The store gets the seconds that it may take to answer."""
    store = Stub(0)

    assert await reach(store.connect, "host:1", deadline(), 3.0) is store
    assert (store.timeouts, store.is_closed, caplog.records) == ([3.0], False, [])


async def test_an_attempt_that_fails_early_is_followed_by_others() -> None:
    """Until the deadline."""
    store = Stub(2)

    assert await reach(store.connect, "host:1", deadline(), 3.0) is store
    assert store.timeouts == [3.0] * 3


async def test_a_refusal_is_final() -> None:
    """Such as that of a certificate."""

    async def connect(timeout: float) -> Any:
        raise StoreConnectionError("bad certificate", code=StatusCode.UNAUTHENTICATED)

    with pytest.raises(StoreConnectionError, match="bad certificate"):
        await asyncio.wait_for(reach(connect, "host:1", deadline(), 3.0), LIMIT / 2)


@pytest.mark.usefixtures("_at_once")
async def test_who_waits_learns_why_and_for_how_long(caplog: pytest.LogCaptureFixture) -> None:
    """Once, while the attempt that counts goes on."""
    told = asyncio.Event()

    async def connect(timeout: float) -> Any:
        if timeout == 3.0:
            await told.wait()
            return store
        loop.call_soon(told.set)
        raise StoreConnectionError("nobody listens")

    store, loop = Stub(0), asyncio.get_running_loop()
    async with asyncio.timeout(LIMIT):
        assert await reach(connect, "host:1", deadline(), 3.0) is store
    assert [record.getMessage() for record in caplog.records] == [
        "rdzv_endpoint=host:1: nobody listens; trying for another 10 s"
    ]


@pytest.mark.usefixtures("_at_once")
async def test_a_look_that_succeeds_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing to say then: the attempt that counts will succeed as well."""
    seen = Stub(0)

    async def connect(timeout: float) -> Any:
        if timeout == 3.0:
            while not seen.is_closed:
                await asyncio.sleep(0)
            return store
        return seen

    store = Stub(0)
    async with asyncio.timeout(LIMIT):
        assert await reach(connect, "host:1", deadline(), 3.0) is store
    assert caplog.records == []


@pytest.mark.usefixtures("_at_once")
async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    """Neither of its two attempts."""
    looking = asyncio.Event()
    ended: list[float] = []

    async def connect(timeout: float) -> Any:
        if timeout != 3.0:
            looking.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(timeout)

    waiting = asyncio.create_task(reach(connect, "host:1", deadline(), 3.0))
    await looking.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert sorted(ended) == [1.0, 3.0]
