"""Taking a place in a group: claims on names and ids, and the view of a static group as it fills.

Used by the agent's roster. Nothing here talks to other workers: whether the holder of a place still
lives is asked through a function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from asyncrpc.discovery.records import (
    WORKERS,
    Record,
    Verdict,
    find_entry,
    name_key,
    worker_key,
)
from asyncrpc.errors import (
    DuplicateNameError,
    PeerLostError,
    ResourceExhaustedError,
    RpcError,
    RpcTimeoutError,
    StatusCode,
)
from asyncrpc.identity import MAX_WORKER_ID
from asyncrpc.store import Lease, Store

__all__ = (
    "GroupView",
    "check_unique",
    "claim",
    "free_id",
    "missing_error",
    "missing_text",
    "mixed_error",
    "warn_others",
)

_NAMED = 10  # missing ranks that an error names; thousands would hide what else it says
_WARNING = 2.0  # seconds for which late comers of a failed start learn of it too


async def claim(
    store: Store,
    key: str,
    record: Record,
    lease: Lease,
    is_alive: Callable[[Record], Awaitable[bool]],
    is_void: Callable[[Verdict], bool],
) -> Record | None:
    """Put a record under a key, in the place of one whose worker is no more.

    Args:
        store: scoped to the group.
        key: of the worker's id or name.
        record: whose it is to be.
        lease: of that worker.
        is_alive: whether the worker of a record answers.
        is_void: whether a verdict does not count.

    Returns:
        The record that was superseded, if there was one.

    Raises:
        DuplicateNameError: a worker that lives has that place, or the group cannot begin.
        PeerLostError: the group holds this very incarnation for lost.
    """
    mine = record.encode()
    expected = b""
    superseded: Record | None = None
    while True:
        held = await store.compare_set(key, expected, mine, lease=lease)
        if held == mine:
            return superseded
        if held == expected:  # what was to be replaced has gone meanwhile
            expected = b""
            continue
        entry = find_entry(held)
        if isinstance(entry, Record):
            if await is_alive(entry):
                raise _duplicate(key, entry, record)
            superseded = entry
        elif entry is not None and entry.kind == "conflict":
            raise DuplicateNameError(entry.reason)
        elif entry is not None and entry.incarnation == record.incarnation and not is_void(entry):
            raise PeerLostError(entry.reason)
        expected = held


def _duplicate(key: str, holder: Record, record: Record) -> DuplicateNameError:
    if key == name_key(record.info.name):
        return _same_name(holder, record)
    return DuplicateNameError(
        f"RPC worker id {record.info.id} is not unique: {holder.info.name} has it, and so has "
        f"{record.info.name}"
    )


def _same_name(one: Record, other: Record) -> DuplicateNameError:
    return DuplicateNameError(
        f"RPC worker name {one.info.name} is not unique. Workers {one.info.id} and "
        f"{other.info.id} share the same name."
    )


async def free_id(store: Store) -> int:
    """Return an id that nobody has, and that no other worker without a rank is given.

    Raises:
        ResourceExhaustedError: there are as many workers as ids.
    """
    entries, _ = await store.snapshot(WORKERS)
    taken = _taken(entries.values())
    number = await store.add("next", 1) - 1
    while number in taken or number > MAX_WORKER_ID:
        free = next((n for n in range(number, MAX_WORKER_ID + 1) if n not in taken), None)
        if free is None:  # all were given out once: begin with those that have been given back
            free = next((n for n in range(MAX_WORKER_ID + 1) if n not in taken), None)
            if free is None:
                raise ResourceExhaustedError(
                    f"the group has {len(taken)} workers, as many as there are ids"
                )
            return free
        number = await store.add("next", free - number) - 1
    return number


def _taken(entries: Iterable[bytes]) -> set[int]:
    """Return the ids that are in use, or in the names that workers without one would get."""
    taken = set()
    for entry in map(find_entry, entries):
        if isinstance(entry, Record):
            taken.add(entry.info.id)
            number = entry.info.name.removeprefix("worker")
            if number.isdecimal() and number != entry.info.name:
                taken.add(int(number))
    return taken


async def warn_others(store: Store, world_size: int, error: DuplicateNameError) -> None:
    """Tell everybody who waits for a static group that it cannot begin.

    What is missing of it is taken for a moment by a verdict; a group that is complete stays as it
    is.
    """
    note = Verdict("conflict", str(error)).encode()
    lease = store.lease(_WARNING)
    await lease.__aenter__()
    try:
        present = await store.list_keys(WORKERS)
        for key in {worker_key(rank) for rank in range(world_size)}.difference(present):
            await store.compare_set(key, b"", note, lease=lease)
    finally:
        lease.abandon()  # it lapses by itself


class GroupView:
    """What the store holds of a group, change by change.

    Args:
        world_size: number of workers, 0 for a dynamic group.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.records: dict[str, Record] = {}
        """By key."""
        self.came: set[str] = set()
        """Keys of those that were ever seen."""

    def start(self, entries: Mapping[str, bytes]) -> None:
        """Begin with a snapshot."""
        for key, value in entries.items():
            entry = find_entry(value)
            if isinstance(entry, Record):
                self.records[key] = entry
        self.came.update(self.records)

    def others(self) -> list[Record]:
        """Return the records that are of another kind of group."""
        return [r for r in self.records.values() if r.world_size != self.world_size]

    def apply(self, key: str, value: bytes) -> None:
        """Take in one change; an empty value means that the key has gone.

        Raises:
            DuplicateNameError: the group cannot begin.
        """
        entry = find_entry(value)
        if isinstance(entry, Record):
            self.records[key] = entry
            self.came.add(key)
        else:
            self.records.pop(key, None)
            if entry is not None and entry.kind == "conflict":
                raise DuplicateNameError(entry.reason)

    def missing(self) -> list[int]:
        """Return the ranks of a static group that have not come."""
        return [n for n in range(self.world_size) if worker_key(n) not in self.records]

    def is_full(self) -> bool:
        """Say whether all ranks of a static group have come.

        Asked at each change by each worker: to look at all ranks each time would be their cube.
        """
        return len(self.records) >= self.world_size and not self.missing()


