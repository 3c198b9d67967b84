"""Who has come to a round and who is missing, told to people. Pure; called by `dynamic`."""

from __future__ import annotations

from collections.abc import Iterable

from launcher.rendezvous.state import NO_RANK, Node, Record, Stage

__all__ = ("tell_absence", "tell_progress")


def tell_progress(nodes: Iterable[Node], wanted: int, needed: int) -> str:
    """Say who has come and how many are awaited.

    Args:
        nodes: as they are announced.
        wanted: how many the round waits for.
        needed: how many it cannot do without.
    """
    came = _came(nodes)
    ranks = _ranks(came)
    absent = [str(rank) for rank in range(wanted) if rank not in ranks] if ranks else []
    missing = wanted - len(came)
    if missing <= 0:
        awaited = "the round to begin"
    elif len(absent) == missing:
        awaited = f"node rank{'s' * (missing > 1)} {', '.join(absent)}"
    else:
        awaited = f"{missing} more"
    enough = f" (enough: {needed})" if needed < wanted else ""
    return f"{len(came)}/{wanted} nodes joined{enough}: {_names(came)}; waiting for {awaited}"


def tell_absence(nodes: Iterable[Node], record: Record, needed: int) -> str:
    """Say why there was no round in time.

    Args:
        nodes: as they are announced.
        record: of the run.
        needed: how many nodes a round needs.
    """
    came = _came(nodes)
    parts = [f"{len(came)} of at least {needed} nodes came ({_names(came)})", *record.lost]
    ranks = _ranks(came)
    if ranks and (absent := sorted(set(range(needed)) - ranks)):
        parts.append(f"missing node ranks: {', '.join(map(str, absent))}")
    if len(came) >= needed:
        busy = [n.label for n in came if n.stage is not Stage.READY or n.round < record.round]
        parts.append(f"not ready: {', '.join(busy)}")
    return "; ".join(parts)


def _came(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if node.stage is not Stage.LEAVING]


def _names(nodes: Iterable[Node]) -> str:
    return ", ".join(sorted(node.label for node in nodes))


def _ranks(nodes: Iterable[Node]) -> set[int]:
    return {node.rank for node in nodes} - {NO_RANK}
