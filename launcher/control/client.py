"""Asking the launches of this user on this machine. Blocking; called by the commands."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from launcher.control.folder import SUFFIX, control_folder, open_folder

__all__ = ("Launch", "find_launches", "stop_launch")

_TIMEOUT = 5.0  # seconds for each launch; one that is stopped must not hide the others
_SILENT = "SILENT"
_MAX_ANSWER = 64 << 20  # bytes; the status of far more workers than a node has


class Launch(NamedTuple):
    """A launch that goes on."""

    socket: str
    """Name of its socket in the folder."""
    status: Mapping[str, Any]
    """Fields of `launcher.health.RunStatus`; of one that does not answer, what is known of it."""

    @property
    def answers(self) -> bool:
        """Whether it has told its status; not when its process is stopped, as by ``kill -STOP``."""
        return bool(self.status["state"] != _SILENT)


def find_launches(environ: Mapping[str, str]) -> list[Launch]:
    """Ask all launches how they are.

    Args:
        environ: where the folder of the sockets is looked up.

    Returns:
        The oldest first, after them those that do not answer.

    Raises:
        OSError: the folder is not this user's alone.
    """
    try:
        folder = open_folder(control_folder(environ))
    except FileNotFoundError:
        return []
    try:
        names = [name for name in os.listdir(f"/proc/self/fd/{folder}") if name.endswith(SUFFIX)]
        found = [launch for name in names if (launch := _ask(folder, name)) is not None]
    finally:
        os.close(folder)
    return sorted(found, key=lambda launch: -launch.status.get("seconds", 0.0))


def stop_launch(launch: Launch, environ: Mapping[str, str]) -> None:
    """Tell a launch to stop, as SIGTERM does.

    Args:
        launch: as it was found.
        environ: where the folder of the sockets is looked up.

    Raises:
        OSError: it has ended meanwhile.
    """
    folder = open_folder(control_folder(environ))
    try:
        _request(folder, launch.socket, "POST", "/stop")
    except BrokenPipeError:  # which commands take for that of stdout
        raise ConnectionError(f"pid {launch.status['pid']}: it has ended meanwhile") from None
    finally:
        os.close(folder)


def _ask(folder: int, name: str) -> Launch | None:
    try:
        status = json.loads(_request(folder, name, "GET", "/status"))
    except ConnectionRefusedError:  # it was killed together with its guardian
        with suppress(OSError):
            os.unlink(f"/proc/self/fd/{folder}/{name}")
        return None
    except (TimeoutError, BlockingIOError):  # it takes no connection, or it does not read
        status = {"run_id": None, "pid": _pid(name), "state": _SILENT, "workers": []}
    except (OSError, ValueError):
        return None
    return Launch(name, status)


def _pid(name: str) -> int | None:
    pid = name.partition("-")[0]
    return int(pid) if pid.isdecimal() else None


def _request(folder: int, name: str, method: str, path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect(f"/proc/self/fd/{folder}/{name}")
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: launcher\r\n\r\n".encode())
        answer = bytearray()
        while data := connection.recv(1 << 16):
            answer += data
            if len(answer) > _MAX_ANSWER:
                raise ConnectionError("answer: expected that of a launcher")
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError("answer: expected that of a launcher")
    return body
