"""Many restarts leave nothing behind: no process, no zombie, no descriptor, no thread, no file.

``LAUNCHER_RESTARTS`` says how many, as in ``make soak``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.launcher.conftest import Start, finish, wait_for_lines

RESTARTS = int(os.environ.get("LAUNCHER_RESTARTS", "30"))
KINDS = ("command", "fork", "forkserver", "spawn")[: 2 if RESTARTS < 100 else 4]  # slower ones last
EARLY = 5  # by then everything is loaded and opened that is kept

pytestmark = [pytest.mark.slow, pytest.mark.timeout(20 + RESTARTS)]

# One of two fails, now and then with a process left behind; two rounds wait to be looked at.
WORKER = f"""
n=$TORCHELASTIC_RESTART_COUNT
if [ $((n % 10)) = 3 ]; then setsid sleep 600 & fi
if [ $n = {EARLY} ] || [ $n = {RESTARTS} ]; then
    echo ready
    read line < go$n
fi
[ $n = {RESTARTS} ] || [ $RANK = 0 ] || exit 3
"""


# The same as a function, in processes that are forked from others than the guardian.
FUNCTION = f"""
n, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
if n in ("{EARLY}", "{RESTARTS}"):
    print("ready", flush=True)
    os.read(os.open(f"go{{n}}", os.O_RDONLY), 1)
if n != "{RESTARTS}" and rank == "1":
    sys.exit(3)
"""


def held(launcher: psutil.Process) -> dict[str, object]:
    """Return what a launcher whose two workers run holds on to."""
    below = launcher.children(recursive=True)
    folder = Path(launcher.environ()["TMPDIR"])
    counts = []
    for _ in range(10):  # a start is followed by some work that opens and closes
        time.sleep(0.02)
        counts.append(sum(process.num_fds() for process in (launcher, *below)))
    return {
        "descriptors": min(counts),
        "threads": launcher.num_threads(),
        "zombies": [p.pid for p in below if p.status() == psutil.STATUS_ZOMBIE],
        "files": sorted(path.name.rpartition("_")[0] for path in folder.iterdir()),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_many_restarts_leave_nothing(
    start: Start, script: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    """After many rounds a launcher holds what it held after a few, and in the end nothing."""
    what: tuple[str, ...] = ("--no-python", "sh", "-c", WORKER)
    if kind != "command":
        what = (f"--start-method={kind}", "--run-path", script(FUNCTION))
    gates = [tmp_path / f"go{restarts}" for restarts in (EARLY, RESTARTS)]
    for gate in gates:
        os.mkfifo(gate)  # workers wait there, without a child that would be counted
    with open(tmp_path / "stderr", "w") as told:  # more than a pipe holds
        process = start("--nproc-per-node=2", f"--max-restarts={RESTARTS}", *what, stderr=told)
    launcher = psutil.Process(process.pid)
    found = []
    with ExitStack() as files:
        for gate in gates:
            wait_for_lines(process, 2)
            while not [*tmp_path.glob("tmp/launcher-*/*")]:  # the socket for `launcher status`
                time.sleep(0.01)
            found.append(held(launcher))
            files.enter_context(open(gate, "r+b", buffering=0)).write(b"\n\n")
        status = finish(process)[0]

    early, late = found
    assert status == 0
    assert (tmp_path / "stderr").read_text().count("starting all workers again") == RESTARTS
    assert late == early
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == []
