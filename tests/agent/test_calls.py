"""A call reaches its function and comes back with its result, its error, or the truth about it."""

from __future__ import annotations

import asyncio
import functools
import gc
import pathlib
import threading
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import producers, targets

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    targets.log.clear()


async def test_destinations() -> None:
    """A worker is named by its name, its id or its WorkerInfo, itself included."""
    async with cluster(2) as (a, b):
        places = ("worker1", 1, b.info, "worker0", 0, a.info)
        answers = [await a.rpc_async(to, targets.who) for to in places]

    assert [("worker1", "worker0")] * 3 + [("worker0", "worker0")] * 3 == answers


@pytest.mark.parametrize("to", [1.0, True, None, b"worker1"])
async def test_bad_destination(to: Any) -> None:
    """A destination of another type is a ValueError at the call."""
    async with cluster(2) as (a, _):
        with pytest.raises(ValueError, match="Cannot get WorkerInfo from name"):
            a.rpc_async(to, targets.who)


@pytest.mark.parametrize("to", ["nope", 7, -1, rpc.WorkerInfo("worker1", 5)])
async def test_unknown_destination(to: Any) -> None:
    """An unknown worker is an error at the call that says that it was not found."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.UnknownWorkerError, match="could not find destination") as caught:
            a.rpc_async(to, targets.who)

    assert (rpc.StatusCode.NOT_FOUND, rpc.Delivery.NOT_SENT) == (
        caught.value.code,
        caught.value.delivery,
    )


@pytest.mark.parametrize(
    ("size", "known"),
    [
        (2, "worker0, worker1"),
        (12, f"{', '.join(f'worker{n}' for n in range(10))} and 2 more"),
    ],
)
async def test_unknown_destination_names_the_known(size: int, known: str) -> None:
    """The error of a name that nobody has lists those that somebody has, by id; ten at most."""
    async with cluster(size) as agents:
        with pytest.raises(rpc.UnknownWorkerError) as caught:
            agents[1].rpc_async("worker99", targets.who)

    assert (
        f"name:worker1,rank:1 could not find destination worker99; the workers it knows are {known}"
    ) == str(caught.value)


async def test_kinds_of_function() -> None:
    """Functions, builtins, classes, methods, partials and names can all be called."""
    async with cluster(2) as (a, _):

        async def call(func: Any, *args: object, **kwargs: object) -> Any:
            return await a.rpc_async("worker1", func, args=args, kwargs=kwargs)

        counter = targets.Counter(5)
        answers = [
            await call(targets.add, 1),
            await call(targets.add, a=1, b=2),
            await call(min, 3, 2),
            await call(counter.plus, 2),
            await call(targets.Counter.make, 3),
            await call(targets.Counter.twice, 4),
            await call(functools.partial(targets.add, b=7), 1),
            await call(f"{targets.__name__}:add", 1, 1),
            (await call(targets.Counter, 9)).value,
        ]

    assert [11, 3, 2, 7, "Counter3", 8, 8, 2, 9] == answers


async def test_where_functions_run() -> None:
    """A def runs in a pool thread, an inline one on the loop, and an awaitable is awaited."""
    async with cluster(2) as (a, _):
        thread = await a.rpc_async("worker1", targets.block, args=(0,))
        inline = await a.rpc_async("worker1", targets.inline_thread)
        forwarded = await a.rpc_async("worker1", targets.forward, args=("worker0", [1]))
        with pytest.raises(TypeError, match=r"must return an awaitable, but got builtins\.int"):
            await a.rpc_async("worker1", targets.not_awaitable)

    assert "asyncrpc-worker1" in thread
    assert threading.get_ident() == inline
    assert [1] == forwarded


async def test_many_at_once() -> None:
    """A thousand calls in flight each get their own result."""
    async with cluster(2) as (a, _):
        results = await asyncio.gather(
            *[a.rpc_async("worker1", targets.echo, args=({"i": i},)) for i in range(1000)]
        )

    assert [{"i": i} for i in range(1000)] == results


async def test_awaited_again() -> None:
    """A call can be awaited any number of times, with the same result or error."""
    async with cluster(2) as (a, _):
        good = a.rpc_async("worker1", targets.add, args=(1,))
        bad = a.rpc_async("worker1", targets.fail, args=("x",))
        results = [await good for _ in range(20)]
        for _ in range(20):
            with pytest.raises(ValueError, match="x"):
                await bad

    assert [11] * 20 == results


@pytest.mark.parametrize("kind", ["call", "retried", "hedged", "method", "fetch", "stream"])
async def test_an_outcome_is_the_callees(kind: str) -> None:
    """Nobody else sets it: the reply would find the future done, and its link would break."""
    async with cluster(2) as (a, _):
        future: asyncio.Future[Any]
        if kind == "method":
            future = a.remote("worker1", targets.Counter, args=(1,)).rpc_async().plus(1)
        elif kind == "fetch":
            future = a.remote("worker1", min, args=(2, 3)).to_here()
        elif kind == "hedged":
            future = a.rpc_hedged(["worker1"], min, args=(2, 3), delay=1)
        elif kind == "stream":
            stream = a.rpc_stream("worker1", producers.give, args=(1, 2))
            future = stream.ended
        else:
            retry = rpc.RetryPolicy() if kind == "retried" else None
            future = a.rpc_async("worker1", min, args=(2, 3), retry=retry)
        with pytest.raises(RuntimeError, match=r"set_result\(\) is not for <RpcFuture pending"):
            future.set_result(7)
        with pytest.raises(RuntimeError, match=r"set_exception\(\) is not for <RpcFuture pen"):
            future.set_exception(OSError())
        assert not future.done()
        assert 2 == await future
        with pytest.raises(asyncio.InvalidStateError, match="it has its outcome"):
            future.set_result(7)
        assert 2 == await a.rpc_async("worker1", min, args=(2, 3))
        late = a.rpc_async("worker1", targets.sleep, args=(30,))
        with pytest.raises(RuntimeError):
            late.set_result(None)
        assert late.cancel()
        assert late.cancelled()


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan"), "3", True])
async def test_bad_timeout(timeout: Any) -> None:
    """A timeout that is negative, nan or no number is refused at the call."""
    async with cluster(1) as (a,):
        with pytest.raises(ValueError, match=r"^timeout must be"):
            a.rpc_async("worker0", targets.who, timeout=timeout)


@pytest.mark.parametrize("idempotent", ["yes", 1, None])
async def test_idempotent_is_a_bool(idempotent: Any) -> None:
    """A policy, or a timeout, that slipped into its place is not taken for true."""
    async with cluster(2) as (a, _):
        with pytest.raises(ValueError, match="idempotent must be a bool"):
            a.rpc_async("worker1", targets.who, idempotent=idempotent)
        with pytest.raises(ValueError, match="idempotent must be a bool"):
            a.rpc_any(["worker1"], targets.who, idempotent=idempotent)


async def test_timeout_on_virtual_clock() -> None:
    """A call fails exactly when its time is over, and its function is cancelled."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.sleep, args=(1000,), timeout=5)
        await clock.advance(4.999)
        early = call.done()
        await clock.advance(0.002)
        text = r"RPC ran for more than set timeout \(5 s\)"
        with pytest.raises(rpc.RpcTimeoutError, match=text) as caught:
            await call
        await clock.advance(0)

        assert not early
        assert ("execute", rpc.Delivery.UNKNOWN) == (caught.value.phase, caught.value.delivery)
        assert ["cancelled"] == targets.log


