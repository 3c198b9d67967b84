"""One worker of a large group: joins, waits until all are there, passes a barrier, leaves."""

from __future__ import annotations

import asyncio
import os

import asyncrpc as rpc


async def main() -> None:
    """Meet everybody, once."""
    count = int(os.environ["WORKERS"])
    async with rpc.init_rpc() as agent:
        async for _ in rpc.monitor():
            if len(rpc.get_worker_infos()) == count:
                break
        print(f"{len(rpc.get_worker_infos())} members", flush=True)
        await rpc.barrier([f"worker{rank}" for rank in range(count)], timeout=180)
        print("passed", flush=True)
        if "WORLD_SIZE" not in os.environ:  # a dynamic group's members leave one by one
            await asyncio.sleep(0.02 * agent.info.id)


rpc.run(main())
