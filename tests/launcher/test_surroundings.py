"""`python -m launcher` where something around it is missing, full, closed or strange."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts a launcher, a guardian and workers

Start = Callable[..., "subprocess.Popen[str]"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # no warning about it


def finish(process: subprocess.Popen[str], text: str | None = None) -> tuple[int, str, str]:
    """Wait for a launcher, and return its exit status, stdout and stderr."""
    stdout, stderr = process.communicate(text, timeout=20)
    return process.returncode, stdout, stderr


def emptied_within(folder: Path, seconds: float) -> list[str]:
    """Return what is left in a folder once it is empty, or after some time."""
    deadline = time.monotonic() + seconds
    while (left := _below(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def _below(folder: Path) -> list[str]:
    """Return the paths below a folder; os.walk does not mind what goes away meanwhile."""
    return [os.path.join(at, name) for at, dirs, files in os.walk(folder) for name in dirs + files]


def test_a_run_of_one_node_needs_no_secret_of_the_user(start: Start) -> None:
    """Containers often have no home folder that can be written to."""
    secret = ("sh", "-c", "wc -c < $ASYNCRPC_SECRET_FILE; stat -c %a $ASYNCRPC_SECRET_FILE")
    process = start("--no-python", *secret, env={"XDG_CONFIG_HOME": "/dev/null"})

    assert finish(process) == (0, "32\n600\n", "")


def test_a_tmpdir_that_is_not_there_is_passed_over(start: Start, tmp_path: Path) -> None:
    """As the tempfile module does it."""
    echo = ("sh", "-c", "echo $ASYNCRPC_SECRET_FILE")
    process = start("--no-python", *echo, env={"TMPDIR": "/nowhere", "TMP": str(tmp_path)})
    status, stdout, stderr = finish(process)

    assert (status, stderr) == (0, "")
    assert stdout.startswith(f"{tmp_path}/launcher_secret_")


def test_a_current_folder_that_was_deleted_does_no_harm(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """Python itself runs there as well."""
    path = script("print('ran')")
    folder = tmp_path / "gone"
    folder.mkdir()
    process = start(path, cwd=folder, preexec_fn=folder.rmdir)

    assert finish(process) == (0, "ran\n", "")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams_change_no_status(
    script: Callable[[str], str], start: Start, closed: tuple[int, ...]
) -> None:
    """Nothing meant for one of them turns up in another."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    path = script("print('out'); print('err', file=sys.stderr); sys.exit(9)")
    status, stdout, stderr = finish(start(path, preexec_fn=close))

    assert status == 9
    assert stdout == ("" if 1 in closed else "out\n")
    assert stderr.partition("=")[0] == ("" if 2 in closed else "err\n")


def test_a_full_disk_behind_stdout_is_told(script: Callable[[str], str], start: Start) -> None:
    """The workers go on; the user hears of what was lost."""
    with open("/dev/full", "w") as full:
        status, _, stderr = finish(start(script("print('out')"), stdout=full))

    assert (status, stderr.count("\n")) == (0, 1)
    assert "No space left" in stderr


