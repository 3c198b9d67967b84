"""How long until the loss of a process is noticed, next to other RPC systems and torchrun?

`python benchmarks/bench_failure.py [--peers a,b,…] [--rounds N] [--quick] [--json F]`

A call waits, and its server is killed (SIGKILL) or goes silent (SIGSTOP): the time until the call
fails. Two nodes run, and one of them is killed or goes silent: the time until the other one's
worker runs in a new round, with heartbeats of a second and three misses for both launchers. Calls
have no timeout; what takes longer than the patience of this benchmark is shown as such. How soon a
worker's crash is noticed is in `bench_launch`.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from pathlib import Path

from harness.launches import has_torch
from harness.machine import describe_machine, machine_line
from harness.nodes import Node, own_node, survive, torch_node
from harness.pairs import PairError, run_pair
from harness.registry import ROWS
from harness.tables import grid

__all__ = ("main",)

_OURS = ("asyncrpc-tcp", "asyncrpc-unix")
_PEERS = (*_OURS, "grpc", "torch", "rpyc", "pyzmq", "ray", "dask")
_SIGNALS = {"killed": signal.SIGKILL, "silent": signal.SIGSTOP}
_CLIENT_LIMIT = 60.0  # seconds beyond the patience; importing torch or starting Ray takes many

Figures = dict[str, dict[str, list[float | None]]]
"""Row to case to the seconds of each round; None for longer than the patience."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if nothing failed."""
    options = _parse(arguments)
    problems: dict[str, str] = {}
    calls = _calls(options, problems)
    nodes = _nodes(options, problems)
    machine = describe_machine()
    print(machine_line(machine), "\n")
    titles = {name: ROWS[name].title for name in calls}
    print(_table("a call fails, its server", calls, titles, _OURS[0], options.patience))
    print()
    titles = {name: name for name in nodes}
    print(_table("a node runs anew, the other one", nodes, titles, "launcher", options.patience))
    print(*[f"{name}: {why}" for name, why in problems.items()], sep="\n")
    if options.json:
        report = {"machine": machine, "patience": options.patience, "calls": calls, "nodes": nodes}
        options.json.write_text(json.dumps(report | {"problems": problems}, indent=1) + "\n")
    return 1 if any("failed" in why for why in problems.values()) else 0


def _calls(options: argparse.Namespace, problems: dict[str, str]) -> Figures:
    rows = {name: ROWS[name] for name in options.peers}
    missing = [name for name, row in rows.items() if row.missing]
    for name in missing:
        problems[rows.pop(name).title] = f"not installed ({ROWS[name].install})"
    figures: Figures = {name: {case: [] for case in _SIGNALS} for name in rows}
    for _ in range(options.rounds):
        for name, row in rows.items():
            for case, kind in _SIGNALS.items():
                spec: dict[str, object] = {
                    "module": row.module,
                    "variant": row.variant,
                    "small": "dict",
                }
                spec |= {"signal": int(kind), "patience": options.patience}
                try:
                    found = run_pair(spec, limit=options.patience + _CLIENT_LIMIT)
                except PairError as error:
                    problems[f"{row.title}, {case}"] = f"failed ({error})"
                    continue
                figures[name][case].append(found.get("noticed_s"))
            print(f"{name}: done", file=sys.stderr, flush=True)
    return figures


def _nodes(options: argparse.Namespace, problems: dict[str, str]) -> Figures:
    launchers: dict[str, Node] = {"launcher": own_node}
    if not options.torch_python:
        pass  # without peers
    elif has_torch(options.torch_python):
        launchers["torchrun"] = torch_node(options.torch_python)
    else:
        problems["torchrun"] = f"not installed (no torch in {options.torch_python}; --torch-python)"
    figures: Figures = {name: {case: [] for case in _SIGNALS} for name in launchers}
    for _ in range(options.rounds):
        for name, node in launchers.items():
            for case, kind in _SIGNALS.items():
                try:
                    seconds = survive(node, kind, options.patience)
                except TimeoutError as error:
                    problems[f"{name}, {case}"] = f"failed ({error})"
                    continue
                figures[name][case].append(seconds)
            print(f"{name}: done", file=sys.stderr, flush=True)
    return figures


def _table(
    heading: str,
    figures: Figures,
    titles: dict[str, str],
    ours: str,
    patience: float,
) -> str:
    """Return a line per row: its seconds, and them divided by ours, round by round."""
    lines = [[f"s until {heading}", *_SIGNALS, *(f"{case}: to ours" for case in _SIGNALS)]]
    for name, values in figures.items():
        cells = [_cell(values[case], patience) for case in _SIGNALS]
        ratios = [
            _ratio(values[case], figures.get(ours, {}).get(case, []), patience) for case in _SIGNALS
        ]
        lines.append([titles[name], *cells, *ratios])
    return grid(lines)


def _cell(values: list[float | None], patience: float) -> str:
    if not values:
        return "-"
    found = [value for value in values if value is not None]
    if len(found) <= len(values) // 2:
        return f"> {patience:g}"
    text = f"{statistics.median(found):.3g}"
    return text if len(found) == 1 else f"{text} [{min(found):.3g}-{max(found):.3g}]"


def _ratio(theirs: list[float | None], ours: list[float | None], patience: float) -> str:
    pairs = [(their, mine) for their, mine in zip(theirs, ours, strict=False) if mine is not None]
    if not pairs:
        return "-"
    ratio = statistics.median(
        [(patience if their is None else their) / mine for their, mine in pairs]
    )
    return f"{'> ' if any(their is None for their, _ in pairs) else ''}{ratio:.3g}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Lose a process, and see who notices when.")
    parser.add_argument(
        "--peers", type=_rows, help=f"rows of calls (default: all of {', '.join(_PEERS)})"
    )
    parser.add_argument(
        "--torch-python", help="interpreter that has torch (default: this one; quick: none)"
    )
    parser.add_argument("--rounds", type=int, help="default: 3, quick 1")
    parser.add_argument(
        "--patience",
        type=float,
        default=12.0,
        help="seconds to wait at most (default: %(default)g)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round over TCP without peers, 20 s"
    )
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    options = parser.parse_args(arguments)
    options.peers = options.peers or (_OURS[:1] if options.quick else _PEERS)
    if options.torch_python is None and not options.quick:
        options.torch_python = sys.executable
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def _rows(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names or not set(names) <= set(_PEERS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(_PEERS)}, got {text!r}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
