"""What each side of a new connection says about itself.

Sans-IO: a value and its fixed binary form. Used by the handshake and by whoever opens connections.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Self

__all__ = ("Hello", "Purpose")

MAX_NAME_BYTES = 255  # its length travels in one byte

_FIXED = struct.Struct("!B32s16s16sQiIIQB")  # as in Hello, last the length of the name behind it


class Purpose(enum.IntEnum):
    """What a connection is for; both sides must want the same."""

    RPC = 1
    HEARTBEAT = 2
    STORE = 3
    CONTROL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What one side says about itself; all of it is under the MAC.

    Args:
        purpose: what the connection is for.
        run_id: SHA-256 of the run id, 32 bytes.
        incarnation: 16 bytes that name this run of the process.
        host: 16 bytes, equal for processes that can share memory.
        features: bit set of what the side can do, 0 to 2**64 - 1; unknown bits are kept.
        name: worker name, or empty; at most 255 printable ASCII characters.
        worker_id: id of the worker; -1 where it has none.
        flags: bit set for the purpose's own use, 0 to 2**32 - 1.
        max_inflight: calls it serves at once over this connection, 0 to 2**32 - 1; 0: not said.
        max_message_size: bytes of the largest message that it takes, 0 to 2**64 - 1; 0: not said.

    Raises:
        ValueError: a field breaks its rule.
    """

    purpose: Purpose
    run_id: bytes
    incarnation: bytes
    host: bytes
    features: int = 0
    name: str = ""
    worker_id: int = -1
    flags: int = 0
    max_inflight: int = 0
    max_message_size: int = 0

    def __post_init__(self) -> None:
        for field, size in (("run_id", 32), ("incarnation", 16), ("host", 16)):
            if len(getattr(self, field)) != size:
                raise ValueError(
                    f"hello {field} must have {size} bytes, got {len(getattr(self, field))}"
                )
        for field, low, high in (
            ("features", 0, 2**64),
            ("worker_id", -1, 2**31),
            ("flags", 0, 2**32),
            ("max_inflight", 0, 2**32),
            ("max_message_size", 0, 2**64),
        ):
            if not low <= getattr(self, field) < high:
                raise ValueError(
                    f"hello {field} must be from {low} to {high - 1}, got {getattr(self, field)}"
                )
        if len(self.name) > MAX_NAME_BYTES or not (self.name.isascii() and self.name.isprintable()):
            raise ValueError(
                f"hello name must have at most {MAX_NAME_BYTES} printable ASCII characters, "
                f"got {self.name[:64]!r}"
            )

    def encode(self) -> bytes:
        """Return the form in which it travels, at most 349 bytes."""
        name = self.name.encode("ascii")
        return (
            _FIXED.pack(
                self.purpose,
                self.run_id,
                self.incarnation,
                self.host,
                self.features,
                self.worker_id,
                self.flags,
                self.max_inflight,
                self.max_message_size,
                len(name),
            )
            + name
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return what `encode` made ``data`` of.

        Raises:
            ValueError: it is nothing that `encode` makes.
        """
        if len(data) < _FIXED.size or len(data) != _FIXED.size + data[_FIXED.size - 1]:
            raise ValueError(f"hello of {len(data)} bytes does not have the length it states")
        purpose, run_id, incarnation, host, features, worker_id, flags, inflight, size, _ = (
            _FIXED.unpack_from(data)
        )
        return cls(
            purpose=Purpose(purpose),
            run_id=run_id,
            incarnation=incarnation,
            host=host,
            features=features,
            name=data[_FIXED.size :].decode("ascii"),
            worker_id=worker_id,
            flags=flags,
            max_inflight=inflight,
            max_message_size=size,
        )
