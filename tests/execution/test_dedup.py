"""A call runs once: what is kept is answered, what may have run and is not kept is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.execution import Memory, ReplyWindow


def look(window: ReplyWindow[str], ident: int, repeated: bool = True, now: float = 0.0) -> object:
    """Ask for a call."""
    return window.look(ident, is_repeated=repeated, now=now)


def keep(window: ReplyWindow[str], ident: int, size: int = 1, now: float = 0.0) -> None:
    """Let a call end with a reply."""
    window.end(ident, now)
    window.keep(ident, f"reply {ident}", size)


def test_kept_replies() -> None:
    """A reply is given to whoever asks again, until it is acknowledged."""
    window: ReplyWindow[str] = ReplyWindow()
    before = look(window, 1), look(window, 1, repeated=False)
    keep(window, 1)
    kept = look(window, 1), look(window, 1, repeated=False)
    known = [window.acknowledge(1), window.acknowledge(1), window.acknowledge(2)]
    after = look(window, 1), look(window, 1, repeated=False)

    assert (Memory.NEW, Memory.NEW) == before
    assert ("reply 1", "reply 1") == kept
    assert [True, False, False] == known
    assert (Memory.FORGOTTEN, Memory.ENDED) == after
    assert 0 == len(window)


def test_ended_without_a_reply() -> None:
    """What was cancelled does not run again, and nobody waits for it."""
    window: ReplyWindow[str] = ReplyWindow()
    window.end(1, 0.0)
    window.keep(2, "a refusal", 1)

    assert Memory.ENDED is look(window, 1)
    assert Memory.ENDED is look(window, 1, repeated=False)
    assert Memory.NEW is look(window, 2)


def test_too_many() -> None:
    """Beyond the number of replies the oldest are forgotten, never run again."""
    window: ReplyWindow[str] = ReplyWindow(max_replies=2)
    for ident in (1, 2, 3):
        keep(window, ident)

    assert [Memory.FORGOTTEN, "reply 2", "reply 3"] == [look(window, n) for n in (1, 2, 3)]


def test_too_large() -> None:
    """Beyond their size too; the newest is kept in any case."""
    window: ReplyWindow[str] = ReplyWindow(max_size=10)
    keep(window, 1, 6)
    keep(window, 2, 4)
    both = [look(window, n) for n in (1, 2)]
    keep(window, 3, 100)
    one = [look(window, n) for n in (1, 2, 3)]
    keep(window, 4, 1)

    assert ["reply 1", "reply 2"] == both
    assert [Memory.FORGOTTEN, Memory.FORGOTTEN, "reply 3"] == one
    assert [Memory.FORGOTTEN, "reply 4"] == [look(window, n) for n in (3, 4)]


def test_too_old() -> None:
    """A reply is kept for so long after the end of its call, whoever asks meanwhile."""
    window: ReplyWindow[str] = ReplyWindow(max_age=5)
    keep(window, 1, now=10)

    assert "reply 1" == look(window, 1, now=14.9)
    assert Memory.FORGOTTEN is look(window, 1, now=15)


def test_watermark() -> None:
    """Ids below those that are no longer known one by one are refused if they are sent again."""
    window: ReplyWindow[str] = ReplyWindow(max_past=2)
    for ident in (5, 7, 9):
        keep(window, ident)
        window.acknowledge(ident)

    assert [Memory.FORGOTTEN] * 3 == [look(window, n) for n in (3, 5, 9)]
    assert [Memory.NEW] * 3 == [look(window, n) for n in (6, 8, 10)]
    assert [Memory.NEW, Memory.NEW] == [look(window, n, repeated=False) for n in (3, 5)]


@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["run", "ack", "again"])), max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_nothing_runs_twice(steps: list[tuple[int, str]], replies: int, past: int) -> None:
    """Whatever is kept or forgotten, a repeated request of what ran is never new."""
    window: ReplyWindow[str] = ReplyWindow(max_replies=replies, max_past=past)
    ran: set[int] = set()
    for ident, step in steps:
        if step == "ack":
            window.acknowledge(ident)
            continue
        found = look(window, ident, repeated=ident in ran or step == "again")
        if found is Memory.NEW:
            assert ident not in ran
            ran.add(ident)
            keep(window, ident)
        elif isinstance(found, str):
            assert f"reply {ident}" == found
        assert len(window) <= replies


def test_keeping_twice_counts_once() -> None:
    """A reply that takes the place of another one takes its room too."""
    window: ReplyWindow[str] = ReplyWindow(max_size=10)
    keep(window, 1, 8)
    window.keep(1, "second", 5)
    keep(window, 2, 5)

    assert ["second", "reply 2"] == [look(window, 1), look(window, 2)]
