"""How do time and memory grow with calls in flight, peers, references, bytes, workers and nodes?

`python benchmarks/bench_growth.py [--subjects a,b,…] [--quick] [--json F] [--plot F]`

Each point is a process of its own, so that nothing is left of the point before. The exponent p of
size^p is fitted over the larger half of the sizes: 1 is linear, and more than that is marked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.growth_fit import LINEAR, exponent
from harness.machine import describe_machine, machine_line
from harness.tables import grid

__all__ = ("main",)

_FOLDER = Path(__file__).resolve().parent
_LIMIT = 240.0  # seconds for one point
_FIGURES = ("seconds", "bytes")

Points = list[tuple[float, float]]
Curves = dict[str, dict[str, Points]]
"""Subject to figure to its points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What grows, and how far."""

    module: str
    sizes: Sequence[int]
    quick: Sequence[int]
    counts_pairs: bool = False  # of so many workers, each of which knows all others

    def over(self, size: int) -> int:
        """Return what the figures of a size are set against."""
        return size * (size - 1) if self.counts_pairs else size


_SUBJECTS = {
    "calls in flight": Subject(
        module="growth.calls",
        sizes=(100, 1_000, 3_000, 10_000, 30_000, 100_000),
        quick=(100, 1_000, 3_000, 10_000),
    ),
    "idle peers": Subject(
        module="growth.idle_peers",
        sizes=(100, 300, 1_000, 3_000, 10_000),
        quick=(100, 300, 1_000),
    ),
    "pairs in memory": Subject(
        module="growth.peers",
        sizes=(2, 10, 30, 100, 300, 1_000),
        quick=(2, 10, 30, 100),
        counts_pairs=True,
    ),
    "pairs over unix": Subject(
        module="growth.unix_peers",
        sizes=(2, 10, 30, 100, 300, 1_000),
        quick=(2, 10, 30, 100),
        counts_pairs=True,
    ),
    "references": Subject(
        module="growth.references",
        sizes=(100, 1_000, 3_000, 10_000, 30_000, 100_000),
        quick=(100, 1_000, 3_000, 10_000),
    ),
    "payload bytes": Subject(
        module="growth.payload",
        sizes=(1 << 10, 1 << 16, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28),
        quick=(1 << 10, 1 << 16, 1 << 20, 1 << 22, 1 << 24),
    ),
    "workers": Subject(
        module="growth.workers", sizes=(1, 2, 4, 8, 16, 32, 64), quick=(1, 2, 4, 8, 16)
    ),
    "nodes": Subject(
        module="growth.nodes", sizes=(10, 30, 100, 300, 1_000), quick=(10, 30, 100, 300)
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if every point gave figures."""
    options = _parse(arguments)
    curves: Curves = {}
    problems: list[str] = []
    for name in options.subjects:
        subject = _SUBJECTS[name]
        curves[name] = {figure: [] for figure in _FIGURES}
        for size in subject.quick if options.quick else subject.sizes:
            figures = _point(subject.module, size)
            if isinstance(figures, str):
                problems.append(f"{name}, {size:,}: failed ({figures})")
                continue
            for figure, points in curves[name].items():
                points.append((subject.over(size), max(figures[figure], 1e-9)))
            print(f"{name}, {size:,}: {figures['seconds']:.3g} s", file=sys.stderr, flush=True)
    machine = describe_machine()
    print(machine_line(machine), "\n")
    print(_table(curves), *problems, sep="\n")
    _write(options, machine, curves, problems)
    return 1 if problems else 0


def _point(module: str, size: int) -> dict[str, float] | str:
    """Return the figures of one size, or why there are none."""
    path = os.pathsep.join(filter(None, (str(_FOLDER.parent), os.environ.get("PYTHONPATH", ""))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "growth.point", module, str(size)],
            cwd=_FOLDER,
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            timeout=_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {_LIMIT:g} s"
    lines = done.stdout.decode().splitlines()
    if not lines:
        return f"status {done.returncode}"
    figures: dict[str, float] = json.loads(lines[-1])
    return str(figures["error"]) if "error" in figures else figures


def _table(curves: Curves) -> str:
    lines = [["what grows", "up to", "time", "for one", "time ~", "memory", "for one", "memory ~"]]
    for name, figures in curves.items():
        seconds, held = figures["seconds"], figures["bytes"]
        if not seconds:
            continue
        size, time = seconds[-1]
        _, memory = held[-1]
        lines.append(
            [
                name,
                f"{size:,.0f}",
                f"{time:.3g} s",
                f"{time / size * 1e6:.3g} us",
                _power(seconds),
                f"{memory / 1e6:,.1f} MB",
                f"{memory / size / 1e3:,.3g} kB",
                _power(held),
            ]
        )
    return grid(lines)


def _power(points: Points) -> str:
    slope = exponent(points)
    if slope is None:
        return "-"
    return f"size^{slope:.2f}" + (" !" if slope > LINEAR else "")


def _write(
    options: argparse.Namespace, machine: dict[str, object], curves: Curves, problems: list[str]
) -> None:
    if options.json:
        report = {"machine": machine, "curves": curves, "problems": problems}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        try:
            from harness.growth_plot import save_growth

            save_growth(options.plot, curves)
        except ImportError:
            print("no plot: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Show how time and memory grow.", epilog=f"subjects: {', '.join(_SUBJECTS)}"
    )
    parser.add_argument("--subjects", type=_names, default=list(_SUBJECTS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    parser.add_argument("--json", type=Path, help="write every point here")
    parser.add_argument("--plot", type=Path, help="write a picture here (needs matplotlib)")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or not set(names) <= set(_SUBJECTS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(_SUBJECTS)}, got {text!r}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
