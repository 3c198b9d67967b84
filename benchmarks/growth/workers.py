"""Workers of one launch that do nothing: wall time of `python -m launcher`, its own peak memory."""

from __future__ import annotations

from harness.launches import launch, own_launcher

__all__ = ("measure",)


def measure(size: int) -> dict[str, float]:
    """Launch `size` workers; the seconds are from the start of the launcher to its end."""
    launches = [launch(own_launcher(size, 0, "trivial")) for _ in range(2)]
    failed = [each for each in launches if each.status]
    if failed:
        raise RuntimeError(f"status {failed[0].status}, {failed[0].last_line}")
    return {
        "seconds": min(each.wall for each in launches),
        "bytes": max(each.peak_memory for each in launches),
    }
