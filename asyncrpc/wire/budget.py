"""How much memory a body may become, counted from its headers before anything is unpacked.

Sans-IO; called by the codec. msgpack spends one byte on what costs Python up to 72 (an empty
array), and believes an array's header when it allocates; both are bounded here.
"""

from __future__ import annotations

from asyncrpc.errors import MessageTooLargeError

from .state import BytesLike, MalformedError

__all__ = ("Budget",)

BYTES_PER_ELEMENT = 80  # an empty list costs 72 with its slot, a map entry about 100 for its two
UNCHECKED = 16 * 1024
"""Bodies up to this length cannot make msgpack allocate more than 128 MiB for a moment."""
_SLOT = 8  # bytes of a list's slot
_MAX_STACK = 1024  # msgpack's own nesting limit
_ARRAY_16_MAX = 0xFFFF


class Budget:
    """What is left of ``max_object_bytes`` while one message is decoded.

    Args:
        max_object_bytes: what the message may become, an estimate of `BYTES_PER_ELEMENT` for
            each element and the length of the body.
    """

    __slots__ = ("_left", "_max")

    def __init__(self, max_object_bytes: int) -> None:
        self._max = self._left = max_object_bytes

    def check(self, body: BytesLike) -> None:
        """Check the whole body of a message, counting its elements only if it matters.

        Raises:
            MessageTooLargeError: it would become more than ``max_object_bytes``.
            MalformedError: its headers do not fit its length.
        """
        size = len(body)
        most = size * (BYTES_PER_ELEMENT + 1)
        if most <= self._max and (size <= UNCHECKED or _preallocation(bytes(body)) <= self._max):
            return
        self._compare(bytes(body), self._max)

    def spend(self, body: BytesLike) -> None:
        """Check one of several parts of a message, all of which share the budget.

        Raises:
            MessageTooLargeError: the parts would become more than ``max_object_bytes``.
            MalformedError: its headers do not fit its length.
        """
        self._left -= self._compare(bytes(body), self._left)

    def _compare(self, body: bytes, limit: int) -> int:
        elements = _count_elements(body)
        estimate = elements * BYTES_PER_ELEMENT + len(body)
        if estimate > limit:
            raise MessageTooLargeError(
                f"a body of {len(body)} bytes holds {elements} elements, about {estimate} bytes "
                f"of objects: more than max_object_bytes={self._max} allows"
            )
        return estimate


def _preallocation(body: bytes) -> int:
    """Return the most that array headers could make msgpack allocate ahead, were all real."""
    short = min(body.count(b"\xdc"), _MAX_STACK) * min(len(body), _ARRAY_16_MAX)
    long = min(body.count(b"\xdd"), _MAX_STACK) * len(body)
    return (short + long) * _SLOT


def _fixed_widths() -> list[int]:
    """Return header plus payload in bytes by first byte; 0 where a length follows."""
    widths = [1] * 256
    for short_str in range(32):
        widths[0xA0 + short_str] = 1 + short_str
    for exponent in range(4):
        for first in (0xCC, 0xD0):  # uint, int
            widths[first + exponent] = 1 + (1 << exponent)
    widths[0xCA], widths[0xCB] = 1 + 4, 1 + 8  # float
    for exponent in range(5):
        widths[0xD4 + exponent] = 2 + (1 << exponent)  # fixext
    for first in (*range(0xC4, 0xCA), *range(0xD9, 0xE0)):  # bin, ext, str, array, map
        widths[first] = 0
    return widths


_WIDTHS = _fixed_widths()
_LENGTH_FIELDS = {
    **{0xC4 + index: (1 << index, 1, 0) for index in range(3)},  # bin
    **{0xC7 + index: (1 << index, 1, 1) for index in range(3)},  # ext, with a type byte
    **{0xD9 + index: (1 << index, 1, 0) for index in range(3)},  # str
    **{0xDC + index: (2 << index, 0, 1) for index in range(2)},  # array: items, not bytes
    **{0xDE + index: (2 << index, 0, 2) for index in range(2)},  # map: two items an entry
}
"""First byte to: length of the length field, bytes per unit of it, and for payloads the bytes
between field and payload, for containers the elements per unit."""


def _count_elements(body: bytes) -> int:
    """Count the values in ``body`` from header to header; payloads are skipped.

    Raises:
        MalformedError: a payload ends after the body, or containers announce more than there is.
    """
    widths = _WIDTHS
    size = len(body)
    position = count = announced = 0
    while position < size:
        first = body[position]
        width = widths[first]
        if not width:
            field, unit, extra = _LENGTH_FIELDS[first]
            length = int.from_bytes(body[position + 1 : position + 1 + field], "big")
            width = 1 + field
            if unit:
                width += extra + length
            else:
                announced += length * extra
        position += width
        count += 1
    if position != size or announced > count:
        raise MalformedError(
            f"headers announce {max(position, announced)} of bytes or items, the body has {size}"
        )
    return count
