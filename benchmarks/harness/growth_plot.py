"""Curves of time and memory over size, with their exponents. Needs matplotlib, an extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.growth_fit import exponent

__all__ = ("save_growth",)

Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
"""Subject to figure to its points."""

_FIGURES = (("seconds", "time, s"), ("bytes", "memory, bytes"))


def save_growth(path: Path, curves: Curves) -> None:
    """Write a picture: a column for each subject, time above memory.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        2, len(curves), figsize=(3.2 * len(curves), 6), squeeze=False, constrained_layout=True
    )
    for column, (subject, figures) in enumerate(curves.items()):
        for row, (name, label) in enumerate(_FIGURES):
            axis = axes[row][column]
            points = figures.get(name, ())
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", markersize=3)
            slope = exponent(points)
            power = "" if slope is None else f"size^{slope:.2f}"
            axis.set_title(f"{subject}\n{power}" if row == 0 else power, fontsize=9)
            axis.set_ylabel(label if column == 0 else "", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
