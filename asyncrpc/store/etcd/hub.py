"""`Hub`: the one watch of a client, for all of its operations that wait for something.

It stands while any of them waits. Each has an `Inbox` of what concerns it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asyncrpc.errors import StoreError
from asyncrpc.store.etcd.gateway import Gateway
from asyncrpc.store.etcd.keys import Layout, version_at
from asyncrpc.store.etcd.stream import Happened, WatchStream

__all__ = ("Hub", "Inbox")


class Inbox:
    """What happened to some keys, and was not looked at yet.

    Args:
        wants: whether a key is one of them.
    """

    __slots__ = ("_events", "_failure", "_is_behind", "_waiter", "wants")

    def __init__(self, wants: Callable[[bytes], bool]) -> None:
        self.wants = wants
        self._events: list[Happened] = []
        self._is_behind = False  # something was missed
        self._failure: StoreError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Happened) -> None:
        """Take in what happened."""
        self._events.append(event)
        self._wake()

    def fall_behind(self) -> None:
        """Note that something was missed."""
        self._is_behind = True
        self._wake()

    def fail(self, error: StoreError) -> None:
        """Note that nothing will come any more."""
        self._failure = error
        self._wake()

    async def take(self, deadline: float) -> list[Happened]:
        """Wait for something to happen and take all of it.

        Args:
            deadline: time of the loop.

        Returns:
            In order; empty: something was missed, and is to be looked for.

        Raises:
            TimeoutError: nothing happened in time.
            StoreError: nothing will.
        """
        while not self._events and not self._is_behind:
            if self._failure is not None:
                raise self._failure
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None
            if deadline < float("inf"):
                timer = loop.call_at(deadline, self._time_out, self._waiter)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        events, self._events = self._events, []
        if self._is_behind:
            self._is_behind = False
            return []
        return events

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @staticmethod
    def _time_out(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError())


class Hub:
    """Gives out inboxes and fills them.

    Args:
        gateway: to etcd.
        layout: of the store.
        patience: seconds to try when the watch has broken.
    """

    def __init__(self, gateway: Gateway, layout: Layout, patience: float) -> None:
        self._gateway = gateway
        self._range = layout.awaited
        self._patience = patience
        self._inboxes: dict[Inbox, None] = {}
        self._running: asyncio.Task[None] | None = None

    @property
    def is_listening(self) -> bool:
        """Whether any operation waits."""
        return bool(self._inboxes)

    @contextmanager
    def listen(self, wants: Callable[[bytes], bool]) -> Iterator[Inbox]:
        """Give an inbox that misses nothing of what happens after a look, if `begin` follows it.

        Args:
            wants: whether a key of etcd is one that matters.
        """
        inbox = Inbox(wants)
        self._inboxes[inbox] = None
        try:
            yield inbox
        finally:
            del self._inboxes[inbox]
            if not self._inboxes:
                self._stop()

    def begin(self, revision: int) -> None:
        """Watch, if nobody did yet, from behind the revision that somebody has looked at."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(revision), name=f"watch {self._gateway}")

    def fail(self, error: StoreError) -> None:
        """Stop watching, for good; what waits fails."""
        self._stop()
        for inbox in self._inboxes:
            inbox.fail(error)

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    async def _run(self, revision: int) -> None:
        stream = WatchStream(
            self._gateway, *self._range, version_at(revision), self._deliver, self._fall_behind
        )
        try:
            await stream.run(self._patience)
        except StoreError as error:
            self.fail(error)

    def _deliver(self, event: Happened) -> None:
        for inbox in self._inboxes:
            if inbox.wants(event.row.key):
                inbox.put(event)

    def _fall_behind(self, _revision: int) -> None:
        for inbox in self._inboxes:
            inbox.fall_behind()
