"""What every `Store` must do, as checks that run against any implementation.

For the tests of our stores and for whoever writes one. A check takes a `Connect`: a coroutine
function that returns a new client of one store, empty at first; it raises `ConformanceError`
with the rule that was broken. Checks use only keys below ``conformance/``, few seconds and the
store's own time; those that wait on a lease are `SLOW_STORE_CHECKS`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

from asyncrpc.errors import QueueEmptyError, StoreError, StoreTimeoutError
from asyncrpc.store import Store, StoreEvent, StoreWatch
from asyncrpc.testing.linearizability import History, Kind, Recorder, find_violation

__all__ = ("SLOW_STORE_CHECKS", "STORE_CHECKS", "ConformanceError", "Connect", "StoreCheck")

Connect = Callable[[], Awaitable[Store]]
"""Returns one more client of the store under test; whoever made it closes them."""

StoreCheck = Callable[[Connect], Coroutine[Any, Any, None]]
"""One rule."""

_SHORT = 0.05  # seconds; for time-outs that are meant to expire
_TTL = 0.3  # seconds; several renewals of it are awaited


class ConformanceError(AssertionError):
    """A store broke a rule."""


async def values_are_bytes(connect: Connect) -> None:
    """A value comes back as bytes, whatever it holds; str is encoded as UTF-8."""
    store = await connect()
    for value in (b"", b"\x00\xff" * 500, "grüße", bytearray(b"x"), memoryview(b"y")):
        await store.set("conformance/värde", value)
        expected = value.encode() if isinstance(value, str) else bytes(value)
        _equal(await store.get("conformance/värde"), expected, "get returns what was set")


async def clients_share_keys(connect: Connect) -> None:
    """What one client has written, every other reads."""
    one, two = await connect(), await connect()
    await one.set("conformance/key", "one")
    _equal(await two.get("conformance/key"), b"one", "another client reads it")
    await two.set("conformance/key", "two")
    _equal(await one.get("conformance/key"), b"two", "and overwrites it")


async def get_waits_for_the_key(connect: Connect) -> None:
    """`get` of an absent key waits until somebody writes it."""
    one, two = await connect(), await connect()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(one.get("conformance/late", 5))
        await _settle(one)
        await two.set("conformance/late", "now")
    _equal(waiting.result(), b"now", "get returns the value it waited for")


async def get_times_out(connect: Connect) -> None:
    """`get` gives up in time with an error that names the key; 0 asks only once."""
    store = await connect()
    for timeout in (0, _SHORT):
        error = await _failing(StoreTimeoutError, store.get("conformance/absent", timeout))
        _equal(error.keys, ("conformance/absent",), "the error has the key")
        _true("conformance/absent" in str(error), "the error's text names the key")
        _true(isinstance(error, TimeoutError), "the error is a TimeoutError")


async def add_counts(connect: Connect) -> None:
    """`add` makes and moves a counter that reads as decimal text."""
    store = await connect()
    _equal(await store.add("conformance/n", 5), 5, "an absent key counts from 0")
    _equal(await store.add("conformance/n", -7), -2, "add takes negative numbers")
    _equal(await store.get("conformance/n"), b"-2", "the value is decimal text")
    await store.set("conformance/n", "40")
    _equal(await store.add("conformance/n", 2), 42, "add goes on from a value that was set")
    results = await asyncio.gather(*(store.add("conformance/m", 1) for _ in range(50)))
    _equal(sorted(results), list(range(1, 51)), "concurrent adds are all counted")


async def add_refuses_other_values(connect: Connect) -> None:
    """`add` on a value that is no integer fails and changes nothing."""
    store = await connect()
    for value in (b"", b"word", b"1.5", b" 1", b"1_0", b"-", b"--1"):
        await store.set("conformance/text", value)
        await _failing(StoreError, store.add("conformance/text", 1))
        _equal(await store.get("conformance/text"), value, "the value is as it was")
    await store.set("conformance/max", str(2**63 - 1))
    await _failing(StoreError, store.add("conformance/max", 1))


async def compare_set_follows_its_table(connect: Connect) -> None:
    """`compare_set` follows the reference: absent/present x expected empty/equal/different."""
    store = await connect()
    key = "conformance/cas"
    _equal(await store.compare_set(key, "x", "new"), b"x", "absent, expected not empty")
    _equal(await store.check([key]), False, "then nothing is written")
    _equal(await store.compare_set(key, "", "one"), b"one", "absent, expected empty")
    _equal(await store.get(key), b"one", "then it is written")
    _equal(await store.compare_set(key, "other", "two"), b"one", "present and different")
    _equal(await store.compare_set(key, "", "two"), b"one", "present, expected empty")
    _equal(await store.get(key), b"one", "then nothing is written")
    _equal(await store.compare_set(key, "one", "two"), b"two", "present and equal")
    _equal(await store.get(key), b"two", "then it is written")


async def compare_set_has_one_winner(connect: Connect) -> None:
    """Of many that compare and set at once, one wins."""
    stores = [await connect() for _ in range(3)]
    results = await asyncio.gather(
        *(
            stores[index % 3].compare_set("conformance/leader", "", f"client {index}")
            for index in range(12)
        )
    )
    _equal(len(set(results)), 1, "all hear of the same winner")


async def every_write_wakes_waiters(connect: Connect) -> None:
    """A waiter is woken by each operation that makes a key exist."""
    one, two = await connect(), await connect()
    writes: dict[str, Callable[[str], Awaitable[object]]] = {
        "set": lambda key: two.set(key, "x"),
        "add": lambda key: two.add(key, 1),
        "append": lambda key: two.append(key, "x"),
        "multi_set": lambda key: two.multi_set(["conformance/other", key], ["x", "y"]),
        "compare_set": lambda key: two.compare_set(key, "", "x"),
        "queue_push": lambda key: two.queue_push(key, "x"),
    }
    for name, write in writes.items():
        key = f"conformance/woken by {name}"
        async with asyncio.TaskGroup() as group:
            group.create_task(one.wait([key], 5))
            await _settle(one)
            await write(key)


async def wait_wants_all_keys(connect: Connect) -> None:
    """`wait` returns when all keys exist, not before; of none it returns at once."""
    one, two = await connect(), await connect()
    await one.wait([])
    waiting = asyncio.create_task(one.wait(["conformance/a", "conformance/b"], 5))
    await two.set("conformance/a", "")
    await _settle(one)
    _true(not waiting.done(), "one of two keys does not end the wait")
    await two.set("conformance/b", "")
    await waiting


async def wait_wants_keys_at_one_moment(connect: Connect) -> None:
    """A key that was deleted while others were awaited is awaited again."""
    one, two = await connect(), await connect()
    waiting = asyncio.create_task(one.multi_get(["conformance/a", "conformance/b"], 5))
    await _settle(one)
    await two.set("conformance/a", "old")
    await two.delete_key("conformance/a")
    await two.set("conformance/b", "b")
    await _settle(one)
    _true(not waiting.done(), "a deleted key does not exist")
    await two.set("conformance/a", "new")
    _equal(await waiting, [b"new", b"b"], "values are those of one moment")


async def wait_names_missing_keys(connect: Connect) -> None:
    """The time-out of a wait names the keys that are missing, and only those."""
    store = await connect()
    await store.set("conformance/here", "")
    keys = ["conformance/x", "conformance/here", "conformance/y"]
    for wait in (store.wait, store.multi_get):
        error = await _failing(StoreTimeoutError, wait(keys, _SHORT))
        _equal(error.keys, ("conformance/x", "conformance/y"), "the error has the missing keys")


async def check_looks_at_all_keys(connect: Connect) -> None:
    """`check` says whether all keys exist."""
    store = await connect()
    await store.set("conformance/a", "")
    _equal(await store.check(["conformance/a"]), True, "a key with an empty value exists")
    _equal(await store.check(["conformance/a", "conformance/b"]), False, "one is missing")
    _equal(await store.check([]), True, "none is missing")


async def delete_removes_a_key(connect: Connect) -> None:
    """`delete_key` says whether there was a key; it is gone afterwards."""
    store = await connect()
    await store.set("conformance/a", "x")
    _equal(await store.delete_key("conformance/a"), True, "it was there")
    _equal(await store.delete_key("conformance/a"), False, "it was not there any more")
    _equal(await store.check(["conformance/a"]), False, "it is gone")


async def keys_are_counted_and_listed(connect: Connect) -> None:
    """`num_keys` counts keys, `list_keys` lists them as str by prefix."""
    store = await connect()
    before = await store.num_keys()
    await store.multi_set([f"conformance/{name}" for name in ("b1", "a2", "a1")], ["", "", ""])
    _equal(await store.num_keys(), before + 3, "three keys more")
    _equal(
        await store.list_keys("conformance/a"), ["conformance/a1", "conformance/a2"], "by prefix"
    )
    _equal(len(await store.list_keys("conformance/")), 3, "all of ours")
    _equal(await store.list_keys("conformance/none"), [], "none")


async def append_extends_a_value(connect: Connect) -> None:
    """`append` adds to the end, from nothing if the key is absent."""
    store = await connect()
    await store.append("conformance/log", "one ")
    await store.append("conformance/log", b"two")
    _equal(await store.get("conformance/log"), b"one two", "both parts are there")


async def multi_set_and_multi_get(connect: Connect) -> None:
    """`multi_get` gives values in the order of its keys, of which one may come twice."""
    store = await connect()
    await store.multi_set(["conformance/a", "conformance/b"], ["1", b"2"])
    keys = ["conformance/b", "conformance/a", "conformance/b"]
    _equal(await store.multi_get(keys), [b"2", b"1", b"2"], "in order")
    _equal(await store.multi_get([]), [], "of nothing")


async def queues_are_first_in_first_out(connect: Connect) -> None:
    """A queue gives values in the order they came, and exists while it holds any."""
    store = await connect()
    key = "conformance/queue"
    await _failing(QueueEmptyError, store.queue_pop(key, block=False))
    for number in range(3):
        await store.queue_push(key, str(number))
    _equal(await store.queue_len(key), 3, "length")
    _equal(await store.check([key]), True, "a queue that holds something exists")
    _equal([await store.queue_pop(key) for _ in range(3)], [b"0", b"1", b"2"], "order")
    _equal(await store.queue_len(key), 0, "nothing is left")
    _equal(await store.check([key]), False, "an empty queue does not exist")
    await store.queue_push(key, "x")
    _equal(await store.delete_key(key), True, "delete_key removes a queue")
    _equal(await store.queue_len(key), 0, "and what was in it")


async def queue_pop_waits(connect: Connect) -> None:
    """A blocking `queue_pop` waits its turn; its time-out names the queue."""
    one, two = await connect(), await connect()
    error = await _failing(StoreTimeoutError, one.queue_pop("conformance/q", timeout=_SHORT))
    _equal(error.keys, ("conformance/q",), "the error has the key")
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(one.queue_pop("conformance/q", True, 5)) for _ in range(3)]
        await _settle(one)
        for number in range(3):
            await two.queue_push("conformance/q", str(number))
    _equal([task.result() for task in waiting], [b"0", b"1", b"2"], "in order of arrival")


async def queues_deliver_once(connect: Connect) -> None:
    """Every value goes to one of those who pop, also if others are cancelled meanwhile."""
    stores = [await connect() for _ in range(3)]
    popped: list[bytes] = []
    is_done = asyncio.Event()

    async def consume(store: Store) -> None:
        while True:
            popped.append(await store.queue_pop("conformance/jobs"))
            if len(popped) == 60:
                is_done.set()

    lasting = [asyncio.create_task(consume(store)) for store in stores]
    for number in range(60):
        doomed = asyncio.create_task(consume(stores[number % 3]))
        await stores[number % 2].queue_push("conformance/jobs", str(number))
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
    async with asyncio.timeout(5):
        await is_done.wait()
    for task in lasting:
        task.cancel()
    await asyncio.gather(*lasting, return_exceptions=True)
    _equal(sorted(popped, key=int), [b"%d" % number for number in range(60)], "each came once")


async def cancelled_waits_are_withdrawn(connect: Connect) -> None:
    """Who was cancelled waiting takes nothing from a queue and no place in a barrier."""
    one, two = await connect(), await connect()
    starts: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
        lambda: one.queue_pop("conformance/q"),
        lambda: one.barrier("conformance/b", 2),
    )
    for start in starts:
        task = asyncio.create_task(start())
        await _settle(one)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        _true(task.cancelled(), "a cancelled wait raises CancelledError")
    await _settle(one)
    await two.queue_push("conformance/q", "x")
    _equal(await two.queue_len("conformance/q"), 1, "the value is still there")
    await _failing(StoreTimeoutError, two.barrier("conformance/b", 2, _SHORT))


async def barriers_hold_until_all_are_there(connect: Connect) -> None:
    """A barrier opens when all have arrived, and serves again."""
    stores = [await connect() for _ in range(3)]
    for _ in range(3):
        early = [asyncio.create_task(store.barrier("conformance/b", 3, 5)) for store in stores[:2]]
        await _settle(stores[0])
        await _settle(stores[1])
        _true(not any(task.done() for task in early), "two of three wait")
        await stores[2].barrier("conformance/b", 3, 5)
        await asyncio.gather(*early)
    await stores[0].barrier("conformance/alone", 1, 0)


async def barriers_time_out(connect: Connect) -> None:
    """The time-out of a barrier says how many arrived, and takes the arrival back."""
    one, two = await connect(), await connect()
    error = await _failing(StoreTimeoutError, one.barrier("conformance/b", 3, _SHORT))
    _true("1 of 3" in str(error), f"the text says 1 of 3: {error}")
    waiting = asyncio.create_task(one.barrier("conformance/b", 2, 5))
    await _settle(one)
    await _failing(StoreError, two.barrier("conformance/b", 5, 5))
    await two.barrier("conformance/b", 2, 5)
    await waiting


async def watches_report_changes(connect: Connect) -> None:
    """A watch reports every change under its prefix, in order, with rising versions."""
    one, two = await connect(), await connect()
    async with one.watch("conformance/w/") as watch:
        await one.set("conformance/w/a", "1")
        await two.set("conformance/other", "x")
        await two.add("conformance/w/n", 3)
        await two.append("conformance/w/a", "2")
        await one.compare_set("conformance/w/a", "no", "x")
        await one.multi_set(["conformance/w/b", "conformance/w/a"], ["b", "c"])
        await two.delete_key("conformance/w/a")
        events = await _take(watch, 6)
    _equal(
        [(event.kind, event.key, event.value) for event in events],
        [
            ("put", "conformance/w/a", b"1"),
            ("put", "conformance/w/n", b"3"),
            ("put", "conformance/w/a", b"12"),
            ("put", "conformance/w/b", b"b"),
            ("put", "conformance/w/a", b"c"),
            ("delete", "conformance/w/a", b""),
        ],
        "all changes, nothing else",
    )
    versions = [event.version for event in events]
    _equal(sorted(set(versions)), versions, "versions rise")


async def watches_stand_from_the_call(connect: Connect) -> None:
    """A watch sees what its client does next, though nothing was awaited in between."""
    store = await connect()
    watch = store.watch("conformance/")
    await store.set("conformance/a", "x")
    _equal((await _take(watch, 1))[0].key, "conformance/a", "the very next change")
    await watch.aclose()
    await _failing(StopAsyncIteration, anext(watch))


async def closed_watches_let_go(connect: Connect) -> None:
    """Closing a watch ends a task that waits in it, and closing twice is allowed."""
    store = await connect()
    watch = store.watch("conformance/")
    task = asyncio.create_task(_collect(watch))
    await _settle(store)
    await watch.aclose()
    await watch.aclose()
    _equal(await task, [], "the iteration stops")


async def watches_resume(connect: Connect) -> None:
    """`watch(since=)` reports exactly what came after a snapshot or an event."""
    one, two = await connect(), await connect()
    await one.set("conformance/w/a", "old")
    values, version = await one.snapshot("conformance/w/")
    _equal(values, {"conformance/w/a": b"old"}, "the snapshot has keys and values")
    await two.set("conformance/w/a", "new")
    await two.delete_key("conformance/w/a")
    async with one.watch("conformance/w/", since=version) as watch:
        events = await _take(watch, 2)
        _equal([event.kind for event in events], ["put", "delete"], "what came after it")
        await two.set("conformance/w/b", "x")
        _equal((await _take(watch, 1))[0].key, "conformance/w/b", "and what comes now")
    async with one.watch("conformance/w/", since=events[0].version) as watch:
        _equal((await _take(watch, 1))[0], events[1], "events after an event")


async def watches_refuse_other_versions(connect: Connect) -> None:
    """Resuming after a version the store never had fails, in the iteration."""
    store = await connect()
    _, version = await store.snapshot("conformance/")
    watch = store.watch("conformance/", since=version + 1000)
    await _failing(StoreError, anext(watch))
    await watch.aclose()


async def leases_end_when_left(connect: Connect) -> None:
    """Keys on a lease are there while it lives and vanish when it is left, as an event."""
    one, two = await connect(), await connect()
    async with two.watch("conformance/l/") as watch:
        async with one.lease(30) as lease:
            await one.set("conformance/l/a", "x", lease=lease)
            await one.add("conformance/l/n", 1, lease=lease)
            await one.compare_set("conformance/l/c", "", "x", lease=lease)
            _equal(len(await two.list_keys("conformance/l/")), 3, "they are there")
        _equal(await two.list_keys("conformance/l/"), [], "they are gone")
        gone = (await _take(watch, 6))[3:]
    _equal(sorted(event.key[-1] for event in gone), ["a", "c", "n"], "each is reported")
    _true(all(event.kind in ("expire", "delete") for event in gone), "as gone")
    _true(all(event.value == b"" for event in gone), "without a value")
    await _failing(StoreError, one.set("conformance/l/late", "x", lease=lease))


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
        _equal(await store.check(["conformance/moved"]), False, "it went with the other lease")
    _equal(await store.check(["conformance/detached"]), True, "it hangs on none")
    _equal(await store.check(["conformance/counted"]), False, "it hung on its lease")


async def bad_arguments_are_refused(connect: Connect) -> None:
    """Wrong types and values raise TypeError or ValueError that name the field."""
    store: Any = await connect()
    wrong: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("key", lambda: store.set(1, "x")),
        ("key", lambda: store.get("k" * 10_000)),
        ("value", lambda: store.set("k", 1)),
        ("value", lambda: store.set("k", None)),
        ("n", lambda: store.add("k", 1.5)),
        ("n", lambda: store.add("k", True)),
        ("n", lambda: store.add("k", 1 << 64)),
        ("keys", lambda: store.wait("key")),
        ("keys[1]", lambda: store.check(["k", 2])),
        ("values", lambda: store.multi_set(["k"], ["v", "w"])),
        ("values[0]", lambda: store.multi_set(["k"], [3])),
        ("timeout", lambda: store.get("k", -1)),
        ("timeout", lambda: store.get("k", float("nan"))),
        ("timeout", lambda: store.wait(["k"], "soon")),
        ("block", lambda: store.queue_pop("k", 5)),
        ("world_size", lambda: store.barrier("k", 0)),
        ("prefix", lambda: store.list_keys(None)),
        ("lease", lambda: store.set("k", "v", lease=7)),
    ]
    for field, operation in wrong:
        error = await _failing((TypeError, ValueError), operation())
        _true(str(error).startswith(field + " "), f"the text starts with {field!r}: {error}")
    plain: list[Callable[[], object]] = [
        lambda: store.watch(3),
        lambda: store.watch("", since=-2),
        lambda: store.lease(0),
        lambda: store.lease("long"),
    ]
    for call in plain:
        try:
            call()
        except (TypeError, ValueError):
            continue
        _broken("a plain call refuses bad arguments at once")


async def operations_are_linearizable(connect: Connect) -> None:
    """Operations of many clients on few keys can be explained by one order."""
    source = random.Random(7)  # noqa: S311 -- a choice of operations, not a secret
    history = History()
    recorders = [Recorder(await connect(), history) for _ in range(5)]

    async def work(recorder: Recorder, number: int) -> None:
        for step in range(60):
            key = f"conformance/{source.randrange(3)}"
            kinds: tuple[Kind, ...] = ("set", "get", "get", "add", "compare_set", "delete_key")
            kind = source.choice(kinds)
            fresh = b"%d" % (number * 1000 + step)
            arguments: dict[str, tuple[bytes | int, ...]] = {
                "set": (fresh,),
                "add": (1,),
                "compare_set": (source.choice((b"", b"1", b"2")), fresh),
            }
            await recorder.run(kind, key, *arguments.get(kind, ()))

    await asyncio.gather(*(work(recorder, index) for index, recorder in enumerate(recorders)))
    violation = find_violation(history.operations)
    _true(violation is None, f"some order explains: {violation}")


async def leases_renew_themselves(connect: Connect) -> None:
    """A lease that is not left lives on beyond its ttl."""
    one, two = await connect(), await connect()
    async with one.lease(_TTL) as lease:
        await one.set("conformance/l", "x", lease=lease)
        await asyncio.sleep(2 * _TTL)
        _true(lease.is_alive, "the lease says so")
        _equal(await two.check(["conformance/l"]), True, "its key is still there")


async def leases_lapse(connect: Connect) -> None:
    """A lease that is no longer renewed lapses, and its keys with it."""
    one, two = await connect(), await connect()
    async with two.watch("conformance/") as watch, one.lease(_TTL) as lease:
        await one.set("conformance/l", "x", lease=lease)
        lease.abandon()
        events = await _take(watch, 2)
        _true(events[1].kind in ("expire", "delete"), "its key is reported as gone")
        await _failing(StoreError, one.set("conformance/l", "x", lease=lease))


STORE_CHECKS: tuple[StoreCheck, ...] = (
    values_are_bytes,
    clients_share_keys,
    get_waits_for_the_key,
    get_times_out,
    add_counts,
    add_refuses_other_values,
    compare_set_follows_its_table,
    compare_set_has_one_winner,
    every_write_wakes_waiters,
    wait_wants_all_keys,
    wait_wants_keys_at_one_moment,
    wait_names_missing_keys,
    check_looks_at_all_keys,
    delete_removes_a_key,
    keys_are_counted_and_listed,
    append_extends_a_value,
    multi_set_and_multi_get,
    queues_are_first_in_first_out,
    queue_pop_waits,
    queues_deliver_once,
    cancelled_waits_are_withdrawn,
    barriers_hold_until_all_are_there,
    barriers_time_out,
    watches_report_changes,
    watches_stand_from_the_call,
    closed_watches_let_go,
    watches_resume,
    watches_refuse_other_versions,
    leases_end_when_left,
    leases_hold_only_their_keys,
    bad_arguments_are_refused,
    operations_are_linearizable,
)
"""Every rule that can be checked at once."""

SLOW_STORE_CHECKS: tuple[StoreCheck, ...] = (leases_renew_themselves, leases_lapse)
"""Rules about time: each takes up to a second."""


async def _settle(store: Store) -> None:
    """Wait until what a client has started has reached the store, and answers have come back."""
    await asyncio.sleep(0)
    await store.num_keys()  # behind all that was asked before
    await asyncio.sleep(0)


async def _take(watch: StoreWatch, count: int) -> list[StoreEvent]:
    async with asyncio.timeout(5):
        return [await anext(watch) for _ in range(count)]


async def _collect(watch: StoreWatch) -> list[StoreEvent]:
    return [event async for event in watch]


async def _failing(error_type: Any, operation: Awaitable[object]) -> Any:
    """Return the error an operation must end with."""
    try:
        async with asyncio.timeout(5):
            result = await operation
    except error_type as error:
        return error
    raise ConformanceError(f"expected {error_type}, got {result!r}")


def _equal(actual: object, expected: object, rule: str) -> None:
    if actual != expected or type(actual) is not type(expected):
        _broken(f"{rule}: expected {expected!r}, got {actual!r}")


def _true(is_true: bool, rule: str) -> None:
    if not is_true:
        _broken(rule)


def _broken(rule: str) -> NoReturn:
    raise ConformanceError(rule)
