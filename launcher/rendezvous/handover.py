"""`hand_over`: how the store of a run passes from a node that leaves to the next one.

Theory of operation
-------------------
The others hear of it all at once, by the last record: told earlier, they would form a round in the
store that goes, and another one in the next.

The node that leaves, the host, asks another one, the heir, which serves an empty store and says
where. What is in the old store is copied into it. Then the host writes the last record of the old
store, which says where the new one is: from then on nobody can write a record there. What was
written meanwhile is copied as well, the record last; who goes to the new store waits for it. The
announcements of the others are brought along on a lease of the host, until each has said it anew:
so nobody is taken for lost who is only on the way. What else hangs on a lease is not copied: its
holders are gone, or hold it anew.

Called by `dynamic`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from asyncrpc.errors import AuthenticationError
from asyncrpc.store import PrefixStore, Store, StoreError, StoreTimeoutError, StoreWatch
from launcher.rendezvous.keys import HEIR, NODES, OFFERS, PREFIX, RECORD, SHARED
from launcher.rendezvous.membership import Membership
from launcher.rendezvous.place import HostedPlace
from launcher.rendezvous.state import NO_RANK, Node, Record, Stage, encode

__all__ = ("hand_over",)

_PERIOD = 0.2  # seconds between looks whether the heir is still there
_BATCH = 1 << 20  # bytes of values that are copied at a time
_OWN = tuple(f"{PREFIX}/{key}" for key in (SHARED, NODES, OFFERS))  # not copied as they are


async def hand_over(
    members: Membership, place: HostedPlace, node: Node, *, min_nodes: int, patience: float
) -> bool:
    """Hand the store to the next node, if there are enough nodes to go on.

    Args:
        members: of the run, as this node sees it.
        place: of the store, which this node hosts.
        node: this one.
        min_nodes: nodes that a round needs.
        patience: seconds that one of the others may take to answer.

    Returns:
        Whether the run goes on.

    Raises:
        RendezvousError: this node has lost its own store.
        StoreError: the new store was lost, and the others know of it already.
    """
    asked: set[str] = set()
    while heir := _next(await _others(members, node), members.record, asked, min_nodes):
        asked.add(heir.id)
        endpoint = await _ask(members, node, heir, patience)
        if endpoint and await _pass_on(members, place, node, endpoint, patience):
            return True
    return False


async def _others(members: Membership, node: Node) -> dict[str, Node]:
    nodes = await members.nodes()
    return {
        other.id: other
        for other in nodes.values()
        if other.stage is not Stage.LEAVING and other.id != node.id
    }


def _next(
    others: Mapping[str, Node], record: Record, asked: Collection[str], min_nodes: int
) -> Node | None:
    """Return who is to be asked: by rank, then those who wait."""
    if len(others) < min_nodes:
        return None

    def turn(node: Node) -> tuple[bool, int, str]:
        rank = record.rank_of(node.id)
        return rank == NO_RANK, rank, node.id

    return min((n for n in others.values() if n.id not in asked), key=turn, default=None)


async def _ask(members: Membership, node: Node, heir: Node, patience: float) -> str:
    """Return the endpoint that the heir offers; "" if it does not answer or goes itself."""
    await members.store.set(HEIR, heir.id)
    for _ in range(max(1, round(patience / _PERIOD))):
        try:
            return (await members.store.get(OFFERS + heir.id, _PERIOD)).decode()
        except StoreTimeoutError:
            if heir.id not in await _others(members, node):
                break
    return ""


async def _pass_on(
    members: Membership, place: HostedPlace, node: Node, endpoint: str, patience: float
) -> bool:
    """Copy everything to a new store and send the others there; say whether it could be reached."""
    try:
        target = await place.reach(endpoint, patience)
    except (StoreError, AuthenticationError):
        return False
    async with target:
        values, _ = place.contents()
        try:
            await _copy(target, {}, values)
        except StoreError:
            return False
        record = await members.move(endpoint, f"{node.label} left")
        after, queues = place.contents()
        await _copy(target, values, after)
        for key, queue in queues.items():
            for value in queue:
                await target.queue_push(key, value)
        await _bring(
            PrefixStore(PREFIX, target),
            record._replace(moved="", revision=record.revision + 1),
            await _others(members, node),
            patience,
        )
    return True


async def _copy(target: Store, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    """Bring a store from one state to a later one."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    for batch in _batches(changed):
        await target.multi_set(list(batch), list(batch.values()))
    for key in before.keys() - after.keys():
        await target.delete_key(key)


def _batches(values: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    batch: dict[str, bytes] = {}
    size = 0
    for key, value in values.items():
        if key.startswith(_OWN):
            continue
        batch[key] = value
        size += len(key) + len(value)
        if size >= _BATCH:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


async def _bring(
    store: PrefixStore, record: Record, others: Mapping[str, Node], patience: float
) -> None:
    """Let the others in, and vouch for each until it has come."""
    async with store.lease(patience) as lease:
        for node in others.values():
            await store.set(NODES + node.id, encode(node), lease=lease)
        lease.abandon()  # who has not come by then is lost
        async with store.watch(NODES) as watch:
            await store.set(RECORD, encode(record))
            await _arrive(watch, set(others))


async def _arrive(watch: StoreWatch, awaited: set[str]) -> None:
    """Wait until each has said anew what it had said, or is given up."""
    while awaited:
        event = await anext(watch)
        awaited.discard(event.key.removeprefix(NODES))
