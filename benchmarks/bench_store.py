"""How fast is the store, next to torch's C++ TCPStore and next to a bare dict behind OPT?

`python benchmarks/bench_store.py [--stores asyncrpc,torch,min] [--rounds N] [--quick] [--json F]`

One server process; one client process for the sequential, in-flight and barrier figures, then
eight at once. Rounds are interleaved as in bench_rpc.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from harness.machine import describe_machine, machine_line
from harness.pairs import PairError, run_clients, serving
from harness.registry import is_present
from harness.tables import grid

__all__ = ("main",)

_STORES = {
    "asyncrpc": ("peers.asyncrpc_store", "asyncrpc", "pip install -e ."),
    "torch": ("peers.torch_store", "torch", "pip install torch numpy"),
    "redis": ("peers.redis_store", "redis", "pip install redis; apt-get install redis-server"),
    "etcd": (
        "peers.etcd_store",
        "aiohttp",
        "pip install -e '.[etcd]'; apt-get install etcd-server",
    ),
    "min": ("limits.min_store", "uvloop", "pip install uvloop msgpack"),
}
"""Name to module, import that must be there, what to type when it is not."""

_PROCESSES = 8
_LIMIT = 60.0  # seconds for one client

_OPERATIONS = ("set", "get", "add", "wait", "compare_set")
_FIGURES = (
    *_OPERATIONS,
    *(f"{name}_in_flight" for name in _OPERATIONS),
    "barrier_64_ms",
    "barrier_256_ms",
    "eight_processes_s",
    "eight_processes_cpu_us",
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 0 if every installed store gave figures."""
    options = _parse(arguments)
    problems: dict[str, str] = {}
    rounds: dict[str, list[dict[str, float]]] = {}
    for name in options.stores:
        _, needs, install = _STORES[name]
        if is_present(needs):
            rounds[name] = []
        else:
            problems[name] = f"not installed ({install})"
    for _ in range(options.rounds):
        for name, results in rounds.items():
            try:
                results.append(_measure(name, options.seconds))
            except PairError as error:
                problems[name] = f"failed ({error})"
    machine = describe_machine()
    print(machine_line(machine), "\n")
    print(_table(rounds), *[f"{name}: {why}" for name, why in problems.items()], sep="\n")
    if options.json:
        report = {"machine": machine, "rounds": rounds, "problems": problems}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any("failed" in why for why in problems.values()) else 0


def _measure(name: str, seconds: float) -> dict[str, float]:
    spec: dict[str, object] = {
        "module": "harness.store_load",
        "store": _STORES[name][0],
        "variant": "tcp",
        "seconds": seconds,
        "mixed": False,
        "processes": _PROCESSES,
    }
    with serving(spec, limit=_LIMIT) as client:
        figures = run_clients(client, count=1, limit=_LIMIT)[0]
        several = run_clients(client | {"mixed": True}, count=_PROCESSES, limit=_LIMIT)
    figures |= _eight_processes(several)
    print(f"{name}: done", file=sys.stderr, flush=True)
    return figures


def _eight_processes(clients: list[dict[str, float]]) -> dict[str, float]:
    """Return operations per second, and microseconds of CPU for one, on both sides together.

    Other work on the machine takes from the first, and adds to the second only by cold caches.
    """
    operations = sum(client["rate"] * client["seconds"] for client in clients)
    server = statistics.median(client["server_cpu"] for client in clients)  # each saw all of it
    cpu = server + sum(client["client_cpu"] for client in clients)
    return {
        "eight_processes_s": sum(client["rate"] for client in clients),
        "eight_processes_cpu_us": 1e6 * cpu / operations,
    }


def _table(rounds: dict[str, list[dict[str, float]]]) -> str:
    names = [name for name, results in rounds.items() if results]
    ours = "asyncrpc" in names
    others = [name for name in names if name != "asyncrpc"] if ours else []
    lines = [["operations/s", *names, *(f"asyncrpc / {name}" for name in others)]]
    for figure in _FIGURES:
        cells = [_cell([each[figure] for each in rounds[name] if figure in each]) for name in names]
        lines.append([figure, *cells, *(_ratio(rounds, name, figure) for name in others)])
    return grid(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    median = statistics.median(values)
    text = f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
    return text if len(values) == 1 else f"{text} [{min(values):,.0f}-{max(values):,.0f}]"


def _ratio(rounds: dict[str, list[dict[str, float]]], other: str, figure: str) -> str:
    """Return the median ratio to the other store; in-flight figures to torch's sequential ones."""
    theirs = figure.removesuffix("_in_flight") if other == "torch" else figure
    values = [
        mine[figure] / their[theirs]
        for mine, their in zip(rounds["asyncrpc"], rounds[other], strict=False)
        if figure in mine and theirs in their
    ]
    return f"{statistics.median(values):.2f}" if values else "-"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare key-value stores, side by side.")
    parser.add_argument("--stores", type=_names, default=list(_STORES), help="default: all")
    parser.add_argument("--rounds", type=int, help="default: 3, quick 1")
    parser.add_argument("--quick", action="store_true", help="short measurements, a minute or two")
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = 0.25 if options.quick else 1.0
    return options


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names or not set(names) <= set(_STORES):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(_STORES)}, got {text!r}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
