"""Reinforcement learning: observers play, and ask one agent for their moves.

Run it on four workers of this machine::

    python -m launcher --standalone --nproc-per-node 4 examples/reinforcement_learning.py

Worker 0 has the agent, which learns; each of the others plays a game of its own: find the way over
a windy field. The observers get a reference to the agent as an argument, and call it back for every
move; the same call tells what the last move has brought. The agent waits until all have asked,
learns from all that it is told, and answers all of them at once. As it goes through a batch in the
order of the observers' names, the same seed gives the same numbers however the calls arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import defaultdict
from typing import NamedTuple

import asyncrpc as rpc

FIELD = (
    "S#...",
    ".#.#.",
    ".#.#.",
    ".#.#.",
    "...#G",
)
"""From S to G; rocks (#) cannot be entered. A place is a row and a column."""

START, GOAL = (0, 0), (4, 4)
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))

Place = tuple[int, int]


class Outcome(NamedTuple):
    """What a move has brought, be it the agent's or the wind's. It travels as what it is."""

    place: Place
    move: int
    reward: float
    next_place: Place


def after(place: Place, move: int) -> Place:
    """Return where a move leads; against a rock or the edge it leads nowhere."""
    row, column = place[0] + MOVES[move][0], place[1] + MOVES[move][1]
    is_inside = 0 <= row < len(FIELD) and 0 <= column < len(FIELD[0])
    return (row, column) if is_inside and FIELD[row][column] != "#" else place


class Agent:
    """Learns how good each move is on each field (Q-learning), from all observers together.

    Source: Sutton and Barto, Reinforcement Learning, section 6.5.
    """

    def __init__(self, observers: int, seed: int) -> None:
        self.values: dict[Place, list[float]] = defaultdict(lambda: [0.0] * len(MOVES))
        self._observers = observers
        self._chance = random.Random(seed)  # noqa: S311 -- a game
        self._asked: dict[str, tuple[Place, Outcome | None]] = {}
        self._answer: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()

    async def next_move(self, place: Place, last: Outcome | None) -> int:
        """Hear what the caller's last move has brought; return its next one."""
        name = rpc.caller().name
        self._asked[name] = place, last
        answer = self._answer
        if len(self._asked) == self._observers:
            asked, self._asked = sorted(self._asked.items()), {}
            self._answer = asyncio.get_running_loop().create_future()
            for _, (_, outcome) in asked:
                if outcome is not None:
                    self._learn(outcome)
            answer.set_result({who: self._choose(at) for who, (at, _) in asked})
        return (await asyncio.shield(answer))[name]

    def best(self, place: Place) -> int:
        """Return the move that seems best."""
        values = self.values[place]
        return values.index(max(values))

    def _choose(self, place: Place) -> int:
        if self._chance.random() < 0.1:  # or it would never find anything new
            return self._chance.randrange(len(MOVES))
        return self.best(place)

    def _learn(self, outcome: Outcome) -> None:
        value = self.values[outcome.place]
        expected = outcome.reward + max(self.values[outcome.next_place])
        value[outcome.move] += 0.5 * (expected - value[outcome.move])


async def observe(agent: rpc.RRef, moves: int, seed: int) -> list[int]:
    """Play for a number of moves; return how many each finished game took. Observers run this."""
    wind = random.Random(f"{seed} {rpc.get_worker_info().name}")  # noqa: S311 -- a game
    games: list[int] = []
    place, last, begin = START, None, 0
    for number in range(1, moves + 1):
        move = await agent.rpc_async().next_move(place, last)
        if wind.random() < 0.05:
            move = wind.randrange(len(MOVES))
        reached = after(place, move)
        last = Outcome(place, move, -1.0, reached)
        place = reached
        if place == GOAL:
            games.append(number - begin)
            place, begin = START, number
    return games


def way_of(agent: Agent) -> int | None:
    """Return how many moves the agent needs without wind, ``None`` if it runs in circles."""
    place = START
    for moves in range(len(FIELD) * len(FIELD[0])):
        if place == GOAL:
            return moves
        place = after(place, agent.best(place))
    return None


async def lead(workers: list[rpc.WorkerInfo], arguments: argparse.Namespace) -> int:
    """Have the others play, and show what the agent has learned; return the exit status."""
    observers = workers[1:] or workers  # alone, the agent's worker plays as well
    agent = rpc.RRef(Agent(len(observers), arguments.seed))
    async with rpc.wait_all():
        plays = [
            rpc.rpc_async(who, observe, (agent, arguments.moves, arguments.seed), timeout=None)
            for who in observers
        ]
    played = [play.result() for play in plays]
    few = max(1, min(len(games) for games in played) // 4)
    first = sum(sum(games[:few]) for games in played) / (few * len(played))
    last = sum(sum(games[-few:]) for games in played) / (few * len(played))
    way = way_of(agent.local_value())
    print(f"observers: {len(observers)}, games: {sum(map(len, played))}")
    print(f"moves per game at first: {first:.1f}")
    print(f"moves per game in the end: {last:.1f}")
    print(f"moves needed without wind: {way}")
    return 0 if way is not None and last < first else 1


async def main(arguments: argparse.Namespace) -> int:
    """Run this worker's part; return the exit status."""
    async with rpc.init_rpc() as agent:
        workers = sorted(rpc.get_worker_infos(), key=lambda worker: worker.id)
        return await lead(workers, arguments) if agent.info.id == 0 else 0


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Learn the way over a windy field.")
    parser.add_argument("--moves", type=int, default=4000, help="of each observer (default: 4000)")
    parser.add_argument("--seed", type=int, default=0, help="of wind and agent (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(rpc.run(main(parse())))