async def test_tiny_timeout() -> None:
    """Half a millisecond is a real deadline."""
    async with cluster(2) as (a, _):
        with pytest.raises(TimeoutError, match=r"0\.0005 s"):
            await a.rpc_async("worker1", targets.sleep, args=(1000,), timeout=0.0005)


async def test_default_timeout() -> None:
    """The default applies to later calls only; 0 and None mean no limit."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, _):
        before = a.rpc_async("worker1", targets.sleep, args=(1000,))
        a.set_rpc_timeout(1)
        after = a.rpc_async("worker1", targets.sleep, args=(1000,))
        unlimited = a.rpc_async("worker1", targets.sleep, args=(1000,), timeout=0)
        await clock.advance(2)
        done = [before.done(), after.done(), unlimited.done()]
        after.exception()
        before.cancel()
        unlimited.cancel()

        assert [False, True, False] == done
        assert 1 == a.get_rpc_timeout()


async def test_deadline_travels() -> None:
    """A nested call has at most the time of the call it serves, unless it is detached."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (a, _, _):
        capped = await a.rpc_async(1, targets.left_nested, args=("worker2", False), timeout=30)
        free = await a.rpc_async(1, targets.left_nested, args=("worker2", True), timeout=30)
        outside = rpc.remaining()

    assert 30 == pytest.approx(capped)
    assert (None, None) == (free, outside)


