"""The text of a remote traceback, as `RemoteTraceback` shows it to the caller.

Pure. It shows the frames of users: those of this package are left out wherever they stand, with
what they called in the standard library, and so are causes that were raised and caught within the
package. An error that itself came from a third worker is cut off there, since it travels with its
own text.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Iterator

from asyncrpc.errors import RemoteTraceback

__all__ = ("MAX_CHAIN", "MAX_TEXT", "cut", "format_remote", "safe_str")

MAX_TEXT = 65_536
"""Characters of one text that travel; enough for every error a person reads to the end."""

MAX_CHAIN = 100
"""Errors of one cause and context chain that travel."""

_OWN_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_ADDED = tuple(_LIBRARY + name for name in ("site-packages", "dist-packages"))
_IMPORTING = ("<frozen importlib", os.path.dirname(importlib.__file__) + os.sep)

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
    links: list[tuple[traceback.TracebackException, str]] = []
    link: traceback.TracebackException | None = traceback.TracebackException.from_exception(error)
    joint = ""
    for _ in range(MAX_CHAIN):
        if link is None or (links and _has_travelled(link)):
            break
        had_frames = bool(link.stack)
        _keep_frames_of_users(link, may_serve=not links)
        if not links or link.stack or not had_frames or link.exceptions:
            links.append((link, joint))
        link, joint = _following(link)
    for entry, joint in reversed(links):
        yield from entry.format(chain=False)
        yield joint


def _has_travelled(link: traceback.TracebackException) -> bool:
    """Return whether an error stands for the text that another worker has sent."""
    name = getattr(link, "exc_type_str", None)  # Python 3.13 has it and warns of exc_type
    if name is None:
        return link.exc_type is RemoteTraceback
    return bool(name == f"{RemoteTraceback.__module__}.{RemoteTraceback.__qualname__}")


def _following(
    link: traceback.TracebackException,
) -> tuple[traceback.TracebackException | None, str]:
    """Return what an error came of, and the words between the two."""
    if link.__cause__ is not None:
        return link.__cause__, _CAUSE
    return (None, "") if link.__suppress_context__ else (link.__context__, _CONTEXT)


def _keep_frames_of_users(link: traceback.TracebackException, *, may_serve: bool) -> None:
    """Take the other frames out of an error and the members of a group.

    Args:
        link: changed in place.
        may_serve: whether the first frame after those of this package is of the served function,
            which may be one of the standard library.
    """
    kept: list[traceback.FrameSummary] = []
    is_inside = False  # in what this package called for itself
    for frame in link.stack:
        if frame.filename.startswith((_OWN_FOLDER, *_IMPORTING)):
            is_inside = bool(kept) or not may_serve
        elif not (is_inside and _is_of_library(frame.filename)):
            is_inside = False
            kept.append(frame)
    link.stack[:] = kept
    for member in link.exceptions or ():
        _keep_frames_of_users(member, may_serve=False)


def _is_of_library(filename: str) -> bool:
    return filename.startswith(_LIBRARY) and not filename.startswith(_ADDED)
