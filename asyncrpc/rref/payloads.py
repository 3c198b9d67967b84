"""Control messages of the remote-reference protocol: what peers sent, checked.

Pure: a payload in, typed values out, or `ValueError`, before anything was changed by it. What is
sent needs no function: payloads are tuples of ids, many of them one behind the other.
"""

from __future__ import annotations

from typing import NamedTuple

from .ids import read_id, read_ids
from .values import Cause, CauseKind, GlobalId

__all__ = (
    "Deletes",
    "Sync",
    "read_accepts",
    "read_cause",
    "read_deletes",
    "read_fork_request",
    "read_sync",
)


class Deletes(NamedTuple):
    """RREF_USER_DELETE: references given up, and creations that nobody waits for any more."""

    forks: list[GlobalId]
    doubts: list[GlobalId]
    """Values whose creator does not know whether its request ever came."""


class Sync(NamedTuple):
    """RREF_SYNC: what the sender holds, and what it asks for."""

    as_of: int
    """The sender's counter when it made this; -1 without a snapshot."""
    live: list[GlobalId]
    """Its forks of the receiver's values."""
    asked: list[GlobalId]
    """Forks that it sent to the receiver in messages of which it does not know the end."""
    after: bytes = b""
    """The id above which ``live`` is complete; empty for from the first one."""
    up_to: bytes = b""
    """The id up to which it is complete; empty for to the last one."""


def _read_count(value: object) -> int:
    """Check a stamp or a watermark."""
    if isinstance(value, int) and value >= -1:
        return value
    raise ValueError(f"stamp must be a count, got {value!r:.100}")


def _read_bound(value: object) -> bytes:
    return b"" if value == b"" else read_id(value)


def read_fork_request(payload: object) -> tuple[GlobalId, GlobalId, int]:
    """Check an RREF_FORK_REQUEST: value, fork, the holder's stamp."""
    match payload:
        case (rref, fork, stamp):
            return read_id(rref), read_id(fork), _read_count(stamp)
    raise ValueError(f"a fork request must have three items, got {payload!r:.100}")


def read_deletes(payload: object) -> Deletes:
    """Check an RREF_USER_DELETE."""
    match payload:
        case (forks, doubts):
            return Deletes(read_ids(forks), read_ids(doubts) if doubts != b"" else [])
    raise ValueError(f"a batch of deletes must have two items, got {payload!r:.100}")


def read_accepts(payload: object) -> list[GlobalId]:
    """Check an RREF_CHILD_ACCEPT: children."""
    match payload:
        case (children,):
            return read_ids(children)
    raise ValueError(f"acceptances must be one item, got {payload!r:.100}")


def read_sync(payload: object) -> Sync:
    """Check an RREF_SYNC."""
    match payload:
        case (as_of, live, asked):
            return Sync(_read_count(as_of), read_ids(live), read_ids(asked))
        case (as_of, live, after, up_to):
            return Sync(
                _read_count(as_of), read_ids(live), [], _read_bound(after), _read_bound(up_to)
            )
    raise ValueError(f"a snapshot must have three or four items, got {payload!r:.100}")


def read_cause(payload: object) -> Cause | None:
    """Check the answer to a fork request: ``None`` when the fork is known now."""
    match payload:
        case None:
            return None
        case (str(kind), str(text)):
            return Cause(CauseKind(kind), text)
    raise ValueError(f"a cause must be a kind and a text, got {payload!r:.100}")
