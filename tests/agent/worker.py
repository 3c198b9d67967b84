"""A worker process for tests: joins the group of its environment, then does what stdin says.

Each line of stdin is a command: ``graceful`` or ``now`` shuts down so, ``leave SECONDS`` gracefully
with a timeout, ``block SECONDS`` blocks the loop, ``call NAME`` calls a worker, ``monitor NAME``
tells what becomes of one from there on. Progress goes to stdout, a line each.
"""

from __future__ import annotations

import ast
import asyncio
import os
import sys
import time

import asyncrpc as rpc


async def main() -> None:
    """Serve until told otherwise."""
    options = rpc.RpcOptions(**ast.literal_eval(os.environ.get("WORKER_OPTIONS", "{}")))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        await rpc.init_rpc(options=options)
    except Exception as error:
        say(f"{type(error).__name__}: {error}")
        return
    say("ready")
    monitors = []
    while line := (await reader.readline()).decode().split():
        if line[0] == "block":
            say("blocking")
            time.sleep(float(line[1]))
            say("back")
        elif line[0] == "call":
            await call(line[1])
        elif line[0] == "monitor":
            monitors.append(asyncio.create_task(monitor(line[1])))
        else:
            await leave(line)
            return


async def call(name: str) -> None:
    """Call a worker, and say how that ended."""
    try:
        say(str(await rpc.rpc_async(name, "os:getpid")))
    except Exception as error:
        say(f"{type(error).__name__}: {error}")


async def monitor(name: str) -> None:
    """Say what becomes of a worker."""
    async for event in rpc.monitor(name):
        say(f"{event.worker.name} {event.kind} {event.reason}".strip())
    say("monitor ended")


async def leave(line: list[str]) -> None:
    """Shut down as the command says."""
    say("leaving")
    timeout = float(line[1]) if line[1:] else None
    try:
        await rpc.shutdown(graceful=line[0] != "now", timeout=timeout)
    except Exception as error:
        say(f"{type(error).__name__}: {error}")
    say("left")


def say(text: str) -> None:
    """Tell the test."""
    print(text, flush=True)


if __name__ == "__main__":
    if os.environ.get("WORKER_LOOP") == "asyncio":
        asyncio.run(main())
    else:
        rpc.run(main())
