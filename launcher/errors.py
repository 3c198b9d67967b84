"""Every exception of the launcher, and the record of one failed worker.

Imported by every other module; imports nothing of the package but `lostpeer`, when a worker failed.

Tree::

    LauncherError(Exception)
    ├── UsageError              also ValueError; .hint
    ├── ChildFailedError        .name, .failures
    ├── SignalException         .sigval
    ├── GuardianError           also RuntimeError
    └── RendezvousError
        ├── RendezvousClosedError       .reason, .exitcode
        ├── RendezvousConnectionError   also ConnectionError
        ├── RendezvousGracefulExitError
        ├── RendezvousStateError
        └── RendezvousTimeoutError      also TimeoutError
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = (
    "ERROR_FILE_VARIABLE",
    "ChildFailedError",
    "GuardianError",
    "LauncherError",
    "ProcessFailure",
    "RendezvousClosedError",
    "RendezvousConnectionError",
    "RendezvousError",
    "RendezvousGracefulExitError",
    "RendezvousStateError",
    "RendezvousTimeoutError",
    "SignalException",
    "UsageError",
    "one_line",
)

ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"
"""In a worker's environment: the file it may record its error in; empty: none."""
NOT_AVAILABLE = "<N/A>"  # torchrun's word for "no error file" and "no signal"
NO_MESSAGE = "<NONE>"
TRACEBACK_HINT = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
_MAX_BORDER = 60  # torchrun's: wider ones wrap in job consoles
_UNCAUGHT = 1  # Python's exit status after an exception


class LauncherError(Exception):
    """Root of all errors of the launcher."""


class UsageError(LauncherError, ValueError):
    """What the user asked for cannot be done; nothing was started. Exit status 2.

    Args:
        message: one line naming the option or variable, its value and the rule.
        hint: one line that says what to do instead, or "".
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class SignalException(LauncherError):  # noqa: N818 -- the contract's name, torch's too
    """The launcher was told to stop by a signal.

    Args:
        msg: what happened, for people.
        sigval: the signal.
    """

    def __init__(self, msg: str, sigval: signal.Signals) -> None:
        super().__init__(msg, sigval)
        self.sigval = sigval

    def __str__(self) -> str:
        return str(self.args[0])


class GuardianError(LauncherError, RuntimeError):
    """The guardian, the workers' parent process, could not be started or has died.

    Workers that were running are killed before this is raised.
    """


class RendezvousError(LauncherError):
    """The agents of a run could not agree on a round."""


class RendezvousClosedError(RendezvousError):
    """The run is over: no round will be formed any more.

    Args:
        message: what happened, for people.
        reason: why the run is over, if that is known.
        exitcode: exit status of what failed; 0 if nothing did.
    """

    def __init__(self, message: str, reason: str = "", exitcode: int = 0) -> None:
        super().__init__(message, reason, exitcode)
        self.reason = reason
        self.exitcode = exitcode

    def __str__(self) -> str:
        return str(self.args[0])


class RendezvousTimeoutError(RendezvousError, TimeoutError):
    """Too few nodes came in time."""


class RendezvousConnectionError(RendezvousError, ConnectionError):
    """The place where agents meet cannot be reached, or cannot be served where it should be."""


class RendezvousStateError(RendezvousError):
    """What is stored about the rounds of the run makes no sense."""


class RendezvousGracefulExitError(RendezvousError):
    """This agent is not needed: the run ended without it."""


def one_line(error: Exception) -> str:
    """Return what an error says on one line; of the system's errors, what people can read."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        what = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        text = f"{what}: {error.strerror}" if what else error.strerror
    return " ".join(text.split())


