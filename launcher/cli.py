"""The launcher as a command: `main` carries a command line out and turns it into an exit status.

0; the root-cause worker's own, 128+N if signal N ended it; 2 for a usage error; 85 when the node
had to go; 128+N when the launcher itself was told to stop by signal N. Nothing slow is imported
before it is known that there is something to launch.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from launcher.commandline import Launch, in_users_words, parse
from launcher.errors import (
    ERROR_FILE_VARIABLE,
    ChildFailedError,
    LauncherError,
    ProcessFailure,
    UsageError,
    one_line,
)
from launcher.target import Target

if TYPE_CHECKING:
    from launcher.agent import RunResult
    from launcher.hosts import Fleet
    from launcher.process import Guardian

__all__ = ("main",)

_FAILURE_STATUS = 1
_USAGE_STATUS = 2
_REQUEUE_STATUS = 85  # EX_TEMPFAIL is taken; what batch systems and trainers have agreed on
_UNREAD_STATUS = 141  # as if by SIGPIPE, which Python ignores
_KUBERNETES = "k8s"
_COMMANDS = ("status", "logs", "stop")  # a script of such a name is given as ./status


def main(argv: Sequence[str] | None = None) -> int:
    """Launch what the command line asks for, and wait until it is over.

    Args:
        argv: the arguments without the program's name; ``None``: those of this process.

    Returns:
        The exit status.
    """
    names: Mapping[str, str] = {}
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in _COMMANDS:
            from launcher.commands import run_command  # noqa: PLC0415 -- not for a launch

            with _answering():
                return run_command(argv[0], argv[1:])
        if argv and argv[0] == _KUBERNETES:
            from launcher.kubernetes import run_k8s  # noqa: PLC0415 -- not for a launch

            with _answering():
                return run_k8s(argv[1:])
        with _answering():
            launch = parse(argv, os.environ)
        names = launch.names
        if launch.fleet is None:
            _hold_signals(launch)
        for note in launch.notes:
            _print(f"launcher: {note}")
        if launch.fleet is not None:
            return _run_on_hosts(launch, launch.fleet)
        launch.target.check(os.environ)
        _prepare_log_dir(launch)
        return _run(launch)
    except UsageError as error:
        _print(f"launcher: {in_users_words(one_line(error), names)}")
        if error.hint:
            _print(f"hint: {error.hint}")
        return _USAGE_STATUS
    except (LauncherError, OSError) as error:
        _print(f"launcher: {in_users_words(one_line(error), names)}")
        if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
            _print("hint: a script needs a first line with its interpreter, such as #!/bin/sh")
        return _FAILURE_STATUS


def _hold_signals(launch: Launch) -> None:
    """Keep what a scheduler sends while the rest is loaded: it means us no harm."""
    texts = (launch.config.preempt_signals, launch.config.forward_signals)
    if not any(texts):
        return
    from launcher.rules import to_signals  # noqa: PLC0415 -- seldom
    from launcher.signals import hold_signals  # noqa: PLC0415 -- slow, and needed soon anyway

    hold_signals(number for text in texts for number in to_signals(text))


@contextmanager
def _answering() -> Iterator[None]:
    """End in silence when whoever reads our answer has had enough of it, as `head` has."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # closed
                sys.stdout.flush()
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())  # for what Python still writes at its end
        raise SystemExit(_UNREAD_STATUS) from None


