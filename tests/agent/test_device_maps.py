"""Device maps: where tensors go; runs where torch is installed.

This machine may have no other device than main memory. torch's device "meta", which keeps shapes
and no data, stands for one at the destination.
"""

from __future__ import annotations

from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.agent import targets

torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")
pytestmark = [pytest.mark.asyncio, pytest.mark.slow]


async def device_of(tensor: Any) -> str:
    """Return where a tensor came to be."""
    return str(tensor.device)


async def test_tensors_go_where_the_map_says() -> None:
    """By destination: an argument by the caller's map, a result by the callee's."""
    mine = rpc.RpcOptions(device_maps={"worker1": {"cpu": "meta"}})
    async with cluster(3, options=[mine, rpc.RpcOptions(), rpc.RpcOptions()]) as (a, b, _):
        mapped = await a.rpc_async("worker1", device_of, args=(torch.ones(2),))
        parameter = await a.rpc_async(
            "worker1", device_of, args=(torch.nn.Parameter(torch.ones(2)),)
        )
        other = await a.rpc_async("worker2", device_of, args=(torch.ones(2),))
        plain = await a.rpc_async("worker2", targets.echo, args=(torch.ones(2),))
        returned = await b.rpc_async("worker0", targets.echo, args=(torch.ones(2),))

    assert ["meta", "meta", "cpu", "meta"] == [mapped, parameter, other, str(returned.device)]
    assert torch.equal(torch.ones(2), plain)
    assert (2,) == returned.shape


async def test_without_a_map_they_are_refused() -> None:
    """A tensor off the CPU does not travel by chance; nor does one whose device is not there."""
    maps = {"worker1": {"cpu": "cuda:99"}}
    async with cluster(2, options=[rpc.RpcOptions(device_maps=maps), rpc.RpcOptions()]) as (a, _):
        with pytest.raises(rpc.EncodingError, match="travels only where device_maps names"):
            a.rpc_async("worker1", device_of, args=(torch.ones(2, device="meta"),))
        with pytest.raises(rpc.EncodingError, match="cannot be put on device 'cuda:99'"):
            await a.rpc_async("worker1", device_of, args=(torch.ones(2),))
