"""How fast is a call, next to other RPC systems and next to what is possible at all?

`python benchmarks/bench_rpc.py [--peers a,b,…] [--rounds N] [--quick] [--json F] [--plot F]`

Each row is a server process and a client process on loopback, new ones for each round; within a
round the rows take turns, and the order turns with the round, so that drift of the machine meets
all of them. README.md explains rows and figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from harness.budget import FULL, QUICK, Budget
from harness.machine import describe_machine, machine_line
from harness.pairs import PairError, run_pair
from harness.registry import DEFAULT_ROWS, ROWS, Row
from harness.summary import Rounds, ratios_of
from harness.tables import ratio_table, rpc_table

__all__ = ("main",)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if every installed row gave figures."""
    options = _parse(arguments)
    rows = [ROWS[name] for name in options.peers]
    problems = {row.name: f"not installed ({row.install})" for row in rows if row.missing}
    present = [row for row in rows if row.name not in problems]
    machine = describe_machine()
    rounds = _run_rounds(present, options, problems)
    ratios = {
        row.name: ratios_of(row.name, rounds)
        for row in present
        if row.name.startswith("asyncrpc") and row.name not in problems
    }
    _print(machine, rows, rounds, problems, ratios)
    _write(options, machine, rows, rounds, problems, ratios)
    failed = [row for row in present if row.name in problems]
    return 1 if failed else 0


def _run_rounds(
    present: list[Row], options: argparse.Namespace, problems: dict[str, str]
) -> Rounds:
    rounds: Rounds = {row.name: [] for row in present}
    budget: Budget = QUICK if options.quick else FULL
    for index in range(options.rounds):
        shift = index % max(1, len(present))
        for row in present[shift:] + present[:shift]:
            rounds[row.name].append(_run_row(row, budget, options.small, problems))
    for name, results in rounds.items():
        if any(results):
            problems.pop(name, None)  # a failed round is in the JSON and on standard error
    return rounds


def _run_row(
    row: Row, budget: Budget, small: str, problems: dict[str, str]
) -> dict[str, float] | None:
    spec: dict[str, object] = {
        "module": row.module,
        "variant": row.variant,
        "small": small,
        "budget": asdict(budget),
    }
    start = perf_counter()
    try:
        figures = run_pair(spec, limit=budget.client_limit)
    except PairError as error:
        problems[row.name] = f"failed ({error})"
        print(f"{row.name}: failed ({error})", file=sys.stderr, flush=True)
        return None
    print(f"{row.name}: {perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return figures


def _print(
    machine: dict[str, object],
    rows: list[Row],
    rounds: Rounds,
    problems: dict[str, str],
    ratios: dict[str, dict[str, dict[str, float]]],
) -> None:
    print(machine_line(machine))
    print()
    print(rpc_table({row.name: row.title for row in rows}, rounds, problems))
    if ratios:
        print()
        print(ratio_table(ratios))


def _write(
    options: argparse.Namespace,
    machine: dict[str, object],
    rows: list[Row],
    rounds: Rounds,
    problems: dict[str, str],
    ratios: dict[str, dict[str, dict[str, float]]],
) -> None:
    if options.json:
        report = {
            "machine": machine,
            "small": options.small,
            "quick": options.quick,
            "rounds": rounds,
            "problems": problems,
            "ratios": ratios,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        try:
            from harness.plot import save_plot

            save_plot(options.plot, {row.name: row.title for row in rows}, rounds)
        except ImportError:
            print("no plot: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare remote calls, peers side by side.",
        epilog=f"rows: {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--peers",
        type=_rows,
        default=list(DEFAULT_ROWS),
        help="rows, separated by commas, or all (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=_positive, help="pairs of processes per row (default: 3, quick 1)"
    )
    parser.add_argument("--quick", action="store_true", help="short measurements, under 90 s")
    parser.add_argument(
        "--small",
        choices=("dict", "int", "nested"),
        default="dict",
        help="the small argument (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    parser.add_argument("--plot", type=Path, help="write a picture here (needs matplotlib)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def _rows(text: str) -> list[str]:
    names = list(ROWS) if text == "all" else [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"unknown row {', '.join(unknown) or repr(text)}, expected some of {', '.join(ROWS)}"
        )
    return list(dict.fromkeys(names))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
