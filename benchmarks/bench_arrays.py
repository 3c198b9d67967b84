"""How fast do arrays of 1 to 256 MiB travel, by TCP, unix sockets and shared memory?

`python benchmarks/bench_arrays.py [--rounds N] [--quick] [--json F]`

One server process and one client process; numpy arrays, and torch tensors where torch is installed,
one way (answered when the server has it) and back and forth (both directions counted).
"""

from __future__ import annotations

import statistics

from harness.tables import grid
from harness.variants import Results, parse, run
from peers.asyncrpc_arrays import MEBIBYTES

__all__ = ("main",)

_VARIANTS = ("tcp", "unix", "shm")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if there are figures for all variants."""
    options = parse(arguments, "Send arrays of growing size.")
    spec = {"module": "peers.asyncrpc_arrays", "seconds": 0.1 if options.quick else 0.5}
    return run(options, [spec], _table, _VARIANTS)


def _table(rounds: Results) -> str:
    lines = [["GB/s", *rounds]]
    for kind in ("numpy", "torch"):
        for direction, title in (("send", "one way"), ("echo", "echo")):
            for size in MEBIBYTES:
                figure = f"{kind}_{size}_{direction}_gb_s"
                cells = [_cell([each[figure] for each in rounds[name] if figure in each])
                         for name in rounds]  # fmt: skip
                if any(cell != "-" for cell in cells):
                    lines.append([f"{kind} {size} MiB {title}", *cells])
    return grid(lines)


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "-"


if __name__ == "__main__":
    raise SystemExit(main())
