"""All questions one after the other: `python benchmarks/bench_all.py [--quick] [--results FOLDER]`.

Prints each benchmark's table, and keeps each one's figures as JSON. What is not installed is said
in its table. The whole takes some 10 minutes with the peers installed, 90 s with `--quick` without.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter

__all__ = ("main",)

_FOLDER = Path(__file__).resolve().parent
_LIMIT = 900.0  # seconds for one benchmark
_PATIENCE = 5.0  # seconds for it to end what it has started

_FULL: dict[str, Sequence[str]] = {
    "bench_rpc": ("--rounds", "2", "--peers", "all"),
    "bench_load": ("--rounds", "2"),
    "bench_arrays": ("--rounds", "1"),
    "bench_rref": ("--rounds", "1"),
    "bench_stream": ("--rounds", "1"),
    "bench_store": ("--rounds", "1"),
    "bench_launch": ("--rounds", "2"),
    "bench_failure": ("--rounds", "1", "--patience", "10"),
    "bench_start": (),
}
_QUICK: dict[str, Sequence[str]] = {
    "bench_rpc": ("--quick", "--peers", "asyncrpc-tcp,asyncrpc-unix,asyncrpc-shm,min,opt,raw"),
    "bench_load": ("--quick",),
    "bench_arrays": ("--quick",),
    "bench_rref": ("--quick",),
    "bench_stream": ("--quick",),
    "bench_store": ("--quick", "--stores", "asyncrpc,min"),
    "bench_launch": ("--quick",),
    "bench_failure": ("--quick",),
}


def main(arguments: list[str] | None = None) -> int:
    """Run all, print what each printed; 0 if none failed."""
    options = _parse(arguments)
    options.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, flags in (_QUICK if options.quick else _FULL).items():
        start = perf_counter()
        print(f"== {name} {' '.join(flags)}", flush=True)
        if not _succeeds(name, [*flags, "--json", str(options.results / f"{name}.json")]):
            failed.append(name)
        print(f"({perf_counter() - start:.0f} s)\n", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _succeeds(name: str, flags: Sequence[str]) -> bool:
    command = [sys.executable, str(_FOLDER / f"{name}.py"), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        _, errors = process.communicate(timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"took longer than {_LIMIT:g} s")
        _end(process)
        return False
    except BaseException:
        _end(process)
        raise
    if process.returncode:  # the lines that tell of progress are of no interest otherwise
        sys.stderr.write(errors.decode(errors="replace"))
    return process.returncode == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a benchmark end what it has started: it heard Ctrl-C as well, or hears of it now."""
    for kind in (None, signal.SIGINT, signal.SIGKILL):
        if kind is not None:
            process.send_signal(kind)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_PATIENCE)
            return


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    parser.add_argument("--quick", action="store_true", help="short ones, without peers")
    parser.add_argument(
        "--results",
        type=Path,
        default=_FOLDER / "results",
        help="folder for the JSON files (default: %(default)s)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    raise SystemExit(status)
