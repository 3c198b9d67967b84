"""How references travel: ids in the header of a call, a fork in the place of an RRef.

Pure: values to bytes of fixed length and back. An id is bytes at rest, too: the garbage collector
passes over bytes, and over dicts of nothing else, so that very many references cost it nothing.
Numbers are counted per worker, so 64 bits last.
"""

from __future__ import annotations

from .values import Fork, GlobalId, Worker

__all__ = (
    "IDS_SIZE",
    "ID_SIZE",
    "make_id",
    "maker_of",
    "number_of",
    "owner_of",
    "pack_fork",
    "parent_of",
    "read_id",
    "read_ids",
    "rref_of",
    "unpack_fork",
    "unpack_pair",
)

_WORKER_SIZE = 16
ID_SIZE = _WORKER_SIZE + 8
"""Bytes of an id: who made it, and the how-manieth it was there, the lowest byte first."""
IDS_SIZE = 2 * ID_SIZE
"""Bytes of one pair of ids."""
_OWNER = IDS_SIZE  # in a fork: value, reference, owner, parent
_PARENT = _OWNER + _WORKER_SIZE
_FORK_SIZE = _PARENT + _WORKER_SIZE


def make_id(maker: Worker, number: int) -> GlobalId:
    """Return the id that a worker makes as its ``number``-th."""
    return maker + number.to_bytes(8, "little")


def maker_of(ident: GlobalId) -> Worker:
    """Return who made an id."""
    return ident[:_WORKER_SIZE]


def number_of(ident: GlobalId) -> int:
    """Return the how-manieth id of its maker this is."""
    return int.from_bytes(ident[_WORKER_SIZE:], "little")


def read_id(data: object) -> GlobalId:
    """Check an id that came from a peer.

    Raises:
        ValueError: it is none.
    """
    if type(data) is bytes and len(data) == ID_SIZE:
        return data
    raise ValueError(f"id must be {ID_SIZE} bytes, got {data!r:.100}")


def read_ids(data: object) -> list[GlobalId]:
    """Return the ids that came from a peer, one behind the other.

    Raises:
        ValueError: these are none.
    """
    if type(data) is bytes and len(data) % ID_SIZE == 0:
        return [data[at : at + ID_SIZE] for at in range(0, len(data), ID_SIZE)]
    raise ValueError(f"ids must be {ID_SIZE} bytes each, got {data!r:.100}")


def unpack_pair(data: bytes) -> tuple[GlobalId, GlobalId]:
    """Return the ids of a value and of a reference to it, which stand one behind the other.

    Raises:
        ValueError: the data have another length.
    """
    if len(data) != IDS_SIZE:
        raise ValueError(f"reference must have {IDS_SIZE} bytes, got {len(data)}")
    return data[:ID_SIZE], data[ID_SIZE:]


def pack_fork(fork: Fork) -> bytes:
    """Return what travels in the place of an RRef, and is kept of it: 80 bytes."""
    return b"".join(fork)


def unpack_fork(data: object) -> Fork:
    """Return the fork that came in the place of an RRef.

    Raises:
        ValueError: these are no such bytes.
    """
    if type(data) is not bytes or len(data) != _FORK_SIZE:
        raise ValueError(f"an RRef must travel as {_FORK_SIZE} bytes, got {data!r:.100}")
    return Fork(data[:ID_SIZE], data[ID_SIZE:_OWNER], data[_OWNER:_PARENT], data[_PARENT:])


def rref_of(packed: bytes) -> GlobalId:
    """Return the value that a packed fork refers to."""
    return packed[:ID_SIZE]


def owner_of(packed: bytes) -> Worker:
    """Return the owner in a packed fork."""
    return packed[_OWNER:_PARENT]


def parent_of(packed: bytes) -> Worker:
    """Return the parent in a packed fork."""
    return packed[_PARENT:]
