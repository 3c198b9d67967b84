"""The guardian: the process that starts the workers, outlives the agent and leaves nobody behind.

Run by __main__.py of this folder, one per agent, started by `Guardian` of client.py.
It must start in a few milliseconds: nothing outside this folder is imported but small C modules
(``socket`` and ``signal`` would cost as much as the interpreter).

Theory of operation
-------------------
The guardian is the parent of every worker and their sub-reaper: when a process below it dies, its
children become the guardian's own, even if they are in a session of their own. So it always
suffices to signal its direct children until none is left; a process id that it has not reaped
cannot be used again, so no signal can hit a stranger. It has one thread and no state but a table
of workers; it sleeps until the agent sends a message, a child changes state or the agent dies.

The agent is gone when its end of the socket is closed or its process has ended (which need not
coincide: a process forked by the agent holds the socket too). The guardian then kills everything
below it and exits. If the guardian is killed itself, the kernel kills the workers
(PR_SET_PDEATHSIG), and the agent sees the end of the socket; what the workers had started is left
to the agent, if that is a sub-reaper, or to init.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # the C half of signal, no stubs
import _socket
import os
import select
import struct
import sys
import time

from launcher.process.guardian.fence import Fence
from launcher.process.guardian.messages import (
    CLEAR,
    CLEARED,
    EXITED,
    FENCE,
    MAX_DESCRIPTORS,
    SIGNAL,
    STARTED,
    Kind,
    MessageReader,
    decode_start,
    encode,
)
from launcher.process.guardian.spawn import IGNORED_SIGNALS, become_subreaper, execute, spawn
from launcher.process.guardian.tree import (
    children,
    group_of,
    now_in_ticks,
    process_state,
    send_signal,
    started_at,
)

TYPE_CHECKING = False  # the typing module is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn

    from launcher.process.guardian.spawn import Become

__all__ = ("main", "serve")

_MSG_CMSG_CLOEXEC = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
_SIGKILL = 9
_KILL_WAIT = 2.0  # after SIGKILL only a process in uninterruptible sleep is still there
_LONGEST_WAIT = 1e6  # seconds; poll(2) takes no more than twice that
_LAST_KILL_WAIT = 5.0  # the same when the agent is gone and nobody waits for an answer


class _Worker:
    """A worker that has not been reaped; its pid is also its session and process group."""

    __slots__ = ("number", "pid", "signalled_at")

    def __init__(self, number: int, pid: int) -> None:
        self.number = number
        self.pid = pid
        self.signalled_at: int | None = None  # the last time, in clock ticks since boot


class _Stray:
    """A process that an ended worker left behind, by now our own child."""

    __slots__ = ("is_in_group", "was_signalled")

    def __init__(self, pid: int, signalled_groups: Mapping[int, int | None]) -> None:
        group = group_of(pid)
        signalled_at = signalled_groups.get(group)
        self.is_in_group = group in signalled_groups
        # A shell may fork one more child between the signal and its trap.
        self.was_signalled = signalled_at is not None and started_at(pid) < signalled_at


class _Clearing:
    """A CLEAR request under way."""

    __slots__ = (
        "group_deadline",
        "killed",
        "number",
        "seen",
        "signal_at",
        "signum",
        "stray_deadline",
    )

    def __init__(self, body: bytes, now: float) -> None:
        self.number, self.signum, quiet, group_grace, stray_grace = CLEAR.unpack(body)
        self.signal_at = now + quiet
        self.group_deadline = self.signal_at + group_grace
        self.stray_deadline = self.signal_at + stray_grace
        self.seen: set[int] = set()  # processes that got the first signal, or need none
        self.killed: set[int] = set()

    def advance(self, strays: Mapping[int, _Stray], now: float) -> float | None:
        """Signal the strays that are due.

        Args:
            strays: the processes left behind, by process id.
            now: monotonic seconds.

        Returns:
            When to look again at the latest; ``None`` when this request is done.
        """
        wake_at = None
        for pid, stray in strays.items():
            deadline = self.group_deadline if stray.is_in_group else self.stray_deadline
            if now >= deadline + _KILL_WAIT:
                continue
            if now >= deadline:
                self.killed.add(pid)
                send_signal(pid, _SIGKILL)
                deadline += _KILL_WAIT
            elif now < self.signal_at:
                deadline = self.signal_at
            elif pid not in self.seen:
                self.seen.add(pid)
                if not stray.was_signalled:
                    send_signal(pid, self.signum)
            wake_at = deadline if wake_at is None else min(wake_at, deadline)
        return wake_at


class _Program:
    """What the guardian process does.

    Args:
        agent: socket to the agent.
        agent_pid: the agent, the parent of this process.
        call: what a worker does instead of executing a program, see `serve`.
    """

    def __init__(
        self,
        agent: _socket.socket,
        agent_pid: int,
        call: Callable[[int, Mapping[bytes, bytes]], NoReturn] | None = None,
    ) -> None:
        self._agent = agent
        self._call = call
        self._reader = MessageReader()
        self._descriptors: list[int] = []  # received, not yet claimed by a START
        self._workers: dict[int, _Worker] = {}  # by the agent's number
        self._by_pid: dict[int, _Worker] = {}  # the same, by process id
        self._ended_groups: dict[int, int | None] = {}  # when each was signalled, see _Worker
        self._clearings: list[_Clearing] = []
        self._removals: list[bytes] = []  # paths, should the agent not remove them itself
        self._fence = Fence(agent_pid)
        self._has_children = False
        self._wakeup, self._woken = _wake_on_child()
        self._poll = select.poll()
        self._poll.register(agent.fileno(), select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        self._agent_pidfd = _open_pidfd(agent_pid)
        if self._agent_pidfd >= 0:
            self._poll.register(self._agent_pidfd, select.POLLIN)

    def run(self) -> None:
        """Serve the agent until it is gone, then kill whatever is left."""
        try:
            timeout = None
            while self._turn(timeout):
                now = time.monotonic()
                steps = self._clear(now), self._fence.advance(self._kill_fenced, now)
                timeout = min((step for step in steps if step is not None), default=None)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the agent died while we wrote to it
        finally:
            self._receive_last()
            self._kill_everything()
            for path in self._removals:
                _remove(path)

    def _turn(self, timeout: float | None) -> bool:
        """Wait for something to happen and handle it; return whether the agent is there."""
        wait = None if timeout is None else min(timeout, _LONGEST_WAIT) * 1000
        ready = [fd for fd, _ in self._poll.poll(wait)]
        self._reap()  # first: an exit is never taken for the effect of a later signal
        if self._agent_pidfd in ready:
            return False
        return self._agent.fileno() not in ready or self._receive()

    def _receive(self) -> bool:
        data, ancillary, _, _ = self._agent.recvmsg(
            1 << 18, _socket.CMSG_SPACE(4 * MAX_DESCRIPTORS), _MSG_CMSG_CLOEXEC
        )
        for _, _, numbers in ancillary:
            self._descriptors += struct.unpack(f"{len(numbers) // 4}i", numbers)
        for kind, body in self._reader.feed(data):
            if kind == Kind.START:
                self._start(body)
            elif kind == Kind.SIGNAL:
                self._signal(*SIGNAL.unpack(body))
            elif kind == Kind.REMOVE:
                self._removals.append(body)
            elif kind == Kind.FENCE:
                (self._fence.deadline,) = FENCE.unpack(body)
            else:
                self._clearings.append(_Clearing(body, time.monotonic()))
        return bool(data)

    def _receive_last(self) -> None:
        """Of what the agent had sent when it died, take what is to be done then."""
        self._agent.setblocking(False)
        try:
            while data := self._agent.recv(1 << 16):
                for kind, body in self._reader.feed(data):
                    if kind == Kind.REMOVE:
                        self._removals.append(body)
        except OSError:  # there is no more, whatever the reason
            return

    def _start(self, body: bytes) -> None:
        number, targets, cpus, argv, env, cwd = decode_start(body)
        sources = self._descriptors[: len(targets)]
        del self._descriptors[: len(targets)]
        descriptors = dict(zip(targets, sources, strict=True))
        become: Become = execute
        own: tuple[int, ...] = ()
        if self._call is not None:
            become, own = self._become, self._own_descriptors()
        pid, error, is_about_cwd = spawn(argv, env, cwd, descriptors, become, own, cpus)
        for fd in sources:
            os.close(fd)
        if not error:
            worker = _Worker(number, pid)
            self._workers[number] = self._by_pid[pid] = worker
        self._send(Kind.STARTED, STARTED.pack(number, pid, error, is_about_cwd))

    def _own_descriptors(self) -> tuple[int, ...]:
        """Return what no worker may have: it would keep others waiting for the end of a pipe."""
        own = (self._agent.fileno(), self._wakeup, self._woken, *self._descriptors)
        return own if self._agent_pidfd < 0 else (*own, self._agent_pidfd)

    def _become(self, argv: list[bytes], env: Mapping[bytes, bytes], fails: int) -> None:
        """Make this forked process a worker that calls."""
        os.close(fails)
        assert self._call is not None
        self._call(int(argv[0]), env)

    def _signal(self, number: int, signum: int) -> None:
        self._reap()
        worker = self._workers.get(number)
        if worker is not None:
            worker.signalled_at = now_in_ticks()
            send_signal(-worker.pid, signum)

    def _reap(self) -> None:
        """Take the status of every child that has ended and report the workers among them."""
        _drain(self._wakeup)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._has_children = False
                return
            if pid == 0:
                self._has_children = True
                return
            worker = self._by_pid.pop(pid, None)
            if worker is not None:
                del self._workers[worker.number]
                self._ended_groups[pid] = worker.signalled_at
                was_signalled = worker.signalled_at is not None
                body = EXITED.pack(worker.number, status, was_signalled, time.monotonic())
                self._send(Kind.EXITED, body)

    def _clear(self, now: float) -> float | None:
        """Advance the CLEAR requests; return the seconds until the next step is due."""
        if not self._clearings:
            return None
        strays = self._strays()
        wake_at = None
        for clearing in tuple(self._clearings):
            due = clearing.advance(strays, now)
            if due is None:
                self._clearings.remove(clearing)
                self._send(
                    Kind.CLEARED, CLEARED.pack(clearing.number, len(strays), len(clearing.killed))
                )
            else:
                wake_at = due if wake_at is None else min(wake_at, due)
        if not strays:
            self._ended_groups.clear()
        return None if wake_at is None else max(0.0, wake_at - now)

    def _strays(self) -> dict[int, _Stray]:
        """Return our children that are not workers, by process id."""
        self._reap()
        if not self._has_children:
            return {}
        pids = (pid for pid in children() if pid not in self._by_pid)
        return {pid: _Stray(pid, self._ended_groups) for pid in pids}

    def _send(self, kind: int, body: bytes) -> None:
        self._agent.sendall(encode(kind, body))

    def _kill_fenced(self) -> bool:
        for worker in self._by_pid.values():
            worker.signalled_at = now_in_ticks()
        return bool(self._kill_known())

    def _kill_known(self) -> list[int]:
        """Kill all children there are, and the groups of workers; return who they were."""
        for pid in self._by_pid:  # their groups at once: most trees are gone in one step
            send_signal(-pid, _SIGKILL)
        left = [*children()]
        for pid in left:
            send_signal(pid, _SIGKILL)
        return left

    def _kill_everything(self) -> None:
        """Kill all processes below this one; those that cannot be killed are named on stderr."""
        deadline = time.monotonic() + _LAST_KILL_WAIT
        while True:
            left = self._kill_known()
            if not _reap_all(self._by_pid) or not (left or self._by_pid):
                return
            if time.monotonic() > deadline:
                _report_unkillable(left)
                return
            select.select([self._wakeup], [], [], 0.05)
            _drain(self._wakeup)


def _wake_on_child() -> tuple[int, int]:
    """Return a descriptor that becomes readable when a child changes state, and its other end."""
    wakeup, woken = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(woken, False)
    _signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    return wakeup, woken


def _drain(fd: int) -> None:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        return


def _open_pidfd(pid: int) -> int:
    """Return a descriptor that becomes readable when our parent ends, -1 if there is none."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):  # old kernel, or it is gone: the socket will tell
        return -1
    if os.getppid() != pid:  # it ended before, and this may be somebody else
        os.close(fd)
        return -1
    return fd


