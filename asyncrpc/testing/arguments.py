"""Checks of the arguments that the testing tools share."""

from __future__ import annotations

import math

__all__ = ("check_clock", "is_finite")


def is_finite(value: object) -> bool:
    """Whether it is a number, and neither nan nor infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


def check_clock(clock: object) -> None:
    """Raise ValueError unless it is a `Clock` or ``None``."""
    if clock is not None and not callable(getattr(clock, "call_at", None)):
        raise ValueError(f"clock must be a Clock, as VirtualClock is one, or None, got {clock!r}")
