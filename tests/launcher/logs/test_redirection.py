"""launcher.logs.redirection: a standard stream into a file, whoever writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.logs import redirect

# Not in pytest's own process: its capture has replaced sys.stdout.
PROLOGUE = """
import ctypes, os, subprocess, sys
from launcher.logs import redirect
libc = ctypes.CDLL(None)
def everything(text):
    print("python", text)
    libc.printf(b"c %s\\n", text.encode())
    subprocess.run(["echo", "child", text], check=True)
"""


def run(code: str, *args: str) -> tuple[str, str]:
    """Run Python and return what came out."""
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code, *args], capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_python_c_and_children_are_caught(tmp_path: Path) -> None:
    """And nothing any more after the end; what was in the file stays."""
    path = tmp_path / "out"
    path.write_text("before\n")
    code = """
print("outside")
with redirect("stdout", sys.argv[1]):
    everything("in")
    print("error", file=sys.stderr)
everything("out")
"""

    out, err = run(code, str(path))

    assert path.read_text().splitlines()[0] == "before"
    assert sorted(path.read_text().splitlines()) == ["before", "c in", "child in", "python in"]
    assert sorted(out.splitlines()) == ["c out", "child out", "outside", "python out"]
    assert err == "error\n"


def test_both_into_one_file(tmp_path: Path) -> None:
    """Neither overwrites the other, also when the body fails."""
    code = """
try:
    with redirect("stdout", sys.argv[1]), redirect("stderr", sys.argv[1]):
        for number in range(1000):
            print(number, flush=True)
            print(number, file=sys.stderr)
        raise KeyError
except KeyError:
    print("outside")
"""

    assert run(code, str(tmp_path / "both")) == ("outside\n", "")
    lines = (tmp_path / "both").read_text().splitlines()
    assert lines == [str(number) for number in range(1000) for _ in range(2)]


@pytest.mark.slow
def test_many_lines(tmp_path: Path) -> None:
    """Half a million lose nothing."""
    code = """
with redirect("stdout", sys.argv[1]):
    for number in range(500_000):
        print(number)
"""

    assert run(code, str(tmp_path / "many")) == ("", "")
    assert (tmp_path / "many").read_text() == "".join(f"{n}\n" for n in range(500_000))


def test_other_streams_are_refused(tmp_path: Path) -> None:
    """Before the file is made."""
    with pytest.raises(ValueError, match="std='stdin': expected stdout or stderr"):
        with redirect("stdin", tmp_path / "x"):
            pass

    assert list(tmp_path.iterdir()) == []
