"""`lead`: writes what follows from the announcements, while this node leads the run.

The shell around `Leader`, which decides. Called by `membership`, which finds out who leads.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from asyncrpc.observe import Clock
from asyncrpc.store import PrefixStore, StoreWatch
from launcher.rendezvous.changes import Changes, keeping_up
from launcher.rendezvous.keys import NODES
from launcher.rendezvous.leader import Leader
from launcher.rendezvous.state import Node, Record, decode_node

__all__ = ("Led", "lead")

_MANY = 64
_PAUSE = 1e-5  # seconds for each of many nodes, between two looks at all of them


class Led(Protocol):
    """A run, as far as whoever leads it needs to know."""

    changes: Changes
    """Of the record, of who leads, and of the announcements."""

    @property
    def record(self) -> Record:
        """The record, as far as it is known."""
        ...

    @property
    def leader(self) -> str:
        """Id of the node that leads; empty: nobody, or it is not known yet."""
        ...

    async def write(self, record: Record) -> None:
        """Write the record if the one known here is still there; know the one that is there."""
        ...


async def lead(run: Led, store: PrefixStore, node_id: str, leader: Leader, clock: Clock) -> None:
    """Write what follows from the announcements, for as long as a node leads.

    Args:
        run: that it leads.
        store: of the run.
        node_id: of the node.
        leader: decides; a new one.
        clock: tells the time.

    Raises:
        StoreError: the store was lost.
        RendezvousStateError: it holds something else than announcements.
    """
    values, version = await store.snapshot(NODES)
    nodes = {key.removeprefix(NODES): decode_node(value) for key, value in values.items()}
    async with store.watch(NODES, since=version) as watch:
        taking = asyncio.create_task(_take_nodes(run.changes, watch, nodes))
        try:
            while run.leader == node_id and not taking.done():
                record = run.record
                plan = leader.lead(record, nodes, clock.time())
                if plan.record is not record:
                    await run.write(plan.record)
                    continue
                await run.changes.wait(plan.wake_at)
                if len(nodes) > _MANY:
                    # To look at all for each that comes would be work for their square.
                    await clock.sleep(_PAUSE * len(nodes))
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
    if not taking.cancelled():
        taking.result()


async def _take_nodes(changes: Changes, watch: StoreWatch, nodes: dict[str, Node]) -> None:
    with keeping_up():
        async for event in watch:
            node_id = event.key.removeprefix(NODES)
            if event.kind == "put":
                nodes[node_id] = decode_node(event.value)
            else:
                nodes.pop(node_id, None)
            changes.notify()
    changes.notify()
