"""How long does starting and ending workers take, next to torchrun and to bare processes?

`python benchmarks/bench_launch.py [--torch-python F] [--rounds N] [--quick] [--json F]`

Alternating launches of one trivial script: wall time for 1, 4 and 16 workers, peak memory; then the
time from a worker's exit with 1 to the launcher's exit, and to all workers running again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from harness.launches import (
    Launch,
    Launcher,
    bare,
    compile_own,
    has_torch,
    launch,
    own_launcher,
    torchrun,
)
from harness.machine import describe_machine, machine_line
from harness.tables import grid

__all__ = ("main",)

Figures = dict[str, dict[str, list[float]]]
"""Figure to launcher to the value of each round."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if nothing failed."""
    options = _parse(arguments)
    launchers: dict[str, Launcher] = {"launcher": own_launcher, "bare": bare}
    problems: list[str] = []
    if has_torch(options.torch_python):
        launchers["torchrun"] = torchrun(options.torch_python)
    else:
        problems.append(
            f"torchrun: no torch in {options.torch_python} "
            "(pip install torch numpy, or --torch-python)"
        )
    compile_own()
    figures: Figures = {}
    failed = 0
    for index in range(options.rounds):
        for title, measure, names in _cases(options.workers):
            for name in _turned([each for each in names if each in launchers], index):
                try:
                    for part, value in measure(launchers[name]).items():
                        figures.setdefault(title + part, {}).setdefault(name, []).append(value)
                except (RuntimeError, TimeoutError) as error:
                    failed += 1
                    problems.append(f"{name}, {title}: failed ({error})")
    machine = describe_machine()
    print(machine_line(machine), "\n")
    print(_table(figures), *dict.fromkeys(problems), sep="\n")
    if options.json:
        report = {"machine": machine, "figures": figures, "problems": problems}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


Measure = Callable[[Launcher], dict[str, float]]


def _cases(workers: list[int]) -> list[tuple[str, Measure, tuple[str, ...]]]:
    """Return title, measurement and which launchers take part."""
    every, supervising = ("launcher", "torchrun", "bare"), ("launcher", "torchrun")
    cases: list[tuple[str, Measure, tuple[str, ...]]] = [
        (f"{count} workers", _trivial(count), every) for count in workers
    ]
    for count in (1, 4):
        cases.append((f"{count} workers, exit 1", _crash(count), supervising))
        cases.append((f"{count} workers, restart", _recover(count), supervising))
    return cases


def _trivial(workers: int) -> Measure:
    def measure(launcher: Launcher) -> dict[str, float]:
        done = _expect(launch(launcher(workers, 0, "trivial")), succeeds=True)
        return {", wall s": done.wall, ", peak MB": done.peak_memory / 1e6}

    return measure


def _crash(workers: int) -> Measure:
    def measure(launcher: Launcher) -> dict[str, float]:
        done = _expect(launch(launcher(workers, 0, "crash")), succeeds=False)
        if "crash" not in done.times:
            raise RuntimeError(f"no worker crashed, {done.last_line}")
        return {" to launcher's exit s": done.ended_at - done.times["crash"]}

    return measure


def _recover(workers: int) -> Measure:
    def measure(launcher: Launcher) -> dict[str, float]:
        done = _expect(launch(launcher(workers, 1, "recover")), succeeds=True)
        again = [done.times[f"up-1-{rank}"] for rank in range(workers)]
        return {" to all running s": max(again) - done.times["crash"]}

    return measure


def _expect(done: Launch, *, succeeds: bool) -> Launch:
    if (done.status == 0) != succeeds:
        raise RuntimeError(f"status {done.status}, {done.last_line}")
    return done


def _turned(names: list[str], index: int) -> list[str]:
    shift = index % len(names)
    return names[shift:] + names[:shift]


def _table(figures: Figures) -> str:
    lines = [["median [min-max]", "launcher", "torchrun", "bare", "launcher / torchrun"]]
    for title, values in figures.items():
        cells = [_cell(values.get(name, [])) for name in ("launcher", "torchrun", "bare")]
        lines.append([title, *cells, _ratio(values)])
    return grid(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.3g} [{min(values):.3g}-{max(values):.3g}]"


def _ratio(values: dict[str, list[float]]) -> str:
    pairs = zip(values.get("launcher", []), values.get("torchrun", []), strict=False)
    ratios = [mine / theirs for mine, theirs in pairs]
    return f"{statistics.median(ratios):.3f}" if ratios else "-"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare launchers, side by side.")
    parser.add_argument(
        "--torch-python",
        default=sys.executable,
        help="interpreter that has torch (default: this one)",
    )
    parser.add_argument("--rounds", type=int, help="default: 5, quick 2")
    parser.add_argument("--quick", action="store_true", help="2 rounds, 1 and 4 workers")
    parser.add_argument("--json", type=Path, help="write every figure here")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.workers = [1, 4] if options.quick else [1, 4, 16]
    return options


if __name__ == "__main__":
    raise SystemExit(main())
