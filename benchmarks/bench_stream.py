"""How many items does a stream move, next to calls awaited one by one and 128 in flight?

`python benchmarks/bench_stream.py [--rounds N] [--quick] [--json F]`

One server process and one client process over loopback TCP and a unix socket; in each round the
figures are taken one after the other by the same two processes, so that ratios compare the same
moment of a machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from harness.machine import describe_machine, machine_line
from harness.pairs import PairError, run_pair
from harness.tables import grid

__all__ = ("main",)

_VARIANTS = ("tcp", "unix")
_LIMIT = 120.0  # seconds for one client
_FIGURES = (
    "one_by_one_s",
    "in_flight_128_s",
    "stream_window_1_s",
    "stream_window_16_s",
    "stream_window_64_s",
    "stream_window_1024_s",
)
_RATIOS = (("one_by_one_s", 3.0), ("in_flight_128_s", 0.5))
"""What a stream with the default window is compared with, and the least it must reach."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if there are figures for both variants."""
    options = _parse(arguments)
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in _VARIANTS}
    problems: dict[str, str] = {}
    for _ in range(options.rounds):
        for variant, results in rounds.items():
            spec = {"module": "peers.asyncrpc_streams", "variant": variant, "items": options.items}
            try:
                results.append(run_pair(spec, limit=_LIMIT))
            except PairError as error:
                problems[variant] = f"failed ({error})"
            print(f"{variant}: done", file=sys.stderr, flush=True)
    machine = describe_machine()
    print(machine_line(machine), "\n")
    print(_table(rounds), *[f"{name}: {why}" for name, why in problems.items()], sep="\n")
    if options.json:
        report = {"machine": machine, "rounds": rounds, "problems": problems}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if problems else 0


def _table(rounds: dict[str, list[dict[str, float]]]) -> str:
    lines = [["items or calls/s", "goal", *rounds]]
    lines += [
        [f.removesuffix("_s"), "", *[_median(rounds[v], f) for v in rounds]] for f in _FIGURES
    ]
    for other, goal in _RATIOS:
        title = f"window 64 / {other.removesuffix('_s')}"
        lines.append([title, f">= {goal:g}", *[_ratio(rounds[v], other) for v in rounds]])
    return grid(lines)


def _median(results: list[dict[str, float]], figure: str) -> str:
    return f"{statistics.median([each[figure] for each in results]):,.0f}" if results else "-"


def _ratio(results: list[dict[str, float]], other: str) -> str:
    ratios = [each["stream_window_64_s"] / each[other] for each in results]
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare streams with calls, side by side.")
    parser.add_argument("--rounds", type=int, help="default: 5, quick 1")
    parser.add_argument("--quick", action="store_true", help="short measurements, a few seconds")
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.items = 20_000 if options.quick else 100_000
    return options


if __name__ == "__main__":
    raise SystemExit(main())
