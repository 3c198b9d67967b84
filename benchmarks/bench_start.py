"""What does it cost to import asyncrpc, and to ask the launcher for its help?

`python benchmarks/bench_start.py [--rounds N] [--json F]`

Fresh interpreters, alternating with one that does nothing and one that imports asyncio only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness.launches import compile_own
from harness.machine import describe_machine, machine_line
from harness.tables import grid

__all__ = ("main",)

_PROJECT = Path(__file__).resolve().parents[1]

_COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import asyncio": ["-c", "import asyncio"],
    "import asyncio, uvloop, msgpack": ["-c", "import asyncio, uvloop, msgpack"],
    "import asyncrpc": ["-c", "import asyncrpc"],
    "import asyncrpc, init_rpc looked up": ["-c", "import asyncrpc; asyncrpc.init_rpc"],
    "python -m launcher --help": ["-m", "launcher", "--help"],
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if every command ended well."""
    parser = argparse.ArgumentParser(description="Measure start-up times.")
    parser.add_argument("--rounds", type=int, default=11, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write every figure here")
    options = parser.parse_args(arguments)
    compile_own()
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    failed: set[str] = set()
    for _ in range(options.rounds):
        for name, command in _COMMANDS.items():
            elapsed = _run(command)
            if elapsed is None:
                failed.add(name)
            else:
                seconds[name].append(elapsed)
    machine = describe_machine()
    print(machine_line(machine), "\n")
    print(_table(seconds), *[f"{name}: failed" for name in sorted(failed)], sep="\n")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "seconds": seconds}) + "\n")
    return 1 if failed else 0


def _run(command: list[str]) -> float | None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        check=False,
        timeout=30,
        capture_output=True,
        cwd=_PROJECT,
        env=os.environ | {"PYTHONPATH": str(_PROJECT)},
    )
    return None if done.returncode else time.perf_counter() - start


def _table(seconds: dict[str, list[float]]) -> str:
    nothing = seconds["python -c pass"]
    asyncio_only = seconds["import asyncio"]
    lines = [["ms, median [min-max]", "wall", "over python", "over import asyncio"]]
    for name, values in seconds.items():
        if not values:
            continue
        median = statistics.median(values) * 1e3
        lines.append(
            [
                name,
                f"{median:.0f} [{min(values) * 1e3:.0f}-{max(values) * 1e3:.0f}]",
                f"{median - statistics.median(nothing) * 1e3:.0f}",
                f"{median - statistics.median(asyncio_only) * 1e3:.0f}",
            ]
        )
    return grid(lines)


if __name__ == "__main__":
    raise SystemExit(main())
