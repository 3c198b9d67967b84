"""What is said of references fits into messages, whatever their limit and however many they are."""

from __future__ import annotations

import gc

import pytest

import asyncrpc as rpc
from asyncrpc.rref.lifecycle import Lifecycle
from asyncrpc.rref.notices import BATCH
from asyncrpc.rref.values import Fork, Send
from asyncrpc.testing import cluster
from asyncrpc.wire import MessageType
from asyncrpc.wire.codec import Codec
from tests.agent.groups import until
from tests.rref.test_lifecycle import A, B, create, is_empty, pass_all, sends
from tests.rref.workers import empty

SYNC = MessageType.RREF_SYNC
DELETE = MessageType.RREF_USER_DELETE
MOST = 250  # bytes, so that a message has no more than 5 ids
IDS = 5


def machines() -> tuple[Lifecycle, Lifecycle]:
    """Return the machines of a holder, whose messages are small, and of an owner."""
    a, b = Lifecycle(A), Lifecycle(B)
    a.fit(MOST * 4)
    a.fit(MOST)
    a.fit(MOST * 2)
    return a, b


def hold(a: Lifecycle, b: Lifecycle, count: int) -> list[Fork]:
    """Have ``a`` hold references of every kind to values of ``b``."""
    return [create(a, b) if n % 2 else a.receive(b.fork(b.own().fork, A)) for n in range(count)]


def check_sizes(messages: list[Send]) -> None:
    """No message is above the limit."""
    assert all(len(Codec().pack(message.payload)) <= MOST for message in messages)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("count", [IDS, IDS + 1, 3 * IDS, 4 * IDS + 3])
def test_a_snapshot_in_portions_says_the_same(count: int, *, is_reversed: bool) -> None:
    """In any order: what is held stays, all else goes that the holder knew of."""
    a, b = machines()
    held = hold(a, b, count)
    a.reconnected(B)
    pass_all(a, b)  # from now on the owner knows that its own forks have come
    released, young = held[::3], create(a, b)
    a.release([handle.fork for handle in released])
    a.take()
    a.reconnected(B)
    messages = sends(a.take(), SYNC)
    late = create(a, b)
    for message in reversed(messages) if is_reversed else messages:
        b.handle(SYNC, message.payload, A)

    left = {row.rref for row in b.owner_rows()}
    assert left == {f.rref for f in (*held, young, late)} - {f.rref for f in released}
    check_sizes(messages)
    assert (len(messages) > 1) == (count - len(released) + 1 > IDS)


def test_an_empty_snapshot_with_many_questions() -> None:
    """It still says that nothing is held; each question is asked once."""
    a, b = machines()
    local = a.own()
    forks = [a.fork(local.fork, B) for _ in range(3 * IDS)]
    a.doubt(forks, B)
    asked = sends(a.take(), SYNC)
    for message in asked:
        a.exhausted(message.ticket, "no answer")
    gone = create(a, b)
    a.release([gone.fork])
    a.take()
    a.reconnected(B)
    messages = sends(a.take(), SYNC)
    for message in messages:
        a.acked(message.ticket, b.handle(SYNC, message.payload, A))
    a.release([local.fork])
    a.flush()  # what ended above
    pass_all(a, b)

    check_sizes(asked + messages)
    assert (3, 4) == (len(asked), len(messages))
    assert is_empty(a, b)


def test_deletes_and_doubts_share_a_message() -> None:
    """Those that do not fit follow in the next turn."""
    a, b = machines()
    ended = hold(a, b, IDS + 1)
    failed = [a.create(B) for _ in range(IDS + 2)]
    for handle in failed:
        a.use(handle.fork)
        a.creation_failed(handle.fork, "timed out")
    a.release([handle.fork for handle in (*failed, *ended)])
    messages = [i for i in pass_all(a, b) if isinstance(i, Send)]

    check_sizes(messages)
    assert [DELETE] * 4 == [message.kind for message in messages]
    assert is_empty(a)
    assert 0 == b.counts()["num_forks"]


def test_a_large_limit_does_not_make_batches_larger() -> None:
    """A turn has to end; a snapshot goes as a whole."""
    a, b = Lifecycle(A), Lifecycle(B)
    a.fit(1 << 30)
    handles = hold(a, b, BATCH + 1)
    a.reconnected(B)
    (snapshot,) = sends(a.take(), SYNC)
    a.release([handle.fork for handle in handles])
    a.take()
    a.flush()
    (first,) = sends(a.take(), DELETE)

    assert len(snapshot.payload[1]) // 24 == BATCH + 1  # type: ignore[arg-type]  # bytes
    assert len(first.payload[0]) // 24 == BATCH  # type: ignore[arg-type]  # likewise


@pytest.mark.asyncio
async def test_a_link_comes_back_with_more_references_than_fit() -> None:
    """The owner hears of all of them, and nothing is left waiting."""
    tight = rpc.RpcOptions(limits=rpc.Limits(max_message_size=1000))
    async with cluster(2, options=tight) as (
        a,
        b,
    ):
        held = [a.remote("worker1", int, args=(n,)) for n in range(300)]
        assert 299 == await held[-1]
        peer = a._agent.members.route("worker1")
        broken = peer.connection
        assert broken is not None
        broken.stream.abort()
        del held[::2]
        gc.collect()
        await until(lambda: peer.connection not in (None, broken))
        await until(lambda: "150" == b.debug_info()["num_forks"])
        await until(lambda: a.references.machine.is_quiet)
        assert 299 == await held[-1]
        held.clear()
        assert {} == await empty((a, b))


@pytest.mark.asyncio
async def test_the_limit_of_the_other_side_counts() -> None:
    """As soon as there is a link."""
    tight = rpc.RpcOptions(limits=rpc.Limits(max_message_size=1000))
    async with cluster(2, options=[rpc.RpcOptions(), tight]) as (a, b):
        before = a.references.machine.exchange.room
        await a.rpc_async("worker1", int)

        assert before > a.references.machine.exchange.room == b.references.machine.exchange.room


@pytest.mark.asyncio
async def test_a_message_that_does_not_fit_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Sent again it would fail again; what it told is told at the next occasion, and it is said."""
    tight = rpc.RpcOptions(limits=rpc.Limits(max_message_size=1000))
    async with cluster(2, options=tight) as (a, b):
        held = [a.remote("worker1", int, args=(n,)) for n in range(100)]
        assert 99 == await held[-1]
        a.references.machine.exchange.room = 1 << 20  # as if the link had not told
        held.clear()
        gc.collect()
        await until(lambda: "a message about references was not sent" in caplog.text)
        assert "RREF_USER_DELETE" in caplog.text
        assert not a.references.machine.exchange.waiting
        a.references.machine.fit(1000)
        a.references.machine.reconnected(b._agent.incarnation)
        a.references.perform()
        assert {} == await empty((a, b))
