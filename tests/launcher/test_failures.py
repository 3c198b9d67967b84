"""What people read at the end of a run that failed: the first failure and its cause, every time.

Each case is a way to fail; the launcher really runs it. The true cause must be in the last 30
lines of what the launcher wrote to stderr, and the exit status be that of the cause.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launcher.conftest import ROOT, Start
from tests.launcher.failures import CASES
from tests.launcher.rendezvous.meeting import free_endpoint

pytestmark = pytest.mark.slow


def last_lines(stderr: str) -> str:
    """Return what people still see."""
    return "\n".join(stderr.splitlines()[-30:])


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_in_the_last_lines(
    start: Start, script: Callable[[str], str], case: str
) -> None:
    """With a sibling that has to be stopped, and is not blamed."""
    body, status, texts = CASES[case]
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    path = script(f"if os.environ['RANK'] == '1':\n{lines}\ntime.sleep(100)\n")
    process = start("--nproc-per-node", "2", path, errors="replace")
    _, err = process.communicate(timeout=20)

    end = last_lines(err)
    assert process.returncode == status, err
    assert "First to fail: rank 1 (pid: " in end
    assert "Stopped by the launcher because rank 1 failed: 0" in end
    assert [text for text in texts if text not in end] == []


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_failures_50_ms_apart_the_first_is_the_cause(
    start: Start, script: Callable[[str], str], tmp_path: Path, first: int
) -> None:
    """Though the second one failed by itself, and before we could stop it."""
    path = script(
        f"""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        rank = int(os.environ["RANK"])
        open(f"{tmp_path}/{{rank}}", "w").close()
        while not os.path.exists(f"{tmp_path}/{{1 - rank}}"):
            time.sleep(0.001)
        time.sleep(0.05 if rank != {first} else 0)
        raise RuntimeError(f"of rank {{rank}}")
        """
    )
    process = start("--nproc-per-node", "2", path)
    _, err = process.communicate(timeout=20)

    end = last_lines(err)
    root = end[end.index("Root cause") :]
    assert f"rank      : {first} (local_rank: {first})" in root
    assert f"RuntimeError: of rank {first}" in root


def test_who_lost_a_peer_is_not_the_cause(start: Start, script: Callable[[str], str]) -> None:
    """A worker tells its peers that it goes before it is gone; they may be out first."""
    path = script(
        """
        import asyncio
        import asyncrpc as rpc

        def slow():
            time.sleep(0.3)

        async def main():
            async with rpc.init_rpc() as agent:
                if agent.info.id == 0:
                    import atexit
                    atexit.register(slow)
                    await rpc.barrier()
                    raise ValueError("the cause")
                await rpc.barrier()
                await rpc.rpc_async("worker0", asyncio.sleep, args=(60,))

        rpc.run(main())
        """
    )
    process = start("--nproc-per-node", "3", path)
    _, err = process.communicate(timeout=20)

    end = last_lines(err)
    root = end[end.index("Root cause") :]
    assert "ValueError: the cause" in root
    assert "First to fail: rank 0 " in root
    assert process.returncode == 1


def test_a_launcher_in_a_launcher_passes_the_cause_on(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """As torchrun does: what its worker has recorded is recorded for it, too."""
    path = script(
        """
        from launcher.process import record
        @record
        def main():
            raise RuntimeError("in the inner one")
        main()
        """
    )
    inner = (sys.executable, "-m", "launcher", "--nproc-per-node=2", path)
    process = start("--log-dir", str(tmp_path / "logs"), "--no-python", *inner)
    _, stderr = process.communicate(timeout=30)
    files = [*(tmp_path / "logs").glob("*/attempt_0/0/error.json")]

    assert process.returncode == 1
    assert stderr.splitlines()[-4].endswith("status 1: RuntimeError: in the inner one")
    assert [json.loads(file.read_text())["message"]["errorCode"] for file in files] == [1]


def test_a_failure_during_the_shutdown_is_not_the_cause(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """The sibling falls over its own cleaning up; what made us stop it is told."""
    path = script(
        f"""
        def stop(*_):
            raise RuntimeError("while cleaning up")
        if os.environ["RANK"] == "0":
            signal.signal(signal.SIGTERM, stop)
            open("{tmp_path}/ready", "w").close()
            time.sleep(100)
        while not os.path.exists("{tmp_path}/ready"):
            time.sleep(0.001)
        raise ValueError("the cause")
        """
    )
    process = start("--nproc-per-node", "2", path)
    _, err = process.communicate(timeout=20)

    end = last_lines(err)
    root = end[end.index("Root cause") :]
    assert "ValueError: the cause" in root
    assert "while cleaning up" not in root
    assert process.returncode == 1


@pytest.mark.parametrize("options", [("-r3",), ("-t3",), ("-r3", "--log-dir=logs"), ("-r2:3",)])
def test_what_is_not_shown_is_told_all_the_same(
    start: Start, script: Callable[[str], str], options: tuple[str, ...]
) -> None:
    """Neither redirection nor a prefix nor a filter hides the cause; the log folder is named."""
    path = script(
        """
        if os.environ["RANK"] == "1":
            raise RuntimeError("the cause")
        time.sleep(100)
        """
    )
    process = start("--nproc-per-node=3", "--local-ranks-filter=0", *options, path)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "    RuntimeError: the cause" in last_lines(err)
    assert ("\nLogs: " in last_lines(err)) == (options != ("-t3",))


@pytest.mark.parametrize(("redirects", "cause"), [("3", "is left there"), ("1", "[Errno 28]")])
def test_a_disk_for_logs_that_is_full(
    tmp_path: Path, script: Callable[[str], str], redirects: str, cause: str
) -> None:
    """Where the cause itself had no room, the report says that there is none."""
    path = script("print('x' * 100_000, flush=True)")
    if shutil.which("unshare") is None:
        pytest.skip("needs the program unshare, Debian package util-linux")
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=8k tmpfs {tmp_path / 'logs'}"
    (tmp_path / "logs").mkdir()
    if subprocess.run([*own, mount], check=False, capture_output=True).returncode:
        pytest.skip("needs to mount file systems, which is not allowed here")
    launch = shlex.join(
        [sys.executable, "-m", "launcher", "-r", redirects, "--log-dir", "logs", path]
    )
    done = subprocess.run(
        [*own, f"{mount} && {launch}"],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path / "config")},
        text=True,
        timeout=20,
    )

    assert done.returncode == 1
    assert cause in last_lines(done.stderr)


def test_of_the_last_round_the_cause_is_told(start: Start, script: Callable[[str], str]) -> None:
    """Each round may fail for its own reason; each is told, and the run ends by the last one."""
    path = script("sys.exit(f'of round {os.environ[\"LAUNCHER_ROUND\"]}')")
    process = start("--max-restarts=2", path)
    _, err = process.communicate(timeout=20)

    end = last_lines(err)
    assert process.returncode == 1
    assert [f"of round {n}" in end for n in range(3)] == [True] * 3
    assert "    of round 2" in end[end.index("Root cause") :]


def test_a_failure_on_one_node_is_told_on_both(start: Start, script: Callable[[str], str]) -> None:
    """Where it happened in full, elsewhere in a line; both end with its status."""
    path = script("sys.exit(5) if os.environ['RANK'] == '1' else time.sleep(100)")
    options = ("--nnodes=2", f"--rdzv-endpoint={free_endpoint()}")
    nodes = [start(*options, path) for _ in range(2)]
    ends = sorted(last_lines(node.communicate(timeout=20)[1]) for node in nodes)

    assert [node.returncode for node in nodes] == [5, 5]
    assert "First to fail: rank 1 (pid: " in ends[0]
    assert re.search(
        r"^launcher: run failed on another node: rank 1 \(pid \d+\) exited with status 5 on \S+ ",
        ends[1],
        re.MULTILINE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_somebody_ends_a_worker_beside_a_stopped_one(
    start: Start, script: Callable[[str], str], number: signal.Signals
) -> None:
    """The one that was ended is the cause; the one that does not even run keeps nobody."""
    path = script(
        """
        print(os.environ["RANK"], os.getpid(), flush=True)
        os.kill(os.getpid(), signal.SIGSTOP) if os.environ["RANK"] == "1" else time.sleep(100)
        """
    )
    process = start("--nproc-per-node=2", path)
    assert process.stdout is not None
    pids = dict(process.stdout.readline().split() for _ in range(2))
    os.kill(int(pids["0"]), number)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 128 + number
    assert f"First to fail: rank 0 (pid: {pids['0']}), it was ended by {number.name}" in err
    assert "Stopped by the launcher because rank 0 failed: 1\n" in err


def test_when_all_fail_one_is_told(start: Start, script: Callable[[str], str]) -> None:
    """The one that the report calls the first is the one whose words it has."""
    path = script("raise RuntimeError(f'of rank {os.environ[\"RANK\"]}.')")
    process = start("--nproc-per-node=8", path)
    _, err = process.communicate(timeout=20)

    end = last_lines(err)
    first = re.findall(r"First to fail: rank (\d) ", end)
    assert re.findall(r"^    RuntimeError: of rank (\d)\.$", end, re.MULTILINE) == first
    assert process.returncode == 1


def test_a_script_that_workers_run_inside(start: Start, script: Callable[[str], str]) -> None:
    """Its error is recorded without being asked for, and without the frames that ran it."""
    process = start("--run-path", script("raise RuntimeError('the cause')"))
    _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "it exited with status 1: RuntimeError: the cause" in last_lines(err)
    assert str(ROOT / "launcher") not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
    ],
)
def test_a_script_that_cannot_even_begin(
    start: Start, tmp_path: Path, text: str, message: str
) -> None:
    """All workers fail alike; one of them is named, with the reason."""
    path = tmp_path / "script.py"
    path.write_text(text)
    process = start("--nproc-per-node", "3", str(path))
    _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert message in last_lines(err)


@pytest.mark.parametrize(
    ("content", "mode", "status", "cause"),
    [
        (bytes(100), 0o755, 1, "Exec format error\nhint: a script needs a first line"),
        (b"exit 3\n", 0o755, 1, "Exec format error\nhint: a script needs a first line"),
        (b"#!/bin/sh\n", 0o644, 2, "expected a program that can be executed"),
        (b"#!/bin/sh\r\n", 0o755, 2, "expected an interpreter in its first line that is there"),
        (b"#!/usr/bin/env no-such-python\n", 0o755, 127, "no-such-python"),
        (b"#!/bin/sh\nPYTHONHOME=/no/such exec python3\n", 0o755, 1, "Fatal Python error"),
    ],
)
def test_a_program_that_does_not_run(
    start: Start, tmp_path: Path, content: bytes, mode: int, status: int, cause: str
) -> None:
    """No program at all, not one for everybody, or one without what it takes to run it."""
    path = tmp_path / "program"
    path.write_bytes(content)
    path.chmod(mode)
    process = start("--no-python", str(path))
    _, err = process.communicate(timeout=20)

    assert process.returncode == status
    assert cause in last_lines(err)
    assert "most recent call last" not in err
