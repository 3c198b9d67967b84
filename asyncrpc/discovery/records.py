"""What lies in the store of a group: each worker's record, or the verdict in its place.

Values only. A group's part of the store holds

* ``worker/{id}``: the `Record` of that worker; once it is gone, the `Verdict` on it. Whoever writes
  does so by compare-and-set against what it has read, so of several verdicts the first one stands.
* ``worker/over``, for a moment: the members of a static group end together, and what vanishes from
  here on is nobody's loss.
* ``name/{name}``, in dynamic groups only: the same record, so that a name is taken once.
* ``next``, in dynamic groups only: how many ids were given out.

Records hang on a lease of their worker, verdicts on one of who wrote them.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Literal, Self

import msgpack

from asyncrpc.identity import INCARNATION_BYTES, WorkerInfo
from asyncrpc.transport import Address

__all__ = (
    "OVER",
    "WORKERS",
    "Record",
    "Verdict",
    "decode_entry",
    "find_entry",
    "key_of",
    "name_key",
    "worker_key",
)

_log = logging.getLogger("asyncrpc.discovery")

WORKERS = "worker/"
"""Prefix of the keys of all workers."""

OVER = "worker/over"
"""Key that says that the group is over."""

_KINDS = ("left", "lost", "conflict", "over")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a worker publishes of itself.

    Args:
        info: name and id.
        incarnation: 16 bytes that tell this run of the worker from others.
        addresses: where it listens, best first.
        host: 16 bytes, equal for workers on one machine.
        liveness: where its liveness thread listens, ``None`` if it has none.
        world_size: number of workers of its group, 0 for a dynamic one.
    """

    info: WorkerInfo
    incarnation: bytes
    addresses: tuple[Address, ...]
    host: bytes
    liveness: Address | None = None
    world_size: int = 0

    def encode(self) -> bytes:
        """Return the form in which it lies in the store; equal records have equal forms."""
        return msgpack.packb(
            {
                "name": self.info.name,
                "id": self.info.id,
                "incarnation": self.incarnation,
                "addresses": [str(a) for a in self.addresses],
                "host": self.host,
                "liveness": str(self.liveness) if self.liveness else "",
                "world_size": self.world_size,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a record.

        Raises:
            ValueError: ``data`` is no record.
        """
        try:
            return cls._of(msgpack.unpackb(data))
        except (KeyError, TypeError, msgpack.UnpackException) as error:
            raise ValueError(f"{data[:40]!r}… is no worker record: {error}") from error

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        liveness = fields["liveness"]
        record = cls(
            WorkerInfo(fields["name"], fields["id"]),
            fields["incarnation"],
            tuple(Address.parse(a) for a in fields["addresses"]),
            fields["host"],
            Address.parse(liveness) if liveness else None,
            fields["world_size"],
        )
        _check_incarnation(record.incarnation)
        if not record.addresses:
            raise ValueError(f"the record of {record.info.name} has no address")
        return record


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What stands in place of a record once its worker is gone, or the group cannot begin.

    Args:
        kind: ``"left"`` by its own word; ``"lost"``; or ``"conflict"``: two workers claim one place
            of a static group, so that nobody need wait for the rest of it; or ``"over"``, under
            `OVER`.
        reason: why.
        incarnation: whose record it replaces; empty for a conflict.
        by: incarnation of the worker that wrote it; that of a worker which was lost before is void.
    """

    kind: Literal["left", "lost", "conflict", "over"]
    reason: str
    incarnation: bytes = b""
    by: bytes = b""

    def encode(self) -> bytes:
        """Return the form in which it lies in the store."""
        return msgpack.packb(
            {
                "verdict": self.kind,
                "reason": self.reason,
                "incarnation": self.incarnation,
                "by": self.by,
            }
        )


def decode_entry(data: bytes) -> Record | Verdict:
    """Read what lies under a worker's key.

    Raises:
        ValueError: it is neither a record nor a verdict.
    """
    try:
        fields: dict[str, Any] = msgpack.unpackb(data)
        kind = fields.get("verdict")
        if kind is None:
            return Record.decode(data)
        if kind in _KINDS:
            return Verdict(kind, str(fields["reason"]), fields["incarnation"], fields["by"])
        problem: object = f"verdict of unknown kind {kind!r}"
    except (AttributeError, KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        problem = error
    raise ValueError(f"{data[:40]!r}… is no entry of a worker: {problem}")


def find_entry(data: bytes) -> Record | Verdict | None:
    """Return an entry; ``None`` for nothing, and for what makes no sense."""
    try:
        return decode_entry(data) if data else None
    except ValueError as error:
        _log.warning("ignored what lies in the store: %s", error)
        return None


def worker_key(rank: int) -> str:
    """Return the key of a worker's record."""
    return f"{WORKERS}{rank}"


def name_key(name: str) -> str:
    """Return the key that says who has a name in a dynamic group."""
    return f"name/{name}"


def key_of(to: str | int | WorkerInfo) -> str:
    """Return the key under which a destination of a dynamic group is found."""
    if isinstance(to, WorkerInfo):
        return name_key(to.name)
    return name_key(to) if isinstance(to, str) else worker_key(to)


def _check_incarnation(incarnation: object) -> None:
    if not isinstance(incarnation, bytes) or len(incarnation) != INCARNATION_BYTES:
        raise ValueError(f"{incarnation!r:.60} is no incarnation")
