"""One launch of worker processes: start, wait within a bound, report time, status and memory.

Standard library only: the memory figure of a child starts at the size of its parent.
"""

from __future__ import annotations

import compileall
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = (
    "Launch",
    "Launcher",
    "bare",
    "compile_own",
    "has_torch",
    "launch",
    "launch_environment",
    "own_launcher",
    "torchrun",
    "worker_script",
)

_PROJECT = Path(__file__).resolve().parents[2]
_WORKER = Path(__file__).resolve().with_name("launched_worker.py")

_LIMIT = 60.0  # seconds for one launch

Launcher = Callable[[int, int, str], list[str]]
"""(workers, restarts, mode of the worker) to a command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What one launch was."""

    status: int  # exit status; negative: signal
    wall: float  # seconds from start to exit of the launcher
    ended_at: float  # time.monotonic() at its exit
    peak_memory: int  # bytes; the largest resident set of the launcher or of one worker
    times: dict[str, float]  # what the workers noted, time.monotonic()
    last_line: str  # of its standard error


def compile_own() -> None:
    """Compile this project's modules, as pip does with those that it installs.

    Python does it at the first import, but not where PYTHONDONTWRITEBYTECODE is set: there each
    launch would compile them anew, next to a torchrun that pip has compiled.
    """
    for package in ("asyncrpc", "launcher"):
        compileall.compile_dir(_PROJECT / package, quiet=1)


def own_launcher(workers: int, restarts: int, mode: str) -> list[str]:
    """Return the command line of this project's launcher."""
    return [sys.executable, "-m", "launcher", *_options(workers, restarts), str(_WORKER), mode]


def torchrun(python: str) -> Launcher:
    """Return the command line maker for torchrun in another interpreter."""

    def command(workers: int, restarts: int, mode: str) -> list[str]:
        module = [python, "-m", "torch.distributed.run"]
        return [*module, *_options(workers, restarts), str(_WORKER), mode]

    return command


def bare(workers: int, _restarts: int, mode: str) -> list[str]:
    """Return a shell that starts the workers and waits: the floor of any launcher."""
    lines = [
        f'RANK={rank} {sys.executable} {_WORKER} {mode} & pids="$pids $!"'
        for rank in range(workers)
    ]
    return ["/bin/sh", "-c", "\n".join([*lines, "wait $pids"])]


def launch(command: list[str]) -> Launch:
    """Run a launcher to its end. Raises TimeoutError after a minute, the process group ended."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        errors = Path(folder) / "stderr"
        with errors.open("wb") as stderr:
            start = time.monotonic()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=launch_environment(folder),
                cwd=folder,
                start_new_session=True,
            )
            status, peak, ended_at = _wait(process, start + _LIMIT)
        return Launch(
            status=status,
            wall=ended_at - start,
            ended_at=ended_at,
            peak_memory=peak,
            times=_read_times(Path(folder)),
            last_line=_last_line(errors),
        )


def has_torch(python: str) -> bool:
    """Say whether an interpreter has torch, without importing it."""
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    try:
        return subprocess.run([python, "-c", probe], check=False, timeout=20).returncode == 0
    except OSError:
        return False


def worker_script() -> str:
    """Return the path of what the launchers start."""
    return str(_WORKER)


def launch_environment(folder: str) -> dict[str, str]:
    """Return the environment of a launcher whose workers note moments in a folder."""
    path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "BENCH_FOLDER": folder, "OMP_NUM_THREADS": "1"}


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[int, int, float]:
    """Wait with wait4, which alone tells the memory; a pidfd gives it the bound."""
    descriptor = os.pidfd_open(process.pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], deadline - time.monotonic())
        ended_at = time.monotonic()
        if not ready:
            os.killpg(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # Ctrl-C: it has a session of its own, and would not hear of it
        process.kill()
        process.wait()
        raise
    finally:
        os.close(descriptor)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not ready:
        raise TimeoutError(f"{process.args!r} took more than {_LIMIT:g} s")
    return process.returncode, usage.ru_maxrss * 1024, ended_at


def _read_times(folder: Path) -> dict[str, float]:
    return {path.stem: float(path.read_text()) for path in folder.glob("*.time")}


def _last_line(errors: Path) -> str:
    lines = errors.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def _options(workers: int, restarts: int) -> list[str]:
    return [
        "--standalone",
        f"--nproc-per-node={workers}",
        f"--max-restarts={restarts}",
    ]
