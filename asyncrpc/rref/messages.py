"""What each control message about references does, and what it is answered with.

Pure; `Lifecycle` calls it. A message is checked as a whole before it changes anything.
"""

from __future__ import annotations

from asyncrpc.wire import MessageType

from .owner import Owners
from .payloads import read_accepts, read_deletes, read_fork_request, read_sync
from .reconciling import NO_SNAPSHOT
from .user import Users
from .values import Worker

__all__ = ("take_message",)


def take_message(
    owners: Owners, users: Users, kind: MessageType, payload: object, source: Worker
) -> object:
    """Take a control message; return the payload of its answer.

    Raises:
        ValueError: it makes no sense; nothing was changed.
    """
    if kind is MessageType.RREF_FORK_REQUEST:
        rref, fork, stamp = read_fork_request(payload)
        cause = owners.requested(rref, fork, source, stamp)
        return None if cause is None else (cause.kind.value, cause.text)
    if kind is MessageType.RREF_CHILD_ACCEPT:
        for child in read_accepts(payload):
            users.child_ended(child, source)
        return None
    if kind is MessageType.RREF_USER_DELETE:
        forks, doubts = read_deletes(payload)
        for rref in doubts:
            owners.doubt(rref, source)
        for fork in forks:
            owners.delete(fork, source)
        return None
    if kind is MessageType.RREF_SYNC:
        sync = read_sync(payload)
        if sync.as_of != NO_SNAPSHOT:
            owners.reconcile(source, sync)
        return b"".join([fork for fork in sync.asked if not users.is_needed(fork, source)])
    raise ValueError(f"{kind!r} is no message about references")
