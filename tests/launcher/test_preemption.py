"""Going in order: real launchers that get the signal, and what their workers make of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.launcher.conftest import Start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

Script = Callable[[str], str]

HEAD = """
    from launcher.preemption import on_preempt, preempted
    rank = os.environ["RANK"]
    def tell(*facts):
        print(json.dumps([int(rank), *facts]), flush=True)
    def end(number, _):
        tell("TERM")
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
"""
SIGNAL = "--preempt-signals=USR1"


def up(launcher: subprocess.Popen[str], workers: int = 1) -> None:
    """Wait until that many workers have said that they are up."""
    assert launcher.stdout is not None
    for _ in range(workers):
        assert launcher.stdout.readline().endswith('"up"]\n')


def finish(launcher: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Wait for a launcher; return its status, the lines of its workers, and its stderr."""
    stdout, stderr = launcher.communicate(timeout=30)
    return launcher.returncode, stdout.splitlines(), stderr


def test_hooks_are_done_before_the_worker_is_stopped(start: Start, script: Script) -> None:
    """They learn how long they have, and the exit status asks to be started again."""
    path = script(
        HEAD
        + """
    @on_preempt
    def save(left):
        tell("save", round(left))
        time.sleep(0.2)
        tell("saved")
    tell("up")
    while True:
        time.sleep(0.01)
    """
    )
    launcher = start(SIGNAL, "--preempt-notice=40", path)
    up(launcher)
    launcher.send_signal(signal.SIGUSR1)
    status, lines, stderr = finish(launcher)

    assert status == 85
    assert lines == ['[0, "save", 30]', '[0, "saved"]', '[0, "TERM"]']
    assert stderr.splitlines() == [
        "launcher: SIGUSR1: this node has to go; workers prepare: 1, for 30 s",
        "launcher: left the run; status 85 asks to be started again",
    ]


def test_a_notice_that_comes_at_the_very_start_counts(start: Start, script: Script) -> None:
    """The launcher knows the signal, and is not ready for it yet."""
    path = script(
        HEAD
        + """
    while preempted() is None:
        time.sleep(0.01)
    """
    )
    launcher = start(path, env={"SLURM_JOB_ID": "7"})
    assert launcher.stderr is not None
    assert launcher.stderr.readline() == (
        "launcher: detected Slurm job 7: --preempt-signals=USR1 (--no-detect turns this off)\n"
    )
    launcher.send_signal(signal.SIGUSR1)
    status, _, stderr = finish(launcher)

    assert status == 85
    assert stderr.endswith("hint: scontrol requeue 7\n")


def test_coroutine_functions_run_on_the_loop_of_the_worker(start: Start, script: Script) -> None:
    """What they await goes on meanwhile."""
    path = script(
        HEAD
        + """
    import asyncio
    async def main():
        loop = asyncio.get_running_loop()
        # A handler of signal.signal may have to wait for what wakes the loop next.
        loop.add_signal_handler(signal.SIGTERM, end, 0, None)
        async def save(left):
            assert asyncio.get_running_loop() is loop
            ready.set()
            await saved.wait()
            tell("saved")
        ready, saved = asyncio.Event(), asyncio.Event()
        on_preempt(save)
        tell("up")
        await ready.wait()
        saved.set()
        await asyncio.sleep(60)
    asyncio.run(main())
    """
    )
    launcher = start(SIGNAL, path)
    up(launcher)
    launcher.send_signal(signal.SIGUSR1)
    status, lines, _ = finish(launcher)

    assert (status, lines) == (85, ['[0, "saved"]', '[0, "TERM"]'])


def test_a_loop_may_ask_between_two_steps(start: Start, script: Script) -> None:
    """It ends the worker by itself, and that counts as no success of the run."""
    path = script(
        HEAD
        + """
    assert preempted() is None
    tell("up")
    while (left := preempted()) is None:
        time.sleep(0.01)
    tell("left", round(left))
    """
    )
    launcher = start(SIGNAL, path)
    up(launcher)
    launcher.send_signal(signal.SIGUSR1)
    status, lines, _ = finish(launcher)

    assert (status, lines) == (85, ['[0, "left", 45]'])