def check_unique(records: Iterable[Record]) -> None:
    """Refuse a static group in which two workers have one name.

    Raises:
        DuplicateNameError: two have; names them.
    """
    seen: dict[str, Record] = {}
    for record in records:
        other = seen.setdefault(record.info.name, record)
        if other is not record:
            raise _same_name(other, record)


def mixed_error(record: Record, other: Record) -> RpcError:
    """Return the error of a worker that joins a group of another kind."""
    kinds = [f"world_size {r.world_size}" if r.world_size else "none" for r in (record, other)]
    return RpcError(
        "RPC group mixes statically and dynamically initialized members which is not supported: "
        f"{record.info.name} was given {kinds[0]}, {other.info.name} {kinds[1]}",
        code=StatusCode.INVALID_ARGUMENT,
    )


def missing_error(view: GroupView, timeout: float, where: str) -> RpcTimeoutError:
    """Return the error of a static group that was not complete in time.

    Args:
        view: what was seen of it; who came and gave up before is not missing.
        timeout: seconds that were waited.
        where: the store's address, empty where it has none.
    """
    missing = [n for n in range(view.world_size) if worker_key(n) not in view.came]
    return RpcTimeoutError(missing_text(view, missing, timeout, where), phase="connect")


def missing_text(view: GroupView, missing: list[int], seconds: float, where: str) -> str:
    """Return how many workers of a static group came, and some of those that did not.

    Args:
        view: what was seen of it.
        missing: ranks of those that did not.
        seconds: for which they were waited for.
        where: the store's address, empty where it has none.
    """
    place = f" at the store {where}" if where else ""
    named = ", ".join(map(str, missing[:_NAMED]))
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return (
        f"only {view.world_size - len(missing)} of {view.world_size} workers came within "
        f"{seconds:g} s{place}; missing rank {named}{more}"
    )
