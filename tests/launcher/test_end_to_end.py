"""`python -m launcher`, the real one: what workers find, what comes out, what is left."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from asyncrpc.secret import run_secret
from tests.launcher.conftest import Start, finish, gone, wait_for_lines

pytestmark = pytest.mark.slow  # each starts a launcher, a guardian and workers


def test_workers_find_their_whole_environment(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """Every variable is there; the secret is the run's, in a file of its own that goes."""
    path = script(
        """
        secret = os.environ["ASYNCRPC_SECRET_FILE"]
        facts = dict(os.environ, mode=oct(os.stat(secret).st_mode & 0o777),
                     secret=open(secret, "rb").read().hex(), argv=sys.argv[1:], sid=os.getsid(0),
                     pid=os.getpid())
        json.dump(facts, open(f"{os.environ['RANK']}.json", "w"))
        """
    )
    status, _, stderr = finish(
        start("--nproc-per-node=2", "--rdzv-id=run", path, "--tee", "x", env={"MINE": "kept"})
    )
    facts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    common = (tmp_path / "config" / "asyncrpc" / "secret").read_bytes()

    assert (status, facts[0]["argv"]) == (0, ["--tee", "x"])
    assert stderr.count("OMP_NUM_THREADS") == stderr.count("\n") == 1
    for rank, found in enumerate(facts):
        expected = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "ROLE_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "ROLE_WORLD_SIZE": "2",
            "GROUP_RANK": "0",
            "GROUP_WORLD_SIZE": "1",
            "ROLE_NAME": "default",
            "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "TORCHELASTIC_RUN_ID": "run",
            "TORCHELASTIC_USE_AGENT_STORE": "False",
            "OMP_NUM_THREADS": "1",
            "ASYNCRPC_NAME": f"worker{rank}",
            "LAUNCHER_ROUND": "0",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(rank),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{facts[0]['MASTER_PORT']}",
            "MINE": "kept",
            "mode": "0o600",
            "secret": run_secret(common, "run").hex(),
        }

        assert {name: found[name] for name in expected} == expected
        assert found["LAUNCHER_STORE"].startswith("tcp://127.0.0.1:")
        assert found["TORCHELASTIC_ERROR_FILE"].endswith(f"/{rank}/error.json")
        assert found["sid"] == found["pid"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_workers_meet_in_the_store(script: Callable[[str], str], start: Start) -> None:
    """LAUNCHER_STORE and ASYNCRPC_SECRET_FILE are all it takes."""
    path = script(
        """
        import asyncio
        from asyncrpc.store import TCPStore
        async def main():
            host, port = os.environ["LAUNCHER_STORE"].removeprefix("tcp://").rsplit(":", 1)
            async with await TCPStore.connect(host, int(port), timeout=10) as store:
                if os.environ["RANK"] == "0":
                    await store.set("key", b"value")
                else:
                    print((await store.get("key", 10)).decode())
                await store.barrier("end", 2, 10)
        asyncio.run(main())
        """
    )

    assert finish(start("--nproc-per-node=2", path, env={"OMP_NUM_THREADS": "1"})) == (
        0,
        "value\n",
        "",
    )


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139),
    ],
)
def test_the_exit_status_is_the_workers(
    script: Callable[[str], str], start: Start, ending: str, status: int
) -> None:
    """Its own code, or 128 and the signal's number."""
    assert finish(start(script(ending)))[0] == status


def test_the_root_cause_decides_and_is_reported(script: Callable[[str], str], start: Start) -> None:
    """Siblings are stopped, named as such, and change neither status nor cause."""
    path = script(
        """
        if os.environ["RANK"] == "1":
            print("before the end", file=sys.stderr)
            raise ValueError("boom")
        time.sleep(60)
        """
    )
    began = time.monotonic()
    status, _, stderr = finish(start("--nproc-per-node=3", path))
    took = time.monotonic() - began
    output, _, report = stderr.partition("=" * 60)

    assert status == 1
    assert took < 10
    assert "ValueError: boom" in output
    assert f"{path} FAILED" in report
    assert "rank      : 1 (local_rank: 1)" in report
    assert "exitcode  : 1 (pid: " in report
    assert "    before the end\n    Traceback (most recent call last):" in report
    assert "Stopped by the launcher because rank 1 failed: 0, 2" in report
    assert "--max-restarts" in report


