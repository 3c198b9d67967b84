"""What a plan says goes wrong does, everything above takes it for real, and nothing else breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from asyncrpc.wire import REPLIES, encode_frame
from tests.agent import targets
from tests.agent.groups import link, until

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    targets.log.clear()


def plans(*rules: rpc.Fault, worker: int = 0, n: int = 2) -> list[rpc.FaultPlan | None]:
    """Give one worker a plan."""
    return [rpc.FaultPlan(rules) if rank == worker else None for rank in range(n)]


async def note(agent: rpc.RpcAgent, value: object, **options: Any) -> object:
    """Make a call that leaves a trace on the callee."""
    return await agent.rpc_async("worker1", targets.note, args=(value,), **options)


async def test_no_plan_no_hook() -> None:
    """Without a plan nothing of it is in the path of a message."""
    async with cluster(2) as (a, _):
        await note(a, 1)
        hooks = a._agent.fault_hook, link(a, "worker1").hook

    assert (None, None) == hooks


async def test_fail_first_sends() -> None:
    """A failed send comes through the future, never ran, and later calls pass."""
    plan = rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_CALL", times=2)])
    async with cluster(2, faults=[plan, None]) as (a, _):
        calls = [a.rpc_async("worker1", targets.note, args=(n,)) for n in range(3)]
        for call in calls[:2]:
            with pytest.raises(rpc.InjectedFaultError, match="failed intentionally") as caught:
                await call
            assert rpc.Delivery.NOT_SENT is caught.value.delivery
        last = await calls[2]

    assert 2 == last
    assert [2] == targets.log
    assert [("fail", "PYTHON_CALL", "worker1", "out", seq) for seq in (0, 1)] == [
        (e.kind, e.message, e.peer, e.direction, e.seq) for e in plan.events
    ]


async def test_executed_but_error() -> None:
    """A reply that fails tells the caller that its function ran."""
    faults = plans(rpc.Fault("fail", message="PYTHON_RET", times=1), worker=1)
    async with cluster(2, faults=faults) as (a, _):
        with pytest.raises(rpc.InjectedFaultError) as caught:
            await note(a, 1)
        again = await note(a, 2)

    assert rpc.Delivery.EXECUTED is caught.value.delivery
    assert (2, [1, 2]) == (again, targets.log)


@pytest.mark.parametrize(
    ("message", "worker", "ran"), [("PYTHON_CALL", 0, []), ("PYTHON_RET", 1, [1])]
)
@pytest.mark.parametrize("direction", ["out", "in"])
async def test_lost(message: str, worker: int, ran: list[int], direction: Any) -> None:
    """A lost request does not run, one whose reply is lost has; both time out, UNKNOWN."""
    place = worker if direction == "out" else 1 - worker
    fault = rpc.Fault("drop", message=message, direction=direction, times=1)
    plan = rpc.FaultPlan([fault])
    faults = [plan if rank == place else None for rank in range(2)]
    clock = VirtualClock()
    async with cluster(2, faults=faults, clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.note, args=(1,), timeout=5)
        await until(lambda: len(plan.events) == 1)  # not sooner, or the next one is lost
        await clock.advance(6)
        with pytest.raises(rpc.RpcTimeoutError) as caught:
            await call
        again = await note(a, 2)

    assert rpc.Delivery.UNKNOWN is caught.value.delivery
    assert (2, [*ran, 2]) == (again, targets.log)


@pytest.mark.parametrize("direction", ["out", "in"])
async def test_failed_on_arrival(direction: Any) -> None:
    """A request or a reply may fail where it arrives, too."""
    message = "PYTHON_RET" if direction == "out" else "PYTHON_CALL"
    place = 0 if direction == "out" else 1
    fault = rpc.Fault("fail", message=message, direction="in", times=1)
    async with cluster(2, faults=plans(fault, worker=place)) as (a, _):
        with pytest.raises(rpc.InjectedFaultError) as caught:
            await note(a, 1)

    expected = (rpc.Delivery.EXECUTED, [1]) if place == 0 else (rpc.Delivery.NOT_SENT, [])
    assert expected == (caught.value.delivery, targets.log)


@pytest.mark.parametrize(("direction", "worker"), [("out", 0), ("in", 1)])
async def test_delay(direction: Any, worker: int) -> None:
    """A delayed message comes exactly when its time is over, and holds up no other."""
    clock = VirtualClock()
    fault = rpc.Fault("delay", message="PYTHON_CALL", direction=direction, delay=1.5, times=1)
    async with cluster(2, faults=plans(fault, worker=worker), clock=clock) as (a, _):
        late = asyncio.ensure_future(note(a, "late"))
        await asyncio.sleep(0)
        await note(a, "soon")
        await clock.advance(1.499)
        before = list(targets.log)
        await clock.advance(0.001)
        await late

    assert (["soon"], ["soon", "late"]) == (before, targets.log)


async def test_delay_takes_from_the_deadline() -> None:
    """The callee has what the wait left of the time."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("delay", message="PYTHON_CALL", delay=2))
    async with cluster(2, faults=faults, clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.left, timeout=5)
        await clock.advance(2)
        left = await call

    assert 3 == pytest.approx(left)


