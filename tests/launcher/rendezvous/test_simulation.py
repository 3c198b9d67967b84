"""Many agents in many worlds: never two of them for one round, and always an end to confusion."""

from __future__ import annotations

import os

import pytest

from tests.launcher.rendezvous.simulation import World

SEEDS = int(os.environ.get("RENDEZVOUS_SEEDS", "300"))
"""Worlds to look at; `make soak` looks at more."""
BATCH = 50
STEPS = 120
PATIENCE = 600
"""Steps without mishaps after which everything must have settled."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_agents_agree_whatever_happens(first: int) -> None:
    """Every record that is written is checked; then the mishaps stop, and all must settle."""
    for seed in range(first, min(first + BATCH, SEEDS)):
        world = World(seed)
        for _ in range(world.random.randint(1, 5)):
            world.add_agent()
        for _ in range(STEPS):
            if world.random.random() < 0.15:
                world.mishap()
            world.step()
        steps = 0
        while not world.is_settled() and steps < PATIENCE:
            world.step()
            steps += 1

        assert world.is_settled(), f"seed {seed}: not settled after {steps} steps"