def test_workers_that_do_not_care_wait_for_those_that_do(start: Start, script: Script) -> None:
    """A checkpoint may need all of them; alone they are stopped at once."""
    path = script(
        HEAD
        + """
    if rank == "0":
        def save(left):
            os.kill(int(open("other").read()), 0)  # it is there
            tell("saved")
        while not os.path.exists("other"):
            time.sleep(0.01)
        on_preempt(save)
    else:
        with open("draft", "w") as file:
            file.write(str(os.getpid()))
        os.rename("draft", "other")
    tell("up")
    time.sleep(60)
    """
    )
    launcher = start(SIGNAL, "--nproc-per-node=2", path)
    up(launcher, 2)
    launcher.send_signal(signal.SIGUSR1)
    status, lines, _ = finish(launcher)

    assert status == 85
    assert lines[0] == '[0, "saved"]'
    assert sorted(lines[1:]) == ['[0, "TERM"]', '[1, "TERM"]']


def test_without_hooks_workers_are_stopped_at_once(start: Start, script: Script) -> None:
    """By SIGTERM, as ever."""
    launcher = start(SIGNAL, script(HEAD + '    tell("up")\n    time.sleep(60)'))
    up(launcher)
    launcher.send_signal(signal.SIGUSR1)
    status, lines, stderr = finish(launcher)

    assert (status, lines) == (85, ['[0, "TERM"]'])
    assert "workers prepare: 0" in stderr


def test_hooks_do_not_outlast_the_notice(start: Start, script: Script) -> None:
    """The time to stop in is kept, and who was late is told."""
    path = script(
        HEAD + '    on_preempt(lambda left: time.sleep(60))\n    tell("up")\n    time.sleep(60)'
    )
    launcher = start(SIGNAL, "--preempt-notice=1", path)
    up(launcher)
    launcher.send_signal(signal.SIGUSR1)
    status, lines, stderr = finish(launcher)

    assert (status, lines) == (85, ['[0, "TERM"]'])
    assert "launcher: not ready in time: 1 of 1 workers\n" in stderr


def test_what_a_hook_raises_is_shown(start: Start, script: Script) -> None:
    """And keeps nobody from leaving."""
    path = script(HEAD + '    on_preempt(lambda left: 1 / 0)\n    tell("up")\n    time.sleep(60)')
    launcher = start(SIGNAL, path)
    up(launcher)
    launcher.send_signal(signal.SIGUSR1)
    status, lines, stderr = finish(launcher)

    assert (status, lines) == (85, ['[0, "TERM"]'])
    assert "ZeroDivisionError" in stderr


def test_the_signal_may_be_one_that_stops_the_run(start: Start, script: Script) -> None:
    """Then the first is the notice, and the second stops it whatever hooks do."""
    path = script(
        HEAD
        + """
    def save(left):
        tell("up")
        time.sleep(60)
    on_preempt(save)
    tell("up")
    time.sleep(60)
    """
    )
    launcher = start("--preempt-signals=TERM", path)
    up(launcher)
    launcher.send_signal(signal.SIGTERM)
    up(launcher)
    time.sleep(0.6)  # at once it would be the same one
    launcher.send_signal(signal.SIGTERM)
    status, lines, _ = finish(launcher)

    assert (status, lines) == (85, ['[0, "TERM"]'])


def test_workers_that_get_the_signal_too_are_not_ended_by_it(start: Start, script: Script) -> None:
    """Slurm may send it to all processes of a step."""
    path = script(
        HEAD
        + """
    on_preempt(lambda left: tell("saved"))
    os.kill(os.getpid(), signal.SIGUSR1)
    tell("up")
    time.sleep(60)
    """
    )
    launcher = start(SIGNAL, path)
    up(launcher)
    launcher.send_signal(signal.SIGUSR1)
    status, lines, _ = finish(launcher)

    assert (status, lines) == (85, ['[0, "saved"]', '[0, "TERM"]'])


