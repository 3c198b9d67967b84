"""The text of a remote traceback, as `RemoteTraceback` shows it to the caller.

Pure. Frames of this folder, between the loop or thread and the user's function, are left out; an
error that itself came from a third worker is cut off there, since it travels with its own text.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from types import TracebackType

from asyncrpc.errors import RemoteTraceback

__all__ = ("MAX_CHAIN", "MAX_TEXT", "cut", "format_remote", "safe_str")

MAX_TEXT = 65_536
"""Characters of one text that travel; enough for every error a person reads to the end."""

MAX_CHAIN = 100
"""Errors of one cause and context chain that travel."""

_OWN_FOLDER = os.path.dirname(__file__) + os.sep

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def format_remote(error: BaseException, worker: str, function: str) -> str:
    """Return ``On <worker> in <function>``, an empty line and the traceback with its chain.

    Args:
        error: what the function raised, with its traceback.
        worker: name of the worker it ran on.
        function: its name, ``module:qualname``; empty if it was not found.

    Returns:
        At most about `MAX_TEXT` characters; the middle is left out where it is more.
    """
    try:
        lines = "".join(_chain_text(error))
    except Exception:  # noqa: BLE001 -- formatting runs the user's __str__, __repr__ and loaders
        lines = f"{type(error).__qualname__}: {safe_str(error)}"
    where = f"{worker} in {function}" if function else worker
    return cut(f"On {where}\n\n{lines}")


def safe_str(value: object) -> str:
    """Return ``str(value)``, or what Python prints where that fails."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 -- the user's __str__
        return f"<{type(value).__qualname__} str() failed>"


def cut(text: str) -> str:
    """Return ``text``, with its middle left out if it has more than `MAX_TEXT` characters."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    omitted = len(text) - 2 * half
    return f"{text[:half]}\n[{omitted} characters left out]\n{text[-half:]}"


def _chain_text(error: BaseException) -> Iterator[str]:
    """Yield the texts of the chain, the first error that happened first."""
    tree = traceback.TracebackException(type(error), error, _own_frames_off(error.__traceback__))
    links: list[tuple[traceback.TracebackException, str]] = []
    link: traceback.TracebackException | None = tree
    while link is not None and len(links) < MAX_CHAIN:
        following, joint = link.__cause__, _CAUSE
        if following is None and not link.__suppress_context__:
            following, joint = link.__context__, _CONTEXT
        if following is not None and following.exc_type is RemoteTraceback:
            following = None
        links.append((link, joint if following is not None else ""))
        link = following
    for entry, joint in reversed(links):
        yield joint
        yield from entry.format(chain=False)


def _own_frames_off(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        trace = trace.tb_next
    return trace
