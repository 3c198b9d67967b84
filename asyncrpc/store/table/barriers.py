"""The barriers of a table: pure, as all of the table."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from asyncrpc.errors import StoreTimeoutError
from asyncrpc.store.commands import Barrier, Command
from asyncrpc.store.failures import barrier_error, mismatch_error
from asyncrpc.store.table.requests import Handler, Requests
from asyncrpc.store.table.waiting import KeyIndex, Waiter

__all__ = ("Barriers",)

_TOKEN_LIFE = 60.0  # seconds an opened barrier knows its arrivals: longer than any reconnect


class Barriers:
    """Lets arrivals pass once all are there; `handlers` has what it does by command."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._arrivals = KeyIndex(self._late)
        # Arrivals of opened barriers, until when they are remembered; oldest first.
        self._released: OrderedDict[bytes, float] = OrderedDict()
        self.handlers: dict[type[Command], Handler] = {Barrier: self._arrive}

    def _arrive(self, session: Hashable, request: int, command: Barrier, now: float) -> object:
        key, world_size, timeout, token = command
        while self._released and next(iter(self._released.values())) <= now:
            self._released.popitem(last=False)
        if token in self._released:
            return None
        first = self._arrivals.first(key)
        if first is not None and isinstance(first.command, Barrier):
            expected = first.command.world_size
            if expected != world_size:
                raise mismatch_error(command, expected)
        if self._arrivals.count(key) + 1 < world_size:
            waiter = Waiter(session, request, command, now + timeout, self._arrivals, (key,))
            return self._requests.enlist(waiter, timeout)
        self._release(token, now)
        for waiter in self._arrivals.take(key):
            if isinstance(waiter.command, Barrier):
                self._release(waiter.command.token, now)
            self._requests.answer(waiter, None)
        return None

    def _release(self, token: bytes, now: float) -> None:
        if token:
            self._released[token] = now + _TOKEN_LIFE

    def _late(self, waiter: Waiter) -> StoreTimeoutError:
        command = waiter.command
        assert isinstance(command, Barrier)
        return barrier_error(command, self._arrivals.count(command.key))
