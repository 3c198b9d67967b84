"""The marks that say where a ``def`` runs: `inline` and `async_execution`.

They only set a mark on the function and hand it back, so a decorated function can still be
called as before. `asyncrpc.execution` reads the mark on the callee.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeVar

__all__ = ("Mark", "async_execution", "inline", "mark_of")

_ATTRIBUTE = "__asyncrpc_mark__"

_F = TypeVar("_F", bound=Callable[..., object])


class Mark(enum.Enum):
    """How a ``def`` was marked."""

    INLINE = "inline"
    ASYNC_EXECUTION = "async_execution"


def inline(function: _F) -> _F:
    """Mark a short ``def`` that never blocks: it runs on the callee's loop, not in a thread.

    It saves two thread switches per call. A function so marked holds up every other call of its
    worker while it runs. On an ``async def`` the mark changes nothing.

    Args:
        function: a function written in Python. Works above and below ``@staticmethod`` and
            ``@classmethod``.

    Returns:
        ``function`` itself.

    Raises:
        TypeError: ``function`` cannot carry a mark (a builtin, for instance).
    """
    return _marked(function, Mark.INLINE)


def async_execution(function: _F) -> _F:
    """Mark a ``def`` that returns an awaitable: the callee replies with what that gives.

    While the awaitable is pending, the call holds no thread. On an ``async def`` the mark changes
    nothing.

    Args:
        function: a function written in Python. Works above and below ``@staticmethod`` and
            ``@classmethod``.

    Returns:
        ``function`` itself.

    Raises:
        TypeError: ``function`` cannot carry a mark (a builtin, for instance).
    """
    return _marked(function, Mark.ASYNC_EXECUTION)


def mark_of(function: object) -> Mark | None:
    """Return the mark that ``function`` itself carries, not one that a class inherited."""
    mark = getattr(function, "__dict__", {}).get(_ATTRIBUTE)
    return mark if isinstance(mark, Mark) else None


def _marked(function: _F, mark: Mark) -> _F:
    # A lookup through the class gives what these two wrap, so the mark must sit there.
    carrier = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    try:
        setattr(carrier, _ATTRIBUTE, mark)
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f"{mark.value} marks functions written in Python, but got {function!r}"
        ) from error
    return function
