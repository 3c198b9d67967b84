"""`launcher.agent.ranks`: every worker of every node gets its own ranks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from launcher.agent.ranks import NodeRanks, NodeRole, assign_ranks

nodes = st.lists(
    st.builds(
        NodeRole,
        role=st.sampled_from(["trainer", "reader", "default"]),
        local_world_size=st.integers(1, 9),
    ),
    min_size=1,
    max_size=12,
)


def test_one_node_counts_from_zero() -> None:
    """Alone, global, role and local ranks are the same."""
    expected = NodeRanks(
        first_rank=0,
        world_size=4,
        first_role_rank=0,
        role_world_size=4,
        local_world_size=4,
        group_rank=0,
        group_world_size=1,
    )

    assert assign_ranks([NodeRole(role="default", local_world_size=4)]) == (expected,)


def test_roles_are_counted_apart() -> None:
    """Global ranks run through all nodes, role ranks through those of the role."""
    sizes = [("a", 2), ("b", 3), ("a", 1), ("b", 1)]
    found = assign_ranks([NodeRole(role=role, local_world_size=size) for role, size in sizes])

    assert [ranks.first_rank for ranks in found] == [0, 2, 5, 6]
    assert [ranks.first_role_rank for ranks in found] == [0, 0, 2, 3]
    assert [ranks.role_world_size for ranks in found] == [3, 4, 3, 4]


@given(nodes)
def test_global_ranks_are_a_numbering_of_all_workers(nodes: list[NodeRole]) -> None:
    """No rank is missing, none is given twice, and all agree on the number of workers."""
    found = assign_ranks(nodes)
    ranks = [r.first_rank + i for r in found for i in range(r.local_world_size)]
    world = sum(node.local_world_size for node in nodes)

    assert ranks == list(range(world))
    assert {r.world_size for r in found} == {world}


@given(nodes)
def test_role_ranks_are_a_numbering_of_each_role(nodes: list[NodeRole]) -> None:
    """The same, within each role."""
    found = assign_ranks(nodes)
    for role in {node.role for node in nodes}:
        own = [r for node, r in zip(nodes, found, strict=True) if node.role == role]
        ranks = [r.first_role_rank + i for r in own for i in range(r.local_world_size)]

        assert ranks == list(range(own[0].role_world_size))


@given(nodes)
def test_group_ranks_are_positions(nodes: list[NodeRole]) -> None:
    """A node keeps its place and its size."""
    found = assign_ranks(nodes)

    assert [r.group_rank for r in found] == list(range(len(nodes)))
    assert [r.local_world_size for r in found] == [node.local_world_size for node in nodes]
