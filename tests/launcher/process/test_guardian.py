"""launcher.process.guardian: the parent of the workers, seen from the agent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from launcher.errors import GuardianError
from launcher.process import Guardian
from launcher.process.guardian import GuardedProcess, process_state

pytestmark = pytest.mark.asyncio

Spawn = Callable[..., Awaitable[GuardedProcess]]


async def read_line(fd: int) -> str:
    """Read a line from a pipe without blocking the loop."""
    with open(fd, closefd=False) as file:
        return (await asyncio.to_thread(file.readline)).strip()


async def dead(pid: int) -> None:
    """Return when a process has ended; init may take its time to reap it."""
    while process_state(pid) not in ("", "Z"):
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("status", [0, 3, 255])
async def test_exit_status(spawn: Spawn, status: int) -> None:
    """The status of a program is reported as it is."""
    process = await spawn("sh", "-c", f"exit {status}")

    assert (await process.exited).code == status


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGKILL, signal.SIGHUP])
async def test_death_by_signal(spawn: Spawn, signum: signal.Signals) -> None:
    """A signal is the negative status; it was not ours."""
    process = await spawn("sh", "-c", f"kill -{signum:d} $$")
    end = await process.exited

    assert end.code == -signum
    assert not end.was_signalled


async def test_signal_reaches_the_process_group(guardian: Guardian, spawn: Spawn) -> None:
    """Children of a worker that are in its group get the signal too."""
    reading, writing = os.pipe()
    process = await spawn("sh", "-c", "sleep 100 & echo $!; wait", stdout=writing)
    os.close(writing)
    child = int(await read_line(reading))
    os.close(reading)
    guardian.signal(process, signal.SIGTERM)
    end = await process.exited
    await guardian.clear(0, 5.0, 5.0)

    assert end.code == -signal.SIGTERM
    assert end.was_signalled
    assert not psutil.pid_exists(child)


async def test_signal_after_the_end_is_nothing(guardian: Guardian, spawn: Spawn) -> None:
    """A process id that may be somebody else's by now is never signalled."""
    process = await spawn("true")
    await process.exited
    guardian.signal(process, signal.SIGKILL)

    assert (await (await spawn("true")).exited).code == 0


async def test_worker_leads_its_session_and_has_only_its_descriptors(spawn: Spawn) -> None:
    """Own session and group, descriptors 0 to 2, default signals, no mask."""
    program = (
        "import os, signal;"
        "fds = sorted(map(int, os.listdir('/proc/self/fd')))[:-1];"  # the last is listdir's
        "defaults = [signal.getsignal(s) for s in (1, 3, 10, 12, 14, 15, 20, 21, 22)];"
        "print(os.getpid() == os.getsid(0) == os.getpgid(0), fds,"
        " set(defaults) == {signal.SIG_DFL}, signal.pthread_sigmask(0, ()),"
        " os.readlink('/proc/self/fd/0'))"
    )
    reading, writing = os.pipe()
    process = await spawn(sys.executable, "-c", program, stdout=writing)
    os.close(writing)
    line = await read_line(reading)
    os.close(reading)
    await process.exited

    assert line == "True [0, 1, 2] True set() /dev/null"


async def test_passed_descriptors_get_their_numbers(guardian: Guardian, null: int) -> None:
    """Any number may be given, also one that the guardian itself uses at the time."""
    pipes = {target: os.pipe() for target in (1, 2, 3, 4, 5, 6, 7, 8, 9)}
    script = "; ".join(f"echo {target} >&{target}" for target in pipes)
    descriptors = {0: null, **{target: writing for target, (_, writing) in pipes.items()}}
    process = await guardian.spawn(("sh", "-c", script), {"PATH": os.defpath}, descriptors)
    await process.exited

    for target, (reading, writing) in pipes.items():
        os.close(writing)
        assert os.read(reading, 10) == b"%d\n" % target
        os.close(reading)


async def test_environment_and_folder_are_exactly_what_was_given(
    guardian: Guardian, null: int, tmp_path: Path
) -> None:
    """Nothing is inherited from the guardian."""
    reading, writing = os.pipe()
    env = {"PATH": os.defpath, "A": "b=c", "ÄÖ": "", "X": "\udcff"}
    process = await guardian.spawn(("env",), env, {0: null, 1: writing, 2: null}, str(tmp_path))
    where = await guardian.spawn(("pwd",), env, {0: null, 1: writing, 2: null}, str(tmp_path))
    os.close(writing)
    await process.exited
    await where.exited
    text = os.read(reading, 1000)
    os.close(reading)

    expected = [*(f"{name}={value}" for name, value in env.items()), str(tmp_path)]
    assert sorted(text.splitlines()) == sorted(map(os.fsencode, expected))


