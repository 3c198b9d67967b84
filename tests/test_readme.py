"""What the README shows works: its programs print what it says, its snippets run.

Fenced blocks are told apart by their first line: ``python file=NAME`` is a program, ``console``
shows commands that are run next to the programs, with what they print; all plain ``python`` blocks
together make one program, whose argumentless functions are called on worker 0 of a job of three.
``sh`` blocks are for the reader only.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

README = (Path(__file__).parents[1] / "README.md").read_text()

FRAME = """
import asyncio
import asyncrpc as rpc

{snippets}

async def main():
    async with rpc.init_rpc() as agent:
        if agent.info.id == 0:
            {calls}

rpc.run(main())
"""

CALLED_BY_OTHERS = {"impatient"}
"""Functions of the README that are not examples by themselves: they need a caller's deadline."""


def blocks(kind: str) -> list[tuple[str, str]]:
    """Return (rest of the first line, content) of the fenced blocks of a kind."""
    return re.findall(rf"^```{kind}(?: ([^\n]*))?\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def programs() -> dict[str, str]:
    """Return the README's complete programs by file name."""
    return {
        info.removeprefix("file="): source
        for info, source in blocks("python")
        if info.startswith("file=")
    }


def commands() -> list[tuple[str, str]]:
    """Return the README's commands with what they print."""
    found = []
    for _, content in blocks("console"):
        for command in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
            line, _, output = command.partition("\n")
            found.append((line, output))
    return found


def run(command: str, folder: Path) -> str:
    """Run a shell command in a folder with this interpreter as `python`, return its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        f"exec {command}",  # killed in place of a shell when its time is up
        shell=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_a_first_program() -> None:
    """The README has programs, and commands that run each of them."""
    assert "hello.py" in programs()
    assert all(any(name in line for line, _ in commands()) for name in programs())


@pytest.mark.parametrize(("command", "output"), commands())
def test_commands_print_what_is_shown(command: str, output: str, tmp_path: Path) -> None:
    """A command that the README shows prints exactly what it shows."""
    for name, source in programs().items():
        (tmp_path / name).write_text(source)

    assert run(command, tmp_path) == output


def test_snippets_run(tmp_path: Path) -> None:
    """The README's snippets, put together, run on worker 0 of three."""
    snippets = "\n".join(source for info, source in blocks("python") if not info)
    names = [
        node.name
        for node in ast.parse(snippets).body
        if isinstance(node, ast.AsyncFunctionDef)
        and not node.args.args
        and node.name not in CALLED_BY_OTHERS
    ]
    calls = "\n            ".join(f"await {name}()" for name in names)
    (tmp_path / "snippets.py").write_text(FRAME.format(snippets=snippets, calls=calls))

    output = run("python -m launcher --nproc-per-node 3 snippets.py", tmp_path)

    sections = {"calls", "errors", "deadlines", "retries", "streams", "references", "members"}
    assert sections | {"faults"} <= set(names)
    assert output == "no answer wanted\n"


def test_links_within_the_repository_lead_somewhere() -> None:
    """Every relative link names a file, or a heading of the README."""
    headings = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    broken = [
        link
        for link in links
        if (
            link[1:] not in headings
            if link[0] == "#"
            else not Path(__file__).parents[1].joinpath(link).exists()
        )
    ]

    assert links
    assert broken == []