def test_a_full_temporary_folder_is_named(start: Start, tmp_path: Path) -> None:
    """The user can do something about it only if he knows which one it is."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file takes a byte

    status, _, stderr = finish(start("--no-python", "true", env=ONE_THREAD, preexec_fn=fill))

    assert (status, stderr.count("\n")) == (1, 1)
    assert stderr.startswith(f"launcher: {tmp_path}/tmp/launcher_secret_")
    assert stderr.endswith(": File too large\n")


def test_text_that_is_no_utf8_is_passed_on_as_it_is(start: Start, tmp_path: Path) -> None:
    """Names of files and arguments are bytes, whatever the locale."""
    name = os.fsdecode(b"b\xff \xc3\xa9.py")
    (tmp_path / name).write_text("import os, sys; print(os.fsencode(sys.argv[1]))")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = start(name, os.fsdecode(b"\xfe"), env=locale)

    assert finish(process) == (0, "b'\\xfe'\n", "")


def test_an_id_that_is_no_text_is_a_usage_error(script: Callable[[str], str], start: Start) -> None:
    """It could not be told to the others."""
    status, _, stderr = finish(start("--rdzv-id", os.fsdecode(b"\xff"), script("")))

    assert (status, stderr) == (2, "launcher: --rdzv-id=\\udcff: expected text in UTF-8\n")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), "text"),
        (("--nproc-per-node=2",), ""),
        (("--nproc-per-node=2", "--stdin=1", "-t1"), "[default1]:text"),
    ],
)
def test_one_worker_gets_the_standard_input(
    start: Start, args: tuple[str, ...], expected: str
) -> None:
    """The only one, else the one that was named, else nobody."""
    process = start(*args, "--no-python", "cat", env=ONE_THREAD, stdin=subprocess.PIPE)

    assert finish(process, "text") == (0, expected, "")


def test_a_report_begins_on_a_line_of_its_own(script: Callable[[str], str], start: Start) -> None:
    """Also after a worker that did not end its last one."""
    path = script("sys.stderr.write('half'); sys.stdout.write('out'); sys.exit(3)")
    status, stdout, stderr = finish(start("--max-restarts=1", path))
    first, again, second, border = stderr.splitlines()[:4]

    assert (status, stdout) == (3, "out\nout\n")
    assert (first, second, border) == ("half", "half", "=" * 60)
    assert again.startswith("launcher: rank 0 (pid ")
    assert again.endswith(
        "exited with status 3; starting all workers again, restart 1 of 1 (0 left)"
    )


def test_a_success_is_passed_on_byte_for_byte(start: Start) -> None:
    """Nothing follows, so nothing is added."""
    assert finish(start("--no-python", "printf", "half")) == (0, "half", "")


def test_what_cannot_be_executed_is_not_tried_again(start: Start, tmp_path: Path) -> None:
    """One line that says what it is about; restarts would not mend it."""
    (tmp_path / "program").write_text("neither a script nor a program")
    (tmp_path / "program").chmod(0o755)
    process = start("--max-restarts=3", "--no-python", "./program")

    why = "launcher: ./program: Exec format error"
    hint = "hint: a script needs a first line with its interpreter, such as #!/bin/sh"
    assert finish(process) == (1, "", f"{why}\n{hint}\n")


def test_more_workers_than_the_system_allows_are_refused_at_once(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """One line: the option, its value, how many would do, and which limit it is."""
    status, stdout, stderr = finish(
        start("--nproc-per-node=9999999", script("open('ran', 'w')"), env=ONE_THREAD)
    )

    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith("launcher: --nproc-per-node=9999999: expected at most ")
    assert not (tmp_path / "ran").exists()


def test_the_launcher_alone_raises_its_limit_of_open_files(start: Start) -> None:
    """It needs more for the pipes of many workers, who keep what the user gave them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))

    limit = ("--no-python", "sh", "-c", "ulimit -Sn; exec sleep 0.2")
    process = start("--nproc-per-node=20", *limit, env=ONE_THREAD, preexec_fn=lower)

    assert finish(process) == (0, "40\n" * 20, "")


def test_a_signal_after_the_end_changes_no_status() -> None:
    """While Python ends, it would restore the default, by which the process would die."""
    code = """if True:
        import os, signal, sys
        import launcher.__main__
        sys.argv[1:] = ["--no-python", "sh", "-c", "exit 9"]
        status = launcher.__main__.main()
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        sys.exit(status)
    """
    env = {**os.environ, "XDG_CONFIG_HOME": "/dev/null"}
    ended = subprocess.run([sys.executable, "-c", code], check=False, env=env, timeout=20)

    assert ended.returncode == 9


def test_a_killed_launcher_leaves_no_file(start: Start, tmp_path: Path) -> None:
    """The secret, the pipe of timers and the socket are removed, and the folders that are empty."""
    process = start("--no-python", "sh", "-c", "echo; exec sleep 600")
    assert process.stdout is not None
    process.stdout.readline()
    there = {path.name.rpartition("_")[0] for path in (tmp_path / "tmp").iterdir()}
    process.kill()

    assert {"launcher_secret", "launcher_timer"} < there
    assert emptied_within(tmp_path / "tmp", 2.0) == []


def test_python_warnings_are_errors_and_there_are_none(
    script: Callable[[str], str], start: Start
) -> None:
    """In development mode too, which looks for what is left open or not awaited."""
    strict = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error", **ONE_THREAD}
    status, stdout, stderr = finish(start("--nproc-per-node=2", script("print(1)"), env=strict))

    assert (status, stdout) == (0, "1\n1\n")
    # On a busy machine the debug mode of asyncio tells of slow steps.
    assert [line for line in stderr.splitlines() if "took" not in line] == []


def test_a_launcher_in_a_worker_is_a_launcher(start: Start) -> None:
    """Its workers are its own: their ranks, its signal, its exit status."""
    inner = f"exec {sys.executable} -m launcher --nproc-per-node 2 --no-python sh -c 'exit 9'"
    status, _, stderr = finish(start("--nproc-per-node=2", "--no-python", "sh", "-c", inner))

    assert status == 9
    assert "sh FAILED" in stderr
