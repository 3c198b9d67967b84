"""What the encoders and decoders of one message share: buffers, class references, policy.

Sans-IO. Made by the codec for every message that is more than plain msgpack.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from msgpack import ExtType

from .registry import TypeRegistry

__all__ = (
    "CODE_MARK",
    "CODE_NESTED",
    "LARGE",
    "LEVELS_PER_BODY",
    "SCALARS",
    "Builder",
    "BytesLike",
    "DecodeState",
    "Enclosure",
    "EncodeState",
    "Encoder",
    "Extension",
    "ForbiddenError",
    "Kind",
    "MalformedError",
    "Mark",
    "Place",
    "Policy",
    "UnencodableError",
    "mark",
)

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""What bodies and buffers may be."""

LARGE = 4096
"""Bytes from which a buffer travels out of band; below, one more system call vector entry
costs more than the copy."""

SCALARS = frozenset((type(None), bool, int, float, str))
"""Exact types that msgpack keeps and that need no look at the value."""

CODE_MARK = 1
"""Extension code of a mark: the first item of an array that stands for something else."""
CODE_NESTED = 2
"""Extension code of a container that was packed by itself, see `LEVELS_PER_BODY`."""

LEVELS_PER_BODY = 400
"""Levels that msgpack packs and unpacks in one go: below its limits of 511 and 1024, with room
for levels of our own."""


class Kind(enum.IntEnum):
    """What an array that starts with a mark stands for; the numbers travel."""

    TUPLE = 1
    SET = 2
    FROZENSET = 3
    DICT = 4
    RANGE = 5
    SLICE = 6
    FRACTION = 7
    TIME = 8
    DATETIME = 9
    TIMEZONE = 10
    ZONEINFO = 11
    BYTES = 12
    BYTEARRAY = 13
    MEMORYVIEW = 14
    WORKER_INFO = 15
    ENUM = 16
    DATACLASS = 17
    NAMEDTUPLE = 18
    EXCEPTION = 19
    NDARRAY = 20
    NUMPY_SCALAR = 21
    TENSOR = 22
    REGISTERED = 23
    EXTENSION = 24
    PICKLE = 25


class Extension(NamedTuple):
    """One class that a layer above the codec makes travel, as references to remote objects."""

    cls: type
    """Instances of exactly this class are encoded."""
    code: int
    """What travels instead of the class; 0 to 2**16 - 1, unique in a codec."""
    encode: Callable[[Any, object], tuple[object, object]]
    """Turns an instance, on its way to a destination, into a value and what it enclosed: see
    `Enclosure`. Called in the order of the walk, may have side effects."""
    decode: Callable[[Any], object]
    """Turns the value into an instance."""
    undo: Callable[[Sequence[Any], object], None]
    """Takes back what was enclosed on the way to a destination: the message is not made."""


class Enclosure(list[BytesLike]):
    """Buffers of a message in which extensions enclosed something; true even where there are none.

    Attributes:
        enclosed: what the extensions gave, in the order of the walk.
    """

    __slots__ = ("enclosed",)

    def __init__(self, buffers: Sequence[BytesLike], enclosed: Sequence[object]) -> None:
        super().__init__(buffers)
        self.enclosed = enclosed

    def __bool__(self) -> bool:
        return True


Place: TypeAlias = Callable[[object, str], "str | None"]
"""Takes a destination and a device here; returns the device there, ``None`` if none is named."""


class Policy(NamedTuple):
    """What one codec allows; shared by all its messages."""

    allow_pickle: bool
    registry: TypeRegistry
    by_class: dict[type, Extension]
    by_code: dict[int, Extension]
    travels_lightly: Callable[[object], bool]
    """Whether a value that may be left out is small and of types that travel without pickle."""
    place: Place
    """Where tensors go at their destination: see `Codec`."""


