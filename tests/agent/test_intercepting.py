"""Interceptors on both sides: what they see and may do, for every kind of call and function."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.agent import Agent
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import intercepted
from tests.agent.groups import any_network, at_rest, until
from tests.agent.intercepted import log, mark

pytestmark = pytest.mark.asyncio

Outgoing = Callable[[rpc.OutgoingCall], Awaitable[Any]]
Incoming = Callable[[rpc.IncomingCall], Awaitable[Any]]


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    log.clear()


class Recorder(rpc.Interceptor):
    """Writes down begin and end of all calls on both sides."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    async def outgoing(self, call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        return await self._recorded(f"out {call.kind}", proceed(call))

    async def incoming(self, call: rpc.IncomingCall, proceed: Incoming) -> Any:
        return await self._recorded(f"in {call.kind}", proceed(call))

    async def _recorded(self, what: str, rest: Awaitable[Any]) -> Any:
        log.append(f"{self.name}{what}")
        try:
            result = await rest
        except BaseException as error:
            log.append(f"{self.name}{what}: {type(error).__name__}")
            raise
        log.append(f"{self.name}{what}: {result}")
        return result


class Out(rpc.Interceptor):
    """Does on the caller's side what a function says."""

    def __init__(self, act: Callable[[rpc.OutgoingCall, Outgoing], Awaitable[Any]]) -> None:
        self._act = act

    async def outgoing(self, call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        return await self._act(call, proceed)


class In(rpc.Interceptor):
    """Does on the callee's side what a function says."""

    def __init__(self, act: Callable[[rpc.IncomingCall, Incoming], Awaitable[Any]]) -> None:
        self._act = act

    async def incoming(self, call: rpc.IncomingCall, proceed: Incoming) -> Any:
        return await self._act(call, proceed)


@asynccontextmanager
async def group(
    n: int, *interceptors: rpc.Interceptor, **settings: Any
) -> AsyncIterator[list[rpc.RpcAgent]]:
    """Run workers with these interceptors, all with the same."""
    options = rpc.RpcOptions(interceptors=interceptors)
    async with cluster(n, options=options, **settings) as agents:
        yield agents


async def test_without_any_nothing_is_in_the_way() -> None:
    """The bound functions are the plain ones."""
    async with cluster(1) as (a,):
        agent: Agent = a._agent
        replaced = {
            name
            for owner in (agent.caller, agent.executor, agent.streams)
            for name in ("call", "notify", "start", "open")
            if name in vars(owner)
        }

    assert set() == replaced


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_the_first_is_outermost_on_both_sides(kind: str) -> None:
    """They surround the call in the order of the list."""
    async with (
        any_network(kind) as network,
        group(2, Recorder("a "), Recorder("b "), network=network) as (a, _),
    ):
        assert await a.rpc_async("worker1", max, (1, 2)) == 2

    sides = [
        ["a out call", "b out call", "a in call", "b in call"],
        ["b in call: 2", "a in call: 2", "b out call: 2", "a out call: 2"],
    ]
    assert [*sides[0], *sides[1]] == log


async def test_functions_of_every_kind_run_as_ever() -> None:
    """The innermost step runs them where they belong, in the context of the interceptors."""

    async def marked(call: rpc.IncomingCall, proceed: Incoming) -> Any:
        assert call.caller == rpc.caller()
        mark.set(f"for {call.function.rpartition(':')[2]}")
        return await proceed(call)

    async with group(2, In(marked)) as agents:
        a = agents[0]
        found = [
            await a.rpc_async("worker1", function, (7,))
            for function in (
                intercepted.on_loop,
                intercepted.in_thread,
                intercepted.inline,
                intercepted.deferred,
            )
        ]
        nested = await a.rpc_async("worker1", intercepted.chain, ("worker0",))
        itself = await a.rpc_async("worker0", intercepted.on_loop, (1,))
        left = await at_rest(agents)

    assert [
        (7, "worker0", "for on_loop"),
        (7, "worker0", "for in_thread", False),
        (7, "worker0", "for inline"),
        (7, "worker0", "for deferred"),
    ] == found
    assert [(2, "worker1", "for on_loop"), (1, "worker0", "for on_loop")] == [nested, itself]
    assert {} == left


async def test_every_way_to_call_is_seen() -> None:
    """rpc_sync, one-way calls and streams as well as rpc_async, each with its kind."""
    async with group(2, Recorder()) as (a, _):
        await asyncio.to_thread(a.rpc_sync, "worker1", max, (1, 2))
        by_sync, log[:] = list(log), []
        a.rpc_notify("worker1", intercepted.note, ("noted",))
        await until(lambda: len(log) == 5)
        by_notify, log[:] = list(log), []
        numbers = [n async for n in a.rpc_stream("worker1", intercepted.items, (3,))]
        await until(lambda: len(log) == 5)

    assert ["out call", "in call", "in call: 2", "out call: 2"] == by_sync
    assert ["out notify", "out notify: None", "in notify", "noted", "in notify: None"] == by_notify
    assert [0, 1, 2] == numbers
    assert ["out stream", "in stream", "items closed", "in stream: 3", "out stream: 3"] == log


async def test_they_see_the_call_and_may_change_it() -> None:
    """Arguments, metadata, destination and result, on both sides."""
    seen: list[Any] = []

    async def add_one(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        seen.append((call.kind, call.to.name, call.function, call.args, call.kwargs, call.timeout))
        call.args = (call.args[0] + 1,)
        call.to = rpc.WorkerInfo("worker2", 2)
        call.metadata["tenant"] = "blue"
        return [await proceed(call)]

    async def times_ten(call: rpc.IncomingCall, proceed: Incoming) -> Any:
        seen.append((call.caller.name, call.function, call.metadata, call.remaining))
        call.args = (call.args[0] * 10,)
        return await proceed(call)

    clock = VirtualClock()
    async with group(3, Out(add_one), In(times_ten), clock=clock) as (a, *_):
        found = await a.rpc_async("worker1", intercepted.on_loop, (1,), timeout=5)

    name = "tests.agent.intercepted:on_loop"
    assert [(20, "worker0", "none")] == found
    assert ("call", "worker1", name, (1,), {}, 5.0) == seen[0]
    assert ("worker0", name, {"tenant": "blue"}, 5.0) == seen[1]


async def test_metadata_and_trace_travel_with_every_kind_of_call() -> None:
    """What an interceptor sets arrives, of one-way calls and streams too."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    seen: list[Any] = []

    async def mark_it(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        call.metadata["kind"] = call.kind
        call.traceparent = trace
        return await proceed(call)

    async def look(call: rpc.IncomingCall, proceed: Incoming) -> Any:
        seen.append((call.kind, call.metadata, call.traceparent))
        return await proceed(call)

    async with group(2, Out(mark_it), In(look)) as (a, _):
        await a.rpc_async("worker1", max, (1, 2))
        a.rpc_notify("worker1", max, (1, 2))
        assert [0] == [n async for n in a.rpc_stream("worker1", intercepted.items, (1,))]
        assert {} == await a.remote("worker1", dict)

    kinds = ["call", "notify", "stream", "remote"]
    assert [(kind, {"kind": kind}, trace) for kind in kinds] == seen


@pytest.mark.parametrize("side", ["out", "in"])
async def test_raising_refuses_the_call(side: str) -> None:
    """What an interceptor raises is the outcome, and the function does not run."""

    async def refuse(*_: object) -> Any:
        raise PermissionError("not today")

    interceptor = Out(refuse) if side == "out" else In(refuse)
    async with group(2, interceptor) as agents:
        a = agents[0]
        for function in (intercepted.on_loop, intercepted.in_thread):
            with pytest.raises(PermissionError, match="not today"):
                await a.rpc_async("worker1", function, (1,))
        with pytest.raises(PermissionError, match="not today"):
            [item async for item in a.rpc_stream("worker1", intercepted.items, (1,))]
        left = await at_rest(agents)

    assert [[], {}] == [log, left]


async def test_a_refusal_with_a_code_keeps_the_code() -> None:
    """On the callee it is what a function raises, so its class is not taken for one of ours."""

    async def refuse(*_: object) -> Any:
        raise rpc.PermissionDeniedError("not for you")

    async with group(2, In(refuse)) as (a, _):
        with pytest.raises(rpc.RemoteError, match="not for you") as caught:
            await a.rpc_async("worker1", max, (1, 2))

    assert caught.value.code is rpc.StatusCode.PERMISSION_DENIED


async def test_a_refused_one_way_call_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it, so the log has it."""

    async def refuse(*_: object) -> Any:
        raise PermissionError("not today")

    async with group(2, Out(refuse)) as (a, _):
        a.rpc_notify("worker1", intercepted.note, ("x",))
        await until(lambda: caplog.records)

    assert "intercepted:note on worker1> was not sent" in caplog.records[0].getMessage()
    assert [] == log


async def test_proceeding_again_repeats_the_call() -> None:
    """A retry of one's own, on either side; errors pass through unchanged."""

    async def twice(call: Any, proceed: Any) -> Any:
        with pytest.raises(LookupError, match="as asked"):
            await proceed(call)
        return await proceed(call)

    async with group(2, Out(twice), Recorder()) as (a, _):
        with pytest.raises(LookupError, match="as asked"):
            await a.rpc_async("worker1", intercepted.fail)
        assert log.count("in call: LookupError") == 2
    log.clear()
    async with group(2, In(twice), Recorder()) as (a, _):
        with pytest.raises(LookupError, match="as asked"):
            await a.rpc_async("worker1", intercepted.fail)

    assert log.count("in call: LookupError") == 2


async def test_an_error_may_become_a_result() -> None:
    """A fallback."""

    async def fall_back(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        try:
            return await proceed(call)
        except LookupError:
            return "instead"

    async with group(2, Out(fall_back)) as (a, _):
        assert await a.rpc_async("worker1", intercepted.fail) == "instead"


@pytest.mark.parametrize("way", ["future", "task"])
async def test_a_cancel_goes_through_both_chains(way: str) -> None:
    """Both sides' interceptors see it, and the function."""
    async with group(2, Recorder()) as agents:
        future = agents[0].rpc_async("worker1", intercepted.hang)

        async def wait() -> Any:
            return await future

        task = asyncio.ensure_future(wait())
        await until(lambda: "hangs" in log)
        (task if way == "task" else future).cancel()
        await asyncio.wait([task])
        await until(lambda: len(log) == 6)
        left = await at_rest(agents)

    assert [True, {}] == [future.cancelled(), left]
    assert {"hang cancelled", "in call: CancelledError", "out call: CancelledError"} == set(log[3:])


async def test_a_cancel_ends_blocking_calls_of_a_def() -> None:
    """As without interceptors: nested calls of the thread raise, nothing is left of its time."""
    async with group(3, Recorder()) as agents:
        future = agents[0].rpc_async("worker1", intercepted.hang_on_another, ("worker2",))
        await until(lambda: "hangs" in log)
        future.cancel()
        await until(lambda: "CANCELLED 0.0" in log)
        left = await at_rest(agents)

    assert "hang cancelled" in log
    assert {} == left


async def test_the_deadline_holds_for_all_of_it() -> None:
    """An interceptor that waits too long, before the call or after an attempt, is cancelled."""
    clock = VirtualClock()
    ended: list[str] = []

    async def wait_first(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("first")
        return await proceed(call)

    async def wait_after(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        try:
            await proceed(call)
            await asyncio.Event().wait()
        finally:
            ended.append("after")

    errors = []
    for act in (wait_first, wait_after):
        async with group(2, Out(act), clock=clock) as agents:
            call = agents[0].rpc_async("worker1", max, (1, 2), timeout=3)
            await clock.advance(2.99)
            assert not call.done()
            await clock.advance(0.01)
            errors.append(call.exception())
            assert {} == await at_rest(agents)

    assert ["first", "after"] == ended
    assert [rpc.RpcTimeoutError] * 2 == [type(error) for error in errors]
    deliveries = [error.delivery for error in errors if isinstance(error, rpc.RpcError)]
    assert [rpc.Delivery.NOT_SENT, rpc.Delivery.UNKNOWN] == deliveries
    assert "set timeout (3 s)" in str(errors[0])


async def test_a_timeout_of_the_call_itself_passes_through_the_chain() -> None:
    """Interceptors see the error; one that would go on has no time left, or is ended after it."""
    clock = VirtualClock()
    seen: list[object] = []

    async def insist(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        for _ in range(2):
            try:
                return await proceed(call)
            except rpc.RpcTimeoutError as error:
                seen.append(error.delivery)
        return await asyncio.Event().wait()

    async with group(2, Out(insist), clock=clock) as agents:
        call = agents[0].rpc_async("worker1", intercepted.hang, timeout=3)
        await clock.advance(3)
        assert not call.done()
        await clock.advance(1)
        error = call.exception()
        left = await at_rest(agents)

    assert [rpc.Delivery.UNKNOWN, rpc.Delivery.NOT_SENT] == seen
    assert isinstance(error, rpc.RpcTimeoutError)
    assert {} == left


async def test_an_interceptor_can_shorten_the_time() -> None:
    """But not give more than there is."""
    clock = VirtualClock()

    async def set_to(seconds: float, call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        call.timeout = seconds
        return await proceed(call)

    for seconds, end in ((1.0, 1.0), (100.0, 3.0)):
        act = Out(lambda call, proceed, s=seconds: set_to(s, call, proceed))  # type: ignore[misc]  # bound early
        async with group(2, act, clock=clock) as (a, _):
            call = a.rpc_async("worker1", intercepted.hang, timeout=3)
            await clock.advance(end - 0.5)
            assert not call.done()
            await clock.advance(0.5)
            assert isinstance(call.exception(), rpc.RpcTimeoutError)


async def test_what_surrounds_a_call_surrounds_its_chain() -> None:
    """A scope waits for the outcome; a traceparent and a retry policy go on."""

    async def late(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        await asyncio.sleep(0)
        log.append(call.traceparent)
        call.traceparent = call.traceparent.replace("-00f067aa0ba902b7-", "-00f067aa0ba902b8-")
        return await proceed(call)

    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    plan = rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_CALL", times=1)])
    policy = rpc.RetryPolicy(initial=0.001)
    async with group(2, Out(late), faults=[plan, None]) as (a, _):
        async with a.wait_all():
            with rpc.traceparent(trace):
                call = a.rpc_async("worker1", intercepted.on_loop, (1,), retry=policy)
        assert call.result() == (1, "worker0", "none")
        with pytest.raises(LookupError):
            async with a.wait_all():
                a.rpc_async("worker1", intercepted.fail)
        with rpc.traceparent(trace):
            seen = await a.rpc_async("worker1", rpc.current_traceparent)

    assert [trace, "on_loop", "", trace] == log
    assert trace.replace("b7-01", "b8-01") == seen


async def test_calls_of_an_interceptor_are_not_intercepted() -> None:
    """It may fetch a token without meeting itself."""
    holder: list[rpc.RpcAgent] = []

    async def ask_first(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        call.metadata["token"] = await holder[0].rpc_async("worker1", str, (7,))
        holder[0].rpc_notify("worker1", intercepted.note, ("asked",))
        assert [item async for item in holder[0].rpc_stream("worker1", intercepted.items, (1,))]
        return await proceed(call)

    tokens: list[str | None] = []

    async def look(call: rpc.IncomingCall, proceed: Incoming) -> Any:
        tokens.append(call.metadata.get("token"))
        return await proceed(call)

    async with group(2, Out(ask_first), In(look)) as (a, _):
        holder.append(a)
        assert await a.rpc_async("worker1", max, (1, 2)) == 2

    assert [None, None, None, "7"] == tokens


async def test_metadata_that_cannot_travel_are_refused() -> None:
    """The error comes through the future and says what is wrong."""
    bad: list[tuple[str, Any]] = [
        ("metadata", {"a": 1}),
        ("metadata", {"a": "x" * 20_000}),
        ("traceparent", "no trace"),
        ("timeout", -1),
    ]
    for field, value in bad:

        async def spoil(
            call: rpc.OutgoingCall, proceed: Outgoing, field: str = field, value: Any = value
        ) -> Any:
            setattr(call, field, value)
            return await proceed(call)

        async with group(2, Out(spoil)) as agents:
            with pytest.raises(ValueError, match=field):
                await agents[0].rpc_async("worker1", max, (1, 2))
            assert {} == await at_rest(agents)


async def test_errors_at_the_call_stay_there_but_for_arguments() -> None:
    """Destination, function and timeout are fixed; arguments may still be changed."""
    async with group(2, Recorder()) as (a, _):
        with pytest.raises(rpc.UnknownWorkerError):
            a.rpc_async("worker9", max)
        with pytest.raises(rpc.EncodingError):
            a.rpc_async("worker1", lambda: 0)
        with pytest.raises(ValueError, match="timeout"):
            a.rpc_async("worker1", max, timeout=-1)
        with pytest.raises(rpc.UnknownWorkerError):
            a.rpc_notify("worker9", max)
        with pytest.raises(rpc.UnknownWorkerError):
            a.rpc_stream("worker9", intercepted.items)
        assert [] == log
        call = a.rpc_async("worker1", str, (lambda: 0,))
        with pytest.raises(rpc.EncodingError, match=r"args\[0\]"):
            await call


async def test_wrong_functions_fail_as_ever() -> None:
    """An async generator that is called, and a ``def`` that returns an awaitable."""
    async with group(2, Recorder()) as (a, _):
        with pytest.raises(TypeError, match="call it with rpc_stream"):
            await a.rpc_async("worker1", intercepted.items, (1,))
        with pytest.raises(TypeError, match="from a plain def"):
            await a.rpc_async("worker1", intercepted.returns_awaitable)


@pytest.mark.parametrize("how", ["aclose", "async with", "break", "del"])
async def test_closing_a_stream_early_ends_both_chains(how: str) -> None:
    """As a cancel; the producer's finally runs."""
    async with group(2, Recorder()) as agents:
        a = agents[0]
        if how == "break":
            async for item in a.rpc_stream("worker1", intercepted.items, (10**6,)):
                assert item == 0
                break
        elif how == "async with":
            async with a.rpc_stream("worker1", intercepted.items, (10**6,)) as stream:
                assert await anext(stream) == 0
        else:
            stream = a.rpc_stream("worker1", intercepted.items, (10**6,))
            assert await anext(stream) == 0
            if how == "aclose":
                await stream.aclose()
                assert [] == [item async for item in stream]
            del stream
        await until(lambda: len(log) == 5)
        left = await at_rest(agents)

    assert {} == left
    assert {"items closed", "in stream: CancelledError", "out stream: CancelledError"} <= set(log)


async def test_a_stream_that_nobody_read_is_closed_with_its_handle() -> None:
    """Also if it was dropped before it was opened."""
    async with group(2, Recorder()) as agents:
        stream = agents[0].rpc_stream("worker1", intercepted.items, (10**6,))
        del stream
        await until(lambda: "out stream: CancelledError" in log)
        left = await at_rest(agents)

    assert {} == left


async def test_the_end_of_a_stream_is_what_interceptors_make_of_it() -> None:
    """Items come first, then its error, another one, or none."""

    async def swallow(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        try:
            return await proceed(call)
        except LookupError as error:
            raise KeyError("another") from error

    async def end(stream: rpc.RpcStream[Any]) -> tuple[list[int], str]:
        got: list[int] = []
        try:
            async for item in stream:
                got.append(item)  # noqa: PERF401 -- kept when it raises
        except LookupError as error:
            return got, str(error)
        return got, ""

    async with group(2, Recorder()) as (a, _):
        plain = await end(a.rpc_stream("worker1", intercepted.broken_items, (2,)))
    async with group(2, Out(swallow)) as (a, _):
        stream = a.rpc_stream("worker1", intercepted.broken_items, (2,))
        changed = await end(stream)
        over = await end(stream)

    assert [([0, 1], "no more"), ([0, 1], "'another'"), ([], "")] == [plain, changed, over]


async def test_a_stream_is_opened_once() -> None:
    """Proceeding again is an error, not a second producer."""

    async def twice(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        await proceed(call)
        return await proceed(call)

    async with group(2, Out(twice)) as (a, _):
        with pytest.raises(RuntimeError, match="once only"):
            [item async for item in a.rpc_stream("worker1", intercepted.items, (2,))]

    assert ["items closed"] == log


async def test_an_item_that_does_not_come_in_time() -> None:
    """The timeout of a stream is that of each item, with interceptors too."""
    clock = VirtualClock()
    async with group(2, Recorder(), clock=clock) as agents:
        stream = agents[0].rpc_stream("worker1", intercepted.stalled_items, timeout=5)
        assert await anext(stream) == 0
        waiting = asyncio.ensure_future(anext(stream))
        await clock.advance(5)
        with pytest.raises(rpc.RpcTimeoutError):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert {} == await at_rest(agents)


async def test_graceful_shutdown_waits_for_chains() -> None:
    """A call that an interceptor holds back is made before the group ends."""

    async def hesitate(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        await asyncio.sleep(0.05)
        return await proceed(call)

    async with group(2, Out(hesitate)) as (a, _):
        call = a.rpc_async("worker1", max, (1, 2))
        a.rpc_notify("worker1", intercepted.note, ("in time",))

    assert await call == 2
    assert ["in time"] == log


async def test_shutdown_at_once_ends_chains() -> None:
    """Nothing waits for an interceptor that would go on for ever."""

    async def never(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        log.append("waits")
        return await asyncio.Event().wait()

    async with group(2, Out(never)) as (a, _):
        call = a.rpc_async("worker1", max, (1, 2), timeout=None)
        await until(lambda: log)
        await a.shutdown(graceful=False)
        with pytest.raises(rpc.NotInitializedError):
            await call


async def test_options_take_interceptors_only() -> None:
    """A class, a single one and others are refused by name and value."""
    wrong: list[Any] = [Recorder(), [Recorder], [None], "x", None, 1]
    for value in wrong:
        with pytest.raises(ValueError, match="interceptors must be"):
            rpc.RpcOptions(interceptors=value)

    assert len(rpc.RpcOptions(interceptors=[Recorder()]).interceptors) == 1


async def test_a_failure_that_nobody_looked_at_is_reported_at_once() -> None:
    """As for a plain call: when the future goes, without the help of the garbage collector."""
    reports: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reports.append(repr(context["future"])))
    gc.disable()
    try:
        async with group(2, rpc.Interceptor()) as (a, _):
            future = a.rpc_async("worker1", intercepted.fail)
            await until(future.done)
            await asyncio.sleep(0)
            del future
            await until(lambda: reports)
    finally:
        gc.enable()
        loop.set_exception_handler(before)

    assert 1 == len(reports)
    assert "test_intercepting.py" in reports[0]
