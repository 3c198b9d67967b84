"""`asyncrpc.store.etcd.keys`: where things lie in etcd, and how its revisions become versions."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.store.etcd.keys import Layout, revision_from, version_at, version_of

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
LAYOUT = Layout("p")


@given(TEXT)
def test_keys_come_back(key: str) -> None:
    """Whatever they are."""
    assert LAYOUT.key(LAYOUT.value(key)) == key


@given(TEXT, TEXT)
def test_values_have_the_prefixes_of_their_keys(prefix: str, rest: str) -> None:
    """So one range holds all that start alike."""
    assert LAYOUT.value(prefix + rest).startswith(LAYOUT.value(prefix))


@given(TEXT, TEXT)
def test_no_queue_or_barrier_is_part_of_another(one: str, two: str) -> None:
    """Whatever stands in their names."""
    for folder in (LAYOUT.items, LAYOUT.tickets, LAYOUT.arrivals):
        assert one == two or not folder(one).startswith(folder(two))


def test_kinds_are_apart_and_what_is_awaited_lies_together() -> None:
    """Notes of clients and the numbers of queues wake nobody."""
    start, end = LAYOUT.awaited
    awaited = [LAYOUT.value(""), LAYOUT.items("x"), LAYOUT.tickets("x"), LAYOUT.arrivals("x")]
    others = [LAYOUT.tail("x"), LAYOUT.writer("x")]

    assert all(start <= place < end for place in awaited)
    assert not any(start <= place < end for place in others)
    for one, two in itertools.permutations(awaited + others, 2):
        assert not one.startswith(two)


@given(st.integers(0, 1 << 40), st.integers(0, 5000))
def test_versions_rise_with_revisions_and_their_events(revision: int, index: int) -> None:
    """The version at a revision comes after all its events, and before the next one's."""
    assert version_of(revision, index) < version_of(revision, index + 1) < version_at(revision)
    assert version_at(revision) < version_of(revision + 1, 0) < 1 << 63


def test_a_watch_resumes_where_something_may_be_missing() -> None:
    """In the middle of a revision, or behind it."""
    assert revision_from(version_at(7)) == 8
    assert revision_from(version_of(7, 0)) == 7
    assert revision_from(0) == 1, "0 would be now"
