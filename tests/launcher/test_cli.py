"""`launcher.cli`: what is checked and printed before anything is started, and the exit status."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli import _show_warnings, main
from launcher.options import OPTIONS


def test_a_log_dir_that_cannot_be_made_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started that could not log."""
    path = tmp_path / "file"
    path.touch()
    below = str(path / "logs")
    status = main(["--log-dir", below, __file__])

    assert (status, capsys.readouterr().err) == (
        2,
        f"launcher: --log-dir={below}: expected a folder that can be made: Not a directory\n",
    )


def test_a_log_dir_that_cannot_be_written_to_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, but of no use. Root may write anywhere, so the system's word is replaced."""
    may = os.access
    monkeypatch.setattr(os, "access", lambda at, mode: at != str(tmp_path) and may(at, mode))
    status = main(["--log-dir", str(tmp_path), __file__])

    assert (status, capsys.readouterr().err) == (
        2,
        f"launcher: --log-dir={tmp_path}: expected a folder that can be written to\n",
    )


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["missing.py"], "launcher: script=missing.py: expected a file, there is none"),
        (
            ["-m", "no.such.module"],
            "launcher: module=no.such.module: expected a module that Python finds and can run",
        ),
        (
            ["--no-python", "no-such-program"],
            "launcher: program=no-such-program: expected a program that can be executed",
        ),
        (
            ["--max-restarts", "a\nb", "x.py"],
            "launcher: --max-restarts=a b: expected an integer, at least 0",
        ),
    ],
)
def test_main_prints_one_line_and_returns_2(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A usage error is one line on stderr, nothing on stdout."""
    status = main(argv)

    assert (status, *capsys.readouterr()) == (2, "", f"{line}\n")


def test_a_hint_is_a_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who does not know the options is told where they are listed."""
    main(["--bogus", "x.py"])

    assert capsys.readouterr().err.splitlines() == [
        "launcher: unrecognized arguments: --bogus",
        "hint: python -m launcher --help lists the options",
    ]


def test_help_lists_every_option_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    """The help is made of the same declarations as the parser."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    shown = capsys.readouterr().out

    assert caught.value.code == 0
    assert [o.name for o in OPTIONS if f"--{o.name}" not in shown] == []
    assert [o.name for o in OPTIONS if f"[{o.variable}]" not in shown] == []


@pytest.mark.slow
@pytest.mark.parametrize("argv", [("--print-config",), ("status", "--json")])
def test_a_reader_that_has_had_enough_is_no_failure(argv: tuple[str, ...], tmp_path: Path) -> None:
    """As `head`: nothing is said, and the status is that of tools which SIGPIPE ends."""
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "XDG_RUNTIME_DIR": "", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "launcher", *argv]
    ended = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, check=False, env=env, timeout=20
    )
    os.close(writing)

    assert (ended.returncode, ended.stderr) == (141, b"")


def test_warnings_name_what_the_user_has_set_as_errors_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the option, if it begins a message; all others are printed as they are."""
    logger = logging.getLogger("launcher")
    handlers, level = list(logger.handlers), logger.level
    _show_warnings({"rdzv_endpoint": "--rdzv-endpoint", "role": "--role"})
    try:
        logger.warning("rdzv_endpoint=%s: not known yet", "host:1")
        logger.warning("role trainer: all have ended")
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)

    assert capsys.readouterr().err.splitlines() == [
        "launcher: --rdzv-endpoint=host:1: not known yet",
        "launcher: role trainer: all have ended",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["launcher", "asyncrpc"])
def test_warnings_are_the_launchers_only_in_its_own_process(
    start: Callable[..., subprocess.Popen[str]], script: Callable[[str], str], name: str
) -> None:
    """Workers that are forks of it log as any program; its store's warnings are its own."""
    logs = f"logging.getLogger({name!r}).warning('lost')"
    worker = script(f"import logging; {logs}")
    forked = start("--run-path", "--start-method=fork", worker)
    show = "from launcher.cli import _show_warnings; _show_warnings({})"
    own = subprocess.run(
        [sys.executable, "-c", f"import logging; {show}; {logs}"],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=20,
    )

    assert forked.communicate(timeout=20) == ("", "lost\n")
    assert own.stderr == "launcher: lost\n"


def test_garbage_is_collected_again_when_the_launch_begins() -> None:
    """It is put off for imports only; a launch of days needs it."""
    program = """if True:
        import gc, launcher.api, launcher.cli

        async def supervise(launch, guardian):
            await guardian.close()
            print(gc.isenabled())
            return 7

        launcher.cli._supervise = supervise
        from launcher.__main__ import main
        print(main())
        """
    done = subprocess.run(
        [sys.executable, "-c", program, __file__],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("True\n7\n", "")
