"""Workers that run a function of this program, in processes of their own.

Theory of operation
-------------------
Each start method is a parent for the workers, and none of them is a child of ours: what is true
of the guardian's programs is true of functions. ``spawn``: any guardian, which executes a new
Python for each worker, with the pickled function in a file that the worker inherits.
``forkserver``: a guardian that is a new Python itself, imports the function's module and forks
for each worker. ``fork``: a guardian that is a fork of this process, and forks in turn; nothing is
pickled but the result.

What a function returns comes back over a pipe that is read while the workers run, so that a big
result fills no pipe. It need not be complete when its worker's end is reported: the rest is in
the pipe then.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import spawn
from typing import NoReturn

from launcher.config import START_METHODS
from launcher.process.base import ProcessContext
from launcher.process.bootstrap import PAYLOAD, RESULT, run_forked
from launcher.process.forkserver import start_forkserver
from launcher.process.guardian import Guardian
from launcher.process.payload import pack
from launcher.process.result import RunProcsResult
from launcher.process.results import IncomingResult

__all__ = ("FunctionContext",)

_READ_BYTES = 1 << 20  # of one result at a time
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class FunctionContext(ProcessContext):
    """Workers that each call the entrypoint, a function, with their own arguments.

    Of the workers that did not succeed, those that we stopped because of the others are not among
    the failures.

    The arguments are those of `ProcessContext`. The entrypoint may be a coroutine function: it is
    run by `asyncio.run`. Start methods are ``spawn``, ``fork`` and ``forkserver``.
    """

    def prepare(self) -> None:
        """Check the start method, and make room for results."""
        if self._start_method not in START_METHODS:
            methods = ", ".join(START_METHODS)
            raise ValueError(f"start_method={self._start_method!r}: expected one of {methods}")
        assert callable(self.entrypoint)
        self._function = self.entrypoint
        self._function_name = getattr(self._function, "__qualname__", repr(self._function))
        self._results: dict[int, IncomingResult] = {}
        self._pipes: dict[int, int] = {}  # our ends
        self._handover: dict[int, list[int]] = {}  # workers' ends that we still hold
        self._loop = asyncio.get_running_loop()

    def command_line(self, local_rank: int) -> Sequence[str]:
        """Return what runs a worker, its name for people included."""
        if self._start_method == "spawn":
            return (*_python("bootstrap"), f"{self.name}{local_rank}", self._function_name)
        return (str(local_rank),)

    def start_guardian(self) -> Guardian | None:
        """Start the parent that the start method asks for."""
        match self._start_method:
            case "fork":
                return Guardian.fork(self._run_forked)
            case "forkserver":
                return start_forkserver(_python("forkserver"), self.name, self._function)
            case _:
                return None

    def open(self, local_rank: int) -> Mapping[int, int]:
        """Open the file with a worker's function and the pipe for its result."""
        handover = self._handover[local_rank] = []
        descriptors = {}
        if self._start_method != "fork":
            payload = pack(f"{self.name}{local_rank}", self._function, self.args[local_rank])
            handover.append(payload.fd)
            descriptors = {PAYLOAD: payload.fd, **payload.descriptors}
        reading, writing = os.pipe()
        handover.append(writing)
        self._receive(local_rank, reading)
        return {**descriptors, RESULT: writing}

    def hand_over(self, local_rank: int) -> None:
        """Close what the worker has by now, or will never have."""
        for fd in self._handover.pop(local_rank, ()):
            os.close(fd)

    async def value(self, local_rank: int) -> object:
        """Return what a worker returned.

        Raises:
            ValueError: it ended before its function did, or the value makes no sense here.
        """
        result = self._results[local_rank]
        self._read(local_rank, sys.maxsize)  # the rest of it
        if not result.is_complete:
            raise ValueError(
                f"{self._function_name} never returned: its process ended with status 0"
            )
        try:
            return await asyncio.to_thread(result.value)  # a big one takes its time
        except Exception as error:
            raise ValueError(
                f"what {self._function_name} returned cannot be unpickled here: "
                f"{type(error).__name__}: {error}"
            ) from error

    def release(self) -> None:
        """Close the pipes."""
        for local_rank in tuple(self._pipes):
            self._close(local_rank)

    def _run_forked(self, local_rank: int, env: Mapping[bytes, bytes]) -> NoReturn:
        work = (self._function, self.args[local_rank])
        run_forked(f"{self.name}{local_rank}", env, lambda: work)

    def _receive(self, local_rank: int, fd: int) -> None:
        os.set_blocking(fd, False)
        self._results[local_rank] = IncomingResult()
        self._pipes[local_rank] = fd
        self._loop.add_reader(fd, self._read, local_rank, _READ_BYTES)

    def _read(self, local_rank: int, limit: int) -> None:
        fd = self._pipes.get(local_rank)
        if fd is not None and not self._results[local_rank].read(fd, limit):
            self._close(local_rank)

    def _close(self, local_rank: int) -> None:
        fd = self._pipes.pop(local_rank)
        self._loop.remove_reader(fd)
        os.close(fd)

    async def _result(self) -> RunProcsResult:
        result = await super()._result()
        own = {rank: f for rank, f in result.failures.items() if not f.stopped_by_us}
        result.failures = own or result.failures
        return result


def _python(module: str) -> Sequence[str]:
    """Return this Python, the options it runs with, and what makes it call a module's `main`."""
    options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # multiprocessing's way
    # A worker gets our path only with its payload; until then it finds this package, and never one
    # of the same name in the current folder.
    code = (
        f"import sys; sys.path[:] = [*filter(None, sys.path), {_ROOT!r}]; "
        f"from launcher.process.{module} import main; main()"
    )
    return (spawn.get_executable(), *options, "-c", code)
