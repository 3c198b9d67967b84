"""The leader's book: a round ends once, for all its members, and rounds never mix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.agent import gathering
from asyncrpc.agent.gathering import GatherBook, Round
from asyncrpc.errors import PeerLostError, RpcError, RpcTimeoutError

NAMES = ("a", "b", "c")


def round_(number: int, kind: str = "barrier", group: bytes = b"g") -> Round:
    """Name a round."""
    return Round(kind, NAMES, group, number)


def test_complete() -> None:
    """The last one to come completes a round, in the order of the names."""
    book: GatherBook[str] = GatherBook()
    first = [book.join(round_(1), name, name.upper(), name) for name in ("c", "a")]
    settled = book.join(round_(1), "b", "B", "b")

    assert [None, None] == first
    assert (["c", "a", "b"], [("a", "A"), ("b", "B"), ("c", "C")]) == (
        settled and settled.waiting,
        settled and [*settled.outcome.items()],  # type: ignore[union-attr]  # no error
    )
    assert not book.is_open(round_(1))


def test_same_object_twice() -> None:
    """A copy of a message adds nobody; one that comes after the end waits for nothing."""
    book: GatherBook[str] = GatherBook()
    for name in ("a", "a", "b"):
        assert book.join(round_(1), name, name, name) is None
    assert book.join(round_(1), "c", "c", "c") is not None
    late = book.join(round_(1), "a", "a", "late")

    assert late is not None
    assert (["late"], "barrier over 3 workers is over") == (late.waiting, str(late.outcome))


def test_giving_up_before_coming() -> None:
    """A member that gives up may be heard of before its object, which then comes too late."""
    book: GatherBook[str] = GatherBook()
    missing, settled = book.give_up(round_(1), "a", 0.0, "cancelled")
    late = book.join(round_(1), "a", "a", "late")

    assert ("b, c", []) == (missing, settled and settled.waiting)
    assert late is not None
    assert isinstance(late.outcome, RpcError)


def test_giving_up_what_is_complete() -> None:
    """Giving up changes nothing for a round that is complete."""
    book: GatherBook[str] = GatherBook()
    for name in NAMES:
        book.join(round_(1), name, name, name)

    assert ("", None) == book.give_up(round_(1), "a", 1.0, "")


def test_both_give_up() -> None:
    """The second one to give up hears the same as the first."""
    book: GatherBook[str] = GatherBook()
    for name in ("a", "b"):
        book.join(round_(1), name, name, name)
    first = book.give_up(round_(1), "a", 1.0, "")
    second = book.give_up(round_(1), "b", 1.0, "")

    assert ("c", ["a", "b"]) == (first[0], first[1] and first[1].waiting)
    assert ("c", None) == second


def test_where_the_missing_are() -> None:
    """Who is missing is named with the other gather it waits in."""
    book: GatherBook[str] = GatherBook()
    book.join(round_(1), "a", "a", "a")
    book.join(round_(1, "all_gather"), "b", "b", "b")
    book.join(Round("barrier", ("a", "c"), b"h", 1), "c", "c", "c")
    missing, _ = book.give_up(round_(1), "a", 1.0, "")

    assert "b (which is in all_gather), c (which is in barrier over 2 workers)" == missing


def test_gone() -> None:
    """A member that is gone fails every open round it belongs to, and no other."""
    book: GatherBook[str] = GatherBook()
    other = Round("barrier", ("a", "b"), b"h", 1)
    book.join(round_(1), "a", "a", "a1")
    book.join(round_(2), "c", "c", "c2")
    book.join(other, "a", "a", "a3")
    settled = book.gone("c", "it died")

    assert [["a1"], ["c2"]] == [s.waiting for s in settled]
    assert {PeerLostError} == {type(s.outcome) for s in settled}
    assert book.is_open(other)


def test_a_restarted_worker_begins_anew() -> None:
    """Rounds of other incarnations are other rounds."""
    book: GatherBook[str] = GatherBook()
    book.give_up(round_(1), "a", 1.0, "")

    assert book.join(round_(1, group=b"new"), "a", "a", "a") is None


def test_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of failed rounds is bounded; older ones have failed all the same."""
    monkeypatch.setattr(gathering, "_REMEMBERED", 3)
    book: GatherBook[str] = GatherBook()
    for number in range(1, 11):
        book.give_up(round_(number), "a", 1.0, "")
    old = book.join(round_(2), "b", "b", "b")
    recent = book.join(round_(10), "b", "b", "b")

    assert (3, 1) == (len(book._over), len(book._forgotten))
    assert old is not None
    assert "the others gave up number 2 long ago" in str(old.outcome)
    assert recent is not None
    assert "a gave up after 1.00 seconds" in str(recent.outcome)
    assert isinstance(old.outcome, RpcTimeoutError)
    assert book.join(round_(11), "b", "b", "b") is None


Step = tuple[str, int, bool]
steps = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 4), st.booleans()), max_size=60)


@given(steps)
def test_rounds_never_mix(schedule: list[Step]) -> None:
    """In any order of joins and withdrawals each waiter hears once, and of its own round only."""
    book: GatherBook[tuple[str, int]] = GatherBook()
    joined: set[tuple[str, int]] = set()
    heard: list[tuple[str, int]] = []
    ends: dict[int, set[bool]] = {}

    def settle(number: int, settled: gathering.Settled[tuple[str, int]] | None) -> None:
        if settled is None:
            return
        heard.extend(settled.waiting)
        is_complete = not isinstance(settled.outcome, RpcError)
        ends.setdefault(number, set()).add(is_complete)
        assert {number} == {at for _, at in settled.waiting} or not settled.waiting
        if not isinstance(settled.outcome, RpcError):
            assert dict.fromkeys(NAMES, number) == settled.outcome

    for name, number, gives_up in schedule:
        if gives_up:
            settle(number, book.give_up(round_(number), name, 1.0, "")[1])
        elif (name, number) not in joined:
            joined.add((name, number))
            settle(number, book.join(round_(number), name, number, (name, number)))
    waiting = [waiter for waiter in joined if book.is_open(round_(waiter[1]))]

    assert sorted(joined) == sorted([*heard, *waiting])
    assert all(len(how) == 1 for how in ends.values())
