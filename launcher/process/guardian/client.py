"""The agent's side of the guardian: start workers, signal them, hear of their exits.

Everything happens on the loop: exits arrive as messages, the guardian's own end through its
pidfd. The agent never waits for a worker's process id itself. Called by the process contexts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, Self

from launcher.errors import GuardianError
from launcher.process.guardian import messages
from launcher.process.guardian.inheritance import Inheritance
from launcher.process.guardian.messages import Kind
from launcher.process.guardian.process import Cleared, Exit, GuardedProcess

if TYPE_CHECKING:
    from launcher.process.guardian.forked import ForkedGuardian

__all__ = ("Guardian",)

_PROGRAM = os.path.join(os.path.dirname(__file__), "__main__.py")
_COMMAND = (sys.executable, "-I", "-S", "-E", _PROGRAM)
# The guardian gives up on unkillable processes after 5 s by itself; later than that it hangs.
_CLOSE_TIMEOUT = 7.0

_log = logging.getLogger("launcher.process")


class Guardian:
    """The guardian process of one agent; made by `start`, ended by `close`.

    If it dies unasked, running workers are killed, their exits reported as SIGKILL, ``lost`` is
    set and every later request raises it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        process: subprocess.Popen[bytes] | ForkedGuardian,
        sock: socket.socket,
        inheritance: Inheritance | None = None,
    ) -> None:
        self.lost: GuardianError | None = None
        """Why no worker can be started or watched any more; ``None`` while all is well."""
        self._loop = loop
        self._process = process
        self._socket = sock
        self._inheritance = inheritance
        self._reader = messages.MessageReader()
        self._outgoing: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._last_number = 0
        self._starting: dict[int, tuple[GuardedProcess, asyncio.Future[None], str, str]] = {}
        self._running: dict[int, GuardedProcess] = {}
        self._clearing: dict[int, asyncio.Future[Cleared]] = {}
        self._ended: asyncio.Future[None] = loop.create_future()
        self._is_closing = False
        self._pidfd = _open_pidfd(process.pid)
        loop.add_reader(sock.fileno(), self._on_readable)
        if self._pidfd >= 0:
            loop.add_reader(self._pidfd, self._on_end)

    @classmethod
    def start(
        cls,
        *,
        inherits: bool = False,
        command: Sequence[str] = _COMMAND,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start a guardian; it gets ready while the caller goes on.

        Args:
            inherits: whether this process takes over, and ends, what is below the guardian should
                it die unasked; it then becomes a sub-reaper.
            command: the program, which is given the number of its socket and our process id as
                last arguments, for `launcher.process.guardian.program.serve`.
            pass_fds: descriptors that the program gets besides.

        Raises:
            GuardianError: the interpreter could not be started.
            RuntimeError: there is no running loop.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                process = subprocess.Popen(
                    (*command, str(theirs.fileno()), str(os.getpid())),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *pass_fds),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise GuardianError(f"guardian could not be started: {error}") from error
        return cls(loop, process, ours, Inheritance() if inherits else None)

    @classmethod
    def fork(cls, call: Callable[[int, Mapping[bytes, bytes]], NoReturn]) -> Self:
        """Fork a guardian off this process; its workers are forks of it, and share our memory.

        Args:
            call: what a worker does, given the number that is its command line and its
                environment; it ends the process.

        Raises:
            GuardianError: there can be no more processes.
            RuntimeError: there is no running loop.
        """
        from launcher.process.guardian.forked import ForkedGuardian  # noqa: PLC0415 -- brings all that a guardian runs

        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                process = ForkedGuardian(ours, theirs, call)
            except OSError as error:
                ours.close()
                raise GuardianError(f"guardian could not be started: {error}") from error
        return cls(loop, process, ours)

    @property
    def pid(self) -> int:
        """The guardian's process id."""
        return self._process.pid

    async def spawn(
        self,
        argv: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str],
        descriptors: Mapping[int, int],
        cwd: str = "",
        cpus: Collection[int] = (),
    ) -> GuardedProcess:
        """Start a program as leader of a new session.

        Args:
            argv: program and arguments; a program without a slash is looked up in the PATH of
                ``env``.
            env: its whole environment.
            descriptors: for each descriptor number it shall have, ours; it gets no other. Ours
                may be closed when this returns.
            cwd: folder to start in; "" for the one the guardian was started in.
            cpus: processors it may use; none for all that the guardian may.

        Returns:
            The process, which is running the program.

        Raises:
            OSError: the program (or the folder) is not there, not executable, and so on; of the
                errno's own class, ``filename`` tells which.
            ValueError: an argument or variable has a NUL byte, or a variable's name an "=".
            GuardianError: the guardian is gone.
        """
        self._check()
        self._last_number += 1
        number = self._last_number
        process = GuardedProcess(number, self._loop.create_future())
        started: asyncio.Future[None] = self._loop.create_future()
        arguments = [_encode(os.fspath(argument)) for argument in argv]
        variables = {_encode_name(name): _encode(value) for name, value in env.items()}
        message = messages.encode_start(
            number, arguments, variables, _encode(cwd), tuple(descriptors), cpus
        )
        self._starting[number] = (process, started, os.fspath(argv[0]), cwd)
        try:
            self._send(message, tuple(descriptors.values()))
        except OSError:  # no copies could be made of the descriptors, and nothing was sent
            del self._starting[number]
            raise
        await started
        return process

    def signal(self, process: GuardedProcess, signum: int) -> None:
        """Send a signal to a worker's process group; nothing if the worker has ended."""
        if process.is_running:
            self._send(messages.encode(Kind.SIGNAL, messages.SIGNAL.pack(process.number, signum)))

    def clear(
        self, signum: int, group_grace: float, stray_grace: float, *, quiet: float = 0.0
    ) -> asyncio.Future[Cleared]:
        """End all processes that ended workers left behind.

        Args:
            signum: signal they get first; groups that were signalled before do not get it again.
            group_grace: seconds from the signal to SIGKILL for processes in a worker's group.
            stray_grace: the same for the others.
            quiet: seconds they may end by themselves before the signal.

        Returns:
            A future: done when they are gone. It fails with GuardianError if the guardian is.
        """
        self._last_number += 1
        cleared: asyncio.Future[Cleared] = self._loop.create_future()
        if self.lost is not None:
            cleared.set_exception(self.lost)
            return cleared
        self._clearing[self._last_number] = cleared
        body = messages.CLEAR.pack(self._last_number, signum, quiet, group_grace, stray_grace)
        self._send(messages.encode(Kind.CLEAR, body))
        return cleared

    def fence_at(self, deadline: float) -> None:
        """Have everything below the guardian killed at a time, if this process is stopped then.

        Args:
            deadline: seconds of ``time.monotonic``, in place of an earlier one; infinite: never.
        """
        self._send(messages.encode(Kind.FENCE, messages.FENCE.pack(deadline)))

    def remove_at_end(self, path: str | os.PathLike[str]) -> None:
        """Have a path removed when we are gone, be it that we were killed.

        Args:
            path: a file, or a folder of which, and in which, only empty folders are removed; it
                may be gone by then.
        """
        self._send(messages.encode(Kind.REMOVE, os.fsencode(os.path.abspath(path))))

    async def close(self) -> None:
        """Kill whatever still runs below the guardian, and end it. Idempotent."""
        if not self._is_closing:
            self._is_closing = True
            with contextlib.suppress(OSError):  # it may be gone already
                self._socket.shutdown(socket.SHUT_WR)
        await asyncio.wait({self._ended}, timeout=_CLOSE_TIMEOUT)
        if not self._ended.done():
            _log.warning("guardian %d did not end in %g s, killed", self.pid, _CLOSE_TIMEOUT)
            self._process.kill()
            await self._ended
        if self.lost is not None and self._inheritance is not None:
            await self._inheritance.end()

    def abandon(self) -> None:
        """Let go of the guardian without waiting: it kills everything and ends by itself."""
        self._is_closing = True
        self._release()

    def _check(self) -> None:
        if self._is_closing and self.lost is None:
            raise GuardianError("guardian is closed, no worker can be started")
        if self.lost is not None:
            raise self.lost

    def _send(self, message: bytes, descriptors: tuple[int, ...] = ()) -> None:
        data = memoryview(message)
        if not self._outgoing:
            sent = self._send_now(data, descriptors)
            if sent == len(data):
                return
            data = data[sent:]
            descriptors = () if sent else descriptors
            self._loop.add_writer(self._socket.fileno(), self._on_writable)
        # The caller may close its descriptors before the guardian takes more data.
        self._outgoing.append((data, tuple(os.dup(fd) for fd in descriptors)))

    def _send_now(self, data: memoryview, descriptors: tuple[int, ...]) -> int:
        """Return how many bytes were taken; all of them if nobody takes any."""
        ancillary = []
        if descriptors:
            numbers = struct.pack(f"{len(descriptors)}i", *descriptors)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        try:
            return self._socket.sendmsg((data,), ancillary)
        except BlockingIOError:
            return 0
        except OSError:  # it is gone, or closing: its end is noticed elsewhere
            return len(data)

    def _on_writable(self) -> None:
        while self._outgoing:
            data, descriptors = self._outgoing.popleft()
            sent = self._send_now(data, descriptors)
            if sent or not descriptors:
                for fd in descriptors:
                    os.close(fd)
                descriptors = ()
            if sent < len(data):
                self._outgoing.appendleft((data[sent:], descriptors))
                return
        self._loop.remove_writer(self._socket.fileno())

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket.fileno())
            if self._pidfd < 0:  # its last act, so this takes no time
                self._on_end()
        for kind, body in self._reader.feed(data):
            self._handle(kind, body)

    def _handle(self, kind: int, body: bytes) -> None:
        if kind == Kind.STARTED:
            self._on_started(*messages.STARTED.unpack(body))
        elif kind == Kind.EXITED:
            number, status, was_signalled, at = messages.EXITED.unpack(body)
            code = os.waitstatus_to_exitcode(status)
            self._running.pop(number).exited.set_result(Exit(code, was_signalled, at))
        else:
            request, stuck, killed = messages.CLEARED.unpack(body)
            cleared = self._clearing.pop(request)
            if not cleared.done():
                cleared.set_result(Cleared(stuck, killed))

    def _on_started(self, number: int, pid: int, error: int, is_about_cwd: bool) -> None:
        process, started, program, cwd = self._starting.pop(number)
        if error:
            if not started.done():
                path = cwd if is_about_cwd else program
                started.set_exception(OSError(error, os.strerror(error), path))
            return
        process.pid = pid
        self._running[number] = process
        if started.done():  # the caller was cancelled and will never hear of it
            self.signal(process, signal.SIGKILL)
        else:
            started.set_result(None)

    def _on_end(self) -> None:
        """The guardian has ended: take its status, and say so if nobody had asked for it."""
        code = self._process.wait()
        if self._socket.fileno() >= 0:
            self._read_rest()
        is_expected = self._is_closing and code == 0
        if not is_expected:
            how = f"signal {-code}" if code < 0 else f"status {code}"
            self.lost = GuardianError(
                f"guardian process {self.pid} of the launcher ended with {how}, "
                "its workers were killed"
            )
            self._kill_workers()
        self._fail_requests(self.lost or GuardianError("guardian was closed"))
        self._release()
        self._ended.set_result(None)

    def _read_rest(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(1 << 16):
                for kind, body in self._reader.feed(data):
                    self._handle(kind, body)

    def _kill_workers(self) -> None:
        """Kill the groups of workers whose guardian died; the kernel has killed the workers."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _fail_requests(self, error: GuardianError) -> None:
        for _, started, _, _ in self._starting.values():
            if not started.done():
                started.set_exception(error)
        for cleared in self._clearing.values():
            if not cleared.done():
                cleared.set_exception(error)
        now = time.monotonic()
        for process in self._running.values():
            process.exited.set_result(Exit(-signal.SIGKILL, was_signalled=True, at=now))
        self._starting.clear()
        self._clearing.clear()
        self._running.clear()

    def _release(self) -> None:
        """Close what connects us to the guardian."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            with contextlib.suppress(OSError):  # a forked process may hold a copy
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        for _, descriptors in self._outgoing:
            for fd in descriptors:
                os.close(fd)
        self._outgoing.clear()


def _open_pidfd(pid: int) -> int:
    """Return a descriptor that becomes readable when our child ends, -1 if there is none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or before 5.3: the socket's end has to do
        return -1


def _encode(text: str) -> bytes:
    data = os.fsencode(text)
    if b"\0" in data:
        raise ValueError(f"argument or variable must not contain a NUL byte, got {text!r}")
    return data


def _encode_name(name: str) -> bytes:
    if not name or "=" in name:
        raise ValueError(f"variable name must not be empty or contain '=', got {name!r}")
    return _encode(name)
