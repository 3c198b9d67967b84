"""`Core`: what the operations on values, queues and barriers have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from asyncrpc.errors import StoreError
from asyncrpc.store.etcd.gateway import Gateway
from asyncrpc.store.etcd.hub import Hub
from asyncrpc.store.etcd.keys import Layout
from asyncrpc.store.etcd.lane import Lane
from asyncrpc.store.etcd.messages import flatten, read, revision_of, txn
from asyncrpc.store.etcd.writer import Writer
from asyncrpc.store.lease import LeaseHost

__all__ = ("Core",)

_log = logging.getLogger("asyncrpc.store")


class Core:
    """One client's way to its store.

    Args:
        gateway: to etcd.
        layout: of the store.
        host: makes leases.
        patience: seconds to try when etcd does not answer.
    """

    def __init__(self, gateway: Gateway, layout: Layout, host: LeaseHost, patience: float) -> None:
        self.gateway = gateway
        self.layout = layout
        self.patience = patience
        self.lane = Lane()
        self.writer = Writer(gateway, layout, host)
        self.hub = Hub(gateway, layout, patience)
        self._tasks: set[asyncio.Task[object]] = set()

    async def look(self, operations: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
        """Read at one moment.

        Args:
            operations: which only read.

        Returns:
            The content of each response, and the store's revision.
        """
        # without any operation a member would answer for itself, and may be behind the others
        marker = [read(self.layout.root, count_only=True)]
        body = txn([], operations or marker)["request_txn"]
        reply = await self.gateway.call("/v3/kv/txn", body)
        responses = [content for _, content in flatten(reply.fields.get("responses", ()))]
        return responses, revision_of(reply.fields)

    async def revision(self) -> int:
        """Return the store's revision."""
        return (await self.look([]))[1]

    def spawn(self, activity: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Start something that goes on by itself, until it is done or the store is closed."""
        task = asyncio.create_task(activity)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, StoreError):
            _log.debug("what a client left in its store stays there until it lapses: %s", error)
        elif error is not None:
            _log.error("a task of the store at %s failed", self.gateway, exc_info=error)

    async def close(self, error: StoreError, timeout: float) -> None:
        """Withdraw what this client waits for, and stop.

        Args:
            error: what waits fails with it.
            timeout: seconds for what needs etcd.
        """
        tasks = self._tasks
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.hub.fail(error)
        with suppress(TimeoutError):  # then it lapses by itself
            async with asyncio.timeout(timeout):
                await self.writer.close()
        await self.gateway.close()
