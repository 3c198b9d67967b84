"""The short path of a plain call does by hand what the longer ways do, and no less."""

from __future__ import annotations

import pytest

from asyncrpc.execution import ServedCall, Target, TargetKind, current_call
from asyncrpc.testing import cluster

pytestmark = pytest.mark.asyncio


async def attributes() -> list[str]:
    """Return the names of what the call that is served has of its own."""
    return sorted(vars(current_call.get()))


async def test_a_served_call_is_as_its_constructor_makes_it() -> None:
    """`Server.request` sets what `ServedCall.__init__` would set, and all of it."""
    async with cluster(2) as (a, b):
        found = await a.rpc_async("worker1", attributes)
        target = Target(TargetKind.ASYNC, attributes, "attributes")
        made = ServedCall(b._agent, 0, target, 0.0, 1, reply=1)  # type: ignore[arg-type]  # anything

    assert sorted(vars(made)) == found
