"""What does a remote reference cost, next to a plain call?

`python benchmarks/bench_rref.py [--rounds N] [--quick] [--json F]`

One server process and one client process over loopback TCP and a unix socket. Plain calls, calls of
a method through a proxy, reads, and whole lives of a reference (create, read, release) take turns,
a hundred at a time, so that ratios compare the same moment of a machine.
"""

from __future__ import annotations

from harness.registry import Row
from harness.tables import grid
from harness.variants import Results, median_cell, parse, ratio_cell, run

__all__ = ("main",)

_FIGURES = ("call_us", "proxy_us", "to_here_us", "life_us")
_RATIOS = (("proxy_us", 1.3), ("life_us", 3.0))
"""What is compared with a plain call, and the most it may cost."""

_PEER = Row(
    name="torch.rpc",
    module="peers.torch_references",
    variant="tcp",
    title="torch.rpc",
    requires=("torch",),
    install="pip install torch numpy",
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if there are figures for both variants."""
    options = parse(arguments, "Compare references with calls, side by side.")
    operations = 2_000 if options.quick else 20_000
    spec = {"module": "peers.asyncrpc_references", "operations": operations}
    return run(options, [spec], _table, peer=_PEER)


def _table(rounds: Results) -> str:
    lines = [["microseconds", "goal", *rounds]]
    for figure in _FIGURES:
        cells = [median_cell(rounds[variant], figure) for variant in rounds]
        lines.append([figure.removesuffix("_us"), "", *cells])
    for figure, goal in _RATIOS:
        cells = [ratio_cell(rounds[variant], figure, "call_us") for variant in rounds]
        lines.append([f"{figure.removesuffix('_us')} / call", f"<= {goal:g}", *cells])
    return grid(lines)


if __name__ == "__main__":
    raise SystemExit(main())