async def test_delayed_beyond_the_deadline() -> None:
    """A request that still waits when its time is over is never sent, and says so."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("delay", message="PYTHON_CALL", delay=5))
    async with cluster(2, faults=faults, clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.note, args=(1,), timeout=1)
        await clock.advance(1)
        with pytest.raises(rpc.RpcTimeoutError, match="RPC ran for more than") as caught:
            await call
        await clock.advance(10)

    assert ("send", rpc.Delivery.NOT_SENT) == (caught.value.phase, caught.value.delivery)
    assert [] == targets.log


@pytest.mark.parametrize(("direction", "phase"), [("in", "reply"), ("out", "execute")])
async def test_reply_delayed_beyond_the_deadline(direction: Any, phase: str) -> None:
    """A call whose reply has come, but waits, says so; of one on its way nobody knows here."""
    clock = VirtualClock()
    fault = rpc.Fault("delay", message="PYTHON_RET", direction=direction, delay=5)
    async with cluster(2, faults=plans(fault), clock=clock) as (a, b):
        caller, to = (a, "worker1") if direction == "in" else (b, "worker0")
        call = caller.rpc_async(to, targets.note, args=(1,), timeout=1)
        await clock.advance(1)
        with pytest.raises(rpc.RpcTimeoutError, match=f"in phase {phase}$") as caught:
            await call
        await clock.advance(10)

    assert (phase, rpc.Delivery.UNKNOWN) == (caught.value.phase, caught.value.delivery)
    assert [1] == targets.log


@pytest.mark.parametrize("direction", ["out", "in"])
@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_duplicates_run_once(direction: Any, size: int) -> None:
    """However often messages come, a function runs once and its caller hears once."""
    faults = plans(rpc.Fault("duplicate", direction=direction))
    async with cluster(2, faults=[faults[0], faults[0]]) as (a, b):
        for n in range(20):
            await a.rpc_async("worker1", targets.echo, args=(b"x" * size,))
            await note(a, n)
        connections = [link(agent, name) for agent, name in ((a, "worker1"), (b, "worker0"))]
        open_still = [not c.stream.is_closed for c in connections]

    assert (list(range(20)), [True, True]) == (targets.log, open_still)


@pytest.mark.parametrize(("direction", "worker"), [("out", 0), ("in", 1)])
async def test_reorder(direction: Any, worker: int) -> None:
    """The next message overtakes the one before."""
    fault = rpc.Fault("reorder", message="PYTHON_CALL", direction=direction, times=1, delay=9)
    clock = VirtualClock()
    async with cluster(2, faults=plans(fault, worker=worker), clock=clock) as (a, _):
        func = f"{targets.__name__}:note_and_wait"
        calls = [a.rpc_async("worker1", func, args=(n, 0)) for n in range(3)]
        await asyncio.gather(*calls)

    assert [1, 0, 2] == targets.log


async def test_reorder_within_one_read() -> None:
    """What waits comes behind all that was read before, the names of functions included."""
    fault = rpc.Fault("reorder", message="PYTHON_CALL", direction="in", times=2, delay=9)
    async with cluster(2, faults=plans(fault, worker=1), clock=VirtualClock()) as (a, _):
        func = f"{targets.__name__}:note_and_wait"
        calls = [a.rpc_async("worker1", func, args=(n, 0)) for n in range(3)]
        await asyncio.gather(*calls)

    assert [0, 2, 1] == targets.log


async def test_reorder_without_a_next_message() -> None:
    """What nothing overtakes goes on after its longest wait."""
    fault = rpc.Fault("reorder", message="PYTHON_CALL", delay=2)
    clock = VirtualClock()
    async with cluster(2, faults=plans(fault), clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.note, args=(1,))
        await clock.advance(1.999)
        early = call.done()
        await clock.advance(0.001)
        result = await call

    assert (False, 1) == (early, result)


@pytest.mark.parametrize("kind", ["disconnect", "corrupt"])
@pytest.mark.parametrize(("direction", "worker"), [("out", 0), ("in", 1)])
async def test_broken_link(kind: Any, direction: Any, worker: int) -> None:
    """A broken link fails the call truthfully, and the next call goes over a new one."""
    fault = rpc.Fault(kind, message="PYTHON_CALL", direction=direction, times=1)
    async with cluster(2, faults=plans(fault, worker=worker)) as (a, _):
        with pytest.raises(rpc.PeerLostError) as caught:
            await note(a, 1)
        again = await note(a, 2)

    assert rpc.Delivery.UNKNOWN is caught.value.delivery
    assert (2, [2]) == (again, targets.log)


async def test_peers_are_apart() -> None:
    """A rule for one peer leaves the others alone, and applies to the worker itself."""
    faults = plans(rpc.Fault("fail", peer="worker1"), rpc.Fault("fail", peer="worker0"), n=3)
    async with cluster(3, faults=faults) as (a, _, _):
        for to in ("worker0", "worker1"):
            with pytest.raises(rpc.InjectedFaultError):
                await a.rpc_async(to, targets.who)
        third = await a.rpc_async("worker2", targets.who)

    assert ("worker2", "worker0") == third


async def test_partition_and_heal() -> None:
    """Nothing passes a partition in either direction, and all does after it."""
    clock = VirtualClock()
    options = rpc.RpcOptions(heartbeat_misses=1000)
    async with cluster(3, clock=clock, options=options) as (a, b, c):
        await note(a, 0)
        a.partition(["worker1"])
        there = a.rpc_async("worker1", targets.add, args=(1,), timeout=1)
        back = b.rpc_async("worker0", targets.add, args=(1,), timeout=1)
        around = await c.rpc_async("worker1", targets.add, args=(1,))
        await clock.advance(1)
        for call in (there, back):
            with pytest.raises(rpc.RpcTimeoutError):
                await call
        a.heal()
        healed = [
            await a.rpc_async("worker1", targets.add, args=(1,)),
            await b.rpc_async("worker0", targets.add, args=(1,)),
        ]
        hook = a._agent.fault_hook

    assert (11, [11, 11], None) == (around, healed, hook)


async def test_partition_is_noticed() -> None:
    """Heartbeats find the worker behind a partition lost, on both sides."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        await note(a, 0)
        a.partition(["worker1"])
        calls = [a.rpc_async("worker1", targets.who), b.rpc_async("worker0", targets.who)]
        await clock.advance(20)
        for call in calls:
            with pytest.raises(rpc.PeerLostError):
                await call
        with pytest.raises(rpc.PeerLostError):
            a.rpc_async("worker1", targets.who)


