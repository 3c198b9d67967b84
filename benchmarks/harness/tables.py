"""Plain text tables of medians and ratios. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.summary import RATIOS, Rounds, spread

__all__ = ("grid", "ratio_table", "rpc_table")


def _micros(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _two(value: float) -> str:
    return f"{value:.2f}"


_COLUMNS: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
    ("seq p50 us", "sequential_p50_us", _micros, True),
    ("p99", "sequential_p99_us", _micros, False),
    ("p50 1 core", "pinned_p50_us", _micros, False),
    ("p50 2 cores", "apart_p50_us", _micros, False),
    ("128 in flight calls/s", "in_flight_calls_s", _count, True),
    ("1 KiB us", "echo 1 KiB_us", _micros, False),
    ("64 KiB us", "echo 64 KiB_us", _micros, False),
    ("1 MiB us", "echo 1 MiB_us", _micros, False),
    ("64 MiB GB/s", "array_send_gb_s", _two, True),
    ("echo GB/s", "array_echo_gb_s", _two, False),
    ("cpu client", "client_cpu_s_100k", _two, False),
    ("cpu server", "server_cpu_s_100k", _two, False),
)
"""Heading, figure, format, whether min-max is shown. cpu is in seconds per 100,000 calls."""


def rpc_table(titles: dict[str, str], rounds: Rounds, problems: dict[str, str]) -> str:
    """Return one line per row: medians [min-max], or why there is none."""
    lines = [["row", *(column[0] for column in _COLUMNS)]]
    lines += [[titles[name], *_cells(rounds[name])] for name in titles if name not in problems]
    table = grid(lines)
    notes = [f"{titles[name]}: {reason}" for name, reason in problems.items()]
    return "\n".join([table, *notes])


def _cells(rounds: list[dict[str, float] | None]) -> list[str]:
    cells = []
    for _, figure, show, with_range in _COLUMNS:
        values = [figures[figure] for figures in rounds if figures and figure in figures]
        if not values:
            cells.append("-")
            continue
        each = spread(values)
        text = show(each["median"])
        if with_range and len(values) > 1:
            text += f" [{show(each['min'])}-{show(each['max'])}]"
        cells.append(text)
    return cells


def ratio_table(ratios: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return one line per ratio, one column per row of ours."""
    subjects = list(ratios)
    lines = [["ratio, same round", "goal", *subjects]]
    for ratio in RATIOS:
        cells = [_ratio_cell(ratios[subject].get(ratio.title)) for subject in subjects]
        if any(cell != "-" for cell in cells):
            sign = ">=" if ratio.more_is_better else "<="
            lines.append([ratio.title, f"{sign} {ratio.target:g}", *cells])
    return grid(lines)


def _ratio_cell(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    text = f"{value['median']:.2f}"
    if value["min"] != value["max"]:
        text += f" [{value['min']:.2f}-{value['max']:.2f}]"
    return text


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Return the cells in columns, the first one left-aligned, a rule under the heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([rows[0], "-" * len(rows[0]), *rows[1:]])
