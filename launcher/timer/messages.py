"""What a worker writes to the launcher about a timer: one line of JSON, torch's fields.

Pure. A line is at most `MAX_LINE` bytes, so that one write to the pipe is never mixed with another
worker's. Called by both ends.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("MAX_LINE", "Message", "decode", "encode")

MAX_LINE = 4096  # PIPE_BUF of Linux: writes up to it are atomic
_MAX_SCOPE = 300  # characters; each takes at most 12 bytes of JSON
_MAX_TIME = 1e12  # seconds; far beyond any clock
_VERSION = 1  # of torch's format, of which ours has two fields more


class Message(NamedTuple):
    """A block of code began, or ended."""

    pid: int
    """The process that runs the block."""
    scope: str
    """What the block is called."""
    expiration: float
    """When it has to be over, seconds of the wall clock; negative: it is over."""
    key: str
    """Which block of the process; blocks of one scope may be nested."""
    rank: int | None = None
    """Rank of the worker that the process is or belongs to, if it is known."""
    signal: int = 9
    """What ends the process."""


def encode(message: Message) -> bytes:
    """Return a message as one line.

    Args:
        message: a scope beyond 300 characters is cut.
    """
    import json  # noqa: PLC0415 -- slow, and most runs have no timers

    fields = {
        "version": _VERSION,
        "pid": message.pid,
        "scope_id": message.scope[:_MAX_SCOPE],
        "expiration_time": message.expiration,
        "signal": message.signal,
        "key": message.key,
        "rank": message.rank,
    }
    return json.dumps(fields).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read one line.

    Args:
        line: without its end; ours, or of torch's FileTimerClient.

    Raises:
        ValueError: it is something else.
    """
    import json  # noqa: PLC0415 -- as above

    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("expected a JSON object")
    pid, scope = fields.get("pid"), fields.get("scope_id")
    expiration, number = fields.get("expiration_time"), fields.get("signal")
    key, rank = fields.get("key", scope), fields.get("rank")
    if fields.get("version") != _VERSION:
        raise ValueError(f"version={fields.get('version')!r:.100}: expected {_VERSION}")
    if type(pid) is not int or not 0 < pid < 1 << 22:  # the kernel's PID_MAX_LIMIT
        raise ValueError(f"pid={pid!r:.100}: expected a process id")
    if not isinstance(scope, str) or not isinstance(key, str):
        raise ValueError(f"scope_id={scope!r:.100}, key={key!r:.100}: expected texts")
    if isinstance(expiration, bool) or not isinstance(expiration, int | float):
        raise ValueError(f"expiration_time={expiration!r:.100}: expected seconds")
    if not abs(expiration) < _MAX_TIME:  # of numbers of any size, and not of NaN
        raise ValueError(f"expiration_time={expiration!r:.100}: expected seconds")
    if type(number) is not int or not 0 < number < 65:
        raise ValueError(f"signal={number!r:.100}: expected a signal")
    if rank is not None and type(rank) is not int:
        raise ValueError(f"rank={rank!r:.100}: expected an integer")
    return Message(pid, scope, float(expiration), key, rank, number)