async def test_bad_partition() -> None:
    """A worker cannot be cut off from itself or from nobody."""
    async with cluster(1) as (a,):
        with pytest.raises(ValueError, match="peers must be other workers"):
            a.partition(["worker0"])
        with pytest.raises(rpc.UnknownWorkerError):
            a.partition(["nobody"])
        with pytest.raises(ValueError, match="Cannot get WorkerInfo from name None"):
            a.partition(None)  # type: ignore[arg-type]  # what is tested


# -- the reference's faulty agent


async def test_options_of_the_faulty_agent() -> None:
    """The values given reach the options, whatever they are."""
    given = rpc.FaultyRpcOptions(
        num_worker_threads=8,
        num_fail_sends=3,
        messages_to_fail=("RREF_FORK_REQUEST", "RREF_CHILD_ACCEPT"),
        messages_to_delay={"SCRIPT_CALL": 1.5},
    )
    async with cluster(1, options=given) as (a,):
        options = a.options
    none = rpc.FaultyRpcOptions()

    assert isinstance(options, rpc.FaultyRpcOptions)
    assert (8, 3, 60) == (options.num_worker_threads, options.num_fail_sends, options.rpc_timeout)
    assert ("RREF_FORK_REQUEST", "RREF_CHILD_ACCEPT") == options.messages_to_fail
    assert {"SCRIPT_CALL": 1.5} == options.messages_to_delay
    assert (0, (), {}) == (none.num_fail_sends, none.messages_to_fail, none.messages_to_delay)


