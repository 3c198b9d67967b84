"""How many instructions does a small call cost, next to the least that a Python RPC can do?

`python benchmarks/bench_instructions.py [--calls N] [--check F] [--record F]`

Counts with callgrind (`valgrind` must be installed), both sides of a call over TCP in one process,
so that it measures the same on a busy machine as on an idle one. `--record` appends the ratios to
a file, `--check` fails if one has grown by more than a tenth since the file's last line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import uvloop

import asyncrpc as rpc
from asyncrpc.store import MemoryStore
from harness.budget import small_value
from limits.min_rpc import MinClient, MinServer

__all__ = ("main",)

IN_FLIGHT = (1, 128)
ALLOWED_GROWTH = 1.1
"""Ratio to the last line of the history from which `--check` fails."""
TIMEOUT = 300.0
"""Seconds for one count; most of it goes into the imports, at a fiftieth of their speed."""

Call = Callable[[object], Awaitable[object]]


async def echo(value: object) -> object:
    """Give the argument back."""
    return value


def main(arguments: list[str] | None = None) -> int:
    """Count, print, compare; 0 if nothing has grown too much."""
    options = _parse(arguments)
    if options.run:
        row, in_flight = options.run.split(":")
        uvloop.run(ROWS[row](options.calls, int(in_flight)))
    if shutil.which("valgrind") is None:
        print("valgrind is not installed (apt-get install valgrind)", file=sys.stderr)
        return 1
    ratios = {}
    print("| in flight | MIN | asyncrpc | ratio |\n|---|---|---|---|")
    for in_flight in IN_FLIGHT:
        least, ours = (_count(row, in_flight, options.calls) for row in ROWS)
        ratios[str(in_flight)] = round(ours / least, 3)
        print(f"| {in_flight} | {least:,.0f} | {ours:,.0f} | {ours / least:.2f} |", flush=True)
    grown = _grown(options.check, ratios) if options.check else []
    if options.record:
        with options.record.open("a") as history:
            history.write(json.dumps({"ratios": ratios, "with": _versions()}) + "\n")
    for line in grown:
        print(line, file=sys.stderr)
    return 1 if grown else 0


def _grown(path: Path, ratios: dict[str, float]) -> list[str]:
    """Say what costs more than a tenth more than in the last line of the history."""
    last = json.loads(path.read_text().splitlines()[-1])["ratios"]
    return [
        f"{in_flight} in flight: {ratio} times MIN, was {last[in_flight]}"
        for in_flight, ratio in ratios.items()
        if ratio > ALLOWED_GROWTH * last[in_flight]
    ]


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("uvloop", "msgpack")}
    return {"python": platform.python_version(), **packages}


def _count(row: str, in_flight: int, calls: int) -> float:
    """Return the instructions of one call."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/count",
                "--zero-before=*getpgid*", "--dump-before=*getsid*", f"--log-file={folder}/log",
                sys.executable, __file__, "--calls", str(calls), "--run", f"{row}:{in_flight}",
            ],
            check=True,
            timeout=TIMEOUT,
            env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        text = Path(folder, "count.1").read_text()
    match = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) / calls


async def _load(call: Call, calls: int, in_flight: int) -> None:
    """Make calls, with those marks around them at which callgrind begins and ends."""
    value = small_value("dict")

    async def caller(count: int) -> None:
        for _ in range(count):
            await call(value)

    async def flood(count: int) -> None:
        await asyncio.gather(*[caller(count // in_flight) for _ in range(in_flight)])

    await flood(max(300, 2 * in_flight))  # the interpreter adapts code that is run often
    os.getpgid(0)
    await flood(calls)
    os.getsid(0)
    os._exit(0)


async def _run_min(calls: int, in_flight: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(MinServer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, client = await loop.create_connection(MinClient, "127.0.0.1", port)
    await _load(client.call, calls, in_flight)


async def _run_asyncrpc(calls: int, in_flight: int) -> None:
    sys.modules["bench_instructions"] = sys.modules["__main__"]
    echo.__module__ = "bench_instructions"  # functions of __main__ do not travel by name
    store = MemoryStore()
    options = rpc.RpcOptions(
        listen="tcp://127.0.0.1:0", secret=os.urandom(32), init_timeout=TIMEOUT
    )
    await asyncio.gather(
        rpc.RpcAgent.start("server", rank=0, world_size=2, options=options, store=store),
        rpc.init_rpc("client", rank=1, world_size=2, options=options, store=store),
    )
    await _load(lambda value: rpc.rpc_async("server", echo, args=(value,)), calls, in_flight)


ROWS = {"min": _run_min, "asyncrpc": _run_asyncrpc}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count the instructions of a small call.")
    parser.add_argument(
        "--calls", type=int, default=2560, help="counted calls (default: %(default)s)"
    )
    parser.add_argument("--check", type=Path, help="fail if much more than in its last line")
    parser.add_argument("--record", type=Path, help="append a line of ratios to this file")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
