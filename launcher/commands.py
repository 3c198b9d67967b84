"""The commands that look at launches instead of making one: ``status``, ``logs``, ``stop``.

Called by `cli`; each prints to stdout and returns the exit status.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

from launcher.control import Launch, find_launches, stop_launch
from launcher.errors import LauncherError, UsageError

__all__ = ("COMMANDS", "run_command")

_HEADINGS = ("RUN", "PID", "NAME", "STATE", "NODES", "ROUND", "RESTARTS", "SECONDS")
_PERIOD = 0.2  # seconds between looks at files that are followed
_CHUNK = 1 << 20

COMMANDS: Mapping[str, str] = {
    "status": "status [RUN] [--json]: show the launches of this user on this machine",
    "logs": "logs [RUN] [--rank RANK] [--follow]: show the log files of a launch",
    "stop": "stop [RUN]: end a launch, as SIGTERM does",
}
"""What each command does, with its arguments; RUN is a run id or the launcher's process id."""


def run_command(name: str, argv: Sequence[str]) -> int:
    """Carry out a command.

    Args:
        name: one of `COMMANDS`.
        argv: its arguments.

    Returns:
        The exit status.

    Raises:
        UsageError: there is no such argument.
        LauncherError: no launch, or not exactly one, is meant.
        OSError: the folder of the sockets is not this user's alone.
    """
    options = _parse(name, argv)
    run: str | None = options["run"]
    launches = _matching(find_launches(os.environ), run)
    if name == "status":
        _show_status(launches, as_json=options["json"])
    elif name == "logs":
        _show_logs(_only(launches, name), options["rank"], follow=options["follow"])
    else:
        launch = _only(launches, name)
        stop_launch(launch, os.environ)
        _print(f"stopping {_named(launch)}")
    return 0


def _parse(name: str, argv: Sequence[str]) -> dict[str, Any]:
    import argparse  # noqa: PLC0415 -- as in cli

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{name}: {message.removeprefix('argument ')}")

    parser = Parser(prog=f"python -m launcher {name}", description=COMMANDS[name])
    parser.add_argument("run", nargs="?", metavar="RUN", help="run id, or the launcher's pid")
    if name == "status":
        parser.add_argument("--json", action="store_true", help="print a JSON array")
    if name == "logs":
        parser.add_argument("--rank", type=int, metavar="RANK", help="of this worker alone")
        parser.add_argument(
            "-f", "--follow", action="store_true", help="go on until the launch has ended"
        )
    return vars(parser.parse_args(list(argv)))


def _matching(launches: Sequence[Launch], run: str | None) -> Sequence[Launch]:
    if run is None:
        return launches
    found = [
        launch for launch in launches if run in (launch.status["run_id"], str(launch.status["pid"]))
    ]
    if not found:  # unless it is one of those that have not told their run ids
        silent = "".join(f"; {_silence(launch)}" for launch in launches if not launch.answers)
        raise LauncherError(
            f"{run}: no such launch of this user is running on this machine{silent}"
        )
    return found


def _only(launches: Sequence[Launch], command: str) -> Launch:
    if not launches:
        ended = "; logs of those that have ended are in their --log-dir" * (command == "logs")
        raise LauncherError(f"no launch of this user is running on this machine{ended}")
    if len(launches) > 1:
        known = ", ".join(map(_named, launches))
        raise LauncherError(f"{command}: expected the run id or pid of one of {known}")
    if not launches[0].answers:
        raise LauncherError(_silence(launches[0]))
    return launches[0]


def _named(launch: Launch) -> str:
    if not launch.answers:
        return _silence(launch)
    return f"{launch.status['run_id']} (pid {launch.status['pid']})"


def _silence(launch: Launch) -> str:
    return f"pid {launch.status['pid']} does not answer"


def _show_status(launches: Sequence[Launch], *, as_json: bool) -> None:
    if as_json:
        _print(json.dumps([launch.status for launch in launches]))
        return
    if not launches:
        _print("no launch of this user is running on this machine")
        return
    answering = [launch for launch in launches if launch.answers]
    if answering:
        _show_table(answering)
    for launch in launches:
        if not launch.answers:
            _print(_silence(launch))


def _show_table(launches: Sequence[Launch]) -> None:
    rows = [_HEADINGS, *(_row(launch.status) for launch in launches)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    _print(_line(rows[0], widths))
    for launch, row in zip(launches, rows[1:], strict=True):
        _print(_line(row, widths))
        for worker in launch.status["workers"]:
            _print(
                f"  rank {worker['rank']} (local_rank {worker['local_rank']}, pid "
                f"{worker['pid']}): {worker['state']}"
            )


def _row(status: Mapping[str, Any]) -> tuple[str, ...]:
    restarts = f"{status['restarts']}/{status['max_restarts']}"
    fields = [status[key] for key in ("run_id", "pid", "name", "state", "nodes", "round")]
    return tuple(str(field) for field in (*fields, restarts, int(status["seconds"])))


def _line(row: Iterable[str], widths: Iterable[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join(cells).rstrip()


def _show_logs(launch: Launch, rank: int | None, *, follow: bool) -> None:
    status = launch.status
    workers = [worker for worker in status["workers"] if rank in (None, worker["rank"])]
    if not status["workers"]:
        raise LauncherError(f"{status['run_id']}: no worker has been started on this node yet")
    if not workers:
        raise LauncherError(f"--rank={rank}: expected the rank of a worker of this node")
    paths = {
        path: f"[rank {worker['rank']}] ".encode() if rank is None else b""
        for worker in workers
        for path in (worker["stdout"], worker["stderr"])
        if path and path != os.devnull
    }
    if not paths:
        raise LauncherError(
            f"{status['run_id']}: no log files are kept; launch with --log-dir DIR and -t 3 or -r 3"
        )
    files = {open(path, "rb"): prefix for path, prefix in paths.items()}  # noqa: SIM115 -- below
    try:
        while True:
            goes_on = follow and _is_running(launch)
            for file, prefix in files.items():
                _copy(file, prefix, ends=not goes_on)
            if not goes_on:
                return
            time.sleep(_PERIOD)
    finally:
        for file in files:
            file.close()


def _is_running(launch: Launch) -> bool:
    return any(other.socket == launch.socket for other in find_launches(os.environ))


def _copy(file: BinaryIO, prefix: bytes, *, ends: bool) -> None:
    """Print what was added to a file: whole lines, and at the end the rest."""
    for line in _lines(file, ends=ends):
        sys.stdout.buffer.write(prefix + line)
    sys.stdout.flush()


def _lines(file: BinaryIO, *, ends: bool) -> Iterator[bytes]:
    while line := file.readline(_CHUNK):
        if line.endswith(b"\n") or len(line) == _CHUNK:
            yield line
        elif ends:
            yield line + b"\n"
        else:
            file.seek(-len(line), os.SEEK_CUR)
            return


def _print(text: str) -> None:
    print(text)  # noqa: T201 -- a command line talks