@pytest.mark.parametrize(
    "bad",
    [
        {"num_fail_sends": -1},
        {"messages_to_fail": ["NOPE"]},
        {"messages_to_fail": "PYTHON_CALL"},
        {"messages_to_fail": 5},
        {"messages_to_fail": [5]},
        {"messages_to_delay": {"PYTHON_CALL": -1}},
        {"messages_to_delay": {"PYTHON_CALL": "1"}},
        {"messages_to_delay": {"PYTHON_CALL": 10**400}},
        {"messages_to_delay": {"PYTHON_CALL": float("nan")}},
        {"messages_to_delay": ["PYTHON_CALL"]},
        {"num_fail_sends": True},
        {"faults": "drop"},
        {"allow_faults": 1},
    ],
)
async def test_bad_options(bad: Any) -> None:
    """Options that make no sense are refused."""
    with pytest.raises(ValueError, match=r"non-negative|No mapping|must be"):
        rpc.FaultyRpcOptions(**bad)


async def test_each_call_is_a_message() -> None:
    """Every call of a listed type fails at its first send."""
    options = rpc.FaultyRpcOptions(num_fail_sends=1, messages_to_fail=["PYTHON_CALL"])
    async with cluster(2, options=options) as (a, _):
        for _ in range(3):
            with pytest.raises(rpc.InjectedFaultError):
                await note(a, 1)

    assert [] == targets.log


@pytest.mark.parametrize("func", [min, targets.echo])
async def test_rpc_timeout(func: Any) -> None:
    """A delay counts against the deadline; 0 overrides a default that is too short."""
    clock = VirtualClock()
    options = rpc.FaultyRpcOptions(messages_to_delay={"PYTHON_CALL": 1.5})
    async with cluster(2, options=options, clock=clock) as (a, _):

        async def outcome(**timeout: Any) -> Any:
            call = a.rpc_async("worker1", func, args=([3],), **timeout)
            await clock.advance(2)
            return await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 5)

        tight = await outcome(timeout=1)
        default = await outcome()
        a.set_rpc_timeout(0.001)
        short = await outcome()
        unlimited = await outcome(timeout=0)

    assert [rpc.RpcTimeoutError] * 2 == [type(tight[0]), type(short[0])]
    assert default == unlimited == [func([3]) if func is min else [3]]


