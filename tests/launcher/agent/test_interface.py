"""`launcher.agent.interface`: when gloo has to be told where to listen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from launcher.agent import interface
from tests.launcher.distributed import ROOT, Hosts, needs_hosts

ASK = """
import asyncio, sys
from launcher.agent.interface import gloo_interface
print(*[asyncio.run(gloo_interface(address)) or "-" for address in sys.argv[1:]])
"""


def asked(hosts: Hosts, host: str, *addresses: str) -> list[str]:
    """Return what a host is to tell gloo where rank 0 is at each of these addresses."""
    stdout, stderr = hosts.start(host, "-c", ASK, *addresses).communicate(timeout=30)
    assert not stderr
    return stdout.split()


@needs_hosts
@pytest.mark.slow
def test_a_host_without_a_known_name_says_where_it_reaches_rank_0(tmp_path: Path) -> None:
    """By whichever network that is, of either family; the host of rank 0 too."""
    with Hosts(tmp_path, "left", "right", networks=2) as hosts:
        left = [hosts.lab.address("left", net, ipv6=v6) for net in (0, 1) for v6 in (False, True)]

        assert asked(hosts, "right", *left) == ["eth0", "eth0", "eth1", "eth1"]
        assert asked(hosts, "left", *left) == ["eth0", "eth0", "eth1", "eth1"]
        assert asked(hosts, "right", "127.0.0.1", "::1", "left") == ["-", "-", "-"]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return a table in which this host's name stands for an address; it is asked alone."""
    table: dict[str, str] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host == socket.gethostname() and host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(table.get(host, host), *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("asyncrpc.discovery.route_to", lambda host, port: host)
    monkeypatch.setattr(interface, "_addresses", lambda name: ["192.0.2.7"])
    return table


@pytest.mark.parametrize("address", [None, "127.0.1.1", "192.0.2.9"])
@pytest.mark.asyncio
async def test_a_name_that_leads_nowhere_or_to_loopback_is_none(
    names: dict[str, str], address: str | None
) -> None:
    """As Debian has it, or with an address that was another host's."""
    if address:
        names[socket.gethostname()] = address

    assert await interface.gloo_interface("192.0.2.7") in {n for _, n in socket.if_nameindex()}


@pytest.mark.asyncio
async def test_loopback_needs_no_name(names: dict[str, str]) -> None:
    """All nodes are on this host."""
    assert await interface.gloo_interface("127.0.0.1") == ""
    assert await interface.gloo_interface("::1") == ""


@pytest.mark.asyncio
async def test_a_server_of_names_that_is_silent_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The workers start all the same, and the program ends."""
    monkeypatch.setattr(interface, "_PATIENCE", 0.01)
    answers = threading.Event()
    monkeypatch.setattr(interface, "_look", lambda address: str(answers.wait(5)))

    assert await interface.gloo_interface("192.0.2.7") == ""
    answers.set()


def test_a_name_that_others_know_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gloo finds it, and may have a network of its own there."""
    monkeypatch.setattr("asyncrpc.discovery.route_to", lambda host, port: host)
    monkeypatch.setattr(interface, "_is_known_by_name", lambda: True)

    assert interface._look("192.0.2.7") == ""


def test_nothing_slow_is_loaded_for_one_node() -> None:
    """Nor is a server of names asked."""
    code = "import launcher.agent, sys; sys.exit('launcher.agent.interface' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    assert subprocess.run([sys.executable, "-c", code], check=False, env=environ).returncode == 0
