"""How much memory a body may become, counted from its headers before anything is unpacked.

Sans-IO; called by the codec. msgpack spends one byte on what costs Python up to 72 (an empty
array), and believes an array's header when it allocates; both are bounded here.
"""

from __future__ import annotations

import re

from asyncrpc.errors import MessageTooLargeError

from .state import BytesLike, MalformedError

__all__ = ("Budget", "uncounted_length")

BYTES_PER_ELEMENT = 80  # an empty list costs 72 with its slot, a map entry about 100 for its two
UNCHECKED = 16 * 1024
"""Bodies up to this length cannot make msgpack allocate more than 128 MiB for a moment."""
_SLOT = 8  # bytes of a list's slot
_UNTOUCHED = 4
"""Memory that is allocated ahead and freed untouched may exceed the budget this many times, so
that bodies of random numbers, in which any byte looks like a header, need no count."""
_MAX_STACK = 1024  # msgpack's own nesting limit
_ARRAY_16_MAX = 0xFFFF
_RUN = 16
"""Elements of one byte in a row after which the rest of the row is counted at once."""
_ONES = re.compile(rb"[\x00-\xa0\xc0\xc2\xc3\xe0-\xff]*", re.DOTALL).match


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
        data = bytes(body)
        most = len(data) * (BYTES_PER_ELEMENT + 1)
        if most > self._max or _preallocation(data) > self._max * _UNTOUCHED:
            self._compare(data, self._max)

    def spend(self, body: BytesLike) -> None:
        """Check one of several parts of a message, all of which share the budget.

        Raises:
            MessageTooLargeError: the parts would become more than ``max_object_bytes``.
            MalformedError: its headers do not fit its length.
        """
        self._left -= self._compare(bytes(body), self._left)

    def _compare(self, body: bytes, limit: int) -> int:
        most = max(0, limit - len(body)) // BYTES_PER_ELEMENT
        elements = _count_elements(body, most)
        if elements > most:
            raise MessageTooLargeError(
                f"a body of {len(body)} bytes holds more than {most} elements, at "
                f"{BYTES_PER_ELEMENT} bytes of objects each: more than "
                f"max_object_bytes={self._max} of the receiver's Limits allows"
            )
        return elements * BYTES_PER_ELEMENT + len(body)


def uncounted_length(max_object_bytes: int) -> int:
    """Return the length up to which a body is within the budget whatever is in it."""
    return min(UNCHECKED, max_object_bytes // (BYTES_PER_ELEMENT + 1))


def _preallocation(body: bytes) -> int:
    """Return the most that array headers could make msgpack allocate ahead, were all real."""
    size = len(body)
    short = min(body.count(b"\xdc"), _MAX_STACK) * min(size, _ARRAY_16_MAX)
    # An array longer than the body is refused: the first byte of its length cannot be higher.
    starts = sum(body.count(bytes((0xDD, top))) for top in range((size >> 24) + 1))
    return (short + min(starts, _MAX_STACK) * size) * _SLOT


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


def _count_elements(body: bytes, most: int) -> int:
    """Count the values in ``body`` from header to header, or until there are more than ``most``.

    Raises:
        MalformedError: a payload ends after the body, or containers announce more than there is.
    """
    widths = _WIDTHS
    size = len(body)
    position = count = announced = ones = 0
    while position < size and count <= most:
        first = body[position]
        width = widths[first]
        count += 1
        if width == 1:
            ones += 1
            if ones == _RUN:
                end = _ONES(body, position).end()  # type: ignore[union-attr]  # always matches
                count += end - position - 1
                width = end - position
                ones = 0
        elif width:
            ones = 0
        else:
            field, unit, extra = _LENGTH_FIELDS[first]
            length = int.from_bytes(body[position + 1 : position + 1 + field], "big")
            width = 1 + field
            if unit:
                width += extra + length
            else:
                announced += length * extra
            ones = 0
        position += width
    if count <= most and (position != size or announced > count):
        raise MalformedError(
            f"headers announce {max(position, announced)} bytes or items, the body has {size}"
        )
    return count
