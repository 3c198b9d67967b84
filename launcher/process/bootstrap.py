"""The worker's side of a function: obtain it, run it, send back what it returns.

Runs in worker processes only. Whatever ends the function, there is something on stderr or in the
error file that says so, and the exit status is what a script's would be.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from inspect import iscoroutine
from io import TextIOWrapper
from multiprocessing import process, util
from pickle import PicklingError
from typing import NoReturn

from launcher.process.errorfile import ErrorHandler, format_error
from launcher.process.payload import unpack
from launcher.process.results import encode_result, send_result

__all__ = ("PAYLOAD", "RESULT", "Work", "main", "run_forked")

PAYLOAD = 3
"""Descriptor that a worker reads its function from."""
RESULT = 4
"""Descriptor that a worker writes its result to."""

Work = tuple[Callable[..., object], tuple[object, ...]]
"""A function and its arguments."""


def main() -> NoReturn:
    """Run the function this process was started for, and end like a script."""
    sys.exit(_work(lambda: unpack(PAYLOAD)))


def run_forked(name: str, env: Mapping[bytes, bytes], obtain: Callable[[], Work]) -> NoReturn:
    """Run a function in a process that was forked for it, and end that process.

    Args:
        name: of the process.
        env: its whole environment.
        obtain: returns the function and its arguments.
    """
    status = 1
    try:
        kept = _become_new(name, env)  # noqa: F841 -- collected, they would close our streams
        status = _work(obtain)
        util._exit_function()  # type: ignore[attr-defined]  # ends processes of its own
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does at its end
        atexit._run_exitfuncs()
    except BaseException as error:  # noqa: BLE001 -- the end of the process: nobody is above us
        sys.stderr.write(format_error(error))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, or nobody reads it
                stream.flush()
        os._exit(status)


def _become_new(name: str, env: Mapping[bytes, bytes]) -> Sequence[object]:
    """Leave behind what belongs to the process that was forked; return what must be kept."""
    atexit._clear()
    util._finalizer_registry.clear()  # type: ignore[attr-defined]  # as multiprocessing does
    util._run_after_forkers()  # type: ignore[attr-defined]
    process._children.clear()  # type: ignore[attr-defined]
    process.current_process().name = name
    os.environb.clear()
    os.environb.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)  # as every Python process does
    faulthandler.disable()  # it may write to a file of the parent's
    kept = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    # New ones: what the parent had not written yet must not be written twice, and its sys.stdout
    # need not be descriptor 1.
    sys.stdin = sys.__stdin__ = _stream(0, "r", "strict")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", "strict")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", "backslashreplace")  # type: ignore[misc]
    return kept


def _stream(fd: int, mode: str, errors: str) -> TextIOWrapper:
    stream = TextIOWrapper(open(fd, f"{mode}b", closefd=False), errors=errors)  # noqa: SIM115
    if fd > 0 and os.environ.get("PYTHONUNBUFFERED"):
        stream.reconfigure(write_through=True)
    return stream


def _work(obtain: Callable[[], Work]) -> int:
    """Run a function and return the exit status."""
    os.set_inheritable(RESULT, False)
    try:
        with ErrorHandler().recording():
            send_result(RESULT, _run(*obtain()))
            return 0
        send_result(RESULT, encode_result(None))  # it has called sys.exit(0)
    except SystemExit as exit_:
        return _status(exit_.code)
    except KeyboardInterrupt:
        # As Python ends itself, but in silence: somebody else says that workers are interrupted.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:  # noqa: BLE001 -- the end of the process: nobody is above us
        sys.stderr.write(format_error(error))
        return 1
    return 0


def _run(function: Callable[..., object], args: tuple[object, ...]) -> list[memoryview]:
    """Run a function and return the message with its result."""
    value = function(*args)
    if iscoroutine(value):
        import asyncio  # noqa: PLC0415 -- slow, and most functions need none

        value = asyncio.run(value)
    try:
        return encode_result(value)
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        raise PicklingError(f"what {name} returned cannot be pickled: {error}") from error


def _status(code: object) -> int:
    """Return the exit status of ``sys.exit(code)``."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1
