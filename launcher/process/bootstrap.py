"""The worker's side of a function: obtain it, run it, send back what it returns.

Runs in worker processes only. Whatever ends the function, there is something on stderr or in the
error file that says so, and the exit status is what a script's would be.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from inspect import iscoroutine
from pickle import PicklingError
from typing import NoReturn

from launcher.process.errorfile import ErrorHandler, format_error
from launcher.process.payload import unpack
from launcher.process.results import encode_result, send_result

__all__ = ("PAYLOAD", "RESULT", "main")

PAYLOAD = 3
"""Descriptor that a worker reads its function from."""
RESULT = 4
"""Descriptor that a worker writes its result to."""

_Work = tuple[Callable[..., object], tuple[object, ...]]


def main() -> NoReturn:
    """Run the function this process was started for, and end like a script."""
    sys.exit(_work(lambda: unpack(PAYLOAD)))


def _work(obtain: Callable[[], _Work]) -> int:
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