def _reap_all(workers: dict[int, _Worker]) -> bool:
    """Take the status of all that have ended; return whether any child is left."""
    try:
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            workers.pop(pid, None)
    except ChildProcessError:
        return False
    return True


def _remove(path: bytes) -> None:
    """Remove a file, or a folder and those in it as far as they are empty."""
    try:
        if not os.path.isdir(path):
            os.unlink(path)
    except OSError:  # the agent has removed it
        return
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:  # not empty: somebody's output
            continue


def _report_unkillable(pids: Iterable[int]) -> None:
    for pid in pids:
        state = process_state(pid)
        sys.stderr.write(f"launcher guardian: process {pid} survives SIGKILL, state {state}\n")


def serve(
    agent: _socket.socket,
    agent_pid: int,
    call: Callable[[int, Mapping[bytes, bytes]], NoReturn] | None = None,
) -> NoReturn:
    """Be a guardian until the agent is gone; the process then ends.

    Args:
        agent: socket to the agent.
        agent_pid: the agent, the parent of this process.
        call: what each worker, forked from this process, does instead of executing a program: it
            gets the number that is its whole command line, and its environment.
    """
    for signum in IGNORED_SIGNALS:
        _signal.signal(signum, _signal.SIG_IGN)
    become_subreaper()
    _Program(agent, agent_pid, call).run()
    os._exit(0)  # the agent waits, and taking the interpreter down takes longer than starting it


def main() -> None:
    """Run the guardian; arguments are the descriptor of the socket and the agent's pid."""
    descriptor, agent_pid = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    serve(_socket.socket(fileno=descriptor), agent_pid)
