"""How a launch ends that is told to: the signal, the grace, the status, and what is printed.

Real launchers, real workers, real signals.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.launcher.conftest import Start, finish, gone, wait_for_lines

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_stops_the_run_in_order(
    script: Callable[[str], str], start: Start, number: signal.Signals
) -> None:
    """Workers get the same signal and may finish; the status is 128+N; nobody sees a traceback."""
    path = script(
        f"""
        signal.signal({int(number)}, lambda n, f: (print("got", n, flush=True), os._exit(0)))
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    process = start("--nproc-per-node=2", path, env={"OMP_NUM_THREADS": "1"})
    wait_for_lines(process, 2)
    process.send_signal(number)
    status, stdout, stderr = finish(process)

    assert (status, stdout, stderr) == (128 + number, f"got {int(number)}\n" * 2, "")


STUBBORN = """
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, f: print("got", n, flush=True))
print(os.getpid(), flush=True)
while True:
    time.sleep(60)
"""


LATER = 0.6  # seconds after which the same signal is another one


def test_a_signal_that_comes_twice_at_once_counts_once(
    script: Callable[[str], str], start: Start
) -> None:
    """`timeout` signals its child and then the group: no reason to lose a checkpoint."""
    path = script(
        """
        def save(number, frame):
            time.sleep(0.5)
            print("saved", flush=True)
            os._exit(0)
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    process = start(path)
    wait_for_lines(process, 1)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)  # else the system makes one of them

    assert finish(process)[:2] == (128 + signal.SIGTERM, "saved\n")


def test_a_second_signal_kills(script: Callable[[str], str], start: Start) -> None:
    """Whoever presses Ctrl-C twice does not wait for the grace."""
    process = start("--shutdown-timeout=60", script(STUBBORN))
    pids = [int(line) for line in wait_for_lines(process, 1)]
    process.send_signal(signal.SIGINT)
    wait_for_lines(process, 1)
    time.sleep(LATER)
    process.send_signal(signal.SIGINT)
    status, _, stderr = finish(process)

    assert status == 130
    assert re.fullmatch(
        rf"launcher: killed with SIGKILL \d+\.\d s after SIGINT: worker 0 \(pid {pids[0]}\)\n",
        re.sub("launcher: waiting for .*\n", "", stderr),  # on a machine that is slow
    )
    assert gone(pids, 0)


def test_a_stop_that_lasts_is_not_silent(script: Callable[[str], str], start: Start) -> None:
    """Who keeps the launcher waiting, how long it waits, and how it ended."""
    process = start("--shutdown-timeout=2", script(STUBBORN))
    (pid,) = (int(line) for line in wait_for_lines(process, 1))
    process.send_signal(signal.SIGTERM)
    status, _, stderr = finish(process)
    waiting, killed = stderr.splitlines()

    assert status == 143
    assert waiting.startswith(f"launcher: waiting for worker 0 (pid {pid}) to end on SIGTERM; ")
    assert "or at once when told a second time" in waiting
    assert killed.startswith("launcher: killed with SIGKILL 2.")
    assert killed.endswith(f"s after SIGTERM: worker 0 (pid {pid})")


@pytest.mark.parametrize("timeout", ["0", "0.3"])
def test_the_grace_is_the_shutdown_timeout(
    script: Callable[[str], str], start: Start, timeout: str
) -> None:
    """Then comes SIGKILL; with 0, at once."""
    process = start("--shutdown-timeout", timeout, script(STUBBORN))
    pids = [int(line) for line in wait_for_lines(process, 1)]
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    status, stdout, _ = finish(process)
    took = time.monotonic() - began

    assert (status, stdout) == (143, "" if timeout == "0" else "got 15\n")
    assert float(timeout) <= took < 10
    assert gone(pids, 0)


def test_nohup_is_respected(script: Callable[[str], str], start: Start) -> None:
    """A launcher that was told to ignore SIGHUP ignores it."""
    path = script("print('ready', flush=True); time.sleep(0.5)")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(path)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_lines(process, 1)
    process.send_signal(signal.SIGHUP)

    assert finish(process)[0] == 0


def test_a_signal_ends_the_wait_for_a_restart(script: Callable[[str], str], start: Start) -> None:
    """Nobody has to wait a minute."""
    path = script("print('running', flush=True); sys.exit(5)")
    process = start("--max-restarts=1", "--restart-backoff=60", path)
    wait_for_lines(process, 1)
    psutil.wait_procs(psutil.Process(process.pid).children(recursive=True), timeout=0.5)
    process.send_signal(signal.SIGTERM)

    assert finish(process)[0] == 128 + signal.SIGTERM


def test_forwarded_signals_reach_workers_and_stop_nothing(
    script: Callable[[str], str], start: Start
) -> None:
    """Every worker has it; the run goes on to its own end."""
    path = script(
        """
        got = []
        signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
        print("ready", flush=True)
        while not got:
            time.sleep(0.05)
        print("got it", flush=True)
        """
    )
    process = start("--nproc-per-node=2", "--forward-signals=USR1", path)
    assert wait_for_lines(process, 2) == ["ready", "ready"]
    process.send_signal(signal.SIGUSR1)

    assert finish(process)[:2] == (0, "got it\ngot it\n")


def test_a_stopped_worker_ends_in_order(script: Callable[[str], str], start: Start) -> None:
    """It is woken up to hear the signal, rather than killed after the grace."""
    path = script(
        """
        signal.signal(signal.SIGTERM, lambda n, f: (print("got", n, flush=True), os._exit(0)))
        print("ready", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)
        """
    )
    process = start("--shutdown-timeout=60", path)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)

    assert finish(process) == (143, "got 15\n", "")


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
GRACE = 0.5

BEHAVIOURS = {
    "ends": "echo; exec sleep 600",
    "ignores": "trap '' TERM INT HUP QUIT; echo; sleep 600",
    "is stopped": "echo; kill -STOP $$; sleep 600",
    "ignores and is stopped": "trap '' TERM INT HUP QUIT; echo; kill -STOP $$; sleep 600",
    "fails": "trap 'echo broken >&2; exit 9' TERM INT HUP QUIT; echo; while :; do sleep 0.1; done",
}
"""What the worker of rank 1 does when it is told to end; a line says that it is ready."""


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_signal_ends_every_launch(start: Start, behaviour: str) -> None:
    """Within the grace and a second, with 128+N, whatever a worker does; nobody is blamed."""
    script = f"[ $RANK = 0 ] && echo && exec sleep 600; {BEHAVIOURS[behaviour]}"
    options = ("--nproc-per-node=2", f"--shutdown-timeout={GRACE}", "--no-python", "sh", "-c")
    launches = [start(*options, script, env={"OMP_NUM_THREADS": "1"}) for _ in SIGNALS]
    for launch in launches:
        wait_for_lines(launch, 2)
    workers = [[p.pid for p in psutil.Process(x.pid).children(recursive=True)] for x in launches]
    began = time.monotonic()
    for launch, number in zip(launches, SIGNALS, strict=True):
        launch.send_signal(number)
    ends = [finish(launch) for launch in launches]
    took = time.monotonic() - began

    assert [status for status, _, _ in ends] == [128 + number for number in SIGNALS]
    assert took < GRACE + 10  # the rule is one second, on a machine that is not busy
    assert all(gone(pids, 0) for pids in workers)
    told = r"launcher: killed with SIGKILL 0\.\d s after {}: worker 1 \(pid \d+\)\n"
    for number, (_, _, stderr) in zip(SIGNALS, ends, strict=True):
        if "ignores" in behaviour:
            assert re.fullmatch(told.format(number.name), stderr)
        else:
            assert "launcher" not in stderr  # a shell may have said of what it died
            assert stderr.endswith("broken\n" if behaviour == "fails" else "")


def test_logs_are_complete(script: Callable[[str], str], start: Start, tmp_path: Path) -> None:
    """What workers write before a signal and on it comes to the console and to the files."""
    path = script(
        """
        def stop(number, frame):
            for line in range(1000, 20_000):
                print(line)
            sys.exit(3)
        for line in range(1000):
            print(line)
        signal.signal(signal.SIGTERM, stop)
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
        """
    )
    logs = tmp_path / "logs"
    process = start("--nproc-per-node=2", "-t3", "--log-dir", str(logs), path)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert sum("ready" in next(lines) for _ in range(3)) == 2  # the other line is ours
    process.send_signal(signal.SIGTERM)
    status, stdout, stderr = finish(process)

    whole = [str(line) for line in range(20_000)]
    files = [path.read_text().splitlines() for path in sorted(logs.rglob("stdout.log"))]
    shown = stdout.splitlines()
    assert (status, stderr) == (143, "")
    assert files == [whole, whole]
    for rank in (0, 1):
        prefix = f"[default{rank}]:"
        assert [x.removeprefix(prefix) for x in shown if x.startswith(prefix)] == whole
