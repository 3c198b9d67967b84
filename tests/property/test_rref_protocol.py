"""Remote references under random schedules: see `rref_network` for what is checked on the way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.property.rref_network import Network, left_in

WEATHER: dict[str, dict[str, Any]] = {
    "reordered": {},
    "doubled": {"double": 0.3},
    "lossy": {"loss": 0.3, "double": 0.1},
    "failing": {"failing": 3, "double": 0.2},
    "exhausted": {"loss": 0.5, "double": 0.1, "attempts": 2},
    "crashes": {"loss": 0.1, "double": 0.1, "crashes": 2},
    "all": {"loss": 0.3, "double": 0.2, "crashes": 2, "attempts": 3, "failing": 1},
}
"""What the network and the workers do; order is never kept."""

SEEDS = 25  # in one test, to stay below a quarter of a second


def play(seeds: range, steps: int, weather: dict[str, Any]) -> Counter[str]:
    """Play one game for each seed; check that nothing is left; return what was seen."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        network = Network(seed, **weather)
        network.play(steps)
        rounds = network.drain()
        for worker in network.workers.values():
            left = (worker.machine.counts(), worker.parked, worker.values)
            assert left == (dict.fromkeys(left[0], 0), {}, set()), f"seed {seed}"
            assert worker.machine.is_drained, f"seed {seed}"
            assert worker.machine.leaks() == [], f"seed {seed}"
            assert left_in(worker.machine) == {}, f"seed {seed}"
        assert rounds, f"seed {seed} does not come to an end"
        seen += network.seen
    return seen


@pytest.mark.parametrize("weather", WEATHER)
@pytest.mark.parametrize("block", range(3))
def test_nothing_goes_early_nothing_stays(weather: str, block: int) -> None:
    """A user finds the value or a true error; in the end all tables are empty, nobody waits."""
    seen = play(range(block * SEEDS, (block + 1) * SEEDS), 250, WEATHER[weather])

    assert min(seen["RunParked"], seen["AnswerFetch"], seen["FreeValue"]) > 0
    assert bool(seen["crash"]) == bool(WEATHER[weather].get("crashes"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("weather", WEATHER)
def test_nothing_goes_early_nothing_stays_in_long_games(weather: str) -> None:
    """The same, over a thousand longer games for each weather."""
    seen = play(range(1000, 2000), 600, WEATHER[weather])

    assert seen["reconnect"] > 0


def test_the_same_seed_plays_the_same_game() -> None:
    """A failing seed can be played again."""
    games = [play(range(7, 9), 200, WEATHER["all"]) for _ in range(2)]

    assert games[0] == games[1]
