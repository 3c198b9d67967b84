"""References to values on a worker that is being looked up, and what is told of them meanwhile.

That messages wait for it is tested where workers look each other up: tests/agent/test_looked_up.py.
"""

from __future__ import annotations

import pytest

from asyncrpc.rref.lifecycle import Lifecycle
from asyncrpc.rref.values import Fork, Send

A, STAND_IN, B = (bytes([n]) * 16 for n in (1, 2, 3))


def give_up(a: Lifecycle) -> Fork:
    """Have a creation that was used fail unsent: the owner has to be told that it may not come."""
    handle = a.create(STAND_IN)
    a.use(handle.fork)
    a.creation_failed(handle.fork, "timed out", is_unsent=True)
    return handle


@pytest.mark.parametrize("is_sent", [False, True])
def test_word_for_a_stand_in_is_for_the_owner(*, is_sent: bool) -> None:
    """Queued or out when that is found; it ends with the owner, should that be lost."""
    a = Lifecycle(A)
    handle = give_up(a)
    if is_sent:
        a.flush()
    a.found(STAND_IN, B)
    a.flush()
    (message,) = [i for i in a.take() if isinstance(i, Send)]
    assert (STAND_IN if is_sent else B) == message.to
    assert not a.is_quiet
    a.worker_gone(B, "killed")
    a.release([handle.fork])

    assert a.is_drained


@pytest.mark.parametrize("is_sent", [False, True])
def test_word_for_nobody_is_dropped(*, is_sent: bool) -> None:
    """So that a graceful shutdown does not wait for an answer."""
    a = Lifecycle(A)
    handle = give_up(a)
    if is_sent:
        a.flush()
    a.unfound(STAND_IN)
    a.release([handle.fork])

    assert a.is_drained
