"""What every store does with values and counters."""

from __future__ import annotations

import asyncio

from asyncrpc.errors import StoreError
from asyncrpc.testing.conformance.checking import Connect, StoreCheck, equal, failing

__all__ = ("CHECKS",)


async def values_are_bytes(connect: Connect) -> None:
    """A value comes back as bytes, whatever it holds; str is encoded as UTF-8."""
    store = await connect()
    for value in (b"", b"\x00\xff" * 500, "grüße", bytearray(b"x"), memoryview(b"y")):
        await store.set("conformance/värde", value)
        expected = value.encode() if isinstance(value, str) else bytes(value)
        equal(await store.get("conformance/värde"), expected, "get returns what was set")


async def clients_share_keys(connect: Connect) -> None:
    """What one client has written, every other reads."""
    one, two = await connect(), await connect()
    await one.set("conformance/key", "one")
    equal(await two.get("conformance/key"), b"one", "another client reads it")
    await two.set("conformance/key", "two")
    equal(await one.get("conformance/key"), b"two", "and overwrites it")


async def add_counts(connect: Connect) -> None:
    """`add` makes and moves a counter that reads as decimal text."""
    store = await connect()
    equal(await store.add("conformance/n", 5), 5, "an absent key counts from 0")
    equal(await store.add("conformance/n", -7), -2, "add takes negative numbers")
    equal(await store.get("conformance/n"), b"-2", "the value is decimal text")
    await store.set("conformance/n", "40")
    equal(await store.add("conformance/n", 2), 42, "add goes on from a value that was set")
    results = await asyncio.gather(*(store.add("conformance/m", 1) for _ in range(50)))
    equal(sorted(results), list(range(1, 51)), "concurrent adds are all counted")


async def add_refuses_other_values(connect: Connect) -> None:
    """`add` on a value that is no integer fails and changes nothing."""
    store = await connect()
    for value in (b"", b"word", b"1.5", b" 1", b"1_0", b"-", b"--1"):
        await store.set("conformance/text", value)
        await failing(StoreError, store.add("conformance/text", 1))
        equal(await store.get("conformance/text"), value, "the value is as it was")
    await store.set("conformance/max", str(2**63 - 1))
    await failing(StoreError, store.add("conformance/max", 1))


async def compare_set_follows_its_table(connect: Connect) -> None:
    """`compare_set` follows the reference: absent/present x expected empty/equal/different."""
    store = await connect()
    key = "conformance/cas"
    equal(await store.compare_set(key, "x", "new"), b"x", "absent, expected not empty")
    equal(await store.check([key]), False, "then nothing is written")
    equal(await store.compare_set(key, "", "one"), b"one", "absent, expected empty")
    equal(await store.get(key), b"one", "then it is written")
    equal(await store.compare_set(key, "other", "two"), b"one", "present and different")
    equal(await store.compare_set(key, "", "two"), b"one", "present, expected empty")
    equal(await store.get(key), b"one", "then nothing is written")
    equal(await store.compare_set(key, "one", "two"), b"two", "present and equal")
    equal(await store.get(key), b"two", "then it is written")


async def compare_set_has_one_winner(connect: Connect) -> None:
    """Of many that compare and set at once, one wins."""
    stores = [await connect() for _ in range(3)]
    results = await asyncio.gather(
        *(
            stores[index % 3].compare_set("conformance/leader", "", f"client {index}")
            for index in range(12)
        )
    )
    equal(len(set(results)), 1, "all hear of the same winner")


async def check_looks_at_all_keys(connect: Connect) -> None:
    """`check` says whether all keys exist."""
    store = await connect()
    await store.set("conformance/a", "")
    equal(await store.check(["conformance/a"]), True, "a key with an empty value exists")
    equal(await store.check(["conformance/a", "conformance/b"]), False, "one is missing")
    equal(await store.check([]), True, "none is missing")


async def delete_removes_a_key(connect: Connect) -> None:
    """`delete_key` says whether there was a key; it is gone afterwards."""
    store = await connect()
    await store.set("conformance/a", "x")
    equal(await store.delete_key("conformance/a"), True, "it was there")
    equal(await store.delete_key("conformance/a"), False, "it was not there any more")
    equal(await store.check(["conformance/a"]), False, "it is gone")


async def keys_are_counted_and_listed(connect: Connect) -> None:
    """`num_keys` counts keys, `list_keys` lists them as str by prefix."""
    store = await connect()
    before = await store.num_keys()
    await store.multi_set([f"conformance/{name}" for name in ("b1", "a2", "a1")], ["", "", ""])
    equal(await store.num_keys(), before + 3, "three keys more")
    equal(await store.list_keys("conformance/a"), ["conformance/a1", "conformance/a2"], "by prefix")
    equal(len(await store.list_keys("conformance/")), 3, "all of ours")
    equal(await store.list_keys("conformance/none"), [], "none")


async def append_extends_a_value(connect: Connect) -> None:
    """`append` adds to the end, from nothing if the key is absent."""
    store = await connect()
    await store.append("conformance/log", "one ")
    await store.append("conformance/log", b"two")
    equal(await store.get("conformance/log"), b"one two", "both parts are there")


async def multi_set_and_multi_get(connect: Connect) -> None:
    """`multi_get` gives values in the order of its keys, of which one may come twice."""
    store = await connect()
    await store.multi_set(["conformance/a", "conformance/b"], ["1", b"2"])
    keys = ["conformance/b", "conformance/a", "conformance/b"]
    equal(await store.multi_get(keys), [b"2", b"1", b"2"], "in order")
    equal(await store.multi_get([]), [], "of nothing")


CHECKS: tuple[StoreCheck, ...] = (
    values_are_bytes,
    clients_share_keys,
    add_counts,
    add_refuses_other_values,
    compare_set_follows_its_table,
    compare_set_has_one_winner,
    check_looks_at_all_keys,
    delete_removes_a_key,
    keys_are_counted_and_listed,
    append_extends_a_value,
    multi_set_and_multi_get,
)