def test_nothing_survives_a_killed_launcher(script: Callable[[str], str], start: Start) -> None:
    """Workers, their children in sessions of their own, the guardian: gone within a second."""
    path = script(
        """
        import subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(os.getpid(), child.pid, flush=True)
        time.sleep(600)
        """
    )
    process = start("--nproc-per-node=2", path)
    pids = [int(pid) for line in wait_for_lines(process, 2) for pid in line.split()]
    pids += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.kill()

    assert len(set(pids)) == 5
    assert gone(pids, 1.0)


def test_nothing_survives_a_killed_guardian(script: Callable[[str], str], start: Start) -> None:
    """The launcher ends what the guardian would have ended, and says what has happened."""
    path = script(
        """
        import subprocess
        nested = "trap '' TERM; setsid sleep 600 & sleep 600"
        child = subprocess.Popen(["sh", "-c", nested], start_new_session=True)
        print(os.getpid(), child.pid, flush=True)
        time.sleep(600)
        """
    )
    process = start("--nproc-per-node=2", path, env={"OMP_NUM_THREADS": "1"})
    wait_for_lines(process, 2)
    (guardian,) = psutil.Process(process.pid).children()
    below = 2 * len(("worker", "shell", "sleep", "setsid sleep"))
    while len(guardian.children(recursive=True)) < below:
        time.sleep(0.01)
    pids = [child.pid for child in guardian.children(recursive=True)]
    guardian.kill()
    status, _, stderr = finish(process)
    end = f"guardian process {guardian.pid} of the launcher ended with signal 9"

    assert (status, stderr) == (1, f"launcher: {end}, its workers were killed\n")
    assert gone(pids, 0)


def test_children_that_the_launcher_was_given_are_left_alone(start: Start) -> None:
    """A shell may become the launcher when it has started something else in the background."""

    def bear() -> None:
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "600"])

    process = start("--no-python", "sh", "-c", "echo $$; exec sleep 600", preexec_fn=bear)
    (pid,) = (int(line) for line in wait_for_lines(process, 1))
    guardian = psutil.Process(pid).parent()
    assert guardian is not None
    (other,) = (c for c in psutil.Process(process.pid).children() if c.pid != guardian.pid)
    guardian.kill()
    try:
        assert process.wait(20) == 1
        assert gone([pid], 0)
        assert other.is_running()
    finally:
        other.kill()


