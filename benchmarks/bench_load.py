"""How do small calls do with more or fewer in flight, other handlers, many peers and bulk beside?

`python benchmarks/bench_load.py [--rounds N] [--quick] [--json F]`

One worker calls workers of another process, over loopback TCP and unix sockets.
"""

from __future__ import annotations

from harness.tables import grid
from harness.variants import Results, median_cell, parse, ratio_cell, run
from peers.asyncrpc_load import IDLE, WORKERS

__all__ = ("main",)

_RATES = {
    "async_1_s": "async def, 1 in flight",
    "async_16_s": "async def, 16 in flight",
    "async_128_s": "async def, 128 in flight",
    "async_1024_s": "async def, 1024 in flight",
    "inline_128_s": "@inline def, 128 in flight",
    "thread_128_s": "def in threads, 128 in flight",
    "fan_out_s": f"one to each of {WORKERS} workers",
}
_LATENCIES = {
    "alone_p50_us": "one by one, p50",
    "alone_p99_us": "one by one, p99",
    "mixed_p50_us": "beside 16 MiB arrays, p50",
    "mixed_p99_us": "beside 16 MiB arrays, p99",
    "mixed_mb_s": "the arrays meanwhile, MB/s",
}
_IDLE_LATENCIES = {
    "idle_peers_p50_us": f"with {IDLE} idle peers, p50",
    "idle_peers_p99_us": f"with {IDLE} idle peers, p99",
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if there are figures for both variants."""
    options = parse(arguments, "Load one worker with calls of many kinds.")
    calls = 10_000 if options.quick else 80_000
    spec = {"module": "peers.asyncrpc_load", "calls": calls}
    return run(options, [spec | {"idle": 0}, spec | {"idle": IDLE}], _table)


def _table(rounds: Results) -> str:
    lines = [["calls/s", *rounds]]
    for figure, title in _RATES.items():
        lines.append([title, *[median_cell(rounds[variant], figure) for variant in rounds]])
    lines.append(["microseconds", *["" for _ in rounds]])
    for figure, title in (_LATENCIES | _IDLE_LATENCIES).items():
        lines.append([title, *[median_cell(rounds[variant], figure) for variant in rounds]])
    idle = [ratio_cell(rounds[variant], "idle_peers_p50_us", "alone_p50_us") for variant in rounds]
    lines.append([f"p50 with {IDLE} idle peers / alone", *idle])
    return grid(lines)


if __name__ == "__main__":
    raise SystemExit(main())
