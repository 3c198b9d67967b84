"""Calls and results that wait until the owners know every reference in them.

Pure; `Users` calls it. Waiting holds no thread and no task, and ends with the first bad news.
"""

from __future__ import annotations

from collections.abc import Iterable

from .exchange import Exchange
from .values import Cause, FailParked, GlobalId, RunParked, Token

__all__ = ("Parking",)


class Parking:
    """What one agent keeps from user code.

    Args:
        exchange: takes the instructions to run or to fail.
    """

    __slots__ = ("_exchange", "_parked", "_waiters")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._parked: dict[Token, set[GlobalId]] = {}
        """Parked -> the pending forks it waits for, at least one."""
        self._waiters: dict[GlobalId, dict[Token, None]] = {}
        # The same the other way round: fork -> who waits for it, at least one, in their order.

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, token: Token, pending: Iterable[GlobalId]) -> None:
        """Hold a call until all the forks are confirmed; run it now if there are none."""
        assert token not in self._parked, "a call is parked once"
        forks = set(pending)
        if not forks:
            self._exchange.emit(RunParked(token))
            return
        self._parked[token] = forks
        for fork in forks:
            self._waiters.setdefault(fork, {})[token] = None

    def withdraw(self, token: Token) -> None:
        """Forget a call that was cancelled or timed out."""
        for fork in self._parked.pop(token, ()):
            waiters = self._waiters[fork]
            del waiters[token]
            if not waiters:
                del self._waiters[fork]

    def confirmed(self, fork: GlobalId) -> None:
        """Run what waited for this fork alone."""
        for token in self._waiters.pop(fork, ()):
            forks = self._parked[token]
            forks.remove(fork)
            if not forks:
                del self._parked[token]
                self._exchange.emit(RunParked(token))

    def failed(self, fork: GlobalId, cause: Cause) -> None:
        """Fail all that waited for this fork."""
        for token in tuple(self._waiters.get(fork, ())):
            self.withdraw(token)
            self._exchange.emit(FailParked(token, cause))

    def close(self, cause: Cause) -> None:
        """Fail all that waits."""
        for token in tuple(self._parked):
            self.withdraw(token)
            self._exchange.emit(FailParked(token, cause))