def _prepare_log_dir(launch: Launch) -> None:
    """Make the folder for logs now, when nothing has been started in vain."""
    path = launch.log_dir
    if path is None or path == os.devnull:
        return
    name = launch.names["log_dir"]
    try:
        os.makedirs(path, exist_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{name}={path}: expected a folder that can be made: {why}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{name}={path}: expected a folder that can be written to")


def _run_on_hosts(launch: Launch, fleet: Fleet) -> int:
    import asyncio  # noqa: PLC0415 -- slow: not for --help and mistakes

    from launcher.rules import to_signals  # noqa: PLC0415 -- only for several hosts
    from launcher.ssh import launch_on_hosts  # noqa: PLC0415 -- only for several hosts

    announcing = to_signals(launch.config.preempt_signals)  # which the nodes know what to do about
    stopping = [n for n in to_signals(launch.config.signals_to_handle) if n not in announcing]
    passed = (*to_signals(launch.config.forward_signals), *announcing)
    return asyncio.run(launch_on_hosts(fleet, os.environ, stopping, passed))


def _run(launch: Launch) -> int:
    gc.disable()  # imports leave no garbage to look for
    import asyncio  # noqa: PLC0415 -- slow: not for --help and mistakes

    with asyncio.Runner() as runner:
        guardian = runner.run(_start_guardian())  # it boots while we import the rest
        import launcher.node  # noqa: F401, PLC0415 -- not on the loop, which it would block
        from launcher.limits import raise_open_files  # noqa: PLC0415 -- a launch loads what it needs, when it does

        raise_open_files()  # now that the guardian has the limit that its workers are to keep
        gc.freeze()  # modules stay
        gc.enable()
        return runner.run(_supervise(launch, guardian))


async def _start_guardian() -> Guardian:
    from launcher.process import Guardian  # noqa: PLC0415 -- a launch loads what it needs, when it does

    return Guardian.start(inherits=True)


async def _supervise(launch: Launch, guardian: Guardian) -> int:
    """Run the agent, report failures, and return the exit status."""
    from launcher.node import run_agent  # noqa: PLC0415 -- a launch loads what it needs, when it does

    try:
        _show_warnings(launch.names)
        program, args = _entrypoint(launch.target)
        result = await run_agent(launch.config, program, args, guardian=guardian)
    finally:
        await guardian.close()
    # A signal that was also sent to the workers is no failure of theirs.
    failures = {
        rank: failure
        for rank, failure in result.failures.items()
        if result.signal is None
        or not (failure.stopped_by_us or failure.exitcode == -result.signal)
    }
    if failures:
        _print(_report(launch, result, failures))
        _pass_on(ChildFailedError(launch.target.name, failures))
    if result.is_preempted:
        _print(f"launcher: left the run; status {_REQUEUE_STATUS} asks to be started again")
        if launch.requeue:
            _print(f"hint: {launch.requeue}")
        return _REQUEUE_STATUS
    if result.signal is not None:
        return 128 + result.signal
    if result.elsewhere is not None:
        _print(f"launcher: run failed on another node: {result.elsewhere.reason}")
        return _status(result.elsewhere.exitcode)
    if not failures:
        return 0
    _, root = ChildFailedError(launch.target.name, failures).get_first_failure()
    return _status(root.status)


def _pass_on(error: ChildFailedError) -> None:
    """Let the launcher that has started this one, if one has, know of the cause."""
    if not os.environ.get(ERROR_FILE_VARIABLE):
        return
    from launcher.process import ErrorHandler  # noqa: PLC0415 -- seldom, and slow

    with suppress(ChildFailedError), ErrorHandler().recording():
        raise error


def _entrypoint(target: Target) -> tuple[Callable[..., object] | str, tuple[str, ...]]:
    """Return what workers run, and its arguments."""
    if not target.is_inside:
        return target.command(os.environ)
    from launcher.process import run_script  # noqa: PLC0415 -- only then

    return run_script, (target.name, *target.args)


def _status(exitcode: int) -> int:
    """Return our exit status for that of a worker; 0 stands for a failure without one."""
    return exitcode if exitcode > 0 else 128 - exitcode if exitcode < 0 else _FAILURE_STATUS


def _report(launch: Launch, result: RunResult, failures: Mapping[int, ProcessFailure]) -> str:
    from launcher.report import failure_report  # noqa: PLC0415 -- most runs do not fail

    return failure_report(
        launch.target.name,
        failures,
        host=os.uname().nodename,
        restarts=result.restarts,
        max_restarts=launch.config.max_restarts,
        log_dir=result.log_dir,
        is_disk_full=result.log_dir is not None and _is_full(result.log_dir),
        log_paths=result.log_paths,
    )


def _is_full(folder: str) -> bool:
    """Return whether nothing more can be written in a folder: then logs end in the middle."""
    try:
        return os.statvfs(folder).f_bavail == 0
    except OSError:
        return False


def _show_warnings(names: Mapping[str, str]) -> None:
    """Print warnings, which name what the user has set as errors do."""
    import logging  # noqa: PLC0415 -- comes with asyncio

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record)
            is_of_field = text.partition("=")[0] in names
            return f"launcher: {in_users_words(text, names) if is_of_field else text}"

    levels = logging.getLevelNamesMapping()
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logger = logging.getLogger("launcher")
    for each in (logger, logging.getLogger("asyncrpc")):  # whose store tells of strangers
        each.addHandler(handler)
        os.register_at_fork(after_in_child=partial(each.removeHandler, handler))  # not a worker's
    logger.setLevel(levels.get(os.environ.get("LOGLEVEL", "").upper(), logging.WARNING))


def _print(text: str) -> None:
    if sys.stderr is None:  # closed; print would turn to stdout
        return
    with suppress(OSError):  # nobody reads it any more
        print(text, file=sys.stderr, flush=True)  # noqa: T201 -- a command line talks
