"""How long to wait before trying again: pure values, no clock and no I/O."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("full_jitter",)


def full_jitter(
    attempt: int,
    initial: float,
    multiplier: float,
    max_delay: float,
    random: Callable[[], float],
) -> float:
    """Return a random delay up to the exponential one, so that many waiters spread out.

    Args:
        attempt: how many attempts failed before this one, from 0.
        initial: seconds, the first upper bound.
        multiplier: growth of the bound, at least 1.
        max_delay: seconds, where the bound stops growing.
        random: gives numbers from 0 to 1.

    Returns:
        Seconds from 0 to ``min(max_delay, initial * multiplier**attempt)``.

    Source:
        AWS Architecture Blog, "Exponential Backoff And Jitter": full jitter.
    """
    return random() * min(max_delay, initial * multiplier ** min(attempt, 64))
