"""A guardian that is a fork of the agent, so that workers can be forks of both.

Used by the guardian's client.
"""

from __future__ import annotations

import os
import signal
import socket
import warnings
from collections.abc import Callable, Mapping
from typing import NoReturn

from launcher.process.guardian.program import serve

__all__ = ("ForkedGuardian",)


class ForkedGuardian:
    """The process; what of `subprocess.Popen` the client uses.

    Args:
        ours: the agent's end of the socket.
        theirs: the guardian's end.
        call: what each worker does, see `serve`.

    Raises:
        OSError: there can be no more processes.
    """

    def __init__(
        self,
        ours: socket.socket,
        theirs: socket.socket,
        call: Callable[[int, Mapping[bytes, bytes]], NoReturn],
    ) -> None:
        agent = os.getpid()
        with warnings.catch_warnings():
            # Python 3.12 warns of threads: whoever chose this start method has to know of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
            """Its process id."""
        if self.pid == 0:
            try:
                os.setsid()
                ours.close()
                serve(theirs, agent, call)
            finally:
                os._exit(1)

    def kill(self) -> None:
        """End it at once; the kernel takes its workers along."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Return its exit status once it has ended, -N for signal N."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
