"""examples/reinforcement_learning.py on real workers: the agent learns the shortest way."""

from __future__ import annotations

import pytest

from tests.examples.launched import numbers_of, run_example

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

FIELD = ["S#...", ".#.#.", ".#.#.", ".#.#.", "...#G"]


def shortest_way() -> int:
    """Return the least number of moves from S to G, by looking at all fields around."""
    reached, seen, moves = {(0, 0)}, {(0, 0)}, 0
    while (4, 4) not in reached:
        around = {
            (x + dx, y + dy) for x, y in reached for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))
        }
        reached = {
            (x, y)
            for x, y in around - seen
            if x in range(5) and y in range(5) and FIELD[x][y] != "#"
        }
        seen |= reached
        moves += 1
    return moves


@pytest.mark.parametrize(("workers", "seed"), [(1, 0), (2, 1), (4, 2)])
def test_the_agent_learns_the_shortest_way(workers: int, seed: int) -> None:
    """With whatever number of observers; games get shorter, but never shorter than can be."""
    output = run_example("reinforcement_learning.py", f"--seed={seed}", workers=workers).stdout
    numbers = numbers_of(output)
    observers = max(1, workers - 1)

    assert observers == numbers["observers"]
    assert shortest_way() == numbers["moves needed without wind"]
    assert numbers["moves per game in the end"] < numbers["moves per game at first"]
    assert numbers["moves per game in the end"] < 1.5 * shortest_way()
    assert 0 < numbers["games"] <= observers * 4000 / shortest_way()


def test_the_same_seed_gives_the_same_numbers() -> None:
    """However the observers' calls arrive; another seed gives others."""
    runs = [
        run_example("reinforcement_learning.py", "--moves=1500", f"--seed={seed}").stdout
        for seed in (7, 7, 8)
    ]

    assert runs[0] == runs[1] != runs[2]


def test_too_few_moves_are_no_success() -> None:
    """The exit status tells that nothing was learned."""
    run_example("reinforcement_learning.py", "--moves=10", workers=2, status=1)
