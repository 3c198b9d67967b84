"""`gloo_interface`: where workers of torch are to listen, on hosts whose own name does not say it.

torch's gloo listens at the address that the host's own name leads to, and on loopback where that is
unknown; many systems let it lead to 127.0.1.1. Workers on other hosts then wait in vain. So the
workers are told the interface by which this host reaches rank 0. Called by `processes`.

Source: torch 2.13, ProcessGroupGloo.cpp, "createDefaultDevice", and gloo's transport/tcp/device.cc.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import threading
from contextlib import suppress
from ipaddress import ip_address

__all__ = ("gloo_interface",)

_PATIENCE = 1.0  # seconds for servers of names; most hosts have their own name in a file
_GET_ADDRESS = 0x8915  # SIOCGIFADDR
_LONGEST_NAME = 15  # bytes of an interface's


async def gloo_interface(master_addr: str) -> str:
    """Name the interface by which this host reaches rank 0, if gloo would not listen there.

    Args:
        master_addr: where the other nodes reach the host of rank 0.

    Returns:
        Its name; empty: gloo finds a good address by itself, or nobody else can tell.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def answer(name: str) -> None:
        if not found.done():
            found.set_result(name)

    def look() -> None:
        name = _look(master_addr)
        with suppress(RuntimeError):  # nobody waits any more, and the loop was closed
            loop.call_soon_threadsafe(answer, name)

    # A thread of its own: the program does not wait at its end for a server of names.
    threading.Thread(target=look, name="launcher-interface", daemon=True).start()
    try:
        async with asyncio.timeout(_PATIENCE):
            return await found
    except TimeoutError:
        return ""


def _look(master_addr: str) -> str:
    from asyncrpc.discovery import route_to  # noqa: PLC0415 -- slow; several nodes have it loaded

    address = route_to(master_addr, 0)
    if ip_address(address.partition("%")[0]).is_loopback or _is_known_by_name():
        return ""
    return next((n for _, n in socket.if_nameindex() if address in _addresses(n)), "")


def _is_known_by_name() -> bool:
    """Return whether this host's name leads to an address of it that others may reach."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        with suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return not ip_address(str(address[0]).partition("%")[0]).is_loopback
    return False


def _addresses(name: str) -> list[str]:
    """Return the addresses of an interface: the first of IPv4, and those of IPv6."""
    found = []
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = name.encode()[:_LONGEST_NAME].ljust(256, b"\0")
        answer = fcntl.ioctl(probe.fileno(), _GET_ADDRESS, request)
        found.append(socket.inet_ntoa(answer[20:24]))  # of a struct sockaddr_in after the name
    with suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as file:
        rows = [line.split() for line in file]
        found += [str(ip_address(bytes.fromhex(row[0]))) for row in rows if row[-1] == name]
    return found
