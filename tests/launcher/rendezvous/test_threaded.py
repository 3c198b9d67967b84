"""`launcher.rendezvous.threaded`: handlers whose methods block, as torch's, in real launches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from asyncrpc.store import MemoryStore
from launcher import LaunchConfig, LauncherError, launch_agent
from launcher.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStateError,
    RendezvousStoreInfo,
    get_rendezvous_handler,
    register,
    unregister,
)
from launcher.rendezvous.threaded import ThreadedHandler

pytestmark = pytest.mark.asyncio


class Meeting:
    """Where blocking handlers meet: values of a store, and who has come."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.values: dict[str, bytes] = {}
        self.came = 0
        self.shutdowns = 0


class Client:
    """A client of the store, as torch's: it does one thing at a time.

    Args:
        meeting: has the values.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self.busy = threading.Lock()

    def set(self, key: str, value: str | bytes) -> None:
        """Set a key."""
        with self.busy, self.meeting.changed:
            self.meeting.values[key] = value.encode() if isinstance(value, str) else value
            self.meeting.changed.notify_all()

    def get(self, key: str) -> bytes:
        """Wait for a key."""
        values = self.meeting.values
        with self.busy, self.meeting.changed:
            self.meeting.changed.wait_for(lambda: key in values, 5)
            return values[key]


class Blocking:
    """A handler as torch's: every method blocks.

    Args:
        params: of the run.
        meeting: where nodes meet.
    """

    use_agent_store = True

    def __init__(self, params: RendezvousParameters, meeting: Meeting) -> None:
        self.params = params
        self.meeting = meeting

    def get_backend(self) -> str:
        """Name the backend."""
        return self.params.backend

    def get_run_id(self) -> str:
        """Name the run."""
        return self.params.run_id

    def next_rendezvous(self) -> Any:
        """Wait until enough have come."""
        meeting, nodes = self.meeting, self.params.min_nodes
        with meeting.changed:
            rank = meeting.came
            meeting.came += 1
            meeting.changed.notify_all()
            meeting.changed.wait_for(lambda: meeting.came >= nodes)
        where = SimpleNamespace(master_addr="127.0.0.1", master_port="29500")
        return SimpleNamespace(
            store=Client(meeting), rank=rank, world_size=nodes, bootstrap_store_info=where
        )

    async def is_closed(self) -> bool:
        """Say that it goes on, by a coroutine function, as none of torch's is."""
        return False

    def set_closed(self) -> None:
        """Change nothing."""

    def num_nodes_waiting(self) -> int:
        """Count nobody."""
        return 0

    def shutdown(self) -> bool:
        """Note it."""
        self.meeting.shutdowns += 1
        return True


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    """Return where the handlers of the backend "blocking" meet."""
    meeting = Meeting()
    register("blocking", lambda params: Blocking(params, meeting))  # type: ignore[arg-type, return-value]  # as torch's users do
    yield meeting
    unregister("blocking")


def config(nodes: int) -> LaunchConfig:
    """Return how to launch two workers on each node."""
    return LaunchConfig(nodes, nodes, 2, rdzv_backend="blocking", run_id="r", max_restarts=0)


@pytest.mark.slow
async def test_nodes_meet_by_a_handler_that_blocks(meeting: Meeting) -> None:
    """Ranks are given out by its store; workers are told that they are its clients."""
    told = "$TORCHELASTIC_USE_AGENT_STORE $MASTER_PORT ${LAUNCHER_STORE-none}"
    script = ("-c", f'[ "{told}" = "True 29500 none" ]')
    values = await asyncio.gather(*(launch_agent(config(2), "sh", script) for _ in range(2)))

    assert sorted(rank for each in values for rank in each) == [0, 1, 2, 3]
    assert meeting.shutdowns == 2


@pytest.mark.slow
async def test_a_wait_for_nodes_can_be_given_up(meeting: Meeting) -> None:
    """Its thread ends whenever it does."""
    launch = asyncio.create_task(launch_agent(config(2), "true"))
    while not meeting.came:
        await asyncio.sleep(0.01)
    launch.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(launch, return_exceptions=True)

    assert launch.cancelled()
    with meeting.changed:
        meeting.came = 2
        meeting.changed.notify_all()


