"""`start_processes`: starts the workers of one node."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from launcher.affinity import NumaOptions
from launcher.config import DEFAULT_SIGNALS, SIGNALS_TO_HANDLE_VARIABLE
from launcher.logs import LogsSpecs
from launcher.process.base import SHUTDOWN_TIMEOUT, ProcessContext
from launcher.process.command import CommandContext
from launcher.process.guardian import Guardian
from launcher.rules import to_signals

__all__ = ("start_processes",)

_log = logging.getLogger("launcher.process")


async def start_processes(
    name: str,
    entrypoint: Callable[..., object] | str,
    args: Mapping[int, tuple[object, ...]],
    envs: Mapping[int, Mapping[str, str]],
    logs_specs: LogsSpecs,
    log_line_prefixes: Mapping[int, str] | None = None,
    start_method: str = "spawn",
    numa_options: NumaOptions | None = None,
    duplicate_stdout_filters: Sequence[str] | None = None,
    duplicate_stderr_filters: Sequence[str] | None = None,
    *,
    guardian: Guardian | None = None,
    shutdown_timeout: float = SHUTDOWN_TIMEOUT,
    stdin: int | None = None,
    signals_to_handle: Sequence[signal.Signals] | None = None,
) -> ProcessContext:
    """Start workers; all of them run when this returns.

    Args:
        name: their role, used in the prefix of output lines.
        entrypoint: a program, looked up in the worker's PATH if it has no slash; or a function,
            called in a process of its own by each worker.
        args: arguments of each, by local rank from 0.
        envs: variables laid over our own environment, by local rank.
        logs_specs: where their output goes.
        log_line_prefixes: text before each line of teed output, by local rank; ``None`` for
            "[<name><local rank>]:".
        start_method: of functions; programs have only one. ``spawn``: each worker is a new Python
            that imports the function's module; ``forkserver``: a fork of one that has imported it;
            ``fork``: a fork of this process, whose threads are not in it.
        numa_options: which processors each may use; ``None`` for all.
        duplicate_stdout_filters: texts; lines of stdout with any of them are also copied, with the
            prefix, to the file ``filtered_stdout`` of the context; ``None`` for none.
        duplicate_stderr_filters: the same for stderr.
        guardian: their parent, shared by the contexts of an agent one after another; ``None``
            for one that ends with the context.
        shutdown_timeout: seconds between SIGTERM and SIGKILL when a failure stops the rest.
        stdin: local rank of the worker that gets our standard input; ``None`` for none.
        signals_to_handle: signals that make ``wait`` raise `SignalException`; ``None`` for those
            of ``$TORCHELASTIC_SIGNALS_TO_HANDLE``, else SIGTERM, SIGINT, SIGHUP and SIGQUIT.
            Outside of the main thread none can be handled, which is logged.

    Returns:
        The running context; use ``async with`` on it, or call `ProcessContext.close`.

    Raises:
        RuntimeError: args, envs or prefixes do not have exactly the same local ranks.
        FileNotFoundError: the program does not exist.
        PermissionError: it may not be executed.
        NotADirectoryError: a file is where a log folder has to be.
        OSError: it cannot be started for another reason.
        ValueError: an argument or variable has a NUL byte, there is no such start method, or the
            workers cannot be bound to processors like that.
        pickle.PicklingError: the function or an argument cannot be sent to another process.
        GuardianError: the guardian could not be started, or has died.
    """
    if signals_to_handle is None:
        signals_to_handle = _inherited_signals(os.environ)
    context = _kind(entrypoint)(
        name,
        entrypoint,
        args,
        envs,
        logs_specs,
        log_line_prefixes,
        start_method,
        numa_options,
        duplicate_stdout_filters,
        duplicate_stderr_filters,
        guardian=guardian,
        shutdown_timeout=shutdown_timeout,
        stdin=stdin,
        signals_to_handle=signals_to_handle,
    )
    await context.start()
    return context


def _inherited_signals(environ: Mapping[str, str]) -> Sequence[signal.Signals]:
    """Return the signals that the variable names; it comes from afar, so that errors only warn."""
    signals: list[signal.Signals] = []
    for name in environ.get(SIGNALS_TO_HANDLE_VARIABLE, DEFAULT_SIGNALS).split(","):
        try:
            signals += to_signals(name)
        except ValueError as error:
            _log.warning("%s=%s: %s; passed over", SIGNALS_TO_HANDLE_VARIABLE, name, error)
    return list(dict.fromkeys(signals))


def _kind(entrypoint: Callable[..., object] | str) -> type[ProcessContext]:
    if isinstance(entrypoint, str):
        return CommandContext
    # Programs are started without what functions need: multiprocessing.
    from launcher.process.function import FunctionContext  # noqa: PLC0415 -- programs need no multiprocessing

    return FunctionContext
