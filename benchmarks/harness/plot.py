"""Bars of the main figures, one panel each. Needs matplotlib, which is an extra."""

from __future__ import annotations

import statistics
from pathlib import Path

from harness.summary import Rounds

__all__ = ("save_plot",)

_PANELS = (
    ("in_flight_calls_s", "calls/s, 128 in flight", "more is better"),
    ("sequential_p50_us", "sequential p50, us", "less is better"),
    ("array_send_gb_s", "64 MiB one way, GB/s", "more is better"),
)


def save_plot(path: Path, titles: dict[str, str], rounds: Rounds) -> None:
    """Write the figure; whiskers are min and max over the rounds.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(_PANELS), figsize=(5 * len(_PANELS), 0.35 * len(titles) + 2))
    for axis, (name, title, direction) in zip(axes, _PANELS, strict=True):
        bars = {
            label: [figures[name] for figures in rounds[row] if figures and name in figures]
            for row, label in titles.items()
            if row in rounds
        }
        bars = {label: values for label, values in bars.items() if values}
        medians = [statistics.median(values) for values in bars.values()]
        low = [median - min(v) for median, v in zip(medians, bars.values(), strict=True)]
        high = [max(v) - median for median, v in zip(medians, bars.values(), strict=True)]
        colours = ["tab:blue" if label.startswith("asyncrpc") else "0.6" for label in bars]
        drawn = axis.barh(list(bars), medians, xerr=[low, high], color=colours)
        axis.bar_label(drawn, labels=[_short(median) for median in medians], fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.locator_params(axis="x", nbins=4)
        axis.set_title(f"{title} ({direction})", fontsize=9)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _short(value: float) -> str:
    return f" {value:,.0f}" if value >= 100 else f" {value:.3g}"
