"""How a figure grows with a size: the slope of its logarithm over that of the size. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ("LINEAR", "exponent")

LINEAR = 1.15
"""An exponent above this is more than linear growth and noise."""


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Return p of figure = c * size**p, by least squares over the larger half of the sizes.

    Small sizes show the fixed cost of a call or a process, not how it grows.

    Args:
        points: sizes and figures, all above 0, in the order of size.

    Returns:
        The exponent; None for fewer than two points.
    """
    upper = [(math.log(size), math.log(figure)) for size, figure in points[len(points) // 2 - 1 :]]
    if len(points) < 2:
        return None
    mean_size = sum(size for size, _ in upper) / len(upper)
    mean_figure = sum(figure for _, figure in upper) / len(upper)
    slope = sum((size - mean_size) * (figure - mean_figure) for size, figure in upper)
    return slope / sum((size - mean_size) ** 2 for size, _ in upper)
