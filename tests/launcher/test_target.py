"""`launcher.target`: how a script, module or program is run, and what is refused beforehand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.target import Target


def test_python_runs_scripts_and_modules_unbuffered() -> None:
    """The command is torchrun's: $PYTHON_EXEC or this Python, -u, -m, name, arguments."""
    commands = [
        Target(name="a.py", args=("x",)).command({}),
        Target(name="pkg.mod", is_module=True).command({"PYTHON_EXEC": "python9"}),
        Target(name="ls", args=("-l",), is_python=False).command({"PYTHON_EXEC": "python9"}),
    ]

    assert commands == [
        (sys.executable, ("-u", "a.py", "x")),
        ("python9", ("-u", "-m", "pkg.mod")),
        ("ls", ("-l",)),
    ]


def test_modules_are_found_without_running_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that cannot even be imported here may still be what the workers can run."""
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('not here')")
    (package / "tool.py").touch()
    (tmp_path / "plain.py").touch()
    monkeypatch.chdir(tmp_path)

    Target(name="pkg.tool", is_module=True).check({})
    Target(name="plain", is_module=True).check({})
    for name in ("pkg", "pkg.other", "plain.sub", "pkg.tool.sub", "", "a b", ".x"):
        with pytest.raises(UsageError, match="expected a module"):
            Target(name=name, is_module=True).check({})


def test_scripts_may_be_folders_with_a_main(tmp_path: Path) -> None:
    """Python runs such folders, and so do we; others are refused by name."""
    (tmp_path / "__main__.py").touch()
    empty = tmp_path / "empty"
    empty.mkdir()

    Target(name=str(tmp_path)).check({})
    with pytest.raises(UsageError, match="folder without a __main__"):
        Target(name=str(empty)).check({})


def test_a_script_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read anything, so the system's word is replaced."""
    path = tmp_path / "secret.py"
    path.touch()
    may = os.access
    monkeypatch.setattr(os, "access", lambda at, mode: at != str(path) and may(at, mode))

    with pytest.raises(UsageError, match="expected a file that can be read"):
        Target(name=str(path)).check({})


def test_a_python_that_is_missing_is_named() -> None:
    """PYTHON_EXEC is checked like everything else."""
    with pytest.raises(UsageError, match="PYTHON_EXEC=/no/python: expected a program"):
        Target(name=__file__).check({"PYTHON_EXEC": "/no/python"})


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        (b"#!/no/such/python -u", "'/no/such/python'"),
        (b"#! /bin/sh\r", "'/bin/sh\\r'"),
        (b"#!\t/bin/sh\t-e", None),
        (b"#!/bin/sh", None),
        (b"echo", None),
    ],
)
def test_a_missing_interpreter_is_named(tmp_path: Path, line: bytes, missing: str | None) -> None:
    """The system would say that the script itself, which is there, does not exist."""
    path = tmp_path / "script"
    path.write_bytes(line + b"\n")
    path.chmod(0o755)
    target = Target(name=str(path), is_python=False)
    if missing is None:
        target.check({})
        return
    with pytest.raises(UsageError) as caught:
        target.check({})

    assert str(caught.value) == (
        f"program={path}: expected an interpreter in its first line that is there, {missing} is not"
    )


def test_programs_are_found_in_the_path(tmp_path: Path) -> None:
    """As the system finds them: by folder, in order."""
    path = tmp_path / "tool"
    path.write_text("#!/no/such/shell\n")
    path.chmod(0o755)
    with pytest.raises(UsageError, match="program=tool: expected an interpreter"):
        Target(name="tool", is_python=False).check({"PATH": f"/nowhere:{tmp_path}:/bin"})
    with pytest.raises(UsageError, match="program=tool: expected a program"):
        Target(name="tool", is_python=False).check({"PATH": "/nowhere"})
