"""Keys of a `PrefixStore` as its users and as the store below see them."""

from __future__ import annotations

from typing import cast

import pytest

from asyncrpc.errors import StoreTimeoutError
from asyncrpc.store import MemoryStore, PrefixStore, Store, TCPStore

pytestmark = pytest.mark.asyncio


async def test_keys_below_have_prefix_and_slash() -> None:
    """`key` of prefix `p` is `p/key` below, and `a/b/key` through two prefixes."""
    async with MemoryStore() as below:
        await PrefixStore("p", below).set("k", "1")
        await PrefixStore("b", PrefixStore("a", below)).add("k", 2)
        await PrefixStore("p", below).queue_push("q", "x")

        assert await below.list_keys() == ["a/b/k", "p/k"]
        assert await below.queue_len("p/q") == 1


async def test_users_see_no_prefix() -> None:
    """Listed keys, snapshots and events have the keys that were given."""
    async with MemoryStore() as below:
        store = PrefixStore("p", below)
        await below.multi_set(["x", "pq/k"], ["", ""])
        async with store.watch("a") as watch:
            await store.multi_set(["a1", "b1"], ["1", "2"])
            event = await anext(watch)

        assert (event.key, event.version) == ("a1", 3)
        assert await store.list_keys() == ["a1", "b1"]
        assert await store.list_keys("b") == ["b1"]
        assert await store.snapshot() == ({"a1": b"1", "b1": b"2"}, 4)


async def test_num_keys_is_not_scoped() -> None:
    """`num_keys` counts all keys of the store below, as the reference does."""
    async with MemoryStore() as below:
        await below.set("x", "")

        assert await PrefixStore("p", below).num_keys() == 1


async def test_time_outs_have_the_users_keys() -> None:
    """`keys` of a time-out are without the prefix; the text has the full ones."""
    async with MemoryStore() as below:
        with pytest.raises(StoreTimeoutError, match="p/a, p/b") as caught:
            await PrefixStore("p", below).wait(["a", "b"], 0)

    assert caught.value.keys == ("a", "b")


async def test_bad_arguments_are_refused() -> None:
    """The prefix is a str and what is below is a store."""
    async with MemoryStore() as below:
        with pytest.raises(TypeError, match=r"^prefix "):
            PrefixStore(cast("str", 3), below)
        with pytest.raises(TypeError, match=r"^store "):
            PrefixStore("p", cast("Store", {}))
        assert repr(PrefixStore("p", below)).startswith("PrefixStore('p', <")


async def test_all_are_stores() -> None:
    """Each kind of store is a `Store`."""
    async with MemoryStore() as below:
        assert isinstance(below, Store)
        assert isinstance(PrefixStore("p", below), Store)
    assert isinstance(TCPStore, type)