async def test_cancel_reaches_the_callee() -> None:
    """Cancelling a call, or the task that awaits it, cancels the function."""
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", targets.sleep, args=(1000,))
        while b.debug_info()["agent.server_active_calls"] != "1":
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await a.rpc_async("worker1", targets.sleep, args=(1000,))
        await b._agent.wait_idle()

        assert ["cancelled", "cancelled"] == targets.log


async def test_cancel_before_the_write() -> None:
    """A call cancelled in the turn in which it was made never reaches its function."""
    async with cluster(2) as (a, b):
        await a.rpc_async("worker1", targets.add, args=(1,))
        served = b._agent.served
        call = a.rpc_async("worker1", targets.sleep, args=(0,))
        call.cancel()
        await a.rpc_async("worker1", targets.add, args=(1,))

        assert served + 1 == b._agent.served
        assert [] == targets.log


async def test_cancel_overtakes_request() -> None:
    """A cancel that comes before its request still stops it."""
    async with cluster(2) as (a, b):
        await a.rpc_async("worker1", targets.add, args=(1,))
        link = a._agent.members.route(1).connection
        assert link is not None
        following = a.rpc_async("worker1", targets.add, args=(1,)).call_id + 1
        link.cancel(following)
        stopped = a.rpc_async("worker1", targets.sleep, args=(0,), timeout=0.05)
        with pytest.raises(rpc.RpcTimeoutError):
            await stopped
        await b._agent.wait_idle()

        assert following == stopped.call_id
        assert [] == targets.log


async def test_nested_blocking_calls() -> None:
    """Plain functions may call back and forth with rpc_sync."""
    async with cluster(2) as (a, _):
        depth = await a.rpc_async("worker1", targets.nested_sync, args=("worker0", 6))

    assert 6 == depth


async def test_timeouts_while_all_threads_block() -> None:
    """With every thread busy, deadlines, cancels and async functions go on working."""
    options = rpc.RpcOptions(num_worker_threads=2)
    async with cluster(2, options=options) as (a, _):
        blocked = [a.rpc_async("worker1", targets.block, args=(0.3,)) for _ in range(4)]
        assert 1 == await a.rpc_async("worker1", targets.echo, args=(1,))
        with pytest.raises(rpc.RpcTimeoutError):
            await a.rpc_async("worker1", targets.block, args=(0,), timeout=0.05)
        await asyncio.gather(*blocked)


async def test_rpc_sync() -> None:
    """rpc_sync blocks any thread but the loop's own, where it is refused at once."""
    async with cluster(2) as (a, _):
        with pytest.raises(RuntimeError, match="would block the loop"):
            a.rpc_sync("worker1", targets.add, args=(1,))
        result = await asyncio.to_thread(a.rpc_sync, "worker1", targets.add, (1,))
        with pytest.raises(ValueError, match="from a thread"):
            await asyncio.to_thread(a.rpc_sync, "worker1", targets.fail, ("from a thread",))
        with pytest.raises(RuntimeError, match="use rpc_sync"):
            await asyncio.to_thread(a.rpc_async, "worker1", targets.add, (1,))

    assert 11 == result


async def test_notify() -> None:
    """A one-way call runs; its error stays with the callee."""
    async with cluster(2) as (a, b):
        a.rpc_notify("worker1", targets.sleep, args=(0,))
        a.rpc_notify("worker1", targets.fail, args=("logged there",))
        await a.rpc_async("worker1", targets.add, args=(1,))
        await b._agent.wait_idle()

        assert ["slept"] == targets.log


async def test_unseen_failure_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """A failed call that nobody looked at is reported with function and call site."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    async with cluster(2) as (a, _):
        call = a.rpc_async("worker1", targets.fail, args=("nobody looks",))
        await asyncio.wait([call])
        del call
        gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)

    assert 1 == len(reports)
    assert f"{targets.__name__}:fail" in repr(reports[0]["future"])
    assert "test_calls.py" in repr(reports[0]["future"])


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (KeyboardInterrupt("x"), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit"),
        (GeneratorExit(), "GeneratorExit"),
        (TimeoutError("x"), "TimeoutError"),
        (asyncio.CancelledError("x"), "CancelledError"),
    ],
)
async def test_control_flow_errors(error: BaseException, name: str) -> None:
    """Errors that the caller could take for its own arrive as RemoteError; the callee serves on."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.RemoteError) as caught:
            await a.rpc_async("worker1", targets.raise_it, args=(error,))
        with pytest.raises(rpc.RemoteError):
            await a.rpc_async("worker1", targets.cancel_itself)
        assert 11 == await a.rpc_async("worker1", targets.add, args=(1,))

    assert caught.value.type_name.endswith(name)
    assert rpc.Delivery.EXECUTED is caught.value.delivery


