"""What does a remote reference cost, next to a plain call?

`python benchmarks/bench_rref.py [--rounds N] [--quick] [--json F]`

One server process and one client process over loopback TCP and a unix socket. Plain calls, calls of
a method through a proxy, reads, and whole lives of a reference (create, read, release) take turns,
a hundred at a time, so that ratios compare the same moment of a machine.
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
_FIGURES = ("call_us", "proxy_us", "to_here_us", "life_us")
_RATIOS = (("proxy_us", 1.3), ("life_us", 3.0))
"""What is compared with a plain call, and the most it may cost."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if there are figures for both variants."""
    options = _parse(arguments)
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in _VARIANTS}
    problems: dict[str, str] = {}
    for _ in range(options.rounds):
        for variant, results in rounds.items():
            spec = {
                "module": "peers.asyncrpc_references",
                "variant": variant,
                "operations": options.operations,
            }
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
    lines = [["microseconds", "goal", *rounds]]
    lines += [
        [f.removesuffix("_us"), "", *[_median(rounds[v], f) for v in rounds]] for f in _FIGURES
    ]
    for figure, goal in _RATIOS:
        title = f"{figure.removesuffix('_us')} / call"
        lines.append([title, f"<= {goal:g}", *[_ratio(rounds[v], figure) for v in rounds]])
    return grid(lines)


def _median(results: list[dict[str, float]], figure: str) -> str:
    return f"{statistics.median([each[figure] for each in results]):,.0f}" if results else "-"


def _ratio(results: list[dict[str, float]], figure: str) -> str:
    ratios = [each[figure] / each["call_us"] for each in results]
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare references with calls, side by side.")
    parser.add_argument("--rounds", type=int, help="default: 5, quick 1")
    parser.add_argument("--quick", action="store_true", help="short measurements, a few seconds")
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.operations = 2_000 if options.quick else 20_000
    return options


if __name__ == "__main__":
    raise SystemExit(main())
