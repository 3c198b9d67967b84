"""A guardian that imports the workers' modules once, and forks every worker off itself.

Run by `start_forkserver` in a Python of its own: nothing of the launcher's process is in it, so
that forking is safe, and nothing is imported twice.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from launcher.process.bootstrap import PAYLOAD, run_forked
from launcher.process.guardian import Guardian
from launcher.process.guardian.program import serve
from launcher.process.guardian.spawn import end_with_parent
from launcher.process.payload import forget_tracker, pack, unpack

__all__ = ("main", "start_forkserver")


def start_forkserver(python: Sequence[str], name: str, function: Callable[..., object]) -> Guardian:
    """Start a guardian that has imported a function's module, or is about to.

    Args:
        python: the interpreter, its options, and what makes it call `main`.
        name: of the workers, to which their numbers are added.
        function: what they will run.

    Raises:
        GuardianError: the interpreter could not be started.
        pickle.PicklingError: the function cannot be pickled.
    """
    fd = pack(name, function, ()).fd
    try:
        return Guardian.start(command=(*python, name, str(fd)), pass_fds=(fd,))
    finally:
        os.close(fd)


def main() -> NoReturn:
    """Be the guardian; the last arguments are name, descriptors of payload and socket, and pid."""
    name, payload, descriptor, agent = sys.argv[-4:]
    os.set_inheritable(int(descriptor), False)
    # Imports may take for ever, and meanwhile nobody looks whether the agent is still there.
    end_with_parent(int(agent))
    os.dup2(2, 1)  # what modules print is ours to show, and no worker's output
    # A worker tries again, and fails, if it must, as itself.
    with suppress(Exception, SystemExit):
        unpack(int(payload))
    forget_tracker()
    end_with_parent(0)

    def call(number: int, env: Mapping[bytes, bytes]) -> NoReturn:
        run_forked(f"{name}{number}", env, lambda: unpack(PAYLOAD))

    serve(socket.socket(fileno=int(descriptor)), int(agent), call)
