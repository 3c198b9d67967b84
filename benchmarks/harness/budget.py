"""How much of everything is measured. Every loop has a bound in calls and in seconds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("FULL", "IN_FLIGHT", "QUICK", "SIZES", "Budget", "small_value")

IN_FLIGHT = 128
"""Calls in flight in the throughput measurement."""

SIZES = {"1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20}
"""Echoed byte strings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bounds of one client's run."""

    sequential_calls: int
    sequential_seconds: float
    flight_calls: int
    flight_seconds: float
    size_calls: int
    size_seconds: float
    array_calls: int
    array_seconds: float
    array_bytes: int = 64 << 20
    client_limit: float = 60.0  # seconds; the parent kills a client that takes longer


FULL = Budget(
    sequential_calls=10_000,
    sequential_seconds=1.0,
    flight_calls=200_000,
    flight_seconds=1.5,
    size_calls=500,
    size_seconds=0.5,
    array_calls=9,
    array_seconds=1.5,
)
"""One round is 2-4 minutes for the default rows, most of it waiting for torch, rpyc, grpc."""

QUICK = Budget(
    sequential_calls=3_000,
    sequential_seconds=0.4,
    flight_calls=100_000,
    flight_seconds=0.6,
    size_calls=100,
    size_seconds=0.2,
    array_calls=5,
    array_seconds=0.6,
    client_limit=30.0,
)
"""All default rows in at most 90 s."""


def small_value(kind: str) -> object:
    """Return the small argument that every peer gets and must give back equal."""
    if kind == "int":
        return 7
    if kind == "dict":
        return {"id": 7, "name": "worker"}
    return {"ids": [1, 2, 3], "tags": {"a": [1.5, None], "b": ["x", True]}}
