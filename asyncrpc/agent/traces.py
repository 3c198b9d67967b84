"""The trace that calls belong to: a W3C ``traceparent`` that rides on them.

No tracing library is needed: what came with a call goes on to the calls that it makes. A library's
spans come in by an interceptor, see `asyncrpc.tracing`.

Source: W3C Trace Context, 3.2 "traceparent Header".
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager

from asyncrpc.agent.ambient import Surrounding, ambient
from asyncrpc.execution import current_call

__all__ = ("check_traceparent", "current_traceparent", "traceparent")

_FORMAT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<more>-[!-~]*)?"
)
_MOST = 512  # characters; later versions may be longer than today's 55, which are all we know


def current_traceparent() -> str | None:
    """Return the W3C ``traceparent`` that calls made here carry, ``None`` for none.

    It is that of the innermost `traceparent` here, else the one that came with the call served.
    """
    around = ambient.get()
    if around is not None and around.trace:
        return around.trace
    served = current_call.get()
    trace = "" if served is None or served.headers is None else served.headers.trace
    return trace if _is_valid(trace) else None


def traceparent(value: str) -> AbstractContextManager[None]:
    """Make the calls inside carry a W3C ``traceparent``; a plain context manager.

    Args:
        value: ``00-<trace id>-<parent id>-<flags>``: 32, 16 and 2 lower-case hex digits, the ids
            not all zero; later versions as far as the standard lays them down.

    Raises:
        ValueError: it is none.
    """
    return _set(check_traceparent(value))


def check_traceparent(value: object) -> str:
    """Return a ``traceparent`` as it is.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not _is_valid(value):
        raise ValueError(
            "traceparent must be 00-<32 hex digits>-<16 hex digits>-<2 hex digits> in lower case, "
            f"with ids that are not all zero, got {value!r:.100}"
        )
    return value


@contextlib.contextmanager
def _set(value: str) -> Iterator[None]:
    surrounding = Surrounding()
    surrounding.enter(trace=value)
    try:
        yield
    finally:
        surrounding.leave()


def _is_valid(value: str) -> bool:
    found = _FORMAT.fullmatch(value) if len(value) <= _MOST else None
    return found is not None and (found["version"] != "00" or found["more"] is None)
