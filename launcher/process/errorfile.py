"""Error files: how a worker tells its launcher what went wrong, in torch's JSON format.

Runs in workers; imports little, knows no loop. The file is the one that the process layer names in
``TORCHELASTIC_ERROR_FILE``; `launcher.errors.ProcessFailure` reads it.
"""

from __future__ import annotations

import faulthandler
import functools
import inspect
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import ParamSpec, TypeVar, cast

from launcher.errors import ERROR_FILE_VARIABLE, NOT_AVAILABLE, ChildFailedError

__all__ = ("ErrorHandler", "format_error", "record")

_OURS = ("launcher.process.", "contextlib")  # modules whose frames say nothing to the user

_log = logging.getLogger("launcher.process")

P = ParamSpec("P")
R = TypeVar("R")


class ErrorHandler:
    """Writes the error file of this process, if its launcher has named one."""

    def initialize(self) -> None:
        """Show the Python stack on stderr if this process crashes."""
        if not faulthandler.is_enabled():
            with suppress(RuntimeError, ValueError, OSError):  # stderr is closed, or no file
                if sys.version_info < (3, 14):
                    faulthandler.enable(all_threads=True)
                else:  # frames of C after it would push it out of the report's last lines
                    faulthandler.enable(all_threads=True, c_stack=False)

    def record_exception(self, e: BaseException) -> None:
        """Write an exception with its call stack to the error file.

        Args:
            e: what ended the function.
        """
        extra = {"py_callstack": format_error(e), "timestamp": str(int(time.time()))}
        message = {"message": f"{type(e).__name__}: {e}", "extraInfo": extra}
        self._write({"message": message}, time.time_ns())

    def dump_error_file(self, rootcause_error_file: str, error_code: int = 0) -> None:
        """Copy the error file of a child of ours that failed to our own.

        Args:
            rootcause_error_file: path of the child's.
            error_code: the child's exit status, noted in our copy; 0 for none.
        """
        with open(rootcause_error_file, encoding="utf-8") as file:
            data = json.load(file)
            written_at = os.fstat(file.fileno()).st_mtime_ns
        if error_code:
            self.override_error_code_in_rootcause_data(rootcause_error_file, data, error_code)
        if not self._write(data, written_at):
            _log.error("the worker's error was recorded in %s: %s", rootcause_error_file, data)

    def override_error_code_in_rootcause_data(
        self,
        rootcause_error_file: str,
        rootcause_error: dict[str, object],
        error_code: int = 0,
    ) -> None:
        """Note an exit status in what was read from an error file.

        Args:
            rootcause_error_file: path of the file, for people.
            rootcause_error: its content, changed in place.
            error_code: the exit status.
        """
        message = rootcause_error.get("message")
        if isinstance(message, dict):
            message["errorCode"] = error_code
        elif message is None:
            _log.warning("error file %s has no field message", rootcause_error_file)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what ends the body, and let it go on.

        ``sys.exit()`` and ``sys.exit(0)`` end the body well; other statuses are no error that
        could be explained, so they leave no file. Of workers that failed, the first one's file is
        copied.
        """
        self.initialize()
        try:
            yield
        except SystemExit as exit_:
            if exit_.code not in (None, 0):
                raise
        except ChildFailedError as error:
            self._record_child(error)
            raise
        except Exception as error:
            self.record_exception(error)
            raise

    def _record_child(self, error: ChildFailedError) -> None:
        rank, failure = error.get_first_failure()
        if failure.error_file == NOT_AVAILABLE:
            _log.info("rank %d failed without an error file; @record on its main writes one", rank)
            return
        try:
            self.dump_error_file(failure.error_file, failure.exitcode)
        except (OSError, ValueError) as problem:  # it must not hide the failure itself
            _log.warning("error file %s cannot be copied: %s", failure.error_file, problem)

    def _write(self, data: Mapping[str, object], written_at: int) -> bool:
        """Write the error file whole or not at all; return whether there is one to write.

        Args:
            data: what goes in.
            written_at: nanoseconds of the wall clock that the file is dated: the format has whole
                seconds, and `ProcessFailure` takes the fraction from here.
        """
        path = os.environ.get(ERROR_FILE_VARIABLE)
        if not path:
            return False
        unfinished = f"{path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            with open(unfinished, "w", encoding="utf-8") as file:
                json.dump(data, file)
            os.utime(unfinished, ns=(written_at, written_at))
            os.replace(unfinished, path)
        except OSError as problem:  # a full disk must not hide the error itself
            _log.warning("error file %s cannot be written: %s", path, problem)
        return True


def record(fn: Callable[P, R], error_handler: ErrorHandler | None = None) -> Callable[P, R]:
    """Make a function, such as a worker's main, record what ends it in the error file.

    Everything it raises is raised on, but ``sys.exit(0)``, which returns ``None``.

    Args:
        fn: a function or a coroutine function.
        error_handler: does the recording; ``None`` for an `ErrorHandler`.

    Returns:
        A function with the same signature.
    """
    handler = error_handler or ErrorHandler()
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def run(*args: P.args, **kwargs: P.kwargs) -> object:
            with handler.recording():
                return await fn(*args, **kwargs)
            return None

        return cast("Callable[P, R]", run)

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        with handler.recording():
            return fn(*args, **kwargs)
        return None

    return cast("Callable[P, R]", call)


def format_error(error: BaseException) -> str:
    """Return an exception as Python shows it, without the frames of this package."""
    lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
    return "".join(lines)


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        trace = trace.tb_next
    return trace
