"""A benchmark of one subject over TCP and unix sockets: rounds, table, JSON, exit status.

What `bench_rref` and `bench_stream` share. Each round takes its figures one after the other by the
same two processes, so that ratios compare the same moment of a machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.machine import describe_machine, machine_line
from harness.pairs import PairError, run_pair
from harness.registry import Row

__all__ = ("Results", "median_cell", "parse", "ratio_cell", "run")

_LIMIT = 120.0  # seconds for one client

Results = dict[str, list[dict[str, float]]]
"""Figures of each round, by variant."""


def run(
    options: argparse.Namespace,
    specs: Sequence[Mapping[str, object]],
    table: Callable[[Results], str],
    variants: Sequence[str] = ("tcp", "unix"),
    peer: Row | None = None,
) -> int:
    """Measure, print, write; return 0 if there are figures for all variants.

    Args:
        options: what `parse` gave.
        specs: for `harness.role`, but for the variant; a round has the figures of all of them.
        table: makes the text of the results.
        variants: how the two processes connect, one after the other.
        peer: another system that is measured beside these; not with ``--quick``.
    """
    rounds: Results = {variant: [] for variant in variants}
    problems: dict[str, str] = {}
    modules = {}
    if peer is not None and not options.quick:
        if peer.missing:
            problems[peer.title] = f"not installed ({peer.install})"
        else:
            rounds[peer.title], modules[peer.title] = [], {"module": peer.module}
    for _ in range(options.rounds):
        for variant, results in rounds.items():
            try:
                about = {"variant": variant, **modules.get(variant, {})}
                pairs = [run_pair({**spec, **about}, limit=_LIMIT) for spec in specs]
                results.append({name: value for pair in pairs for name, value in pair.items()})
            except PairError as error:
                problems[variant] = f"failed ({error})"
            print(f"{variant}: done", file=sys.stderr, flush=True)
    machine = describe_machine()
    print(machine_line(machine), "\n")
    print(table(rounds), *[f"{name}: {why}" for name, why in problems.items()], sep="\n")
    if options.json:
        report = {"machine": machine, "rounds": rounds, "problems": problems}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any("failed" in why for why in problems.values()) else 0


def parse(arguments: list[str] | None, description: str) -> argparse.Namespace:
    """Read the command line: rounds, quick, json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, help="default: 5, quick 1")
    parser.add_argument("--quick", action="store_true", help="short measurements, a few seconds")
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def median_cell(results: Sequence[dict[str, float]], figure: str) -> str:
    """Return the median of a figure, as a table shows it."""
    values = [each[figure] for each in results if figure in each]
    return f"{statistics.median(values):,.0f}" if values else "-"


def ratio_cell(results: Sequence[dict[str, float]], figure: str, other: str) -> str:
    """Return the median and range of the ratios of two figures of one round."""
    ratios = [each[figure] / each[other] for each in results if figure in each and other in each]
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"