async def test_program_is_looked_up_in_the_workers_path(
    guardian: Guardian, null: int, tmp_path: Path
) -> None:
    """The PATH of the environment given counts, not the guardian's."""
    program = tmp_path / "my-program"
    program.write_text("#!/bin/sh\nexit 5\n")
    program.chmod(0o755)
    env = {"PATH": f"/nonexistent:{tmp_path}"}
    process = await guardian.spawn(("my-program",), env, {0: null, 1: null, 2: null})

    assert (await process.exited).code == 5


async def test_missing_program(spawn: Spawn) -> None:
    """It is the error of its errno, naming the program."""
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        await spawn("no-such-program")
    with pytest.raises(FileNotFoundError, match="/nonexistent/program"):
        await spawn("/nonexistent/program")


async def test_program_that_may_not_be_executed(spawn: Spawn, tmp_path: Path) -> None:
    """A plain file, or a folder, is a PermissionError."""
    (tmp_path / "plain").touch()
    with pytest.raises(PermissionError, match="plain"):
        await spawn(str(tmp_path / "plain"))
    with pytest.raises(PermissionError):
        await spawn(str(tmp_path))


async def test_program_that_is_no_program(spawn: Spawn, tmp_path: Path) -> None:
    """A file the kernel cannot run is an OSError with its text."""
    program = tmp_path / "garbage"
    program.write_bytes(b"\x00garbage")
    program.chmod(0o755)
    with pytest.raises(OSError, match="Exec format error"):
        await spawn(str(program))


async def test_missing_folder(spawn: Spawn) -> None:
    """The error names the folder, not the program."""
    with pytest.raises(FileNotFoundError, match="/nonexistent"):
        await spawn("true", cwd="/nonexistent")


@pytest.mark.parametrize(
    ("argv", "env"), [(("a\0b",), {}), (("true",), {"A": "\0"}), (("true",), {"A=B": ""})]
)
async def test_strings_that_no_process_can_have(
    guardian: Guardian, argv: tuple[str, ...], env: dict[str, str]
) -> None:
    """They are refused before anything is sent."""
    with pytest.raises(ValueError, match="must not"):
        await guardian.spawn(argv, env, {})


@pytest.mark.slow
async def test_large_environment(guardian: Guardian, null: int) -> None:
    """A request larger than the socket's buffer arrives whole, with its descriptors."""
    env = {"PATH": os.defpath, **{f"V{number}": "x" * 100_000 for number in range(15)}}
    descriptors = {0: null, 1: null, 2: null}
    spawns = (guardian.spawn(("true",), env, descriptors) for _ in range(4))
    processes = await asyncio.gather(*spawns)

    assert [(await process.exited).code for process in processes] == [0] * 4


async def test_too_large_environment(guardian: Guardian, null: int) -> None:
    """What the kernel refuses is its error."""
    with pytest.raises(OSError, match="Argument list too long"):
        await guardian.spawn(("true",), {"PATH": os.defpath, "X": "x" * (1 << 20)}, {0: null})


