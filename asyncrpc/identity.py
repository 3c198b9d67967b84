"""Who a worker is: `WorkerInfo`, and the incarnation that tells a restarted worker from its past.

Values only, no I/O. A worker is (name, id, incarnation): a restarted "worker1" is somebody else.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

__all__ = ("INCARNATION_BYTES", "MAX_WORKER_ID", "WorkerInfo", "new_incarnation")

MAX_WORKER_ID = 32767  # torch's worker_id_t is an int16
INCARNATION_BYTES = 16
_NAME = re.compile(r"[A-Za-z0-9\-_:]{1,127}\Z", re.ASCII)


class WorkerInfo:
    """Name and id of one worker of the group; equal by value, hashable, picklable.

    Args:
        name: 1 to 127 characters of ``[A-Za-z0-9-_:]``, unique in the group.
        id: 0 to 32767, unique in the group.

    Raises:
        ValueError: the name or the id breaks its rule.
    """

    __slots__ = ("_id", "_name")

    def __init__(self, name: str, id: int) -> None:  # noqa: A002 -- torch's name for it
        given: object = name
        if not isinstance(given, str) or not _NAME.match(given):
            shown = given if isinstance(given, str) and len(given) <= 150 else f"{given!r:.150}"
            raise ValueError(
                "Worker name must match ^[A-Za-z0-9-_:]*$, and must be non-empty and shorter "
                f"than 128 chars, but got {shown}"
            )
        if type(id) is not int or not 0 <= id <= MAX_WORKER_ID:
            raise ValueError(f"RPC worker id must be an int from 0 to {MAX_WORKER_ID}, got {id!r}")
        self._name = name
        self._id = id

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._name

    @property
    def id(self) -> int:
        """The worker's id, its rank in a static group."""
        return self._id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WorkerInfo):
            return NotImplemented
        return self._name == other._name and self._id == other._id

    def __hash__(self) -> int:
        return hash((self._name, self._id))

    def __repr__(self) -> str:
        return f"WorkerInfo(id={self._id}, name={self._name})"

    def __reduce__(self) -> tuple[type[WorkerInfo], tuple[str, int]]:
        return (WorkerInfo, (self._name, self._id))


def new_incarnation(random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Return the 16 random bytes that name one run of one worker."""
    return random(INCARNATION_BYTES)
