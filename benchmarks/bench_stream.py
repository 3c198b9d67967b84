"""How many items does a stream move, next to calls awaited one by one and 128 in flight?

`python benchmarks/bench_stream.py [--rounds N] [--quick] [--json F]`

One server process and one client process over loopback TCP and a unix socket; in each round the
figures are taken one after the other by the same two processes, so that ratios compare the same
moment of a machine.
"""

from __future__ import annotations

from harness.registry import Row
from harness.tables import grid
from harness.variants import Results, median_cell, parse, ratio_cell, run

__all__ = ("main",)

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

_PEER = Row(
    name="grpc.aio",
    module="peers.grpc_streams",
    variant="tcp",
    title="grpc.aio",
    requires=("grpc",),
    install="pip install grpcio msgpack uvloop",
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if there are figures for both variants."""
    options = parse(arguments, "Compare streams with calls, side by side.")
    spec = {"module": "peers.asyncrpc_streams", "items": 20_000 if options.quick else 100_000}
    return run(options, [spec], _table, peer=_PEER)


def _table(rounds: Results) -> str:
    lines = [["items or calls/s", "goal", *rounds]]
    for figure in _FIGURES:
        cells = [median_cell(rounds[variant], figure) for variant in rounds]
        lines.append([figure.removesuffix("_s"), "", *cells])
    for other, goal in _RATIOS:
        cells = [ratio_cell(rounds[variant], "stream_window_64_s", other) for variant in rounds]
        lines.append([f"window 64 / {other.removesuffix('_s')}", f">= {goal:g}", *cells])
    return grid(lines)


if __name__ == "__main__":
    raise SystemExit(main())
