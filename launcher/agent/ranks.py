"""Who gets which rank: arithmetic over the nodes of a round.

Pure. Nodes may have different numbers of workers and different roles: global ranks run through the
nodes in the order of their group ranks, role ranks through the nodes of one role in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ("NodeRanks", "NodeRole", "assign_ranks")


class NodeRole(NamedTuple):
    """What one node brings to a round."""

    role: str
    local_world_size: int
    """Workers on the node, at least 1."""


class NodeRanks(NamedTuple):
    """The ranks of one node's workers; worker ``i`` has the base plus ``i``."""

    first_rank: int
    world_size: int
    first_role_rank: int
    role_world_size: int
    local_world_size: int
    group_rank: int
    group_world_size: int


def assign_ranks(nodes: Sequence[NodeRole]) -> tuple[NodeRanks, ...]:
    """Give every worker of every node its ranks.

    Args:
        nodes: what each node brings, by group rank; at least one.

    Returns:
        The ranks of each node, in the same order.
    """
    role_sizes: Counter[str] = Counter()
    for node in nodes:
        role_sizes[node.role] += node.local_world_size
    world_size = role_sizes.total()
    taken: Counter[str] = Counter()
    ranks = []
    for group_rank, node in enumerate(nodes):
        ranks.append(
            NodeRanks(
                first_rank=taken.total(),
                world_size=world_size,
                first_role_rank=taken[node.role],
                role_world_size=role_sizes[node.role],
                local_world_size=node.local_world_size,
                group_rank=group_rank,
                group_world_size=len(nodes),
            )
        )
        taken[node.role] += node.local_world_size
    return tuple(ranks)
