"""Claims: one holder per place, the dead make room, and ids are given out once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from asyncrpc.discovery import (
    WORKERS,
    GroupView,
    Record,
    Verdict,
    check_unique,
    claim,
    free_id,
    missing_error,
    name_key,
    warn_others,
    worker_key,
)
from asyncrpc.errors import DuplicateNameError, PeerLostError, ResourceExhaustedError
from asyncrpc.identity import MAX_WORKER_ID, WorkerInfo
from asyncrpc.store import Lease, MemoryStore
from asyncrpc.testing import VirtualClock
from asyncrpc.transport import Address


def record(name: str, ident: int, run: int = 0, world_size: int = 0) -> Record:
    """Return the record of one run of a worker."""
    place = (Address("memory", name),)
    return Record(WorkerInfo(name, ident), bytes([run] * 16), place, bytes(16), None, world_size)


class Claims:
    """A store, a lease, and who is alive."""

    def __init__(self, lease: Lease, store: MemoryStore) -> None:
        self.store = store
        self.lease = lease
        self.alive: set[bytes] = set()
        self.void: set[bytes] = set()
        self.before_answer: Any = None

    async def is_alive(self, other: Record) -> bool:
        if self.before_answer is not None:
            await self.before_answer()
        return other.incarnation in self.alive

    async def claim(self, key: str, mine: Record) -> Record | None:
        return await claim(
            self.store, key, mine, self.lease, self.is_alive, lambda v: v.by in self.void
        )


@pytest_asyncio.fixture
async def claims() -> Any:
    """A fresh store."""
    store = MemoryStore()
    async with store.lease(60) as lease:
        yield Claims(lease, store)
    await store.close()


@pytest.mark.asyncio
async def test_free_place(claims: Claims) -> None:
    """A free place is taken, under the lease; taking it again is nothing new."""
    mine = record("a", 0)
    old = [await claims.claim(worker_key(0), mine) for _ in range(2)]

    assert [None, None] == old
    assert mine.encode() == await claims.store.get(worker_key(0))
    await claims.store.revoke_lease(claims.lease)
    assert not await claims.store.check([worker_key(0)])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("key", "text"),
    [
        (worker_key(1), "RPC worker id 1 is not unique: a has it, and so has b"),
        (name_key("b"), "RPC worker name a is not unique. Workers 0 and 1 share the same name."),
    ],
)
async def test_held_by_one_that_lives(claims: Claims, key: str, text: str) -> None:
    """The place of a worker that answers is refused."""
    held = record("a", 0, 1)
    await claims.store.set(key, held.encode())
    claims.alive.add(held.incarnation)
    with pytest.raises(DuplicateNameError, match=text):
        await claims.claim(key, record("b", 1))

    assert held.encode() == await claims.store.get(key)


@pytest.mark.asyncio
async def test_held_by_one_that_is_dead(claims: Claims) -> None:
    """The place of a worker that does not answer is taken, and it is named."""
    held, mine = record("a", 0, 1), record("a", 0, 2)
    await claims.store.set(worker_key(0), held.encode())

    assert held == await claims.claim(worker_key(0), mine)
    assert mine.encode() == await claims.store.get(worker_key(0))


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["left", "lost"])
async def test_after_a_verdict(claims: Claims, kind: Any) -> None:
    """A verdict makes room, but not for the worker that it is about, unless it is void."""
    verdict = Verdict(kind, "it fell silent", bytes([1] * 16), b"judge")
    await claims.store.set(worker_key(0), verdict.encode())
    with pytest.raises(PeerLostError, match="it fell silent"):
        await claims.claim(worker_key(0), record("a", 0, 1))
    claims.void.add(b"judge")
    assert None is await claims.claim(worker_key(0), record("a", 0, 1))
    await claims.store.set(worker_key(0), verdict.encode())

    assert None is await claims.claim(worker_key(0), record("a", 0, 2))


@pytest.mark.asyncio
async def test_conflict(claims: Claims) -> None:
    """A group that cannot begin takes nobody."""
    await claims.store.set(worker_key(0), Verdict("conflict", "a is not unique").encode())
    with pytest.raises(DuplicateNameError, match="a is not unique"):
        await claims.claim(worker_key(0), record("a", 0))


@pytest.mark.asyncio
async def test_changes_meanwhile(claims: Claims) -> None:
    """What happens to a place while its holder is asked is seen: it goes, or another comes."""
    held, other, mine = record("a", 0, 1), record("a", 0, 2), record("a", 0, 3)
    await claims.store.set(worker_key(0), held.encode())

    async def goes() -> None:
        await claims.store.delete_key(worker_key(0))

    async def is_replaced() -> None:
        await claims.store.set(worker_key(0), other.encode())

    claims.before_answer = goes
    await claims.claim(worker_key(0), mine)
    assert mine.encode() == await claims.store.get(worker_key(0))
    await claims.store.set(worker_key(0), held.encode())
    claims.before_answer, claims.alive = is_replaced, {other.incarnation}
    with pytest.raises(DuplicateNameError):
        await claims.claim(worker_key(0), mine)

    assert other.encode() == await claims.store.get(worker_key(0))


@pytest.mark.asyncio
async def test_many_claim_one_place(claims: Claims) -> None:
    """Of many that claim one place at once exactly one gets it."""
    many = [record(f"w{n}", 0, n + 1) for n in range(20)]
    claims.alive = {each.incarnation for each in many}
    outcomes = await asyncio.gather(
        *[claims.claim(worker_key(0), each) for each in many], return_exceptions=True
    )

    assert 1 == outcomes.count(None)
    assert 19 == sum(isinstance(outcome, DuplicateNameError) for outcome in outcomes)


@pytest.mark.asyncio
async def test_ids() -> None:
    """Ids are given out once; those that others have, or might be named by, are passed over."""
    store = MemoryStore()
    given = [await free_id(store)]
    for other in (record("a", 1), record("worker3", 9), record("worker", 11)):
        await store.set(worker_key(other.info.id), other.encode())
    given += [await free_id(store) for _ in range(9)]

    assert [0, 2, 4, 5, 6, 7, 8, 10, 12, 13] == given


@pytest.mark.asyncio
async def test_ids_at_the_end() -> None:
    """When all ids were given out, those that are free again are given; then there are none."""
    store = MemoryStore()
    await store.add("next", MAX_WORKER_ID)
    last = await free_id(store)
    await store.set(worker_key(0), record("a", 0).encode())
    again = await free_id(store)
    every = range(MAX_WORKER_ID + 1)
    entries = [record(f"w{n}", n).encode() for n in every]
    await store.multi_set([worker_key(n) for n in every], entries)
    with pytest.raises(ResourceExhaustedError, match="32768 workers"):
        await free_id(store)

    assert [MAX_WORKER_ID, 1] == [last, again]


@pytest.mark.asyncio
async def test_warning() -> None:
    """What is missing of a group says for a while that it cannot begin; who is there stays."""
    clock = VirtualClock()
    store = MemoryStore(clock=clock)
    await store.set(worker_key(0), record("a", 0).encode())
    view = GroupView(3)
    watch = store.watch(WORKERS)
    await warn_others(store, 3, DuplicateNameError("id 0 is not unique"))
    event = await anext(watch)
    with pytest.raises(DuplicateNameError, match="id 0 is not unique"):
        view.apply(event.key, event.value)
    keys = await store.list_keys()
    await clock.advance(3)

    assert [worker_key(n) for n in range(3)] == keys
    assert [worker_key(0)] == await store.list_keys()
    await watch.aclose()


def test_view() -> None:
    """A view holds who is there at each moment, and who is missing."""
    a, b = record("a", 0, world_size=2), record("b", 1, world_size=2)
    view = GroupView(2)
    view.start({worker_key(0): a.encode(), worker_key(7): Verdict("left", "").encode()})
    missing = view.missing(), view.is_full()
    view.apply(worker_key(7), record("h", 7).encode())
    strange = view.is_full()
    view.apply(worker_key(7), b"")
    view.apply(worker_key(1), b.encode())
    full = list(view.records.values()), view.missing(), view.is_full()
    view.apply(worker_key(0), Verdict("lost", "").encode())
    view.apply(worker_key(1), b"")

    assert ([1], False) == missing
    assert not strange
    assert ([a, b], [], True) == full
    assert [0, 1] == view.missing()
    assert {worker_key(0), worker_key(1), worker_key(7)} == view.came
    assert [] == view.others()
    view.apply(worker_key(5), record("c", 5).encode())
    assert ["c"] == [other.info.name for other in view.others()]
    with pytest.raises(DuplicateNameError, match="RPC worker name a is not unique"):
        check_unique([a, b, record("a", 1)])


def test_many_are_missing() -> None:
    """The error of a large group that did not come names a few ranks and counts the others."""
    view = GroupView(1000)
    view.start({worker_key(1): record("b", 1, world_size=1000).encode()})

    text = str(missing_error(view, 2.0, "tcp://h:1"))

    assert text.startswith("only 1 of 1000 workers came within 2 s at the store tcp://h:1;")
    assert text.endswith("; missing rank 0, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 989 more")
