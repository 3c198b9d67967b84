"""Starting a worker from the guardian: fork, descriptors, and exec or a function.

Fork rather than posix_spawn because only the worker itself can ask the kernel to be killed with
its parent (PR_SET_PDEATHSIG); the guardian is small and has one thread, so a fork is cheap and
safe.
"""

from __future__ import annotations

import _ctypes
import _signal  # type: ignore[import-not-found,unused-ignore]  # the C half of signal, no stubs
import fcntl
import os
import struct

TYPE_CHECKING = False  # the typing module is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Become = Callable[[list[bytes], Mapping[bytes, bytes], int], None]

__all__ = (
    "IGNORED_SIGNALS",
    "IGNORED_VARIABLE",
    "become_subreaper",
    "end_with_parent",
    "execute",
    "spawn",
)

IGNORED_SIGNALS = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGTERM,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGALRM,
    _signal.SIGPIPE,
    _signal.SIGTSTP,
    _signal.SIGTTIN,
    _signal.SIGTTOU,
)
"""Sent to whole containers, Slurm steps and sessions; the guardian ends with its agent only."""
IGNORED_VARIABLE = "LAUNCHER_IGNORED_SIGNALS"
"""In a worker's environment: numbers of signals, with commas, that it starts out ignoring."""
_DEFAULT_IN_WORKER = (*IGNORED_SIGNALS, _signal.SIGCHLD, _signal.SIGXFSZ)  # Python ignores this
_EXEC_FAILURE = struct.Struct("!i?")  # errno, whether it is about the folder

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER = 36
_SIGKILL = 9
_THIS_PROGRAM: str = None  # type: ignore[assignment]  # what dlopen(3) takes for it; typeshed disagrees


def spawn(
    argv: list[bytes],
    env: Mapping[bytes, bytes],
    cwd: bytes,
    descriptors: Mapping[int, int],
    become: Become,
    own: Sequence[int] = (),
    cpus: Sequence[int] = (),
) -> tuple[int, int, bool]:
    """Start a worker as leader of a new session.

    Args:
        argv: program and arguments.
        env: its whole environment.
        cwd: folder to start in; empty for ours.
        descriptors: our descriptor for each number it shall have in the program.
        become: what makes a program of the forked process, such as `execute`. It gets the first
            two arguments and a descriptor to close once it cannot fail any more, and does not
            return.
        own: descriptors that are not for workers, where no exec closes them.
        cpus: processors it may use; none for all of ours.

    Returns:
        Process id, errno (0 for success), and whether the errno is about ``cwd``.
    """
    try:
        failed, fails = os.pipe()  # closed by a successful exec
    except OSError as error:
        return 0, error.errno or 1, False
    try:
        pid = os.fork()
    except OSError as error:
        os.close(failed)
        os.close(fails)
        return 0, error.errno or 1, False
    if pid == 0:
        for fd in (failed, *own):
            os.close(fd)
        _become(argv, env, cwd, descriptors, fails, become, cpus)
    os.close(fails)
    report = os.read(failed, _EXEC_FAILURE.size)
    os.close(failed)
    if not report:
        return pid, 0, False
    os.waitpid(pid, 0)
    error_number, is_about_cwd = _EXEC_FAILURE.unpack(report)
    return 0, error_number, is_about_cwd


def become_subreaper() -> None:
    """Make this process the parent of every orphan below it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies, be it that it is dead already.

    Args:
        parent: its process id; 0 to live on again.
    """
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL if parent else 0)
    if parent and os.getppid() != parent:
        os._exit(127)  # it died before the kernel was told to take us along


def _become(
    argv: list[bytes],
    env: Mapping[bytes, bytes],
    cwd: bytes,
    descriptors: Mapping[int, int],
    fails: int,
    become: Become,
    cpus: Sequence[int],
) -> None:
    """Turn this forked process into the program; does not return."""
    is_about_cwd = False
    try:
        guardian = os.getppid()
        os.setsid()
        end_with_parent(guardian)
        if cpus:
            os.sched_setaffinity(0, cpus)
        is_about_cwd = True
        if cwd:
            os.chdir(cwd)
        is_about_cwd = False
        fails = _place_descriptors(descriptors, fails)
        _signal.set_wakeup_fd(-1)
        for signum in _DEFAULT_IN_WORKER:
            _signal.signal(signum, _signal.SIG_DFL)
        for number in env.get(IGNORED_VARIABLE.encode(), b"").split(b","):
            if number.isdigit():
                _signal.signal(int(number), _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        become(argv, env, fails)
    except OSError as error:
        os.write(fails, _EXEC_FAILURE.pack(error.errno or 1, is_about_cwd))
    finally:
        os._exit(127)


def _place_descriptors(descriptors: Mapping[int, int], fails: int) -> int:
    """Give descriptors their numbers, and no others; return the new number of ``fails``."""
    floor = max(descriptors, default=0) + 1
    # Above all targets first, so that no source is overwritten before it is used.
    moved = {
        source: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, floor)
        for source in {fails, *descriptors.values()}
    }
    for source in moved:
        os.close(source)
    for target, source in descriptors.items():
        os.dup2(moved[source], target)
    for source in {*descriptors.values()}:
        os.close(moved[source])
    return moved[fails]


def execute(argv: list[bytes], env: Mapping[bytes, bytes], fails: int) -> None:  # noqa: ARG001 -- exec closes it
    """Replace this process, looking the program up in the environment's own PATH.

    Args:
        argv: program and arguments.
        env: its whole environment.
        fails: descriptor that is closed on success.

    Raises:
        OSError: no candidate could be executed; the most telling error of all.
    """
    program = argv[0]
    if b"/" in program or not program:
        os.execve(program, argv, env)  # noqa: S606 -- no shell wanted
    telling: OSError = FileNotFoundError(2, "not in PATH")
    for folder in env.get(b"PATH", os.defpath.encode()).split(b":"):
        try:
            os.execve(folder + b"/" + program if folder else program, argv, env)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            telling = error
    raise telling


def _prctl(option: int, value: int) -> None:
    """Call prctl(2), which Python does not offer; without it orphans are left to init."""
    try:
        address = _ctypes.dlsym(_ctypes.dlopen(_THIS_PROGRAM, 0), "prctl")
    except OSError:  # not Linux
        return
    _ctypes.call_function(address, (option, value, 0, 0, 0))
