"""The control socket of one launch: its status, and the order to stop. Called by the api.

Theory of operation: the pages of `launcher.health` on a unix socket, which the system lets this
user alone connect to; each peer is asked for its user besides. Without the socket a run goes on as
ever, so what keeps it from being made is no error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from launcher.control.folder import SUFFIX, control_folder, open_folder
from launcher.health import HealthServer, Response, RunStatus, status_routes

__all__ = ("serve_control",)

_ATTEMPTS = 5  # at making the folder, which another launch that ends may remove meanwhile

_log = logging.getLogger("launcher.control")


@asynccontextmanager
async def serve_control(
    status: Callable[[], RunStatus],
    stop: Callable[[], None],
    remove_at_end: Callable[[str], None] | None = None,
) -> AsyncIterator[None]:
    """Let this user's other processes ask for the status of a launch and stop it.

    Args:
        status: returns how the run is at the moment.
        stop: begins the end of the run.
        remove_at_end: makes sure that a path goes also if this process is killed.
    """

    def take_order() -> Response:
        stop()
        return Response("stopping\n")

    routes = {**status_routes(status), ("POST", "/stop"): take_order}
    with contextlib.ExitStack() as cleanup:
        try:
            listening = _listen(cleanup, remove_at_end)
        except OSError as error:
            _log.info("`launcher status` will not know this launch: %s", error)
            yield
            return
        async with HealthServer(listening, routes, _is_ours):
            yield


def _listen(
    cleanup: contextlib.ExitStack, remove_at_end: Callable[[str], None] | None
) -> socket.socket:
    path = control_folder(os.environ)
    cleanup.callback(_remove_folder, path)
    name = f"{os.getpid()}-{os.urandom(4).hex()}{SUFFIX}"
    for left in reversed(range(_ATTEMPTS)):
        try:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            folder = open_folder(path)
            cleanup.callback(os.close, folder)
            listening = socket.socket(socket.AF_UNIX)
            cleanup.callback(listening.close)
            listening.bind(f"/proc/self/fd/{folder}/{name}")
            break
        except FileNotFoundError:
            if not left:
                raise
    if remove_at_end is not None:
        remove_at_end(os.path.join(path, name))
        remove_at_end(path)  # unless sockets of others are in it
    cleanup.callback(_remove_file, os.path.join(path, name))
    listening.listen()
    listening.setblocking(False)
    return listening


def _remove_file(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _remove_folder(path: str) -> None:
    with suppress(OSError):  # others' sockets are in it
        os.rmdir(path)


def _is_ours(peer: socket.socket) -> bool:
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())
