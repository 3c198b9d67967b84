"""What every store refuses from its clients, and in which order it serves them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from asyncrpc.testing.conformance.checking import Connect, StoreCheck, broken, failing, true
from asyncrpc.testing.linearizability import History, Kind, Recorder, find_violation

__all__ = ("CHECKS",)


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
        error = await failing((TypeError, ValueError), operation())
        true(str(error).startswith(field + " "), f"the text starts with {field!r}: {error}")
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
        broken("a plain call refuses bad arguments at once")


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
    true(violation is None, f"some order explains: {violation}")


CHECKS: tuple[StoreCheck, ...] = (
    bad_arguments_are_refused,
    operations_are_linearizable,
)
