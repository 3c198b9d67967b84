"""The failure report: what people read when a run has failed.

Pure: values in, text out. `cli` prints it to stderr once all worker output is out. The field names
are torchrun's, so that what greps its reports greps ours.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping

from launcher.errors import NOT_AVAILABLE, ChildFailedError, ProcessFailure
from launcher.logs import show_ranks

__all__ = ("failure_report",)

_LINES = 30  # enough for a traceback with its cause; the log or error file has the rest
_MAX_MESSAGE = 200  # characters of what the worker recorded, where it is told on one line
_MAX_LISTED = 8  # of those that failed later: the cause must not scroll away
_BORDER = 60  # torchrun's: wider ones wrap in job consoles
_MEANINGS = {
    signal.SIGKILL: "killed from outside: often by the kernel because memory ran out "
    "(`dmesg` then says 'Out of memory'), else by a scheduler or a person",
    signal.SIGSEGV: "invalid memory access, mostly in native code; PYTHONFAULTHANDLER=1 shows the "
    "Python stack",
    signal.SIGBUS: "bad memory access; often /dev/shm or a disk behind a memory map is full",
    signal.SIGABRT: "it aborted itself; native code does so on a failed check, see its stderr",
    signal.SIGFPE: "arithmetic error in native code, such as an integer divided by zero",
    signal.SIGILL: "an instruction this processor does not have, or a corrupted program",
    signal.SIGTERM: "asked to stop, but not by the launcher",
    signal.SIGINT: "interrupted, but not by the launcher",
    signal.SIGHUP: "its terminal went away",
    signal.SIGPIPE: "wrote to a pipe that nobody reads",
    signal.SIGXCPU: "ran out of its limit of processor time",
}


def failure_report(
    name: str,
    failures: Mapping[int, ProcessFailure],
    *,
    host: str,
    restarts: int,
    max_restarts: int,
    log_dir: str | None,
    is_disk_full: bool = False,
    log_paths: Mapping[int, Mapping[str, str]],
) -> str:
    """Say why a run failed.

    Args:
        name: what was run: script, module or program.
        failures: the workers that did not succeed, by global rank; at least one.
        host: name of the node they ran on.
        restarts: how often the group was restarted.
        max_restarts: how often it might have been.
        log_dir: folder of the run's logs; ``None``: none are kept.
        is_disk_full: whether nothing more could be written there.
        log_paths: files of each rank, by ``stdout``, ``stderr`` and ``error``.

    Returns:
        The report, several lines, without a final newline.
    """
    root, cause = ChildFailedError(name, failures).get_first_failure()
    others = {rank: failure for rank, failure in sorted(failures.items()) if rank != root}
    stopped = [rank for rank, failure in others.items() if failure.stopped_by_us]
    lines = [
        "=" * _BORDER,
        f"{name} FAILED",
        "-" * _BORDER,
        "Root cause (first observed failure):",
        *_describe(root, cause, host, log_paths.get(root, {})),
    ]
    own = [(rank, failure) for rank, failure in others.items() if not failure.stopped_by_us]
    if own:
        lines.append("Failed after it:")
        lines += [_summarize(rank, failure, cause) for rank, failure in own[:_MAX_LISTED]]
        if len(own) > _MAX_LISTED:
            more = [rank for rank, _ in own[_MAX_LISTED:]]
            lines.append(f"  and {len(more)} more: rank {show_ranks(more)}")
    if stopped:
        lines.append(f"Stopped by the launcher because rank {root} failed: {show_ranks(stopped)}")
    # Of a long report, the end is what people still see on their terminals.
    what = _message(cause)
    lines.append(f"First to fail: rank {root} (pid: {cause.pid}), it {cause.ending()}{what}")
    lines.append(_restarts(restarts, max_restarts))
    if log_dir is not None:
        lines.append(f"Logs: {log_dir}{' (no space is left there)' * is_disk_full}")
    lines.append("=" * _BORDER)
    return "\n".join(lines)


def _describe(
    rank: int, failure: ProcessFailure, host: str, log_paths: Mapping[str, str]
) -> Iterable[str]:
    yield _field("time", failure.timestamp_isoformat())
    yield _field("host", host)
    yield _field("rank", f"{rank} (local_rank: {failure.local_rank})")
    yield _field("exitcode", _exit(failure))
    yield _field("error_file", failure.error_file)
    if failure.overran:
        yield _field("timer", f"{failure.overran} (launcher.timer.expires), so it was killed")
    elif failure.exitcode < 0 and not failure.was_leaving:
        yield _field("signal", _meaning(failure.exitcode))
    if trace := failure.traceback():
        yield from _recorded("traceback", trace)
    elif failure.error_file != NOT_AVAILABLE:
        yield from _recorded("message", failure.message)
    elif failure.stderr_tail:
        lines = failure.stderr_tail[-_LINES:]
        yield _field("stderr", _extent(len(lines)))
        yield from _indented(lines)
    elif log_paths.get("stderr"):
        yield _field("stderr", log_paths["stderr"])
    else:
        yield _field("stderr", "nothing was written to it")


def _recorded(name: str, text: str) -> Iterable[str]:
    """Show what the worker recorded, or the end of it: the error file has the rest."""
    lines = text.splitlines()
    yield _field(name, "" if len(lines) <= _LINES else _extent(_LINES))
    yield from _indented(lines[-_LINES:])


def _extent(count: int) -> str:
    return "the last line" if count == 1 else f"last {count} lines"


def _summarize(rank: int, failure: ProcessFailure, cause: ProcessFailure) -> str:
    delay = max(0.0, failure.moment - cause.moment)
    # Its error may be out before the cause's: the peer tells of its end, then ends.
    when = "when it lost a peer" if failure.is_consequence() else f"{delay:.3f} s later"
    return (
        f"  rank {rank} (local_rank: {failure.local_rank}), exitcode {_exit(failure)}, "
        f"{when}, error_file {failure.error_file}"
    )


def _exit(failure: ProcessFailure) -> str:
    name = f" ({failure.signal_name()})" if failure.exitcode < 0 else ""
    return f"{failure.exitcode} (pid: {failure.pid}){name}"


def _message(failure: ProcessFailure) -> str:
    """Return the first line of what the worker recorded, after a colon."""
    if failure.error_file == NOT_AVAILABLE or failure.overran or not failure.message.strip():
        return ""
    line = failure.message.strip().splitlines()[0]
    return f": {line if len(line) <= _MAX_MESSAGE else line[:_MAX_MESSAGE] + '...'}"


def _meaning(exitcode: int) -> str:
    try:
        number = signal.Signals(-exitcode)
    except ValueError:
        return f"signal {-exitcode}"
    meaning = _MEANINGS.get(number)
    return f"{number.name}: {meaning}" if meaning else number.name


def _restarts(restarts: int, max_restarts: int) -> str:
    if max_restarts == 0:
        return "Restarts: 0 of 0 used; pass --max-restarts N to have all workers started again"
    return f"Restarts: {restarts} of {max_restarts} used (--max-restarts)"


def _field(name: str, value: str) -> str:
    return f"  {name:<10}: {value}".rstrip()


def _indented(lines: Iterable[str]) -> Iterable[str]:
    return (f"    {line}".rstrip() for line in lines)
