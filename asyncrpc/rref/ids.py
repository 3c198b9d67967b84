"""How references travel: ids in the header of a call, a fork in the place of an RRef.

Pure: values to bytes of fixed length and back. Numbers are counted per worker, so 64 bits last.
"""

from __future__ import annotations

import struct

from .values import Fork, GlobalId

__all__ = ("IDS_SIZE", "pack_fork", "pack_ids", "unpack_fork", "unpack_pair")

_IDS = struct.Struct("<16sQ16sQ")
IDS_SIZE = _IDS.size
"""Bytes of one pair of ids."""
_FORK = struct.Struct("<16sQ16sQ16s16s")


def pack_ids(rref: GlobalId, fork: GlobalId) -> bytes:
    """Return the ids of a value and of a reference to it, 48 bytes."""
    return _IDS.pack(*rref, *fork)


def unpack_pair(data: bytes) -> tuple[GlobalId, GlobalId]:
    """Return the ids of a value and of a reference to it.

    Raises:
        ValueError: the data have another length.
    """
    try:
        worker, number, holder, fork = _IDS.unpack(data)
    except struct.error:
        raise ValueError(f"reference must have {IDS_SIZE} bytes, got {len(data)}") from None
    return (worker, number), (holder, fork)


def pack_fork(fork: Fork) -> bytes:
    """Return what travels in the place of an RRef, 80 bytes."""
    return _FORK.pack(*fork.rref, *fork.fork, fork.owner, fork.parent)


def unpack_fork(data: object) -> Fork:
    """Return the fork that came in the place of an RRef.

    Raises:
        ValueError: these are no such bytes.
    """
    if type(data) is not bytes or len(data) != _FORK.size:
        raise ValueError(f"an RRef must travel as {_FORK.size} bytes, got {data!r:.100}")
    rref, number, fork, fork_number, owner, parent = _FORK.unpack(data)
    return Fork((rref, number), (fork, fork_number), owner, parent)