async def test_wrong_arity() -> None:
    """Arguments that do not fit are the callee's TypeError."""
    async with cluster(2) as (a, _):
        with pytest.raises(TypeError, match="argument"):
            await a.rpc_async("worker1", targets.add, args=(1, 2, 3))


async def test_encoding_errors_at_the_call() -> None:
    """What cannot travel is refused at the call, by its path."""
    loop: list[object] = []
    loop.append(loop)
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.EncodingError, match=r"args\[1\]\['x'\]"):
            a.rpc_async("worker1", targets.add, args=(1, {"x": lambda: 0}))
        with pytest.raises(rpc.EncodingError):
            a.rpc_async("worker1", targets.echo, args=(loop,))
        with pytest.raises(rpc.EncodingError):
            a.rpc_async("worker1", lambda: 0)
        with pytest.raises(TypeError, match="args must be a tuple"):
            a.rpc_async("worker1", targets.echo, args=5)  # type: ignore[arg-type]
        assert "0" == a.debug_info()["num_pending_futures"]


async def test_result_that_cannot_travel() -> None:
    """A result that cannot be encoded is an error of the call, which did run."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.EncodingError) as caught:
            await a.rpc_async("worker1", threading.Lock)

    assert rpc.Delivery.EXECUTED is caught.value.delivery


async def test_traceback_of_a_result_that_cannot_travel_is_about_the_result() -> None:
    """What a coroutine function returned is not shown as an error that came before."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.EncodingError, match="result cannot be encoded") as caught:
            await a.rpc_async("worker1", targets.lock)

    remote = str(caught.value.__cause__)
    assert "cannot pickle" in remote
    assert "StopIteration" not in remote
    assert "During handling" not in remote


async def test_function_not_found() -> None:
    """A function that the callee does not have is named, and did not run."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.FunctionNotFoundError, match="no_such_module") as caught:
            await a.rpc_async("worker1", "no_such_module:f")
        with pytest.raises(rpc.FunctionNotFoundError, match="nope"):
            await a.rpc_async("worker1", f"{targets.__name__}:nope")

    assert rpc.Delivery.NOT_SENT is caught.value.delivery
    assert str(caught.value.__cause__).startswith("On worker1\n")


async def test_expose() -> None:
    """With expose only what is listed can be called, and pickle is off."""
    options = rpc.RpcOptions(expose=(targets.add,))
    async with cluster(2, options=options) as (a, _):
        assert 11 == await a.rpc_async("worker1", targets.add, args=(1,))
        with pytest.raises(rpc.PermissionDeniedError, match="echo") as caught:
            await a.rpc_async("worker1", targets.echo, args=(1,))
        with pytest.raises(rpc.PermissionDeniedError):
            await a.rpc_async("worker1", eval, args=("1",))
        with pytest.raises(rpc.EncodingError):
            a.rpc_async("worker1", targets.add, args=(threading.Thread(),))

    assert rpc.Delivery.NOT_SENT is caught.value.delivery


async def test_large_and_small_interleave() -> None:
    """A small call passes a large one, and both arrive whole."""
    np = pytest.importorskip("numpy", reason="needs numpy, of the extra test")
    array = np.arange(4 << 20, dtype="u1").reshape(4, -1)
    async with cluster(2) as (a, _):
        large = a.rpc_async("worker1", targets.echo, args=(array,))
        small = a.rpc_async("worker1", targets.echo, args=("small",))
        assert "small" == await small
        assert not large.done()
        echoed = await large

    assert (array == echoed).all()
    assert array.dtype == echoed.dtype


async def test_message_too_large() -> None:
    """A message above the limit is refused by its sender, argument and result alike."""
    options = rpc.RpcOptions(limits=rpc.Limits(max_message_size=1 << 20))
    async with cluster(2, options=options) as (a, _):
        with pytest.raises(rpc.MessageTooLargeError, match="max_message_size 1048576"):
            await a.rpc_async("worker1", targets.echo, args=(bytes(2 << 20),))
        with pytest.raises(rpc.MessageTooLargeError, match="max_message_size"):
            await a.rpc_async("worker1", bytes, args=(2 << 20,))
        assert 1 == await a.rpc_async("worker1", targets.echo, args=(1,))


async def test_admission_waits_in_order() -> None:
    """Calls beyond the limit wait for a place and all run."""
    options = rpc.RpcOptions(limits=rpc.Limits(max_inflight=4))
    async with cluster(2, options=options) as (a, b):
        calls = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(100)]
        most = int(a.debug_info().get("peer.worker1.inflight", "0"))
        results = await asyncio.gather(*calls)

        assert list(range(100)) == results
        assert most <= 4
        assert "0" == b.debug_info()["agent.server_active_calls"]


async def test_admission_errors() -> None:
    """A full peer refuses with RESOURCE_EXHAUSTED, NOT_SENT, when told to; so does a full queue."""
    limits = rpc.Limits(max_inflight=1, on_full="error")
    async with cluster(2, options=rpc.RpcOptions(limits=limits)) as (a, _):
        await a.rpc_async("worker1", targets.echo, args=(1,))
        first = a.rpc_async("worker1", targets.sleep, args=(0.05,))
        with pytest.raises(rpc.ResourceExhaustedError) as caught:
            await a.rpc_async("worker1", targets.echo, args=(1,))
        await first
    limits = rpc.Limits(max_inflight=1, max_queued=1)
    async with cluster(2, options=rpc.RpcOptions(limits=limits)) as (a, _):
        await a.rpc_async("worker1", targets.echo, args=(1,))
        calls = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(2)]
        with pytest.raises(rpc.ResourceExhaustedError, match="max_queued is 1"):
            await a.rpc_async("worker1", targets.echo, args=(1,))
        await asyncio.gather(*calls)

    assert rpc.Delivery.NOT_SENT is caught.value.delivery


async def test_wait_all() -> None:
    """The scope waits for its calls, raises the first failure, and lets the body's error win."""
    async with cluster(2) as (a, _):
        async with rpc.wait_all():
            calls = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(20)]
        assert [*range(20)] == [call.result() for call in calls]
        with pytest.raises(ValueError, match="first"):
            async with rpc.wait_all():
                hanging = a.rpc_async("worker1", targets.sleep, args=(1000,))
                a.rpc_async("worker1", targets.fail, args=("first",))
        assert not hanging.done()
        hanging.cancel()
        with pytest.raises(KeyError):
            async with rpc.wait_all():
                a.rpc_async("worker1", targets.fail, args=("second",))
                raise KeyError("body")