def test_a_failure_starts_the_group_again(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """New round, new port, counted restart, a log folder of its own; the run then succeeds."""
    path = script(
        """
        names = "LAUNCHER_ROUND", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT", "LAUNCHER_STORE"
        print(*(os.environ[name] for name in names), flush=True)
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            sys.exit(3) if os.environ["RANK"] == "1" else time.sleep(60)
        """
    )
    logs = tmp_path / "logs"
    status, stdout, stderr = finish(
        start("--max-restarts=1", "--nproc-per-node=2", "-t1", "--log-dir", str(logs), path)
    )
    lines = {line.split("]:")[1].strip() for line in stdout.splitlines()}
    rounds = sorted(line.split() for line in lines)
    kept = sorted(str(p.relative_to(logs)).partition("/")[2] for p in logs.rglob("stdout.log"))

    assert status == 0, stderr
    assert re.search(
        r"^launcher: rank 1 \(pid \d+\) exited with status 3; "
        r"starting all workers again, restart 1 of 1 \(0 left\)$",
        stderr,
        re.MULTILINE,
    )
    assert [line[:2] for line in rounds] == [["0", "0"], ["1", "1"]]
    assert rounds[0][2] != rounds[1][2]
    assert rounds[0][3] == rounds[1][3]
    assert kept == [f"attempt_{n}/{rank}/stdout.log" for n in (0, 1) for rank in (0, 1)]


def test_restarts_are_counted_in_the_report(script: Callable[[str], str], start: Start) -> None:
    """When all are used up, the last failure is what the run ends with."""
    path = script("sys.exit(int(os.environ['TORCHELASTIC_RESTART_COUNT']) + 5)")
    status, _, stderr = finish(start("--max-restarts=2", path))

    assert status == 7
    assert "exited with status 5; starting all workers again, restart 1 of 2 (1 left)" in stderr
    assert "exited with status 6; starting all workers again, restart 2 of 2 (0 left)" in stderr
    assert "Restarts: 2 of 2 used" in stderr


def test_output_is_prefixed_and_kept_only_where_asked(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """Tee: console and file; redirect: file only; neither: console as it is."""
    path = script(
        """
        print("out", os.environ["RANK"])
        print("err", os.environ["RANK"], file=sys.stderr)
        """
    )
    logs = tmp_path / "logs"
    args = ("--nproc-per-node=2", "--role=trainer", "-t0:1", "-r1:2", "--log-dir", str(logs))
    status, stdout, stderr = finish(start(*args, path, env={"OMP_NUM_THREADS": "1"}))
    files = {str(p.relative_to(logs)).partition("/")[2]: p.read_text() for p in logs.rglob("*.log")}

    assert status == 0
    assert sorted(stdout.splitlines()) == ["[trainer0]:out 0", "out 1"]
    assert stderr.splitlines() == ["err 0"]
    assert files == {"attempt_0/0/stdout.log": "out 0\n", "attempt_0/1/stderr.log": "err 1\n"}


def test_files_without_a_log_dir_are_told_of(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """Once, at the start: who follows the output needs to know where it is."""
    path = script("print('out'); sys.exit(os.environ['TORCHELASTIC_RESTART_COUNT'] == '0')")
    status, stdout, stderr = finish(start("-r3", "--max-restarts=1", path))
    told, _ = stderr.splitlines()
    folder = told.removeprefix("launcher: output of workers is written to files in ").split(";")[0]

    assert (status, stdout) == (0, "")
    assert folder.startswith(str(tmp_path / "tmp"))
    assert (Path(folder) / "attempt_1" / "0" / "stdout.log").read_text() == "out\n"


def test_modules_and_programs_can_be_run(start: Start, tmp_path: Path) -> None:
    """-m takes a module of the current folder, --no-python anything that can be executed."""
    (tmp_path / "tool.py").write_text("import sys; print('module', sys.argv[1:])")
    shell = ("--no-python", "sh", "-c", "echo $RANK of $WORLD_SIZE: $0", "x")

    assert finish(start("-m", "tool", "-m")) == (0, "module ['-m']\n", "")
    assert finish(start(*shell)) == (0, "0 of 1: x\n", "")


@pytest.mark.parametrize(
    ("args", "env", "named"),
    [
        (("missing.py",), {}, "script=missing.py"),
        (("-m", "missing.module"), {}, "module=missing.module"),
        (("--no-python", "missing-program"), {}, "program=missing-program"),
        (("--nproc-per-node=0", "worker.py"), {}, "--nproc-per-node=0"),
        (("--log-dir=worker.py", "worker.py"), {}, "--log-dir=worker.py"),
        (("--rdzv-backend=smoke", "worker.py"), {}, "--rdzv-backend='smoke'"),
        (("worker.py",), {"PET_RDZV_BACKEND": "smoke"}, "PET_RDZV_BACKEND='smoke'"),
        (("--rdzv_endpoint=host:port", "worker.py"), {}, "--rdzv-endpoint=host:port"),
        (("worker.py",), {"PET_RDZV_ENDPOINT": "h:99999"}, "PET_RDZV_ENDPOINT=h:99999"),
    ],
)
def test_a_usage_error_is_one_line_and_starts_nothing(
    script: Callable[[str], str],
    start: Start,
    tmp_path: Path,
    args: tuple[str, ...],
    env: dict[str, str],
    named: str,
) -> None:
    """Status 2, what the user wrote is named, and no worker has run."""
    script("open('ran', 'w')")
    status, stdout, stderr = finish(start(*args, env=env))

    assert (status, stdout, stderr.count("\n")) == (2, "", 1), stderr
    assert stderr.startswith(f"launcher: {named}: ")
    assert not (tmp_path / "ran").exists()


def test_a_bad_secret_file_is_a_usage_error(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """A secret that others can read is none, and the user is told which file it is."""
    path = tmp_path / "secret"
    path.write_bytes(b"x" * 32)
    path.chmod(0o644)
    status, _, stderr = finish(start(script(""), env={"ASYNCRPC_SECRET_FILE": str(path)}))

    assert (status, stderr.count("\n")) == (2, 1)
    assert str(path) in stderr


def test_an_address_in_use_is_named(script: Callable[[str], str], start: Start) -> None:
    """The store's address is the user's choice, and so is the mistake."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        status, _, stderr = finish(start("--rdzv-endpoint", address, script("")))

    assert (status, stderr) == (
        1,
        f"launcher: --rdzv-endpoint={address}: cannot listen there: Address already in use\n",
    )


def test_torch_is_never_imported(script: Callable[[str], str], start: Start) -> None:
    """Nor anything else that is slow."""
    status, _, stderr = finish(start(script(""), env={"PYTHONPROFILEIMPORTTIME": "1"}))
    imported = {line.rsplit("|", 1)[1].strip() for line in stderr.splitlines() if "|" in line}

    assert status == 0
    assert imported & {"torch", "numpy", "aiohttp", "rich", "multiprocessing"} == set()


def test_restarts_keep_a_growing_distance(script: Callable[[str], str], start: Start) -> None:
    """As long as asked for before the first one, twice that before the second."""
    path = script("sys.exit(5)")
    begun_at = time.monotonic()
    status, _, stderr = finish(start("--max-restarts=2", "--restart-backoff=0.4", path))

    assert status == 5
    assert "restart 2 of 2" in stderr
    assert time.monotonic() - begun_at >= 1.2


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_script_inside_the_workers(
    start: Start, script: Callable[[str], str], tmp_path: Path, method: str
) -> None:
    """It is the main program, with its arguments, and finds its neighbours; its status is ours."""
    (tmp_path / "neighbour.py").write_text("def greet(): return 'hello from'\n")
    path = script(
        """
        import neighbour
        if __name__ == "__main__":
            print(neighbour.greet(), os.environ["RANK"], sys.argv[1:])
            sys.exit(0 if os.environ["RANK"] == "1" else 3 * int(sys.argv[1]))
        """
    )
    options = ("--run-path", "--start-method", method, "--nproc-per-node", "2", path)
    process = start(*options, "0", env={"OMP_NUM_THREADS": "1"})
    out, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (0, "")
    assert sorted(out.splitlines()) == ["hello from 0 ['0']", "hello from 1 ['0']"]
    process = start(*options, "1")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "First to fail: rank 0" in err


def test_a_script_cannot_be_a_module_and_inside(start: Start) -> None:
    """One of them would be without effect."""
    process = start("-m", "--run-path", "x")
    _, err = process.communicate(timeout=20)

    assert process.returncode == 2
    assert err == "launcher: --module, --run-path: expected one of them, 2 given\n"


def test_restarts_expire(script: Callable[[str], str], start: Start) -> None:
    """A run that fails now and then goes on for ever; the count goes on too."""
    path = script(
        """
        if int(os.environ["LAUNCHER_ROUND"]) < 3:
            time.sleep(0.5)
            sys.exit(5)
        """
    )
    status, _, stderr = finish(start("--max-restarts=1", "--restart-window=0.4", path))

    assert status == 0
    assert "starting all workers again, restart 3 (at most 1 within 0.4 s)" in stderr
