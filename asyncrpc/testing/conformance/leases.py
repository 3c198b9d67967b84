"""How leases of every store live and end."""

from __future__ import annotations

import asyncio

from asyncrpc.errors import StoreError
from asyncrpc.testing.conformance.checking import Connect, StoreCheck, equal, failing, take, true

__all__ = ("CHECKS", "SLOW_CHECKS")

_TTL = 0.3  # seconds; several renewals of it are awaited


async def leases_end_when_left(connect: Connect) -> None:
    """Keys on a lease are there while it lives and vanish when it is left, as an event."""
    one, two = await connect(), await connect()
    async with two.watch("conformance/l/") as watch:
        async with one.lease(30) as lease:
            await one.set("conformance/l/a", "x", lease=lease)
            await one.add("conformance/l/n", 1, lease=lease)
            await one.compare_set("conformance/l/c", "", "x", lease=lease)
            equal(len(await two.list_keys("conformance/l/")), 3, "they are there")
        equal(await two.list_keys("conformance/l/"), [], "they are gone")
        gone = (await take(watch, 6))[3:]
    equal(sorted(event.key[-1] for event in gone), ["a", "c", "n"], "each is reported")
    true(all(event.kind in ("expire", "delete") for event in gone), "as gone")
    true(all(event.value == b"" for event in gone), "without a value")
    await failing(StoreError, one.set("conformance/l/late", "x", lease=lease))


async def leases_hold_only_their_keys(connect: Connect) -> None:
    """A key hangs on the lease of its last `set`; `add` without a lease keeps it."""
    store = await connect()
    async with store.lease(30) as lease:
        for key in ("detached", "counted", "moved"):
            await store.set(f"conformance/{key}", "1", lease=lease)
        await store.set("conformance/detached", "2")
        await store.add("conformance/counted", 1)
        async with store.lease(30) as other:
            await store.set("conformance/moved", "2", lease=other)
        equal(await store.check(["conformance/moved"]), False, "it went with the other lease")
    equal(await store.check(["conformance/detached"]), True, "it hangs on none")
    equal(await store.check(["conformance/counted"]), False, "it hung on its lease")


async def leases_renew_themselves(connect: Connect) -> None:
    """A lease that is not left lives on beyond its ttl."""
    one, two = await connect(), await connect()
    async with one.lease(_TTL) as lease:
        await one.set("conformance/l", "x", lease=lease)
        await asyncio.sleep(2 * _TTL)
        true(lease.is_alive, "the lease says so")
        equal(await two.check(["conformance/l"]), True, "its key is still there")


async def leases_lapse(connect: Connect) -> None:
    """A lease that is no longer renewed lapses, and its keys with it."""
    one, two = await connect(), await connect()
    async with two.watch("conformance/") as watch, one.lease(_TTL) as lease:
        await one.set("conformance/l", "x", lease=lease)
        lease.abandon()
        events = await take(watch, 2)
        true(events[1].kind in ("expire", "delete"), "its key is reported as gone")
        await failing(StoreError, one.set("conformance/l", "x", lease=lease))


CHECKS: tuple[StoreCheck, ...] = (
    leases_end_when_left,
    leases_hold_only_their_keys,
)

SLOW_CHECKS: tuple[StoreCheck, ...] = (leases_renew_themselves, leases_lapse)
