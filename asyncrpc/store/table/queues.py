"""The commands of a table that are about queues: pure, as all of the table."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable

from asyncrpc.errors import QueueEmptyError, StoreTimeoutError
from asyncrpc.store.commands import Command, QueueLen, QueuePop, QueuePush, QueueReturn
from asyncrpc.store.failures import missing_error
from asyncrpc.store.table.content import Content
from asyncrpc.store.table.requests import Handler, Requests
from asyncrpc.store.table.waiting import KeyIndex, Waiter

__all__ = ("Queues",)


class Queues:
    """Pushes to and pops from queues; `handlers` has what it does by command.

    Args:
        content: has the queues.
        requests: who waits.
        push_wakes_one: see `Table`.
    """

    def __init__(self, content: Content, requests: Requests, *, push_wakes_one: bool) -> None:
        self._content = content
        self._queues = content.queues
        self._requests = requests
        self._at_most = 1 if push_wakes_one else math.inf
        self._poppers = KeyIndex(_late)
        self.handlers: dict[type[Command], Handler] = {
            QueuePush: self._push,
            QueueReturn: self._return,
            QueuePop: self._pop,
            QueueLen: self._len,
        }

    def _push(self, _session: object, _request: int, command: QueuePush, _now: float) -> None:
        key, value = command
        self._content.check_size(key, value)
        self._queues.setdefault(key, deque()).append(value)
        self._serve(key)

    def _return(self, _session: object, _request: int, command: QueueReturn, _now: float) -> None:
        key, value = command
        self._content.check_size(key, value)
        self._queues.setdefault(key, deque()).appendleft(value)
        self._serve(key)

    def _serve(self, key: str) -> None:
        # First those who wait for the queue to exist: it does, if only until it is popped.
        if key in self._content.absent:
            self._content.wake(key, self._at_most)
        popper = self._poppers.first(key)
        if popper is not None:
            self._requests.answer(popper, self._take(key))

    def _pop(self, session: Hashable, request: int, command: QueuePop, now: float) -> object:
        key, block, timeout = command
        if key in self._queues:
            return self._take(key)
        if not block:
            raise QueueEmptyError(f"queue {key!r} is empty")
        waiter = Waiter(session, request, command, now + timeout, self._poppers, (key,))
        return self._requests.enlist(waiter, timeout)

    def _len(self, _session: object, _request: int, command: QueueLen, _now: float) -> int:
        return len(self._queues.get(command.key, ()))

    def _take(self, key: str) -> bytes:
        queue = self._queues[key]
        value = queue.popleft()
        if not queue:
            del self._queues[key]
        return value


def _late(waiter: Waiter) -> StoreTimeoutError:
    return missing_error(waiter.keys, waiter.command.timeout)