async def test_cancelled_spawn_leaves_no_worker(guardian: Guardian, null: int) -> None:
    """A worker whose starter was cancelled is killed when it turns up."""
    task = asyncio.create_task(
        guardian.spawn(("sleep", "100"), dict(os.environ), {0: null, 1: null, 2: null})
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    while psutil.Process(guardian.pid).children():
        await asyncio.sleep(0.005)


async def test_close_leaves_nothing(null: int) -> None:
    """Workers and all they left behind are gone when close returns; so is the guardian."""
    guardian = Guardian.start()
    script = (
        "sleep 100 & setsid sleep 100 & (trap '' TERM; exec sleep 100) &"
        " setsid sh -c 'sleep 100; true' & sleep 100"
    )
    descriptors = {0: null, 1: null, 2: null}
    process = await guardian.spawn(("sh", "-c", script), dict(os.environ), descriptors)
    tree = psutil.Process(guardian.pid)
    while len(tree.children(recursive=True)) < 7:
        await asyncio.sleep(0.01)
    pids = [child.pid for child in tree.children(recursive=True)]
    await guardian.close()

    assert [pid for pid in (*pids, guardian.pid) if psutil.pid_exists(pid)] == []
    assert (await process.exited).code == -signal.SIGKILL


async def test_guardian_that_dies_takes_the_workers_along(null: int) -> None:
    """Requests fail by name of the reason, and nothing is left running."""
    guardian = Guardian.start()
    descriptors = {0: null, 1: null, 2: null}
    script = "sleep 100 & wait"
    process = await guardian.spawn(("sh", "-c", script), dict(os.environ), descriptors)
    while not (children := psutil.Process(process.pid).children()):
        await asyncio.sleep(0.005)
    os.kill(guardian.pid, signal.SIGKILL)
    end = await process.exited

    assert end.code == -signal.SIGKILL
    with pytest.raises(GuardianError, match=f"guardian process {guardian.pid} .* signal 9"):
        await guardian.spawn(("true",), {}, descriptors)
    with pytest.raises(GuardianError):
        await guardian.clear(15, 0, 0)
    await dead(process.pid)
    await dead(children[0].pid)
    await guardian.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
async def test_guardian_ignores_signals_meant_for_everybody(
    guardian: Guardian, spawn: Spawn, signum: signal.Signals
) -> None:
    """Only the agent ends it: a scheduler signals all processes of a job."""
    await (await spawn("true")).exited
    os.kill(guardian.pid, signum)

    assert (await (await spawn("true")).exited).code == 0


async def test_clear_without_leftovers(guardian: Guardian, spawn: Spawn) -> None:
    """It answers at once, and running workers are not touched."""
    process = await spawn("sleep", "100")

    assert await guardian.clear(signal.SIGTERM, 9, 9) == (0, 0)
    assert process_state(process.pid) in ("R", "S")


# Blocked, the signal waits for whoever asks for it. A shell with a trap would not do: a child that
# it has forked, and that runs no program yet, loses the signal when it comes then.
LEFTOVER = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.mkdir("ready")
signal.sigwait([signal.SIGTERM])
os.mkdir("ended")
"""


async def test_clear_gives_leftovers_their_time(
    guardian: Guardian, null: int, tmp_path: Path
) -> None:
    """They get the signal first and may end by themselves, in a session of their own too."""
    (tmp_path / "leftover.py").write_text(LEFTOVER)
    command = ("sh", "-c", f"setsid {sys.executable} -SE leftover.py &")
    descriptors = {0: null, 1: null, 2: null}
    process = await guardian.spawn(command, dict(os.environ), descriptors, str(tmp_path))
    await process.exited
    while not (tmp_path / "ready").exists():
        await asyncio.sleep(0.005)

    assert await guardian.clear(signal.SIGTERM, 9, 9) == (0, 0)
    assert (tmp_path / "ended").exists()


async def test_clear_kills_what_ignores_the_signal(guardian: Guardian, spawn: Spawn) -> None:
    """After its time, and with everything below it; and says how many it were."""
    script = "trap '' TERM; sleep 100 & setsid sleep 100 & wait"
    process = await spawn("sh", "-c", f'setsid sh -c "{script}" &')
    await process.exited
    tree = psutil.Process(guardian.pid)
    while len(tree.children(recursive=True)) < 3:
        await asyncio.sleep(0.005)
    pids = [child.pid for child in tree.children(recursive=True)]

    assert await guardian.clear(signal.SIGTERM, 0.05, 0.05) == (0, 3)
    assert not any(map(psutil.pid_exists, pids))


async def test_a_grace_without_end_is_a_grace(guardian: Guardian, spawn: Spawn) -> None:
    """Spans that the kernel's clocks do not hold are cut, and change nothing else."""
    process = await spawn("sh", "-c", "setsid sleep 100 &")
    await process.exited

    assert await guardian.clear(signal.SIGTERM, 1e300, 1e300) == (0, 0)


async def test_orphans_are_reaped(guardian: Guardian, spawn: Spawn) -> None:
    """What a worker orphaned leaves no zombie when it ends."""
    process = await spawn("sh", "-c", "(sleep 0.05 &) ; (sleep 0.05 &)")
    await process.exited
    while psutil.Process(guardian.pid).children():
        await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_nothing_leaks_over_many_workers(guardian: Guardian, spawn: Spawn) -> None:
    """Neither side's table of descriptors grows, and no zombie stays."""
    await (await spawn("true")).exited
    ours, theirs = (f"/proc/{pid}/fd" for pid in (os.getpid(), guardian.pid))
    before = len(os.listdir(ours)), len(os.listdir(theirs))
    for _ in range(50):
        processes = await asyncio.gather(*(spawn("true") for _ in range(4)))
        await asyncio.gather(*(process.exited for process in processes))
        with pytest.raises(FileNotFoundError):
            await spawn("no-such-program")

    assert (len(os.listdir(ours)), len(os.listdir(theirs))) == before
    assert psutil.Process(guardian.pid).children() == []
