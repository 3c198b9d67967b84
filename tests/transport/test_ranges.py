"""Ranges of memory: taken from the front, given back in any order, never twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.transport.ranges import Ranges

START, END, UNIT = 8, 8 + 64, 8


def test_first_fit() -> None:
    """What was given back is used again before what was never used."""
    ranges = Ranges(START, END, UNIT)
    places = [ranges.take(9) for _ in range(3)]
    ranges.free(8)

    assert [8, 24, 40] == places
    assert 8 == ranges.take(16)
    assert 56 == ranges.take(16)
    assert ranges.take(1) is None


def test_none_is_free_twice() -> None:
    """A range that is not taken cannot be given back."""
    ranges = Ranges(START, END, UNIT)
    ranges.free(ranges.take(8) or 0)
    for place in (8, 9, 16):
        with pytest.raises(KeyError):
            ranges.free(place)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60))
def test_ranges_never_meet(steps: list[tuple[bool, int]]) -> None:
    """Taken ranges do not overlap, room is found where there is some, and all comes back."""
    ranges = Ranges(START, END, UNIT)
    taken: dict[int, int] = {}
    for is_take, number in steps:
        if is_take:
            units = -(-number // UNIT)
            used = {at for start, size in taken.items() for at in range(start, start + size, UNIT)}
            fits = [
                at
                for at in range(START, END - units * UNIT + 1, UNIT)
                if used.isdisjoint(range(at, at + units * UNIT, UNIT))
            ]
            place = ranges.take(number)

            assert (fits[0] if fits else None) == place
            if place is not None:
                taken[place] = units * UNIT
        elif taken:
            place = sorted(taken)[number % len(taken)]
            del taken[place]
            ranges.free(place)
        assert len(taken) == len(ranges)
    for place in taken:
        ranges.free(place)
    assert START == ranges.take(END - START)
