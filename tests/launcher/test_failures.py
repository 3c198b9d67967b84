"""What people read at the end of a run that failed: the first failure and its cause, every time.

Each case is a way to fail; the launcher really runs it. The true cause must be in the last 30
lines of what the launcher wrote to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launcher.conftest import Start

pytestmark = pytest.mark.slow

# Of the other workers: they do what most do, wait for the one that fails.
WAIT = "time.sleep(100)"

CASES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "import error": (
        "import no_such_module",
        1,
        ("ModuleNotFoundError: No module named 'no_such_module'",),
    ),
    "import error in a module": (
        "from os import no_such_name",
        1,
        ("ImportError: cannot import name 'no_such_name' from 'os'",),
    ),
    "syntax error": ("exec('def f(:')", 1, ("SyntaxError: invalid syntax",)),
    "indentation": ("exec('if 1:\\npass')", 1, ("IndentationError: expected an indented block",)),
    "exception": ("raise RuntimeError('boom')", 1, ("RuntimeError: boom",)),
    "exception with a cause": (
        """
try:
    {}["key"]
except KeyError as error:
    raise ValueError("no configuration") from error
""",
        1,
        ("KeyError: 'key'", "ValueError: no configuration"),
    ),
    "exception group": (
        "raise ExceptionGroup('several', [OSError('first'), KeyError('second')])",
        1,
        ("ExceptionGroup: several", "OSError: first", "KeyError: 'second'"),
    ),
    "assertion": ("assert 1 == 2, 'sums are off'", 1, ("AssertionError: sums are off",)),
    "recursion": (
        "def f(): f()\nf()",
        1,
        ("RecursionError: maximum recursion depth exceeded",),
    ),
    "missing file": (
        "open('/no/such/file')",
        1,
        ("FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'",),
    ),
    "sys.exit": ("sys.exit(7)", 7, ("exitcode  : 7",)),
    "sys.exit with 255": ("sys.exit(-1)", 255, ("exitcode  : 255",)),
    "sys.exit with a text": ("sys.exit('bad --lr')", 1, ("bad --lr",)),
    "os._exit": ("os._exit(3)", 3, ("exitcode  : 3",)),
    "abort": ("os.abort()", 134, ("SIGABRT: it aborted itself",)),
    "segfault": (
        "import ctypes; ctypes.string_at(0)",
        139,
        ("SIGSEGV: invalid memory access",),
    ),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", 137, ("SIGKILL: killed from outside",)),
    "SIGTERM by somebody": (
        "os.kill(os.getpid(), signal.SIGTERM)",
        143,
        ("SIGTERM: asked to stop, but not by the launcher",),
    ),
    "SIGINT by somebody": (
        "signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)",
        130,
        ("SIGINT: interrupted, but not by the launcher",),
    ),
    "SIGBUS": ("os.kill(os.getpid(), signal.SIGBUS)", 135, ("SIGBUS: bad memory access",)),
    "SIGFPE": ("os.kill(os.getpid(), signal.SIGFPE)", 136, ("SIGFPE: arithmetic error",)),
    "a signal without a name": ("os.kill(os.getpid(), 40)", 168, ("signal 40",)),
    "out of memory under a limit": (
        """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
bytearray(1 << 32)
""",
        1,
        ("MemoryError",),
    ),
    "out of descriptors": (
        """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
files = [open(os.devnull) for _ in range(30)]
""",
        1,
        ("OSError: [Errno 24] Too many open files",),
    ),
    "out of processor time": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
        152,
        ("SIGXCPU: ran out of its limit of processor time",),
    ),
    "error in a thread that ends the process": (
        """
import threading
def die():
    try:
        raise RuntimeError("in a thread")
    except RuntimeError:
        sys.excepthook(*sys.exc_info())
        os._exit(4)
threading.Thread(target=die).start()
time.sleep(100)
""",
        4,
        ("RuntimeError: in a thread", "exitcode  : 4"),
    ),
    "error in an event loop": (
        """
import asyncio
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(100))
        group.create_task(fail())
async def fail():
    raise RuntimeError("in a task")
asyncio.run(main())
""",
        1,
        ("RuntimeError: in a task",),
    ),
    "a much longer stderr": (
        "print('noise\\n' * 100_000, file=sys.stderr); raise RuntimeError('after the noise')",
        1,
        ("RuntimeError: after the noise",),
    ),
    "no end of the last line": (
        "sys.stderr.write('last words'); sys.stderr.flush(); os._exit(9)",
        9,
        ("last words",),
    ),
    "recorded": (
        """
from launcher.process import record
@record
def main():
    raise RuntimeError("in the error file")
main()
""",
        1,
        ("RuntimeError: in the error file",),
    ),
    "an error file of another program": (
        """
with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
    json.dump({"message": "the program's own words"}, file)
sys.exit(5)
""",
        5,
        ("the program's own words",),
    ),
    "a broken error file": (
        """
open(os.environ["TORCHELASTIC_ERROR_FILE"], "w").write("{")
raise RuntimeError("still told")
""",
        1,
        ("RuntimeError: still told",),
    ),
    "a result that cannot be pickled": (
        """
import threading
from launcher import LaunchConfig, elastic_launch
elastic_launch(LaunchConfig(1, 1, 1, max_restarts=0, start_method="fork"), threading.Lock)()
""",
        1,
        ("cannot be pickled: cannot pickle '_thread.lock' object",),
    ),
    "a launcher in a worker": (
        """
import subprocess
sys.exit(subprocess.run([
    sys.executable, "-m", "launcher", "--no-python", "sh", "-c", "echo deep >&2; exit 6"
]).returncode)
""",
        6,
        ("deep", "exitcode  : 6"),
    ),
}
"""By name: what the worker does, the launcher's exit status, and what its last lines say."""


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
    path = script(f"if os.environ['RANK'] == '1':\n{lines}\n{WAIT}\n")
    process = start("--nproc-per-node", "2", path)
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


def test_a_program_that_is_no_program(start: Start, tmp_path: Path) -> None:
    """Executable by its mode, and nothing the system can run."""
    path = tmp_path / "program"
    path.write_bytes(os.urandom(100))
    path.chmod(0o755)
    process = start("--no-python", str(path))
    _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "Exec format error" in err
    assert sys.executable not in err
