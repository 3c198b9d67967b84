"""What the workers are to run: a script, a module or a program, and whether it is there.

`command` is pure; `check` looks at the file system and imports nothing that belongs to the user.
Called by `cli` before anything is started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from launcher.errors import UsageError

__all__ = ("Target",)

_HEAD = 256  # bytes of a script in which Linux looks for its interpreter


class Target(NamedTuple):
    """What one command line asks every worker to run.

    Args:
        name: path of the script or program, or name of the module.
        args: its arguments.
        is_module: whether `name` is a module.
        is_python: whether Python runs it, rather than the system.
        is_inside: whether it is a script that workers run inside themselves, as a function.
    """

    name: str
    args: tuple[str, ...] = ()
    is_module: bool = False
    is_python: bool = True
    is_inside: bool = False

    def command(self, environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
        """Say which program runs it, with which arguments.

        Args:
            environ: where ``PYTHON_EXEC`` may name another Python.

        Returns:
            The program, and its arguments without the program's own name.
        """
        if not self.is_python:
            return self.name, self.args
        module = ("-m",) if self.is_module else ()
        return environ.get("PYTHON_EXEC") or sys.executable, (
            "-u",  # torchrun's: output appears when it is written
            *module,
            self.name,
            *self.args,
        )

    def check(self, environ: Mapping[str, str]) -> None:
        """Make sure that there is something to run.

        Args:
            environ: where ``PATH`` and ``PYTHON_EXEC`` are looked up.

        Raises:
            UsageError: the script, module or program is missing, or what is to run it; names it.
        """
        program, _ = self.command(environ)
        what = "program"
        if self.is_python:
            what = "PYTHON_EXEC" if environ.get("PYTHON_EXEC") else "python"
        path = _find_program(program, environ)
        if path is None:
            raise UsageError(f"{what}={program}: expected a program that can be executed")
        if missing := _missing_interpreter(path):
            raise UsageError(
                f"{what}={program}: expected an interpreter in its first line that is there, "
                f"{missing!r} is not"
            )
        if not self.is_python:
            return
        if not self.is_module:
            _check_script(self.name)
        elif not environ.get("PYTHON_EXEC") and not _is_module(self.name):
            raise UsageError(f"module={self.name}: expected a module that Python finds and can run")


def _check_script(path: str) -> None:
    # Python runs a folder or archive with a __main__.py as well as a file.
    if not os.path.exists(path):
        raise UsageError(f"script={path}: expected a file, there is none")
    if os.path.isdir(path) and not os.path.exists(os.path.join(path, "__main__.py")):
        raise UsageError(f"script={path}: expected a file, it is a folder without a __main__.py")
    if not os.access(path, os.R_OK):
        raise UsageError(f"script={path}: expected a file that can be read")


def _find_program(name: str, environ: Mapping[str, str]) -> str | None:
    folders = [""] if os.sep in name else os.get_exec_path(dict(environ))
    paths = (os.path.join(folder, name) for folder in folders)
    return next(filter(_is_executable, paths), None)


def _missing_interpreter(path: str) -> str:
    """Return the program that is to run a script, if it is missing; else ""."""
    # The system would say of the script itself that there is no such file. It takes blanks and
    # tabs for ends of the name, but not the carriage return of a file from Windows.
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:  # one may be allowed to execute a file, and not to read it
        return ""
    if not head.startswith(b"#!"):
        return ""
    line = head[2:].partition(b"\n")[0].replace(b"\t", b" ").strip(b" ")
    name = os.fsdecode(line.partition(b" ")[0])
    return "" if os.path.exists(name) else name


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _is_module(name: str) -> bool:
    """Look for a module as `python -m` will, without running any package's code."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return False
    search: list[str] | None = None  # None: the top of the tree
    for depth, _ in enumerate(parts, 1):
        spec = _find(".".join(parts[:depth]), search)
        if spec is None:
            return False
        search = spec
        if depth < len(parts) and not search:
            return False  # a plain module has nothing below it
    return not search or _find(f"{name}.__main__", search) is not None


def _find(name: str, search: list[str] | None) -> list[str] | None:
    """Find a module's spec: where its submodules are, empty for a plain one, None if missing."""
    # `python -m` looks in the current folder first, which need not be on our own path.
    current = [] if sys.flags.safe_path else [""]
    paths = [search] if search is not None else [current, None]
    for path in paths:
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path)
            if spec is not None:
                return list(spec.submodule_search_locations or ())
    return None
