"""`launcher.rendezvous.attendance`: who came and who is missing."""

from __future__ import annotations

import pytest

from launcher.rendezvous.attendance import tell_absence, tell_progress
from launcher.rendezvous.state import NO_RANK, Node, Record, Stage


def node(name: str, rank: int = NO_RANK, stage: Stage = Stage.READY) -> Node:
    """Return an announcement for the first round."""
    return Node(name, name, 1, name, 1000, rank, stage, 1)


def shown(text: str) -> str:
    """Return a text with the process ids of agents left out, which all are 1."""
    return text.replace(" (agent 1)", "")


@pytest.mark.parametrize(
    ("nodes", "needed", "expected"),
    [
        ([node("b"), node("a")], 4, "2/4 nodes joined: a, b; waiting for 2 more"),
        ([node("a")], 2, "1/4 nodes joined (enough: 2): a; waiting for 3 more"),
        ([node("a"), node("b", stage=Stage.LEAVING)], 4, "1/4 nodes joined: a; waiting for 3 more"),
        (
            [node("a", 0), node("b", 2), node("c", 3)],
            4,
            "3/4 nodes joined: a, b, c; waiting for node rank 1",
        ),
        (
            [node("a", 0), node("b", 2)],
            4,
            "2/4 nodes joined: a, b; waiting for node ranks 1, 3",
        ),
        (
            [node(name) for name in "abcd"],
            4,
            "4/4 nodes joined: a, b, c, d; waiting for the round to begin",
        ),
    ],
)
def test_progress_counts_and_names(nodes: list[Node], needed: int, expected: str) -> None:
    """Ranks are awaited by number where that is certain; who leaves does not count."""
    assert shown(tell_progress(nodes, 4, needed)) == expected


@pytest.mark.parametrize(
    ("nodes", "record", "expected"),
    [
        ([node("a")], Record(), "1 of at least 2 nodes came (a)"),
        (
            [node("a", 1)],
            Record(lost=("b fell silent",)),
            "1 of at least 2 nodes came (a); b fell silent; missing node ranks: 0",
        ),
        (
            [node("a"), node("b", stage=Stage.DONE)],
            Record(),
            "2 of at least 2 nodes came (a, b); not ready: b",
        ),
    ],
)
def test_absence_says_why(nodes: list[Node], record: Record, expected: str) -> None:
    """Who came, who was lost, which ranks are missing, who has other things to do."""
    assert shown(tell_absence(nodes, record, 2)) == expected