async def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of the environment acts only where the options allow it."""
    monkeypatch.setenv("ASYNCRPC_FAULTS", "PYTHON_CALL: fail=1")

    async def first(allow: bool) -> object:
        options = rpc.RpcOptions(allow_faults=allow, secret=b"x" * 16)
        store = rpc.store.MemoryStore()
        a = await rpc.RpcAgent.start("a", rank=0, world_size=1, options=options, store=store)
        try:
            return (await asyncio.gather(a.rpc_async("a", min, (1, 2)), return_exceptions=True))[0]
        finally:
            await a.shutdown()

    assert 1 == await first(False)
    assert isinstance(await first(True), rpc.InjectedFaultError)


@pytest.mark.parametrize("seed", range(5))
async def test_same_log_in_every_run(seed: int) -> None:
    """The same seed, calls and clock give the same log, and every outcome is true."""

    async def run() -> tuple[list[Any], list[Any]]:
        targets.log.clear()
        clock = VirtualClock()
        rules = [rpc.Fault(k, probability=0.1, delay=0.3) for k in ("drop", "delay", "duplicate")]
        plan = rpc.FaultPlan([*rules, rpc.Fault("fail", probability=0.1)], seed=seed)
        async with cluster(2, faults=plan, clock=clock) as (a, _):
            func = f"{targets.__name__}:note_and_wait"
            calls = [a.rpc_async("worker1", func, args=(n, 0), timeout=1) for n in range(100)]
            await clock.advance(2)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        ran = list(targets.log)
        for n, outcome in enumerate(outcomes):
            delivery = getattr(outcome, "delivery", rpc.Delivery.EXECUTED)
            assert ran.count(n) <= 1
            assert delivery is rpc.Delivery.UNKNOWN or (delivery.name == "EXECUTED") == (n in ran)
        return plan.events, [type(outcome) for outcome in outcomes]

    assert await run() == await run()


OWN_REQUESTS = (
    "RREF_USER_DELETE RREF_FORK_REQUEST RREF_CHILD_ACCEPT RREF_SYNC CLEANUP_AUTOGRAD_CONTEXT_REQ"
)


@pytest.mark.parametrize("message", OWN_REQUESTS.split())
async def test_replies_bear_their_own_name(message: str) -> None:
    """A plan sees each request and what answers it under its name, be it a result or an error."""
    kind = rpc.MessageType[message]
    reply = rpc.MessageType(REPLIES[kind]).name
    failing = rpc.FaultPlan([rpc.Fault("fail", message=reply, times=1)])
    seeing = rpc.FaultPlan([rpc.Fault("delay", message=name) for name in (message, reply)])
    async with cluster(2, faults=[seeing, failing]) as (a, b):
        taken: list[object] = []

        def handle(peer: object, payload: object) -> object:
            taken.append(payload)
            return payload

        b._agent.handlers[kind] = handle
        peer = a._agent.members.route("worker1")
        with pytest.raises(rpc.InjectedFaultError) as caught:
            await a._agent.caller.request(peer, kind, "lost")
        again = await a._agent.caller.request(peer, kind, "again")

    assert rpc.Delivery.EXECUTED is caught.value.delivery
    assert ("again", ["lost", "again"]) == (again, taken)
    assert [("fail", reply)] == [(e.kind, e.message) for e in failing.events]
    assert [message] * 2 == [e.message for e in seeing.events]


async def test_script_calls_are_answered_as_such() -> None:
    """The type of a call's reply follows from the call's, in the path of results too."""
    intern = encode_frame(int(rpc.MessageType.INTERN), 0, b"tests.agent.targets:note", function=1)
    call = encode_frame(
        int(rpc.MessageType.SCRIPT_CALL), 1 << 40, b"\x92\x05\xc0", function=1, remaining=5.0
    )
    faults = plans(rpc.Fault("drop", message="SCRIPT_RET"), worker=1)
    async with cluster(2, faults=faults) as (a, _):
        await note(a, 1)
        link(a, "worker1").write(intern + call)
        await until(lambda: faults[1] is not None and faults[1].events)

    assert [1, 5] == targets.log