@dataclass
class ProcessFailure:
    """One worker that ended with a status other than 0, or that the launcher had to stop.

    Reads the worker's error file when made. A file that is missing counts as no error file; one
    that cannot be parsed keeps its path and says so in ``message``, since it must not hide the
    failure itself.

    Args:
        local_rank: rank on this node, from 0.
        pid: process id the worker had.
        exitcode: exit status; ``-N`` when it died of signal N.
        error_file: path the worker may have written its error to; "" for none.
        exited_at: when the exit was noticed, seconds of ``time.monotonic``; ``None`` for now.
        stopped_by_us: whether it was still running when the launcher signalled it, so that it
            is a consequence and never the cause.
        stderr_tail: the last lines it wrote to stderr, without line ends, oldest first.
        overran: which block of its code took too long, if the launcher killed it for that.
        asked_at: when the launcher signalled it, if `stopped_by_us`, seconds of ``time.monotonic``.
            One that had recorded its error before was failing by itself, and took its time to end.
    """

    local_rank: int
    pid: int
    exitcode: int
    error_file: str
    exited_at: float | None = field(default=None, kw_only=True, repr=False)
    stopped_by_us: bool = field(default=False, kw_only=True)
    stderr_tail: tuple[str, ...] = field(default=(), kw_only=True, repr=False)
    overran: str = field(default="", kw_only=True)
    asked_at: float | None = field(default=None, kw_only=True, repr=False)
    was_leaving: bool = field(init=False, default=False, repr=False)
    """Whether it was stopped while it was failing by itself; it counts as not stopped then."""
    error_file_data: dict[str, object] = field(init=False, repr=False)
    """The parsed error file; ``{"message": "<NONE>"}`` without one."""
    message: str = field(init=False)
    """The worker's own message, else the signal explained, else how to get one."""
    timestamp: float = field(init=False)
    """Wall clock, seconds: when the worker recorded its error, else when its exit was noticed."""
    moment: float = field(init=False, repr=False)
    """The same instant on ``time.monotonic``; failures of one host are ordered by it."""

    def __post_init__(self) -> None:
        now, wall = time.monotonic(), time.time()
        exited_at = now if self.exited_at is None else min(self.exited_at, now)
        exit_wall = wall - (now - exited_at)
        recorded_at = self._read_error_file()
        self.timestamp = exit_wall if recorded_at is None else recorded_at
        # A worker records its error before it ends; the clamp undoes clocks that were stepped.
        self.moment = min(exited_at, exited_at - (exit_wall - self.timestamp))
        if recorded_at is not None and self.stopped_by_us and self.asked_at is not None:
            self.was_leaving = self.moment < self.asked_at
            self.stopped_by_us = not self.was_leaving
        if not self.message:
            self.message = self._explain_exit()

    def signal_name(self) -> str:
        """Return the name of the signal it died of, "<N/A>" if it did not die of one."""
        if self.exitcode >= 0:
            return NOT_AVAILABLE
        try:
            return signal.Signals(-self.exitcode).name
        except ValueError:
            return NOT_AVAILABLE

    def ending(self) -> str:
        """Return how it ended, such as "exited with status 3", "was ended by SIGKILL"."""
        if self.overran:
            return f"was killed because {self.overran}"
        if self.exitcode >= 0:
            return f"exited with status {self.exitcode}"
        if self.was_leaving:
            return "had failed, and was stopped when that took long"
        name = self.signal_name()
        return f"was ended by {f'signal {-self.exitcode}' if name == NOT_AVAILABLE else name}"

    def is_consequence(self) -> bool:
        """Return whether it ended with an exception that the end of another worker causes.

        Told by the type of the exception in the error file, else in the last traceback on stderr:
        asyncrpc's ``PeerLostError`` or ``OwnerLostError``, a ``RemoteError`` about one, or a group
        of nothing else.
        """
        if self.overran or (self.exitcode != _UNCAUGHT and not self.was_leaving):
            return False
        from launcher.lostpeer import tells_of_lost_peer  # noqa: PLC0415 -- most runs do not fail

        recorded = self.traceback() or self.message
        has_file = self.error_file != NOT_AVAILABLE
        return tells_of_lost_peer(recorded if has_file else "\n".join(self.stderr_tail))

    @property
    def status(self) -> int:
        """The exit status that counts: of one that was failing, what its exception stands for."""
        return _UNCAUGHT if self.was_leaving else self.exitcode

    def timestamp_isoformat(self) -> str:
        """Return the timestamp as local time, ISO 8601, to the second."""
        return time.strftime("%Y-%m-%d_%H:%M:%S", time.localtime(self.timestamp))

    def traceback(self) -> str:
        """Return the call stack from the error file; "" if there is none."""
        stack = _extra_info(self.error_file_data).get("py_callstack", "")
        return stack if isinstance(stack, str) else ""

    def _read_error_file(self) -> float | None:
        """Fill in what the error file says.

        Returns:
            When the error was recorded, wall clock seconds; ``None`` without a file.
        """
        self.message = ""
        self.error_file_data = {"message": NO_MESSAGE}
        try:
            with open(self.error_file, encoding="utf-8") as file:
                written_at = os.fstat(file.fileno()).st_mtime
                data = _parse_object(file.read())
        except FileNotFoundError:
            self.error_file = NOT_AVAILABLE
            return None
        except (OSError, ValueError) as error:
            self.message = f"error file {self.error_file} cannot be read: {error}"
            return None
        self.error_file_data = data
        self.message = _message_of(data)
        return _recorded_at(data, written_at)

    def _explain_exit(self) -> str:
        if self.exitcode < 0:
            return f"Signal {-self.exitcode} ({self.signal_name()}) received by PID {self.pid}"
        return TRACEBACK_HINT


