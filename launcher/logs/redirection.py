"""Redirects a standard stream of this process to a file, for as long as a context lasts.

At the level of descriptors: what Python, C code and child processes write is caught alike. Called
by users; the launcher's own workers are started with the right descriptors.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("redirect",)

_NUMBERS = {"stdout": 1, "stderr": 2}


@contextmanager
def redirect(std: str, to_file: str | os.PathLike[str]) -> Iterator[None]:
    """Let a standard stream go to a file.

    Both may go to the same file, one context in the other.

    Args:
        std: ``stdout`` or ``stderr``.
        to_file: path of the file, made if need be; what is in it is kept.

    Raises:
        ValueError: ``std`` is something else.
        OSError: the file cannot be opened.
    """
    if std not in _NUMBERS:
        raise ValueError(f"std={std!r}: expected stdout or stderr")
    number = _NUMBERS[std]
    file = os.open(to_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    before = os.dup(number)
    _flush(std)
    os.dup2(file, number)
    os.close(file)
    try:
        yield
    finally:
        _flush(std)
        os.dup2(before, number)
        os.close(before)


def _flush(std: str) -> None:
    """Write out what Python and C have buffered."""
    stream = getattr(sys, std)
    if stream is not None:
        stream.flush()
    ctypes.CDLL(None).fflush(None)
