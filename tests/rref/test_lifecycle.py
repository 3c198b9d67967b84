"""The machine of remote references, one flow and one rule at a time.

Two or three machines are driven by hand: a test says which messages arrive, and in what order.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from asyncrpc.errors import OwnerLostError, RRefCreationError, RRefDeletedError
from asyncrpc.rref import lifecycle
from asyncrpc.rref.ids import make_id, number_of, read_ids
from asyncrpc.rref.lifecycle import Lifecycle
from asyncrpc.rref.notices import BATCH
from asyncrpc.rref.payloads import read_cause
from asyncrpc.rref.values import (
    AnswerFetch,
    Deleted,
    FailFetch,
    FailParked,
    Fork,
    FreeValue,
    Instruction,
    OwnerState,
    RunParked,
    Send,
    UserState,
    WantFlush,
)
from asyncrpc.wire import MessageType

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))
REQUEST = MessageType.RREF_FORK_REQUEST
ACCEPT = MessageType.RREF_CHILD_ACCEPT
DELETE = MessageType.RREF_USER_DELETE
SYNC = MessageType.RREF_SYNC
PARTS = [
    "exchange",
    "holders",
    "ids",
    "lifecycle",
    "messages",
    "notices",
    "owner",
    "parking",
    "payloads",
    "reconciling",
    "user",
    "values",
]


@pytest.fixture
def a() -> Lifecycle:
    """Create and pass on references."""
    return Lifecycle(A)


@pytest.fixture
def b() -> Lifecycle:
    """Own values."""
    return Lifecycle(B)


@pytest.fixture
def c() -> Lifecycle:
    """Get references from others."""
    return Lifecycle(C)


def sends(taken: list[Instruction], kind: MessageType) -> list[Send]:
    """Return the messages of one kind among instructions."""
    return [i for i in taken if isinstance(i, Send) and i.kind is kind]


def pass_all(*machines: Lifecycle) -> list[Instruction]:
    """Deliver control messages and answers until none is left; return all instructions."""
    by_name = {machine.me: machine for machine in machines}
    seen: list[Instruction] = []
    moved = True
    while moved:
        moved = False
        for machine in machines:
            for instruction in machine.take():
                seen.append(instruction)
                moved = True
                if isinstance(instruction, WantFlush):
                    machine.flush()
                elif isinstance(instruction, Send) and instruction.to in by_name:
                    to = by_name[instruction.to]
                    answer = to.handle(instruction.kind, instruction.payload, machine.me)
                    machine.acked(instruction.ticket, answer)
    return seen


def create(a: Lifecycle, b: Lifecycle) -> Fork:
    """Have ``a`` create a value on ``b``, which is ready."""
    handle = a.create(b.me)
    assert b.created(handle.rref, handle.fork, a.me)
    a.creation_confirmed(handle.fork)
    b.settled(handle.rref, is_error=False)
    a.take()
    b.take()
    return handle


def is_empty(*machines: Lifecycle) -> bool:
    """Whether nothing is left anywhere."""
    return all(machine.is_drained for machine in machines)


# --- flows


def test_f1_a_creation_is_confirmed_when_it_is_decoded(a: Lifecycle, b: Lifecycle) -> None:
    """PENDING until acknowledged, whatever the function does; then fetched, released, freed."""
    handle = a.create(B)
    assert a.state(handle.fork) is UserState.PENDING
    assert b.created(handle.rref, handle.fork, A)
    a.creation_confirmed(handle.fork)
    assert a.take() == []
    assert (a.state(handle.fork), b.state(handle.rref)) == (
        UserState.CONFIRMED,
        OwnerState.RUNNING,
    )
    b.fetch(handle.rref, handle.fork, A, "fetch")
    assert b.take() == []
    b.settled(handle.rref, is_error=False)
    assert b.take() == [AnswerFetch("fetch", handle.rref)]

    a.release([handle.fork])
    seen = pass_all(a, b)

    assert FreeValue(handle.rref) in seen
    assert Deleted((handle.fork,)) in seen
    assert is_empty(a, b)


def test_f2_a_value_of_a_call_to_oneself_lives_until_it_is_made(b: Lifecycle) -> None:
    """The function's run keeps the place, also when the handle is gone."""
    handle = b.create(B)
    assert b.state(handle.fork) is OwnerState.RESERVED
    assert b.created(handle.rref, handle.fork, B)
    b.release([handle.fork])
    assert (b.take(), b.counts()["num_owner_rrefs"]) == ([], 1)

    b.settled(handle.rref, is_error=True)

    assert b.take() == [FreeValue(handle.rref)]
    assert is_empty(b)