class ChildFailedError(LauncherError):
    """Workers failed.

    Args:
        name: what was run: script, module or program.
        failures: the failed workers by global rank, at least one.
    """

    def __init__(self, name: str, failures: Mapping[int, ProcessFailure]) -> None:
        if not failures:
            raise ValueError("failures must name at least one worker, got none")
        super().__init__(name, failures)
        self.name = name
        self.failures = dict(failures)

    def get_first_failure(self) -> tuple[int, ProcessFailure]:
        """Return (global rank, failure) of the worker that failed first.

        Workers that the launcher stopped because another had failed are only named when there
        is nobody else; nor are those that only lost a peer, if another failed by itself.
        """
        own = {rank: f for rank, f in self.failures.items() if not f.stopped_by_us}
        causes = {rank: f for rank, f in own.items() if not f.is_consequence()}
        candidates = causes or own or self.failures
        rank = min(candidates, key=lambda rank: (candidates[rank].moment, rank))
        return rank, candidates[rank]

    def __str__(self) -> str:
        return self.format_msg()

    def format_msg(self) -> str:
        """Return the report on the failures, the first of them last; several lines."""
        root, failure = self.get_first_failure()
        others = [
            _format_failure(index, rank, other)
            for index, (rank, other) in enumerate(sorted(self.failures.items()))
            if rank != root
        ]
        index = sorted(self.failures).index(root)
        title = f"{self.name} FAILED"
        text = "\n".join(
            (
                title,
                "-",
                "Failures:",
                "\n".join(others) or "  <NO_OTHER_FAILURES>",
                "-",
                "Root Cause (first observed failure):",
                _format_failure(index, root, failure),
            )
        )
        width = min(_MAX_BORDER, max(len(line) for line in text.split("\n")))
        body = "\n".join("-" * width if line == "-" else line for line in text.split("\n"))
        return f"\n{'=' * width}\n{body}\n{'=' * width}"


def _format_failure(index: int, rank: int, failure: ProcessFailure) -> str:
    name = failure.signal_name()
    exit_note = "" if name == NOT_AVAILABLE else f" ({name})"
    cause = (failure.traceback() or failure.message).rstrip()
    fields = (
        ("time", failure.timestamp_isoformat()),
        ("host", os.uname().nodename),
        ("rank", f"{rank} (local_rank: {failure.local_rank})"),
        ("exitcode", f"{failure.exitcode} (pid: {failure.pid}){exit_note}"),
        ("error_file", failure.error_file),
        ("traceback", cause.replace("\n", "\n" + " " * 14)),
    )
    lines = [f"  {key:<10}: {value}" for key, value in fields]
    return "\n".join((f"[{index}]:", *lines))


def _parse_object(text: str) -> dict[str, object]:
    import json  # noqa: PLC0415 -- slow, and most runs do not fail

    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object, got {type(data).__name__}")
    return data


def _message_of(data: Mapping[str, object]) -> str:
    """Return the message of an error file, nested as torch's `record` writes it, or flat."""
    message = data.get("message", "")
    if isinstance(message, dict):
        message = message.get("message", "")
    return message if isinstance(message, str) else repr(message)


def _extra_info(data: Mapping[str, object]) -> Mapping[str, object]:
    message = data.get("message")
    nested = message.get("extraInfo") if isinstance(message, dict) else data.get("extraInfo")
    return nested if isinstance(nested, dict) else {}


def _recorded_at(data: Mapping[str, object], written_at: float) -> float:
    """Return when the error was recorded, to less than a second where that can be known.

    torch's `record` writes whole seconds, by which a sibling that failed later can look like
    the first; the file's own time then tells the fraction, if it agrees on the second.
    """
    value = _extra_info(data).get("timestamp")
    try:
        stated = float(value) if isinstance(value, str | int | float) else written_at
    except ValueError:
        return written_at
    is_whole = stated == int(stated)
    return written_at if is_whole and int(written_at) == int(stated) else stated