async def test_cancelling_wait_all_cancels_its_calls() -> None:
    """Whoever gives up a scope gives up the calls in it, in its body or at its end."""
    async with cluster(2) as (a, b):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), rpc.wait_all():
                a.rpc_async("worker1", targets.sleep, args=(1000,))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), rpc.wait_all():
                a.rpc_async("worker1", targets.sleep, args=(1000,))
                await asyncio.sleep(1000)
        await b._agent.wait_idle()

        assert targets.log == ["cancelled", "cancelled"]


async def test_a_pickle_fails_its_call_only() -> None:
    """An argument that needs pickle, sent where pickle is off, fails that call and no other."""
    options = [rpc.RpcOptions(), rpc.RpcOptions(expose=(targets.sleep, targets.echo))]
    async with cluster(2, options=options) as (a, _):
        other = a.rpc_async("worker1", targets.sleep, args=(0.05,))
        with pytest.raises(rpc.EncodingError, match="pickle is off"):
            await a.rpc_async("worker1", targets.echo, args=(pathlib.PurePath,))
        assert await other == "slept"


async def test_remote_tracebacks_show_users_frames() -> None:
    """At every level of nested calls the remote traceback has the user's frames and no others."""
    async with cluster(3) as (a, _, _):
        hops = ["worker2", "worker0", "worker1"]
        with pytest.raises(KeyError) as caught:
            await a.rpc_async("worker1", targets.fail_nested, args=(hops,))
    shown = []
    link = caught.value.__cause__
    while link is not None:
        if isinstance(link, rpc.RemoteTraceback):
            shown.append(str(link))
        link = link.__cause__

    package = str(pathlib.Path(rpc.__file__).parent)
    assert [f"On {name} in {targets.__name__}:fail_nested" for name in ("worker1", *hops)] == [
        text.splitlines()[0].removesuffix("_sync") for text in shown
    ]
    for text in shown:
        frames = [line for line in text.splitlines() if line.startswith('  File "')]
        assert frames
        assert [] == [line for line in frames if "targets.py" not in line or package in line]
