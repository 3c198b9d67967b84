"""`launcher.control`: whose socket it is, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from launcher.commands import run_command
from launcher.control import find_launches, serve_control, stop_launch
from launcher.errors import LauncherError
from launcher.health import RunStatus

pytestmark = pytest.mark.asyncio

STATUS = RunStatus("run", 0, 1, [], "HEALTHY", 0, "a.py", "r", 0, 3, 7, 1.0, None)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that sockets' folders are made in; its name is too long for a socket."""
    path = tmp_path / ("long" * 30)
    path.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


async def test_launches_are_found_and_told_to_stop(runtime: Path) -> None:
    """Several; the oldest comes first; afterwards nothing is left."""
    stopped: list[str] = []
    async with (
        serve_control(lambda: STATUS, lambda: stopped.append("young")),
        serve_control(lambda: STATUS._replace(seconds=9.0), lambda: stopped.append("old")),
    ):
        mode = stat.S_IMODE((runtime / "launcher").stat().st_mode)
        launches = await asyncio.to_thread(find_launches, os.environ)
        await asyncio.to_thread(stop_launch, launches[0], os.environ)

    assert mode == 0o700
    assert [launch.status["seconds"] for launch in launches] == [9.0, 1.0]
    assert launches[0].status["run_id"] == "run"
    assert stopped == ["old"]
    assert os.listdir(runtime) == []
    assert find_launches(os.environ) == []


async def test_a_socket_that_nobody_serves_is_removed(runtime: Path) -> None:
    """Its launcher was killed."""
    (runtime / "launcher").mkdir(mode=0o700)
    folder = os.open(runtime / "launcher", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"/proc/self/fd/{folder}/7-x.sock")
    os.close(folder)

    assert find_launches(os.environ) == []
    assert os.listdir(runtime / "launcher") == []


async def test_a_launch_that_does_not_answer_is_told_of(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its process is stopped: it is there, but nothing can be asked of it."""
    monkeypatch.setattr("launcher.control.client._TIMEOUT", 0.1)
    (runtime / "launcher").mkdir(mode=0o700)
    folder = os.open(runtime / "launcher", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"/proc/self/fd/{folder}/7-x.sock")
        silent.listen(0)
        os.close(folder)
        shown = [run_command("status", argv) for argv in ([], ["7"], ["--json"])]
        for argv in ([], ["7"]):
            with pytest.raises(LauncherError, match=r"^pid 7 does not answer$"):
                run_command("stop", argv)
        with pytest.raises(LauncherError, match=r"^r: no such .*; pid 7 does not answer$"):
            run_command("logs", ["r"])

    assert shown == [0, 0, 0]
    *told, as_json = capsys.readouterr().out.splitlines()
    assert told == ["pid 7 does not answer"] * 2
    assert json.loads(as_json) == [{"run_id": None, "pid": 7, "state": "SILENT", "workers": []}]


async def test_a_folder_that_others_can_enter_is_not_trusted(runtime: Path) -> None:
    """Neither to look into nor to serve from; a launch goes on without."""
    (runtime / "launcher").mkdir()
    (runtime / "launcher").chmod(0o755)

    with pytest.raises(PermissionError, match="mode 0700"):
        find_launches(os.environ)
    async with serve_control(lambda: STATUS, lambda: None):
        assert os.listdir(runtime / "launcher") == []


async def test_a_link_in_its_place_is_not_followed(runtime: Path, tmp_path: Path) -> None:
    """Whoever made it may be somebody else."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (runtime / "launcher").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="launcher"):
        find_launches(os.environ)
    async with serve_control(lambda: STATUS, lambda: None):
        assert os.listdir(tmp_path / "elsewhere") == []


async def test_another_users_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the folder let it through."""
    monkeypatch.setattr("launcher.control.server._is_ours", lambda peer: False)
    async with serve_control(lambda: STATUS, lambda: None):
        assert await asyncio.to_thread(find_launches, os.environ) == []