def test_f2_a_failed_call_to_oneself_fails_its_handle(b: Lifecycle) -> None:
    """As with a peer: every use raises, and nothing is left after the release."""
    handle = b.create(B)
    b.creation_failed(handle.fork, "timed out")

    with pytest.raises(RRefCreationError, match="timed out"):
        b.use(handle.fork)
    assert not b.is_confirmed(handle.fork)
    b.release([handle.fork])
    assert (b.take(), is_empty(b)) == ([], True)


def test_f3_the_owners_forks_are_born_confirmed(b: Lifecycle, c: Lifecycle) -> None:
    """No control message but the delete; a value shared with nobody counts nowhere."""
    local = b.own()
    assert b.counts()["num_owner_rrefs"] == 0
    fork = b.fork(local.fork, C)
    assert (b.counts()["num_owner_rrefs"], b.counts()["num_forks"]) == (1, 1)
    handle = c.receive(fork)
    c.park("call", [handle.fork])
    assert c.take() == [RunParked("call")]

    b.release([local.fork])
    assert b.take() == []
    c.release([handle.fork])
    seen = pass_all(b, c)

    assert FreeValue(local.rref) in seen
    assert is_empty(b, c)


def test_f4_a_fork_that_comes_home_is_a_handle(b: Lifecycle) -> None:
    """The fork keeps the value on its way, the handle from then on."""
    local = b.own()
    fork = b.fork(local.fork, B)
    b.release([local.fork])
    assert b.take() == []

    handle = b.receive(fork)

    assert (b.counts()["num_forks"], b.is_confirmed(handle.fork)) == (0, True)
    b.release([handle.fork])
    assert b.take() == [FreeValue(local.rref)]
    assert is_empty(b)


def test_f5_a_fork_to_the_owner_holds_its_parent_until_accepted(a: Lifecycle, b: Lifecycle) -> None:
    """The owner never counts it as a fork; it tells the parent at once."""
    handle = create(a, b)
    fork = a.fork(handle.fork, B)
    a.release([handle.fork])
    assert a.take() == []

    own = b.receive(fork)

    (accept,) = sends(b.take(), ACCEPT)
    assert (accept.to, accept.payload) == (A, (fork.fork,))
    a.handle(ACCEPT, accept.payload, B)
    b.acked(accept.ticket, None)
    assert b.counts()["num_forks"] == 1
    b.release([own.fork])
    assert FreeValue(handle.rref) in pass_all(a, b)
    assert is_empty(a, b)


def test_f5_the_owner_reserves_a_place_for_a_creation_that_is_late(
    a: Lifecycle, b: Lifecycle
) -> None:
    """The creator passes its fresh reference to the owner; the call overtakes the creation."""
    handle = a.create(B)
    own = b.receive(a.fork(handle.fork, B))
    b.park("call", [own.fork])
    assert RunParked("call") in b.take()
    assert b.state(own.fork) is OwnerState.RESERVED

    assert b.created(handle.rref, handle.fork, A)

    assert b.state(own.fork) is OwnerState.RUNNING