Encoder: TypeAlias = Callable[["EncodeState", Any], object]
"""Turns a value into an `ExtType` or a scalar, or into a list that starts with a mark and
whose other items are walked in turn."""
Builder: TypeAlias = Callable[["DecodeState", list[Any]], object]
"""Turns such a list, its items built already, into the value."""


class UnencodableError(Exception):
    """A value cannot travel; the walk adds where it sits and raises `EncodingError`."""


class ForbiddenError(UnencodableError):
    """A value must not travel, not even as a pickle."""


class MalformedError(Exception):
    """The body breaks the format; the codec raises `RemoteProtocolError`."""


class Mark:
    """First item of a decoded array that stands for something other than a list."""

    __slots__ = ("kind",)

    def __init__(self, kind: Kind) -> None:
        self.kind = kind


def mark(kind: Kind) -> ExtType:
    """Return what is packed as the first item of an array of ``kind``."""
    return ExtType(CODE_MARK, bytes((kind,)))


class EncodeState:
    """Grows while one message is encoded."""

    __slots__ = ("_indices", "buffers", "enclosed", "policy", "references", "to")

    def __init__(self, policy: Policy, to: object) -> None:
        self.policy = policy
        self.to = to
        """Destination of the message, for extensions; ``None`` if it is no call."""
        self.enclosed: list[object] = []
        """What extensions made for the message."""
        self.buffers: list[BytesLike] = []
        """Out of band, C-contiguous bytes, not copied; must not change until sent."""
        self.references: list[tuple[str, ...]] = []
        """Names used by many values of the message, sent once: (class, field, …)."""
        self._indices: dict[tuple[str, ...], int] = {}

    def refer(self, *names: str) -> int:
        """Return the index of ``names`` in the message's table, adding them on first use."""
        index = self._indices.get(names)
        if index is None:
            index = self._indices[names] = len(self.references)
            self.references.append(names)
        return index

    def extend(self, extension: Extension, value: object) -> object:
        """Return what travels for an instance of an extension's class."""
        encoded, enclosed = extension.encode(value, self.to)
        self.enclosed.append(enclosed)
        return encoded

    def put_buffer(self, buffer: BytesLike) -> int:
        """Take ``buffer`` out of band and return its index."""
        self.buffers.append(buffer)
        return len(self.buffers) - 1


class DecodeState:
    """Shrinks while one message is decoded: each buffer may be taken once."""

    __slots__ = ("_buffers", "_left", "classes", "policy", "references")

    def __init__(self, policy: Policy, buffers: Sequence[BytesLike]) -> None:
        self.policy = policy
        self.references: list[Any] = []
        self.classes: dict[str, Any] = {}
        """Classes of this message by ``module:qualname``, once they were looked up."""
        self._buffers: list[BytesLike | None] = list(buffers)
        self._left = len(self._buffers)

    def names(self, index: object) -> list[str]:
        """Return entry ``index`` of the message's table: at least one name.

        Raises:
            MalformedError: there is no such entry.
        """
        if type(index) is not int or not 0 <= index < len(self.references):
            raise MalformedError(f"reference {index!r} is not in the message's table")
        names = self.references[index]
        if type(names) is not list or not names or set(map(type, names)) != {str}:
            raise MalformedError(f"reference {index} must be a list of names")
        return names

    def take_buffer(self, index: object) -> BytesLike:
        """Return buffer ``index``; a second time would let a small body ask for much memory.

        Raises:
            MalformedError: there is no such buffer, or it was taken.
        """
        if type(index) is not int or not 0 <= index < len(self._buffers):
            raise MalformedError(f"buffer {index!r} is not among the {len(self._buffers)} received")
        buffer = self._buffers[index]
        if buffer is None:
            raise MalformedError(f"buffer {index} is used twice")
        self._buffers[index] = None
        self._left -= 1
        return buffer

    def check_all_taken(self) -> None:
        """Raise `MalformedError` if a buffer came that nothing refers to."""
        if self._left:
            raise MalformedError(f"{self._left} buffers are referred to by nothing")
