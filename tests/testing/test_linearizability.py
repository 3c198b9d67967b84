"""The checker on histories whose verdict is known, and against brute force."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.errors import Delivery, StoreConnectionError
from asyncrpc.store import MemoryStore
from asyncrpc.testing.linearizability import (
    History,
    Kind,
    Operation,
    Recorder,
    _apply,
    find_violation,
)


def op(
    kind: Kind,
    *arguments: bytes | int,
    result: bytes | int | None = None,
    at: tuple[float, float],
    key: str = "k",
) -> Operation:
    """Return one operation under way from one time to another."""
    return Operation(kind, key, arguments, result, *at)


GOOD = {
    "nothing": [],
    "in sequence": [
        op("set", b"1", at=(0, 1)),
        op("get", result=b"1", at=(2, 3)),
        op("add", 2, result=3, at=(4, 5)),
        op("compare_set", b"3", b"x", result=b"x", at=(6, 7)),
        op("compare_set", b"3", b"y", result=b"x", at=(8, 9)),
        op("delete_key", result=True, at=(10, 11)),
        op("delete_key", result=False, at=(12, 13)),
        op("get", at=(14, 15)),
        op("compare_set", b"3", b"y", result=b"3", at=(16, 17)),
        op("compare_set", b"", b"y", result=b"y", at=(18, 19)),
    ],
    "overlap, old value": [op("set", b"1", at=(0, 9)), op("get", at=(1, 2))],
    "overlap, new value": [op("set", b"1", at=(0, 9)), op("get", result=b"1", at=(1, 2))],
    "unknown, happened": [op("set", b"1", at=(0, math.inf)), op("get", result=b"1", at=(5, 6))],
    "unknown, did not": [op("set", b"1", at=(0, math.inf)), op("get", at=(5, 6))],
    "unknown, happened late": [
        op("add", 1, at=(0, math.inf)),
        op("get", at=(1, 2)),
        op("add", 1, result=2, at=(3, 4)),
    ],
    "other keys do not matter": [
        op("set", b"1", at=(0, 1), key="a"),
        op("get", at=(2, 3), key="b"),
    ],
}
BAD = {
    "stale read": [op("set", b"1", at=(0, 1)), op("get", at=(2, 3))],
    "value from nowhere": [op("get", result=b"1", at=(0, 1))],
    "lost add": [op("add", 1, result=1, at=(0, 5)), op("add", 1, result=1, at=(1, 6))],
    "back in time": [
        op("set", b"1", at=(0, 9)),
        op("get", result=b"1", at=(1, 2)),
        op("get", at=(3, 4)),
    ],
    "two winners": [
        op("compare_set", b"", b"a", result=b"a", at=(0, 5)),
        op("compare_set", b"", b"b", result=b"b", at=(1, 6)),
    ],
    "unknown happened twice": [
        op("add", 1, at=(0, math.inf)),
        op("add", 1, result=3, at=(1, 2)),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories_pass(name: str) -> None:
    """What some order explains is no violation."""
    assert find_violation(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_found(name: str) -> None:
    """What no order explains is a violation, and is returned."""
    assert find_violation(BAD[name]) == BAD[name]


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Draw a few operations with overlapping times and results that may be right."""
    operations = []
    times = draw(st.permutations(range(10)))
    for index in range(draw(st.integers(1, 5))):
        call, end = sorted(times[2 * index : 2 * index + 2])
        final = math.inf if draw(st.booleans()) and index == 0 else end
        operations.append(
            draw(
                st.sampled_from(
                    [
                        op("set", b"1", at=(call, final)),
                        op("get", result=draw(st.sampled_from([None, b"1", b"2"])), at=(call, end)),
                        op("add", 1, result=draw(st.integers(1, 3)), at=(call, final)),
                        op("delete_key", result=draw(st.booleans()), at=(call, final)),
                    ]
                )
            )
        )
    return operations


def is_explained(history: list[Operation]) -> bool:
    """Try every order of every choice of operations, by the definition."""
    certain = [item for item in history if item.end != math.inf]
    unknown = [item for item in history if item.end == math.inf]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*certain, *chosen]):
                if all(a.call < b.end for a, b in itertools.combinations(order, 2)) and fits(order):
                    return True
    return False


def fits(order: tuple[Operation, ...]) -> bool:
    """Return whether a register would have given these results in this order."""
    value: bytes | None = None
    for item in order:
        is_possible, value = _apply(item, value)
        if not is_possible:
            return False
    return True


@given(histories())
def test_it_agrees_with_brute_force(history: list[Operation]) -> None:
    """The verdict is that of trying all orders."""
    assert (find_violation(history) is None) == is_explained(history)


class BrokenStore(MemoryStore):
    """Fails each operation with one error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def _call(self, *arguments: object) -> object:
        raise self.error


@pytest.mark.asyncio
@pytest.mark.parametrize(("delivery", "count"), [(Delivery.NOT_SENT, 0), (Delivery.UNKNOWN, 1)])
async def test_recorders_know_what_did_not_happen(delivery: Delivery, count: int) -> None:
    """An operation that was not sent is no part of the history, one of unknown fate is open."""
    history = History()
    store = BrokenStore(StoreConnectionError("broken", delivery=delivery))
    await Recorder(store, history).run("set", "k", b"1")

    assert [item.end for item in history.operations] == [math.inf] * count


def test_unknown_kinds_are_refused() -> None:
    """An operation that the checker does not know is a mistake."""
    with pytest.raises(ValueError, match="takes no"):
        find_violation([op("get", 5, at=(0, 1))])
