"""`launcher.testing.netlab`: hosts that reach each other, faults between them, nothing left."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import ParamSpec

import pytest

from launcher.testing import NetLab, missing_for_netlab, netlab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_for_netlab()), reason=missing_for_netlab() or "-"),
]

ECHO = """
import socket, sys
server = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", socket.gethostname(), flush=True)
while True:
    connection, _ = server.accept()
    try:
        while data := connection.recv(1 << 16):
            connection.sendall(data)
    except ConnectionError:
        pass
"""

ASK = """
import socket, sys, time
address, size = sys.argv[1], int(sys.argv[2])
begun = time.monotonic()
try:
    with socket.create_connection((address, 7000), timeout=0.4) as connection:
        connection.sendall(bytes(size))
        got = 0
        while got < size and (data := connection.recv(1 << 16)):
            got += len(data)
        print("sum" if got == size else "closed", time.monotonic() - begun, flush=True)
        if "stay" in sys.argv:
            connection.settimeout(20)
            connection.recv(1)
except OSError as error:
    print(type(error).__name__, 0, flush=True)
"""


P = ParamSpec("P")


def once(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run a test on one loop only: it is the kernel that is tested, and it takes its time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def answering() -> AsyncIterator[NetLab]:
    """Give hosts a and b, where b answers with what it is sent."""
    async with NetLab("a", "b") as made:
        server = await start(made, "b", ECHO)
        assert server.stdout is not None
        assert await server.stdout.readline() == b"listening b\n"
        yield made
    await server.wait()


async def start(lab: NetLab, host: str, *argv: str) -> asyncio.subprocess.Process:
    """Start a Python program on a host."""
    command = lab.command(host, sys.executable, "-c", *argv)
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


async def ask(lab: NetLab, address: str = "10.70.0.2", size: int = 10) -> tuple[str, float]:
    """Send something from a to b; return what became of it and how long it took."""
    process = await start(lab, "a", ASK, address, str(size))
    stdout, _ = await process.communicate()
    end, seconds = stdout.decode().split()
    return end, float(seconds)


@once
async def test_hosts_reach_each_other_and_nothing_else() -> None:
    """By both families of addresses, and only through their own network."""
    async with answering() as lab:
        ends = [(await ask(lab, address))[0] for address in ("10.70.0.2", "fd70::2", "192.0.2.1")]

        assert ends == ["sum", "sum", "OSError"]
        assert lab.address("b") == "10.70.0.2"
        assert lab.address("b", ipv6=True) == "fd70::2"


@once
async def test_there_may_be_more_networks_and_one_family() -> None:
    """Each with a wire and an address of every host."""
    async with NetLab("a", "b", networks=2, ipv4=False) as lab:
        server = await start(lab, "b", ECHO)
        assert server.stdout is not None
        await server.stdout.readline()
        addresses = [lab.address("b", number, ipv6=True) for number in (0, 1)]
        ends = [(await ask(lab, each))[0] for each in (*addresses, lab.address("b"))]

    await server.wait()
    assert addresses == ["fd70::2", "fd71::2"]
    assert ends == ["sum", "sum", "OSError"]


@once
async def test_a_cut_is_one_way_and_heals() -> None:
    """What b answers does not arrive, whichever way is cut; healed, all is as before."""
    async with answering() as lab:
        await lab.cut("b", "a")
        cut = await ask(lab), await ask(lab, "fd70::2")
        await lab.heal()
        healed = await ask(lab)
        await lab.partition(["a"], ["b"])
        parted = await ask(lab)

        assert [end for end, _ in (*cut, healed, parted)] == [
            "TimeoutError",
            "TimeoutError",
            "sum",
            "TimeoutError",
        ]


@once
async def test_connections_are_reset_and_packets_lost() -> None:
    """Those of one port; packets of all."""
    async with answering() as lab:
        await lab.reset("a", 7000)
        assert (await ask(lab))[0] == "ConnectionRefusedError"
        await lab.heal()
        await lab.drop("a", 1.0)
        assert (await ask(lab))[0] == "TimeoutError"
        await lab.heal()

        assert (await ask(lab))[0] == "sum"


@once
async def test_connections_are_killed() -> None:
    """The one whose connection it is hears it at once."""
    async with answering() as lab:
        process = await start(lab, "a", ASK, "10.70.0.2", "10", "stay")
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"sum ")
        begun = time.monotonic()
        await lab.kill_connections("a", "b")

        assert await process.stdout.readline() == b"ConnectionAbortedError 0\n"
        assert time.monotonic() - begun < 10
        await process.wait()


@once
async def test_a_wire_is_limited() -> None:
    """To about the rate, in the direction that was limited."""
    async with answering() as lab:
        _, fast = await ask(lab, size=100_000)
        await lab.limit("a", 200_000)
        _, slow = await ask(lab, size=100_000)
        await lab.heal()
        _, again = await ask(lab, size=100_000)

        assert fast < 0.4 < slow
        assert again < 0.4


@once
async def test_nothing_is_left() -> None:
    """Neither hosts nor processes, also when the body fails."""
    lab = NetLab("a", "b")
    with pytest.raises(KeyError):
        async with lab:
            process = await start(lab, "a", "import time; time.sleep(60)")
            raise KeyError

    assert await process.wait() == -9
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True, text=True)
    assert lab._token not in listed.stdout


@pytest.mark.parametrize("hosts", [("a", "a"), ("a b",), ("switch",), ("",)])
@once
async def test_names_of_hosts_are_checked(hosts: tuple[str, ...]) -> None:
    """Before anything is made."""
    with pytest.raises(ValueError, match="expected names that differ"):
        NetLab(*hosts)


@once
async def test_what_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program and its package, or the right to do it."""
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "nft" else tool)
    assert missing_for_netlab() == "needs the program nft of the package nftables"
    monkeypatch.setattr("shutil.which", lambda tool: tool)
    monkeypatch.setattr("os.geteuid", lambda: 1)

    assert missing_for_netlab() == "needs root, to make network namespaces"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    refusal = subprocess.CompletedProcess((), 1, b"", b"mount --make-shared failed\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: refusal)
    netlab._refusal.cache_clear()
    reason = missing_for_netlab()
    netlab._refusal.cache_clear()

    assert reason.startswith("needs network namespaces: ip netns add lab-")
    assert reason.endswith(": mount --make-shared failed")
