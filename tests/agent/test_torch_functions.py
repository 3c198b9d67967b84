"""torch's ScriptFunctions and builtins count as script functions; runs where torch is installed."""

from __future__ import annotations

import math
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import asyncrpc as rpc
from asyncrpc.testing import cluster

torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")
pytestmark = [pytest.mark.asyncio, pytest.mark.slow]


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch's users have them all the same

    @torch.jit.script
    def weigh(a: torch.Tensor, times: int = 2) -> torch.Tensor:
        """Multiply."""
        return a * times


@pytest_asyncio.fixture
async def watched() -> AsyncIterator[tuple[Any, Any]]:
    """Two workers, and the types of the calls that the first one makes."""
    plan = rpc.FaultPlan(
        [rpc.Fault("delay", message=kind) for kind in ("SCRIPT_CALL", "PYTHON_CALL")]
    )
    async with cluster(2, faults=[plan, None]) as (a, _):
        yield a, plan


async def test_they_travel_as_script_calls(watched: Any) -> None:
    """By name and schema: nothing of them is pickled."""
    agent, plan = watched
    weighed = await agent.rpc_async("worker1", weigh, args=(torch.ones(2),))
    tripled = await agent.rpc_async("worker1", weigh, args=(torch.ones(2),), kwargs={"times": 3})
    added = await agent.rpc_async("worker1", torch.add, args=(torch.ones(2), 1))

    assert torch.equal(torch.full((2,), 2.0), weighed)
    assert torch.equal(torch.full((2,), 3.0), tripled)
    assert torch.equal(torch.full((2,), 2.0), added)
    assert ["SCRIPT_CALL"] * 3 == [event.message for event in plan.events]


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'a'"),
        (("x",), {}, "argument 'a' must be Tensor, got str"),
        ((torch.ones(1),), {"wrong": 1}, "unexpected keyword argument 'wrong'"),
        ((torch.ones(1), 1, 2), {}, "takes 2 positional arguments but 3 were given"),
    ],
)
async def test_wrong_arguments_are_not_sent(
    watched: Any, args: Any, kwargs: Any, text: str
) -> None:
    """They fail at the call, as the reference's do."""
    agent, plan = watched

    with pytest.raises(TypeError, match=text):
        agent.rpc_async("worker1", weigh, args=args, kwargs=kwargs)
    with pytest.raises(TypeError, match=r"torch function aten::add \(\d+ overloads\)"):
        agent.rpc_async("worker1", torch.add)
    assert [] == list(plan.events)


async def test_others_are_unknown(watched: Any) -> None:
    """A name that torch does not have is an error of the callee's; python functions are plain."""
    agent, plan = watched

    with pytest.raises(rpc.FunctionNotFoundError, match="no script function"):
        await agent.rpc_async("worker1", "__torch__")
    assert 3 == await agent.rpc_async("worker1", max, args=(1, 3))
    assert 2.0 == await agent.rpc_async("worker1", math.sqrt, args=(4,))  # torch knows it, too
    assert "PYTHON_CALL" == [event.message for event in plan.events][-1]