@pytest.fixture
def endpoint() -> str:
    """Return the option that says where two nodes on this machine meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"--rdzv-endpoint=127.0.0.1:{probe.getsockname()[1]}"


def touch(path: str, name: str) -> None:
    """Make a file next to a script."""
    with open(os.path.join(os.path.dirname(path), name), "w"):
        pass


def test_a_node_that_is_ready_waits_for_those_that_prepare(
    start: Start, script: Script, endpoint: str
) -> None:
    """A checkpoint may need all workers, though one has the hook; signals come one by one."""
    path = script(
        HEAD
        + """
    def stop(number, _):
        open("stopped", "w").close()
        end(number, _)
    def save(left):
        time.sleep(1.2)
        tell("saved", os.path.exists("stopped"))
    if rank == "0":
        on_preempt(save)
    else:
        signal.signal(signal.SIGTERM, stop)
    tell("up")
    time.sleep(60)
    """
    )
    nodes = [start(SIGNAL, "--nnodes=2", endpoint, f"--node-rank={rank}", path) for rank in (0, 1)]
    for node in nodes:
        up(node)
    nodes[1].send_signal(signal.SIGUSR1)
    assert nodes[1].stderr is not None
    line = nodes[1].stderr.readline()
    nodes[0].send_signal(signal.SIGUSR1)
    ends = [finish(node) for node in nodes]

    assert "workers prepare: 0" in line
    assert [status for status, _, _ in ends] == [85, 85]
    assert ends[0][1] == ['[0, "saved", false]', '[0, "TERM"]'], ends[0][2]
    assert ends[1][1] == ['[1, "TERM"]'], ends[1][2]


def test_hooks_outlive_the_node_that_hosts_the_store(
    start: Start, script: Script, endpoint: str
) -> None:
    """The loss of it counts when they are done."""
    path = script(
        HEAD
        + """
    def save(left):
        while rank == "1" and not os.path.exists("gone"):
            time.sleep(0.01)
        time.sleep(0.3)
        tell("saved")
    on_preempt(save)
    tell("up")
    time.sleep(60)
    """
    )
    host, other = (
        start(SIGNAL, "--nnodes=2", endpoint, f"--node-rank={rank}", *options, path)
        for rank, options in enumerate(
            (("--rdzv-conf=is_host=1", "--preempt-notice=1"), ("--rdzv-conf=is_host=0",))
        )
    )
    for node in (host, other):
        up(node)
        node.send_signal(signal.SIGUSR1)
    first = finish(host)
    touch(path, "gone")
    second = finish(other)

    assert first[:2] == (85, ['[0, "saved"]', '[0, "TERM"]']), first[2]
    assert second[:2] == (85, ['[1, "saved"]', '[1, "TERM"]']), second[2]


def test_the_others_go_on_without_the_node(start: Start, script: Script, endpoint: str) -> None:
    """A node that is taken away alone leaves in order, and they form a round at once."""
    path = script(
        HEAD
        + """
    on_preempt(lambda left: tell("saved"))
    tell(os.environ["WORLD_SIZE"], "up")
    while not os.path.exists("go"):
        time.sleep(0.01)
    """
    )
    stays = start("--nnodes=1:2", endpoint, "--rdzv-conf=is_host=1", path)
    goes = start(SIGNAL, "--nnodes=1:2", endpoint, "--rdzv-conf=is_host=0", path)
    for node in (stays, goes):
        up(node)
    goes.send_signal(signal.SIGUSR1)
    status, lines, _ = finish(goes)
    assert stays.stdout is not None
    rest = [stays.stdout.readline(), stays.stdout.readline()]
    touch(path, "go")

    assert status == 85
    assert [line.partition(", ")[2] for line in lines] == ['"saved"]', '"TERM"]']
    assert [line.partition(", ")[2] for line in rest] == ['"TERM"]\n', '"1", "up"]\n']
    assert finish(stays)[0] == 0
