"""Figures out of lists of seconds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ("latency", "percentile", "rate", "size_figures")


def percentile(seconds: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` of the samples lie (nearest rank)."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def latency(seconds: Sequence[float], prefix: str) -> dict[str, float]:
    """Return p50 and p99 in microseconds."""
    return {
        f"{prefix}_p50_us": percentile(seconds, 0.50) * 1e6,
        f"{prefix}_p99_us": percentile(seconds, 0.99) * 1e6,
    }


def rate(amount: float, seconds: Sequence[float]) -> float:
    """Return amount per second of the median sample."""
    return amount / statistics.median(seconds)


def size_figures(label: str, size: int, seconds: Sequence[float]) -> dict[str, float]:
    """Return the figures of one echoed size; MB/s counts both directions."""
    return {
        f"echo {label}_us": statistics.median(seconds) * 1e6,
        f"echo {label}_mb_s": rate(2 * size / 1e6, seconds),
    }