def handler_of(next_rendezvous: Any) -> RendezvousHandler:
    """Return the adapter of a handler that does something else in its rounds."""
    handler = Blocking(RendezvousParameters("blocking", "", "r", 1, 1), Meeting())
    handler.next_rendezvous = next_rendezvous  # type: ignore[method-assign]  # another's
    return ThreadedHandler(handler)


async def test_its_errors_are_ours_by_name() -> None:
    """Torch's are not known here; what else it raises is raised."""

    class Foreign(Exception): ...

    def fail(error: Exception) -> Any:
        raise error

    theirs = type("RendezvousClosedError", (Foreign,), {})
    with pytest.raises(RendezvousClosedError, match="over"):
        await handler_of(lambda: fail(theirs("over"))).next_rendezvous()
    with pytest.raises(Foreign, match="x"):
        await handler_of(lambda: fail(Foreign("x"))).next_rendezvous()
    assert issubclass(RendezvousClosedError, LauncherError)


async def test_a_round_without_a_place_for_rank_0_is_refused() -> None:
    """Torch's type allows it, and fails on it."""
    nowhere = SimpleNamespace(store=None, rank=0, world_size=1, bootstrap_store_info=None)
    with pytest.raises(RendezvousStateError, match="blocking says of no round where rank 0 is"):
        await handler_of(lambda: nowhere).next_rendezvous()


async def test_a_store_that_fails_is_an_error_of_the_rendezvous() -> None:
    """Whatever its own errors are."""
    where = SimpleNamespace(master_addr="127.0.0.1", master_port=1)
    broken = SimpleNamespace(store=None, rank=0, world_size=2, bootstrap_store_info=where)
    info = await handler_of(lambda: broken).next_rendezvous()

    with pytest.raises(RendezvousConnectionError, match="the round's store failed: 'NoneType' obj"):
        await info.store.set("a", b"1")


async def test_a_handler_of_ours_is_left_as_it_is() -> None:
    """It blocks nothing."""
    parameters = RendezvousParameters("tcp", "", "run", 1, 1, secret=b"s" * 32)

    assert not isinstance(get_rendezvous_handler(parameters), ThreadedHandler)


@pytest.mark.slow
async def test_a_handler_of_our_class_may_have_methods_that_block() -> None:
    """As one has that was written for torch, but for its base class."""

    class Ported(RendezvousHandler):
        def __init__(self, params: RendezvousParameters) -> None:
            self.run_id = params.run_id

        def get_backend(self) -> str:
            return "ported"

        def get_run_id(self) -> str:
            return self.run_id

        def next_rendezvous(self) -> RendezvousInfo:  # type: ignore[override]  # plain, as torch's
            return RendezvousInfo(
                MemoryStore(), 0, 1, RendezvousStoreInfo("127.0.0.1", 29500), round=3
            )

        def is_closed(self) -> bool:  # type: ignore[override]  # plain, as torch's
            return False

        def set_closed(self) -> None:  # type: ignore[override]  # plain, as torch's
            pass

        def num_nodes_waiting(self) -> int:  # type: ignore[override]  # plain, as torch's
            return 0

        def shutdown(self) -> bool:  # type: ignore[override]  # plain, as torch's
            return True

    register("ported", Ported)
    try:
        values = await launch_agent(
            LaunchConfig(1, 1, 1, rdzv_backend="ported", run_id="r", max_restarts=0),
            "sh",
            ("-c", "[ $TORCHELASTIC_RUN_ID$LAUNCHER_ROUND = r3 ]"),
        )
    finally:
        unregister("ported")

    assert values == {0: None}


async def test_what_else_it_is_asked(meeting: Meeting) -> None:
    """Each by a thread of its own."""
    handler = get_rendezvous_handler(RendezvousParameters("blocking", "", "r", 1, 1))

    assert not await handler.is_closed()
    await handler.set_closed()
    assert await handler.num_nodes_waiting() == 0
    assert await handler.shutdown()
    assert meeting.shutdowns == 1
