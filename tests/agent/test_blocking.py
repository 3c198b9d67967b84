"""`Blocked`, of which rpc_sync is made: a thread never waits for a loop that is gone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.agent import Blocked, blocking
from asyncrpc.testing import cluster
from tests.agent import targets


def test_loop_that_is_closed_without_a_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a call hears of it when the loop is closed; who comes later, at once."""
    monkeypatch.setattr(blocking, "_LOOK", 0.01)
    loop = asyncio.new_event_loop()
    errors: list[BaseException] = []
    never: list[asyncio.Future[Any]] = []

    def start() -> Any:
        never.append(loop.create_future())
        loop.call_soon(loop.stop)
        return never[0]

    def wait() -> None:
        try:
            Blocked(loop).run(start)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    loop.run_forever()
    loop.close()
    thread.join(5)
    with pytest.raises(rpc.NotInitializedError, match="the loop that ran init_rpc is closed"):
        Blocked(loop).run(start)

    assert [rpc.NotInitializedError] == [type(error) for error in errors]


@pytest.mark.asyncio
async def test_interrupted_before_the_call_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is interrupted at once leaves no call behind."""
    async with cluster(2) as (a, _):

        def interrupt(self: Blocked) -> Any:
            raise KeyboardInterrupt

        def wait() -> str:
            try:
                a.rpc_sync("worker1", targets.sleep, (1000,))
            except KeyboardInterrupt:
                return "interrupted"
            return "over"

        with monkeypatch.context() as patch:
            patch.setattr(Blocked, "_outcome", interrupt)
            ended = await asyncio.to_thread(wait)

    assert "interrupted" == ended
