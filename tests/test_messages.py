"""Messages are made, checked and sent until they are answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import targets

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    targets.log.clear()


@pytest.mark.parametrize(
    "payload",
    [
        (max, (1, 2)),
        [max, [1, 2], None],
        (max, [[2, 1]], {"key": None}),
        {"func": max, "args": (1, 2)},
        ("builtins:max", (1, 2)),
    ],
)
@pytest.mark.parametrize("kind", ["PYTHON_CALL", rpc.MessageType.PYTHON_CALL])
async def test_calls(kind: Any, payload: Any) -> None:
    """The payload of a call is a function with its arguments, that of its reply the result."""
    async with cluster(2) as (a, _):
        message = a.make_message(kind, payload)
        value = await a.send_with_retries("worker1", message, rpc.RetryPolicy())

    assert 2 == value


async def test_retried_at_exact_times() -> None:
    """A message of which three sends fail is delivered with the fourth, when its time has come."""
    clock = VirtualClock()
    options = rpc.FaultyRpcOptions(
        num_fail_sends=3, messages_to_fail=["PYTHON_CALL", "RREF_FORK_REQUEST"]
    )
    async with cluster(2, options=options, clock=clock) as (a, b):
        b._agent.handlers[rpc.MessageType.RREF_FORK_REQUEST] = lambda _, payload: payload
        messages = [
            a.make_message("PYTHON_CALL", (targets.note_and_wait, ("call", 0))),
            a.make_message("RREF_FORK_REQUEST", "control"),
        ]
        replies = [a.send_with_retries("worker1", m, rpc.RetryPolicy()) for m in messages]
        await clock.advance(1 + 1.5 + 2.2499)
        early = [reply.done() for reply in replies]
        await clock.advance(0.0001)
        values = await asyncio.gather(*replies)

    assert ([False, False], ["call", "control"]) == (early, values)


@pytest.mark.parametrize("name", ["PYTHON_CALL", "RREF_USER_DELETE"])
async def test_exhausted(name: str) -> None:
    """When all attempts have failed the error says how many there were, and of what."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("fail", name)])
    async with cluster(2, faults=[plan, None], clock=clock) as (a, _):
        message = a.make_message(name, (min, (1, 2)))
        reply = a.send_with_retries("worker1", message, rpc.RetryPolicy(2))
        await clock.advance(2.5)
        with pytest.raises(rpc.RetriesExhaustedError) as caught:
            await reply

    error = caught.value
    text = "The RPC has not succeeded after the specified number of max retries (2)."
    assert (text, 3, 3) == (str(error), error.attempts, len(plan.events))
    assert isinstance(error.__cause__, rpc.InjectedFaultError)


async def test_runs_once() -> None:
    """A call that is sent as a message runs once too."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("drop", "PYTHON_RET", times=2)])
    async with cluster(2, faults=[None, plan], clock=clock) as (a, _):
        message = a.make_message("PYTHON_CALL", (f"{targets.__name__}:note_and_wait", (1, 0)))
        policy = rpc.RetryPolicy(per_attempt_timeout=1)
        reply = a.send_with_retries("worker1", message, policy)
        await clock.advance(10)
        value = await reply

    assert (1, [1]) == (value, targets.log)


async def test_no_handler() -> None:
    """A message that the other side does not know is refused, and the link lives on."""
    async with cluster(2) as (a, b):
        kind = rpc.MessageType.CLEANUP_AUTOGRAD_CONTEXT_REQ
        b._agent.handlers.pop(kind, None)
        message = a.make_message(kind, 1)
        with pytest.raises(rpc.RpcError, match="worker1 takes no CLEANUP_AUTOGRAD") as caught:
            await a.send_with_retries("worker1", message, rpc.RetryPolicy())
        value = await a.rpc_async("worker1", min, args=(1, 2))

    assert (rpc.Delivery.NOT_SENT, 1) == (caught.value.delivery, value)


@pytest.mark.parametrize("name", ["RREF_USER_DELETE", "RREF_FORK_REQUEST", "RREF_SYNC"])
async def test_payloads_without_sense(name: str) -> None:
    """A payload that its handler cannot read is refused at once, and other calls go on."""
    async with cluster(2) as (a, _):
        other = a.rpc_async("worker1", targets.sleep, args=(0.05,))
        message = a.make_message(name, "nonsense")
        with pytest.raises(rpc.RpcError, match=f"{name} message makes no sense") as caught:
            await a.send_with_retries("worker1", message, rpc.RetryPolicy())
        await other

    assert rpc.Delivery.NOT_SENT is caught.value.delivery
    assert rpc.StatusCode.INVALID_ARGUMENT is caught.value.code


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        ("NOPE", 1, "No mapping to rpc::MessageType exists for NOPE"),
        (256, 1, "No mapping to rpc::MessageType exists for 256"),
        ("PYTHON_RET", 1, "type must be that of a request with a reply"),
        ("CANCEL", 1, "type must be that of a request with a reply"),
        ("DRAIN", "announce", "type must be that of a request with a reply"),
        ("NOTIFY", (min,), "type must be that of a request with a reply"),
        ("PYTHON_CALL", min, "payload of a call must be"),
        ("PYTHON_CALL", (), "payload of a call must be"),
        ("PYTHON_CALL", {"func": min, "argument": 1}, "payload of a call must be"),
    ],
)
async def test_bad_messages(kind: Any, payload: Any, text: str) -> None:
    """What cannot be sent is refused when it is made."""
    async with cluster(1) as (a,):
        with pytest.raises(ValueError, match=text):
            a.make_message(kind, payload)


async def test_bad_sends() -> None:
    """Destination, message and policy are checked at the call."""
    async with cluster(1) as (a,):
        message: Any = a.make_message("PYTHON_CALL", (min, (1, 2)))
        policy: Any = rpc.RetryPolicy()
        with pytest.raises(rpc.UnknownWorkerError):
            a.send_with_retries("nobody", message, policy)
        with pytest.raises(ValueError, match="policy must be a RetryPolicy"):
            a.send_with_retries("worker0", message, None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="message must be one that make_message made"):
            a.send_with_retries("worker0", "PYTHON_CALL", policy)  # type: ignore[arg-type]