def test_f6_a_fork_is_known_to_the_owner_before_user_code_sees_it(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """FORK_REQUEST, confirmation, parked call, CHILD_ACCEPT, and only then the parent's end."""
    handle = create(a, b)
    fork = a.fork(handle.fork, C)
    a.release([handle.fork])
    child = c.receive(fork)
    c.park("call", [child.fork])
    (request,) = sends(c.take(), REQUEST)
    assert (request.to, c.state(child.fork), a.take()) == (B, UserState.PENDING, [])

    assert b.handle(REQUEST, request.payload, C) is None
    c.acked(request.ticket, None)

    taken = c.take()
    assert taken[0] == RunParked("call")
    (accept,) = sends(taken, ACCEPT)
    a.handle(ACCEPT, accept.payload, C)
    c.acked(accept.ticket, None)
    pass_all(a, b)
    assert [row.holders for row in b.owner_rows()] == [(C,)]
    c.release([child.fork])
    pass_all(b, c)
    assert is_empty(a, b, c)


def test_f6_a_fork_to_oneself_needs_no_acceptance_by_message(a: Lifecycle, b: Lifecycle) -> None:
    """Parent and child are in one table."""
    handle = create(a, b)
    child = a.receive(a.fork(handle.fork, A))
    a.release([handle.fork])
    pass_all(a, b)

    assert (a.state(handle.fork), a.state(child.fork)) == (UserState.RELEASED, UserState.CONFIRMED)
    a.release([child.fork])
    pass_all(a, b)
    assert is_empty(a, b)


def test_f7_a_result_keeps_the_callees_reference_until_the_caller_is_known(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """The callee drops its own when the reply is built; the fork on its way holds it."""
    handle = create(c, b)
    result = c.fork(handle.fork, A)
    c.release([handle.fork])
    assert c.take() == []

    received = a.receive(result)
    a.park("result", [received.fork])
    seen = pass_all(a, b, c)

    assert RunParked("result") in seen
    assert [row.holders for row in b.owner_rows()] == [(A,)]


def test_f8_a_fork_ends_with_its_last_handle_once(a: Lifecycle, b: Lifecycle) -> None:
    """Two objects of one fork, released three times: one delete."""
    handle = create(a, b)
    fork = b.fork(b.receive(a.fork(handle.fork, B)).fork, A)
    pass_all(a, b)
    first, second = a.receive(fork), a.receive(fork)
    a.release([first.fork])
    pass_all(a, b)
    assert a.is_confirmed(second.fork)

    a.release([second.fork, second.fork])
    seen = pass_all(a, b)

    (delete,) = sends(seen, DELETE)
    assert delete.payload == (fork.fork, b"")


def test_f9_a_fetch_before_the_creation_waits(a: Lifecycle, b: Lifecycle) -> None:
    """It makes the place; value or error answer it."""
    handle = a.create(B)
    a.use(handle.fork)
    b.fetch(handle.rref, handle.fork, A, "early")
    assert (b.take(), b.counts()["num_owner_rrefs"]) == ([], 1)
    assert b.created(handle.rref, handle.fork, A)

    b.settled(handle.rref, is_error=True)

    assert b.take() == [AnswerFetch("early", handle.rref)]


def test_f9_a_fetch_that_is_withdrawn_leaves_no_place(a: Lifecycle, b: Lifecycle) -> None:
    """A reserved place is kept by what waits for it, and can be made again."""
    handle = a.create(B)
    b.fetch(handle.rref, handle.fork, A, "early")
    b.fetch_withdrawn("early")
    b.fetch_withdrawn("early")

    assert is_empty(b)
    assert b.created(handle.rref, handle.fork, A)


# --- doubles and order


def test_a_fork_request_twice_counts_once(a: Lifecycle, b: Lifecycle, c: Lifecycle) -> None:
    """Also when the second comes after the delete."""
    handle = create(a, b)
    child = c.receive(a.fork(handle.fork, C))
    (request,) = sends(c.take(), REQUEST)
    assert [b.handle(REQUEST, request.payload, C) for _ in range(2)] == [None, None]
    assert b.counts()["num_forks"] == 2
    c.acked(request.ticket, None)
    c.acked(request.ticket, None)
    c.release([child.fork])
    pass_all(a, b, c)

    cause = read_cause(b.handle(REQUEST, request.payload, C))

    assert cause is not None
    assert isinstance(cause.error(), RRefDeletedError)
    assert b.counts()["num_forks"] == 1


def test_a_fork_request_before_the_creation_is_recorded(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """The fork first, the value later; both holders keep it."""
    handle = a.create(B)
    child = c.receive(a.fork(handle.fork, C))
    pass_all(b, c)
    assert c.is_confirmed(child.fork)
    c.release([child.fork])
    pass_all(b, c)

    assert b.created(handle.rref, handle.fork, A)
    assert [row.holders for row in b.owner_rows()] == [(A,)]


def test_a_fork_request_that_was_refused_stays_refused(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """A double of it that comes after the late creation adds no fork that nobody deletes."""
    handle = a.create(B)
    fork = a.fork(handle.fork, C)
    a.creation_failed(handle.fork, "timed out")
    pass_all(a, b)
    c.receive(fork)
    (request,) = sends(c.take(), REQUEST)
    refused = b.handle(REQUEST, request.payload, C)
    assert b.created(handle.rref, handle.fork, A)

    assert b.handle(REQUEST, request.payload, C) == refused
    assert b.counts()["num_forks"] == 1


def test_an_acceptance_of_nobodys_child_is_ignored(a: Lifecycle, b: Lifecycle) -> None:
    """Doubles, and children of others."""
    handle = create(a, b)
    fork = a.fork(handle.fork, C)
    a.release([handle.fork])
    a.handle(ACCEPT, (fork.fork,), B)  # not from whom it was sent to
    assert a.take() == []

    for _ in range(2):
        a.handle(ACCEPT, (fork.fork,), C)

    assert a.take() == [WantFlush()]


def test_a_delete_twice_or_of_nothing_is_ignored(a: Lifecycle, b: Lifecycle) -> None:
    """The value is freed once."""
    handle = create(a, b)
    payload = (handle.fork + make_id(A, 78), b"")
    for _ in range(2):
        assert b.handle(DELETE, payload, A) is None

    assert b.take() == [FreeValue(handle.rref)]


def test_a_delete_that_overtakes_its_creation_frees_the_late_value(
    a: Lifecycle, b: Lifecycle
) -> None:
    """The function runs, and what it gives is dropped at once."""
    handle = a.create(B)
    a.creation_failed(handle.fork, "timed out")
    a.release([handle.fork])
    pass_all(a, b)

    assert b.created(handle.rref, handle.fork, A)
    b.settled(handle.rref, is_error=False)

    assert b.take() == [FreeValue(handle.rref)]
    assert is_empty(a, b)


def test_a_creation_twice_runs_once(a: Lifecycle, b: Lifecycle) -> None:
    """While it runs, when it is done, and after the value was freed."""
    handle = a.create(B)
    runs = [b.created(handle.rref, handle.fork, A) for _ in range(2)]
    b.settled(handle.rref, is_error=False)
    runs.append(b.created(handle.rref, handle.fork, A))
    b.handle(DELETE, (handle.fork, b""), A)
    runs.append(b.created(handle.rref, handle.fork, A))

    assert runs == [True, False, False, False]


def test_a_fork_decoded_twice_after_its_end_cannot_be_used(b: Lifecycle, c: Lifecycle) -> None:
    """A double of the message brings no fork back to life."""
    local = b.own()
    fork = b.fork(local.fork, C)
    c.release([c.receive(fork).fork])
    pass_all(b, c)

    late = c.receive(fork)
    c.park("call", [late.fork])

    assert isinstance(c.take()[-1], FailParked)
    with pytest.raises(RRefDeletedError, match="has been deleted"):
        c.use(late.fork)
    c.release([late.fork])
    pass_all(b, c)
    assert is_empty(c)


def test_a_release_before_the_confirmation_waits_for_it(a: Lifecycle, b: Lifecycle) -> None:
    """So a delete overtakes no creation that is merely under way."""
    handle = a.create(B)
    a.release([handle.fork])
    assert a.take() == []

    a.creation_confirmed(handle.fork)

    assert a.take() == [WantFlush()]


# --- what fails


def test_a_failed_creation_fails_every_use(a: Lifecycle, b: Lifecycle) -> None:
    """Passing on too; a late acknowledgement changes nothing, the owner is told at the release."""
    handle = a.create(B)
    b.created(handle.rref, handle.fork, A)
    a.creation_failed(handle.fork, "RRef creation via rpc.remote() timed out")
    a.creation_confirmed(handle.fork)

    assert a.state(handle.fork) is UserState.FAILED
    for use in (lambda: a.use(handle.fork), lambda: a.fork(handle.fork, C)):
        with pytest.raises(RRefCreationError, match=r"RRef creation via rpc\.remote"):
            use()
    assert (a.is_confirmed(handle.fork), b.counts()["num_forks"]) == (False, 1)
    a.release([handle.fork])
    pass_all(a, b)
    assert b.counts()["num_forks"] == 0


def test_a_creation_may_time_out_after_it_was_confirmed(a: Lifecycle, b: Lifecycle) -> None:
    """`remote(timeout=)` bounds the function too."""
    handle = a.create(B)
    a.creation_confirmed(handle.fork)
    a.creation_failed(handle.fork, "timed out")

    assert a.state(handle.fork) is UserState.FAILED


def test_a_creation_that_was_never_sent_needs_no_delete(a: Lifecycle) -> None:
    """The owner knows nothing."""
    handle = a.create(B)
    a.creation_failed(handle.fork, "failed at the send", is_unsent=True)
    a.take()
    a.release([handle.fork])

    assert a.take() == [Deleted((handle.fork,))]
    assert is_empty(a)


def test_what_waits_for_a_creation_that_never_came_fails(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """The creator tells the owner that it gave up; later fetches fail at once."""
    handle = a.create(B)
    child = c.receive(a.fork(handle.fork, C))
    pass_all(a, b, c)
    b.fetch(child.rref, child.fork, C, "early")
    a.creation_failed(handle.fork, "timed out")
    seen = pass_all(a, b, c)
    b.fetch(child.rref, child.fork, C, "late")
    seen += b.take()

    failed = {i.token: i.cause.error() for i in seen if isinstance(i, FailFetch)}
    assert failed.keys() == {"early", "late"}
    assert all(isinstance(error, RRefCreationError) for error in failed.values())
    a.release([handle.fork])
    c.release([child.fork])
    pass_all(a, b, c)
    assert is_empty(a, b, c)


def test_a_creation_that_comes_after_all_counts(a: Lifecycle, b: Lifecycle, c: Lifecycle) -> None:
    """A doubt is no verdict: the child finds the value."""
    handle = a.create(B)
    fork = a.fork(handle.fork, C)
    a.creation_failed(handle.fork, "timed out")
    pass_all(a, b)
    assert b.created(handle.rref, handle.fork, A)
    child = c.receive(fork)
    pass_all(b, c)
    b.settled(handle.rref, is_error=False)

    b.fetch(child.rref, child.fork, C, "fetch")

    assert b.take() == [AnswerFetch("fetch", handle.rref)]


def test_a_fork_request_nobody_answers_fails_what_is_parked(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """And lets the parent go, and still tells the owner, who may have heard it."""
    handle = create(a, b)
    child = c.receive(a.fork(handle.fork, C))
    a.release([handle.fork])
    c.park("call", [child.fork])
    (request,) = sends(c.take(), REQUEST)
    b.handle(REQUEST, request.payload, C)  # its answer is lost

    c.exhausted(request.ticket, "no answer")

    taken = c.take()
    assert isinstance(taken[0], FailParked)
    (accept,) = sends(taken, ACCEPT)
    c.exhausted(accept.ticket, "no answer either")
    c.release([child.fork])
    pass_all(a, b, c)
    assert not is_empty(a)
    c.reconnected(A)
    pass_all(a, b, c)
    assert is_empty(a, b, c)


def test_a_parked_call_waits_for_all_and_fails_with_one(a: Lifecycle, c: Lifecycle) -> None:
    """One that was withdrawn is not heard of again."""
    first, second = a.create(B), a.create(B)
    forks = [c.receive(a.fork(handle.fork, C)).fork for handle in (first, second)]
    c.park("both", forks)
    c.park("one", forks[:1])
    c.park("gone", forks)
    requests = sends(c.take(), REQUEST)
    c.unpark("gone")
    c.acked(requests[0].ticket, None)
    assert RunParked("one") in c.take()

    c.acked(requests[1].ticket, ("deleted", "has been deleted"))

    parked = [i for i in c.take() if isinstance(i, (RunParked, FailParked))]
    assert [type(i) for i in parked] == [FailParked]


def test_an_answer_that_makes_no_sense_ends_the_wait(a: Lifecycle, c: Lifecycle) -> None:
    """The link's end is the shell's business; nothing stays pending."""
    child = c.receive(a.fork(a.create(B).fork, C))
    (request,) = sends(c.take(), REQUEST)

    with pytest.raises(ValueError, match="cause"):
        c.acked(request.ticket, 5)
    assert c.state(child.fork) is UserState.FAILED


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (REQUEST, (make_id(A, 1), make_id(A, 2))),
        (REQUEST, (make_id(A, 1), make_id(A, 2), "3")),
        (REQUEST, (make_id(A, 1), A, 3)),
        (ACCEPT, 5),
        (ACCEPT, (5,)),
        (ACCEPT, (b"short",)),
        (DELETE, (make_id(A, 1) + b"?", b"")),
        (DELETE, (make_id(A, 1), (b"",))),
        (DELETE, (b"",)),
        (SYNC, (-2, b"", b"")),
        (SYNC, (1, b"", make_id(A, 1)[1:])),
        (SYNC, (1, b"")),
        (MessageType.PYTHON_CALL, ()),
    ],
)
def test_messages_that_make_no_sense_change_nothing(
    b: Lifecycle, kind: MessageType, payload: object
) -> None:
    """A peer's bytes raise ValueError, which the shell turns into a protocol error."""
    with pytest.raises(ValueError):
        b.handle(kind, payload, A)
    assert (b.take(), is_empty(b)) == ([], True)


def test_nobody_creates_in_anothers_name(b: Lifecycle) -> None:
    """The id says who made it."""
    with pytest.raises(ValueError, match="who made its id"):
        b.created(make_id(C, 1), make_id(C, 2), A)


# --- messages of unknown end


def test_forks_of_an_unsent_message_are_rolled_back(a: Lifecycle, b: Lifecycle) -> None:
    """Encoding failed half way, or the send: parents and values are as before."""
    handle, local = create(a, b), b.own()
    a.roll_back([a.fork(handle.fork, C)], C)
    b.roll_back([b.fork(local.fork, C)], C)
    a.release([handle.fork])
    b.release([local.fork])
    pass_all(a, b)

    assert is_empty(a, b)


@pytest.mark.parametrize("arrives", [False, True])
def test_forks_of_a_message_of_unknown_end_are_asked_about(
    a: Lifecycle, b: Lifecycle, c: Lifecycle, arrives: bool
) -> None:
    """What came is kept, what did not is let go and refused when it comes after all."""
    handle, local = create(a, b), b.own()
    forks = [a.fork(handle.fork, C), b.fork(local.fork, C)]
    received = [c.receive(fork) for fork in forks if arrives]
    pass_all(a, b, c)

    a.doubt(forks[:1], C)
    b.doubt(forks[1:], C)
    pass_all(a, b, c)

    assert [row.holders for row in b.owner_rows()] == ([(A, C), (C,)] if arrives else [(A,)])
    late = [c.receive(fork) for fork in forks]
    assert [c.is_confirmed(fork.fork) for fork in late] == [arrives, arrives]
    a.release([handle.fork])
    b.release([local.fork])
    c.release([fork.fork for fork in received + late])
    pass_all(a, b, c)
    assert is_empty(a, b, c)


def test_a_doubt_about_the_lost_or_oneself_is_settled_here(b: Lifecycle) -> None:
    """Nobody is asked."""
    local = b.own()
    forks = [b.fork(local.fork, B), b.fork(local.fork, C)]
    b.worker_gone(C, "killed")
    b.doubt(forks[:1], B)
    b.doubt(forks[1:], C)

    assert (b.counts()["num_forks"], sends(b.take(), SYNC)) == (0, [])


def test_deletes_that_did_not_get_through_are_told_after_a_reconnect(
    a: Lifecycle, b: Lifecycle
) -> None:
    """Retries end, G1 does not."""
    handle = create(a, b)
    a.release([handle.fork])
    a.take()
    a.flush()
    (delete,) = sends(a.take(), DELETE)
    a.exhausted(delete.ticket, "no answer")
    assert not is_empty(a)

    a.reconnected(B)
    pass_all(a, b)

    assert is_empty(a, b)


def test_a_snapshot_ends_what_its_holder_knew_and_holds_no_more(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """What the snapshot lists, or is younger than it, stays."""
    kept, dropped, young = (create(a, b) for _ in range(3))
    mark = number_of(dropped.fork)
    fork = b.fork(b.own().fork, A)  # on its way: the snapshot says nothing of it

    b.handle(SYNC, (mark, kept.fork, b""), A)

    held = {row.rref: row.holders for row in b.owner_rows()}
    assert held == {kept.rref: (A,), young.rref: (A,), fork.rref: (A,)}
    assert b.take() == [FreeValue(dropped.rref)]


def test_a_snapshot_says_nothing_of_a_fork_to_oneself_that_came_later(
    a: Lifecycle, b: Lifecycle
) -> None:
    """Its holder made it before the snapshot, but learnt of it only when the message came."""
    handle = create(a, b)
    fork = a.fork(handle.fork, A)
    a.reconnected(B)
    (sync,) = sends(a.take(), SYNC)
    child = a.receive(fork)
    a.release([handle.fork])
    pass_all(a, b)

    b.handle(SYNC, sync.payload, A)  # late

    assert [row.id for row in a.leaks()] == [child.fork]
    assert [row.holders for row in b.owner_rows()] == [(A,)]


def test_a_fork_seen_in_a_snapshot_is_covered_by_the_next(a: Lifecycle, b: Lifecycle) -> None:
    """The owner's own forks are known to have arrived from then on."""
    local = b.own()
    handle = a.receive(b.fork(local.fork, A))
    a.reconnected(B)
    pass_all(a, b)
    a.release([handle.fork])
    a.take()
    a.reconnected(B)  # the delete is still queued
    (sync,) = sends(a.take(), SYNC)

    b.handle(SYNC, sync.payload, A)

    assert b.counts()["num_forks"] == 0


# --- other workers' ends


def test_a_lost_holder_takes_its_forks_along(a: Lifecycle, b: Lifecycle) -> None:
    """The value goes if nobody else holds it; the lost are not listened to any more."""
    handle = create(a, b)
    b.fetch(handle.rref, handle.fork, A, "fetch")
    b.take()
    b.worker_gone(A, "killed")
    b.worker_gone(A, "killed again")

    assert b.take() == [FreeValue(handle.rref)]
    late = make_id(A, 50)
    assert not b.created(late, make_id(A, 51), A)
    b.fetch(late, make_id(A, 51), A, "late")
    assert b.handle(REQUEST, (late, make_id(A, 52), 53), A) is not None
    assert [type(i) for i in b.take()] == [FailFetch]
    assert is_empty(b)


def test_a_lost_creator_fails_what_waits_for_its_creation(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """It will not come any more, whether the child asked before or after."""
    handle = a.create(B)
    forks = [a.fork(handle.fork, C) for _ in range(2)]
    early = c.receive(forks[0])
    pass_all(b, c)
    b.fetch(early.rref, early.fork, C, "early")
    b.worker_gone(A, "killed")
    assert [i.token for i in b.take() if isinstance(i, FailFetch)] == ["early"]
    c.release([early.fork])
    pass_all(b, c)

    late = c.receive(forks[1])
    pass_all(b, c)

    with pytest.raises(RRefCreationError, match="killed"):
        c.use(late.fork)


def test_a_lost_owner_fails_its_references_at_once(
    a: Lifecycle, b: Lifecycle, c: Lifecycle
) -> None:
    """Pending, confirmed and failed ones, parked calls too; nothing is sent to it."""
    confirmed, pending, failed = create(a, b), a.create(B), a.create(B)
    a.creation_failed(failed.fork, "timed out")
    parked = a.receive(c.fork(create(c, b).fork, A))
    a.park("call", [parked.fork])
    a.fork(confirmed.fork, C)
    a.release([confirmed.fork])
    a.take()

    a.worker_gone(B, "killed")

    taken = a.take()
    assert [i.token for i in taken if isinstance(i, FailParked)] == ["call"]
    assert not [i for i in taken if isinstance(i, Send) and i.to == B]
    for handle in (pending, failed, parked):
        assert a.state(handle.fork) is UserState.LOST
        with pytest.raises(OwnerLostError, match="killed"):
            a.use(handle.fork)
    late = a.create(B)
    assert a.state(late.fork) is UserState.LOST
    (accept,) = sends(taken, ACCEPT)
    a.acked(accept.ticket, None)
    a.release([pending.fork, failed.fork, parked.fork, late.fork])
    pass_all(a, c)
    assert is_empty(a)


def test_deletes_queued_for_a_lost_owner_are_done(a: Lifecycle, b: Lifecycle) -> None:
    """Who waits for the release hears of it."""
    handle = create(a, b)
    a.release([handle.fork])
    a.take()
    a.worker_gone(B, "killed")

    assert a.take() == [Deleted((handle.fork,))]
    a.flush()
    assert (a.take(), is_empty(a)) == ([], True)


def test_a_lost_child_lets_its_parent_go(a: Lifecycle, b: Lifecycle) -> None:
    """Its worker will accept nothing any more."""
    handle = create(a, b)
    a.fork(handle.fork, C)
    a.release([handle.fork])
    a.worker_gone(C, "killed")
    pass_all(a, b)

    assert is_empty(a, b)


# --- many, and the end


def test_deletes_are_batched(a: Lifecycle, b: Lifecycle) -> None:
    """One frame per owner and turn, of a bounded size."""
    count = BATCH + 10
    handles = [a.receive(b.fork(b.own().fork, A)).fork for _ in range(count)]
    a.take()
    a.release(handles)
    assert a.take().count(WantFlush()) == 1
    a.flush()
    first, again = a.take()
    a.flush()
    (second,) = sends(a.take(), DELETE)

    assert again == WantFlush()
    assert isinstance(first, Send)
    sizes = [len(read_ids(payload)) for payload in (first.payload[0], second.payload[0])]
    assert sizes == [BATCH, 10]


def test_leaks_name_values_and_who_holds_them(a: Lifecycle, b: Lifecycle) -> None:
    """A value that only its own worker refers to is no leak."""
    b.own()
    handle = create(a, b)

    (owned,), (held,) = b.leaks(), a.leaks()

    assert (owned.rref, owned.state, owned.holders) == (handle.rref, OwnerState.READY, (A,))
    assert (held.id, held.state, held.holders) == (handle.fork, UserState.CONFIRMED, (B,))


def test_counts_have_the_names_of_the_reference(a: Lifecycle, b: Lifecycle) -> None:
    """Pending until confirmed; values and forks where the value is."""
    a.create(B)
    create(a, b)

    assert a.counts() == {
        "num_owner_rrefs": 0,
        "num_pending_futures": 0,
        "num_pending_users": 1,
        "num_forks": 0,
    }
    assert (b.counts()["num_owner_rrefs"], b.counts()["num_forks"]) == (1, 1)


def test_a_graceful_stop_releases_what_users_forgot(a: Lifecycle, b: Lifecycle) -> None:
    """Reference cycles keep objects, not values."""
    handle, local = create(a, b), b.own()
    for machine in (a, b):
        machine.release_all()
    seen = pass_all(a, b)

    assert {i.rref for i in seen if isinstance(i, FreeValue)} == {handle.rref, local.rref}
    assert is_empty(a, b)
    for machine, gone in ((a, handle), (b, local)):
        with pytest.raises(RRefDeletedError, match="has been deleted"):
            machine.use(gone.fork)
        machine.release([gone.fork])


def test_close_fails_all_that_waits(a: Lifecycle, b: Lifecycle) -> None:
    """Parked calls, fetches and later uses; a function that ends late gives to nobody."""
    waiting = a.create(B)
    b.created(waiting.rref, waiting.fork, A)
    b.fetch(waiting.rref, waiting.fork, A, "fetch")
    local = b.own()
    child = b.receive(a.fork(a.create(C).fork, B))
    b.park("call", [child.fork])
    b.take()

    b.close()

    kinds = {type(i) for i in b.take()}
    assert kinds == {FailParked, FailFetch, FreeValue}
    assert is_empty(b)
    b.settled(waiting.rref, is_error=False)
    assert b.take() == [FreeValue(waiting.rref)]
    for use in (lambda: b.use(local.fork), b.own, lambda: b.create(A)):
        with pytest.raises(RRefDeletedError, match="shut down"):
            use()
    b.reconnected(A)
    b.receive(a.fork(a.create(C).fork, B))
    assert not b.created(make_id(A, 90), make_id(A, 91), A)
    assert (b.take(), is_empty(b)) == ([], True)


def test_the_machine_is_pure() -> None:
    """No loop, clock, socket or thread in any module the machine is made of."""
    folder = Path(lifecycle.__file__).parent
    modules = [f"{name}.py" for name in PARTS]
    taken = {
        name.split(".")[0]
        for module in modules
        for node in ast.walk(ast.parse((folder / module).read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }

    assert taken == {"__future__", "asyncrpc", "collections", "enum", "itertools", "typing"}
