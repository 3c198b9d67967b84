"""Where a rendezvous takes place: `host[:port]` as users write it, and ports nobody uses.

Called by the backends. `parse_endpoint` is pure; `free_port` and `check_port` ask the kernel.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Container
from contextlib import suppress

from launcher.errors import RendezvousConnectionError

__all__ = ("check_port", "free_port", "is_address", "parse_endpoint")

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z", re.ASCII)
_EPHEMERAL_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
_RANGE_BELOW = 8192  # ports tried below the ephemeral range; 24576 to 32767 on a usual Linux
_FIRST_USED = 10_000  # below it sit the ports that services are configured to
_ATTEMPTS = 64


def parse_endpoint(endpoint: str, default_port: int) -> tuple[str, int]:
    """Split an endpoint into host and port.

    Args:
        endpoint: ``host``, ``host:port``, ``[v6]:port``; empty: localhost.
        default_port: taken when the endpoint names none.

    Returns:
        Host, without brackets, and port from 0 to 65535; 0 means any free one.

    Raises:
        ValueError: host or port break their rule; the texts are torchrun's.
    """
    endpoint = endpoint.strip()
    if not endpoint:
        return "localhost", default_port
    if endpoint.startswith("["):
        host, bracket, rest = endpoint[1:].partition("]")
        is_host = bracket == "]" and is_address(host) and (not rest or rest[0] == ":")
        port = rest[1:] if rest else None
    else:
        host, colon, text = endpoint.rpartition(":")
        host, port = (host, text) if colon else (endpoint, None)
        is_host = is_address(host) or all(_LABEL.match(label) for label in host.split("."))
    if not is_host:
        raise ValueError(
            f"The hostname of the rendezvous endpoint '{endpoint}' must be a dot-separated list "
            "of labels, an IPv4 address, or an IPv6 address."
        )
    if port is None:
        return host, default_port
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
        raise ValueError(
            f"The port number of the rendezvous endpoint '{endpoint}' must be an integer between "
            "0 and 65535."
        )
    return host, int(port)


def free_port(host: str, taken: Container[int] = ()) -> int:
    """Find a port of this host that nobody uses and the kernel gives to nobody else.

    The port is not held: whoever is told of it may listen on it, with or without SO_REUSEADDR.
    Ports below the kernel's ephemeral range are tried first, because one inside it may become the
    source port of any connection before it is used.

    Args:
        host: address of this host to try the port on.
        taken: ports not to give again.

    Returns:
        The port.

    Raises:
        OSError: the host is not this one, or has no free port.
    """
    above = _first_ephemeral_port()
    below = max(above - _RANGE_BELOW, _FIRST_USED)
    for _ in range(_ATTEMPTS if above > below else 0):
        # The system's random bytes: the modules for more cost more than the rest of the start.
        port = below + int.from_bytes(os.urandom(8)) % (above - below)
        if port not in taken:
            with suppress(OSError):
                return _bind(host, port)
    while (port := _bind(host, 0)) in taken:
        pass
    return port


def check_port(host: str, port: int) -> None:
    """Make sure that a port of this host can be listened on, by someone who reuses addresses.

    Args:
        host: name or address; one that is not of this host, but stands for it elsewhere, passes.
        port: from 1.

    Raises:
        RendezvousConnectionError: something listens there; names the port.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RendezvousConnectionError(
                f"master_port={port}: something listens at {host}:{port} already"
            ) from error


def is_address(host: str) -> bool:
    """Say whether a host is given by its address, not by a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False


def _bind(host: str, port: int) -> int:
    # Not by getaddrinfo, which loads the tables of international names even for an address.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as own:
        own.bind((host, port))
        chosen: int = own.getsockname()[1]
    # Where it matters, torch's rank 0 listens on every address, so every one must be free; tried
    # without SO_REUSEADDR, which would hide ports in TIME_WAIT.
    with socket.socket(family) as wildcard:
        wildcard.bind(("", chosen))
    return chosen


def _first_ephemeral_port() -> int:
    try:
        with open(_EPHEMERAL_RANGE, encoding="ascii") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError):  # another system: only the kernel's choice is left
        return 0
