"""Is a history of store operations linearizable? A recorder of histories, and the checker.

For tests of stores, ours and others'. Knows the operations that read or write one key; keys are
checked one by one, which is enough since linearizability is local.

Theory of operation: operations of a key are tried in every order that respects real time (one
that returned before another was called comes first), against a register. An operation whose fate
is unknown may take effect at any time after its call, or never. What was tried is remembered as
(set of operations done, value), so the search is short unless many operations overlap.

Source: J. Wing and C. Gong, "Testing and Verifying Concurrent Objects", 1993; the memory of
configurations is from G. Lowe, "Testing for linearizability", 2017.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from asyncrpc.errors import Delivery, StoreConnectionError, StoreTimeoutError
from asyncrpc.store import Store

__all__ = ("History", "Operation", "Recorder", "find_violation")

Kind = Literal["set", "get", "add", "compare_set", "delete_key"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key, and when it was under way.

    Args:
        kind: name of the store's method.
        key: the key.
        arguments: those after the key: none, bytes, or an int for `add`.
        result: what it returned; ``None`` where that says nothing, or for a `get` that found no
            key.
        call: when it was called, on any clock common to the history.
        end: when it returned; infinity if its fate is unknown.
    """

    kind: Kind
    key: str
    arguments: tuple[bytes | int, ...]
    result: bytes | int | None
    call: float
    end: float


class History:
    """Operations of any number of clients, on one logical clock."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._clock = itertools.count()

    def now(self) -> int:
        """Return a time later than every one before."""
        return next(self._clock)


class Recorder:
    """A client that enters what it does into a history; one operation at a time.

    Args:
        store: carries it out.
        history: where to enter it.
    """

    def __init__(self, store: Store, history: History) -> None:
        self._store = store
        self._history = history

    async def run(self, kind: Kind, key: str, *arguments: bytes | int) -> None:
        """Do one operation; a lost connection is part of the history, not an error."""
        call = self._history.now()
        result: bytes | int | None = None
        end: float = math.inf
        try:
            if kind == "get":
                result = await self._store.get(key, 0)
            else:
                result = await getattr(self._store, kind)(key, *arguments)
        except StoreTimeoutError as error:
            # Only the store itself can say that there is no key.
            if kind != "get" or error.delivery is not Delivery.EXECUTED:
                self._enter(kind, key, arguments, None, call, math.inf)
                return
        except StoreConnectionError as error:
            if error.delivery is not Delivery.NOT_SENT:
                self._enter(kind, key, arguments, None, call, math.inf)
            return
        end = self._history.now()
        self._enter(kind, key, arguments, result, call, end)

    def _enter(
        self,
        kind: Kind,
        key: str,
        arguments: tuple[bytes | int, ...],
        result: bytes | int | None,
        call: float,
        end: float,
    ) -> None:
        self._history.operations.append(Operation(kind, key, arguments, result, call, end))


def find_violation(operations: Iterable[Operation]) -> list[Operation] | None:
    """Return the operations of a key whose history no order explains, or None.

    Args:
        operations: in any order; every key is absent at first.
    """
    by_key: dict[str, list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    for history in by_key.values():
        history.sort(key=lambda operation: operation.call)
        if not _is_linearizable(history):
            return history
    return None


def _is_linearizable(history: Sequence[Operation]) -> bool:
    wanted = sum(1 << index for index, item in enumerate(history) if item.end != math.inf)
    seen: set[tuple[int, bytes | None]] = set()
    stack: list[tuple[int, bytes | None]] = [(0, None)]
    while stack:
        done, value = stack.pop()
        if done & wanted == wanted:
            return True
        for index in _candidates(history, done):
            is_possible, after = _apply(history[index], value)
            configuration = (done | 1 << index, after)
            if is_possible and configuration not in seen:
                seen.add(configuration)
                stack.append(configuration)
    return False


def _candidates(history: Sequence[Operation], done: int) -> list[int]:
    """Return what may come next: called before any other that is left has returned."""
    candidates = []
    earliest_end = math.inf
    # The lowest bit that is not set: everything before it is done.
    first = (~done & (done + 1)).bit_length() - 1
    for index in range(first, len(history)):
        operation = history[index]
        if operation.call > earliest_end:
            break
        if not done >> index & 1:
            candidates.append(index)
            earliest_end = min(earliest_end, operation.end)
    return [index for index in candidates if history[index].call < earliest_end]


def _apply(operation: Operation, value: bytes | None) -> tuple[bool, bytes | None]:
    """Return whether the operation fits the register's value, and the value after it."""
    is_unknown = operation.end == math.inf
    match operation.kind, operation.arguments:
        case "set", (bytes(new),):
            return True, new
        case "get", ():
            return is_unknown or operation.result == value, value
        case "add", (int(amount),):
            total = int(value or b"0") + amount
            return is_unknown or operation.result == total, b"%d" % total
        case "compare_set", (bytes(expected), bytes(desired)):
            result, after = _compare_set(value, expected, desired)
            return is_unknown or operation.result == result, after
        case "delete_key", ():
            return is_unknown or operation.result == (value is not None), None
    raise ValueError(f"operation {operation.kind!r} takes no {operation.arguments!r}")


def _compare_set(
    value: bytes | None, expected: bytes, desired: bytes
) -> tuple[bytes, bytes | None]:
    if (value or b"") == expected and (value is not None or not expected):
        return desired, desired
    return (expected if value is None else value), value
