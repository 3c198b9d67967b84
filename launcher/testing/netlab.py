"""`NetLab`: a few hosts on one machine, with a network between them that can be made to fail.

Every host is a network namespace with a name of its own, a loopback and a wire to each network:
``eth0`` to the first, ``eth1`` to the second. Networks are bridges in a further namespace: nothing
of the machine's own network is touched or reached. Linux only, for a privileged user;
`missing_for_netlab` says what lacks.

Faults are declared per host and put into the kernel as one nftables ruleset, so that `heal` is to
declare none. Delay and jitter are not among them: many kernels are built without that.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import Self

__all__ = ("NetLab", "missing_for_netlab")

_TOOLS = {"ip": "iproute2", "ss": "iproute2", "tc": "iproute2", "nft": "nftables"}
_SWITCH = "switch"  # namespace of the bridges
_TIMEOUT = 10.0  # seconds for one command; each takes some milliseconds
_BURST = "32kbit"  # of a limited wire; below it nothing is limited
_QUEUE = "400ms"  # how long a limited wire keeps what it cannot send yet
_BYTE = 8  # bits


def missing_for_netlab() -> str:
    """Say what a `NetLab` lacks here, for the reason of a skipped test; "" for nothing."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            return f"needs the program {tool} of the package {package}"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    return _refusal()


@cache
def _refusal() -> str:
    """Say why a host cannot be made, root or not: containers often may not."""
    namespace = f"lab-{os.urandom(4).hex()}-probe"
    for verb in ("add", "del"):
        command = ("ip", "netns", verb, namespace)
        done = subprocess.run(command, check=False, capture_output=True, timeout=_TIMEOUT)
        if done.returncode:
            return f"needs network namespaces: {_told(command, done.stderr)}"
    return ""


class NetLab:
    """Hosts with a network of their own; async context manager.

    Leaving it ends every process on the hosts with SIGKILL and removes the hosts.

    Args:
        hosts: their names, at most 200, each of letters, digits and dashes.
        networks: how many there are between them, 1 to 9.
        ipv4: whether hosts have such addresses; they always have those of IPv6.

    Raises:
        ValueError: a name is none, or given twice.
    """

    def __init__(self, *hosts: str, networks: int = 1, ipv4: bool = True) -> None:
        for host in hosts:
            if not host.replace("-", "").isalnum() or host == _SWITCH or hosts.count(host) > 1:
                raise ValueError(f"hosts={hosts}: expected names that differ, got {host!r}")
        self.hosts = hosts
        self._networks = range(networks)
        self._has_ipv4 = ipv4
        self._token = os.urandom(4).hex()  # labs of several processes do not meet
        self._made: list[str] = []  # namespaces
        self._rules: dict[str, list[str]] = {host: [] for host in hosts}

    def address(self, host: str, network: int = 0, *, ipv6: bool = False) -> str:
        """Return where the other hosts reach a host."""
        number = self.hosts.index(host) + 1
        return f"fd7{network}::{number}" if ipv6 else f"10.7{network}.0.{number}"

    def command(self, host: str, *argv: str) -> tuple[str, ...]:
        """Return the arguments that run a program on a host, which calls itself by its name."""
        name = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host)
        return ("ip", "netns", "exec", self._namespace(host), *name, *argv)

    async def processes(self, host: str) -> list[int]:
        """Return the ids of the processes on a host."""
        return await _processes(self._namespace(host))

    async def __aenter__(self) -> Self:
        """Make the hosts.

        Raises:
            OSError: the kernel or the system's tools do not allow it; tells the command.
        """
        try:
            await self._make(_SWITCH)
            for network in self._networks:
                await self._ip(_SWITCH, "link", "add", f"net{network}", "type", "bridge")
                await self._ip(_SWITCH, "link", "set", f"net{network}", "up")
            for host in self.hosts:
                await self._make(host)
                for network in self._networks:
                    await self._connect(host, network)
        except BaseException:
            await self._remove()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._remove()

    # Faults

    async def cut(self, source: str, target: str) -> None:
        """Let nothing that one host sends reach the other; the way back stays."""
        for network in self._networks:
            for family, ipv6 in (("ip", False), ("ip6", True)):
                address = self.address(source, network, ipv6=ipv6)
                self._rules[target].append(f"input {family} saddr {address} drop")
        await self._load(target)

    async def partition(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Let nothing pass between two sides, in either direction."""
        there = tuple(other)
        for host in one:
            for peer in there:
                await self.cut(host, peer)
                await self.cut(peer, host)

    async def drop(self, host: str, share: float) -> None:
        """Lose packets that a host sends.

        Args:
            host: which one.
            share: how many of them, above 0 to 1.
        """
        self._rules[host].append(f'output oifname "eth*" {_random(share)} drop')
        await self._load(host)

    async def reset(self, host: str, port: int, share: float = 1.0) -> None:
        """Answer packets that a host sends to a TCP port with a reset, so connections break.

        Args:
            host: which one.
            port: of the peers, from 1.
            share: how many of them, above 0 to 1.
        """
        rule = f"output tcp dport {port} {_random(share)} reject with tcp reset"
        self._rules[host].append(rule)
        await self._load(host)

    async def kill_connections(self, host: str, peer: str) -> None:
        """Break the TCP connections of a host to a peer; the host's side learns it at once."""
        inside = ("ip", "netns", "exec", self._namespace(host))
        for network in self._networks:
            for address in (
                self.address(peer, network),
                f"[{self.address(peer, network, ipv6=True)}]",
            ):
                await _run(*inside, "ss", "-K", "dst", address)

    async def limit(self, host: str, rate: int) -> None:
        """Limit what a host sends into the first network.

        Args:
            host: which one.
            rate: bytes per second, from 1.
        """
        if rate < 1:
            raise ValueError(f"rate={rate}: expected bytes per second, at least 1")
        inside = ("ip", "netns", "exec", self._namespace(host))
        bucket = ("tbf", "rate", f"{rate * _BYTE}bit", "burst", _BURST, "latency", _QUEUE)
        await _run(*inside, "tc", "qdisc", "replace", "dev", "eth0", "root", *bucket)

    async def heal(self) -> None:
        """End all faults but those of connections that are broken already."""
        for host, rules in self._rules.items():
            if rules:
                rules.clear()
                await self._load(host)
            inside = ("ip", "netns", "exec", self._namespace(host))
            with suppress(OSError):  # there is no limit
                await _run(*inside, "tc", "qdisc", "del", "dev", "eth0", "root")

    # Parts of it

    def _namespace(self, host: str) -> str:
        return f"lab-{self._token}-{host}"

    async def _ip(self, host: str, *args: str) -> None:
        await _run("ip", "-n", self._namespace(host), *args)

    async def _make(self, host: str) -> None:
        await _run("ip", "netns", "add", self._namespace(host))
        self._made.append(self._namespace(host))
        await self._ip(host, "link", "set", "lo", "up")

    async def _connect(self, host: str, network: int) -> None:
        wire, plug = f"eth{network}", f"port{network}-{self.hosts.index(host)}"
        ends = ("type", "veth", "peer", plug, "netns", self._namespace(_SWITCH))
        await self._ip(host, "link", "add", wire, *ends)
        await self._ip(_SWITCH, "link", "set", plug, "master", f"net{network}", "up")
        if self._has_ipv4:
            await self._ip(host, "addr", "add", f"{self.address(host, network)}/24", "dev", wire)
        # Without the search for duplicates, during which the address cannot be used.
        address = f"{self.address(host, network, ipv6=True)}/64"
        await self._ip(host, "addr", "add", address, "dev", wire, "nodad")
        await self._ip(host, "link", "set", wire, "up")

    async def _load(self, host: str) -> None:
        """Put the faults of a host into the kernel."""
        chains = "".join(
            f"chain {hook} {{\ntype filter hook {hook} priority 0;\n"
            + "".join(f"{rule}\n" for way, _, rule in self._split(host) if way == hook)
            + "}\n"
            for hook in ("input", "output")
        )
        ruleset = f"flush ruleset\ntable inet faults {{\n{chains}}}\n"
        inside = ("ip", "netns", "exec", self._namespace(host))
        await _run(*inside, "nft", ruleset)

    def _split(self, host: str) -> list[tuple[str, str, str]]:
        return [rule.partition(" ") for rule in self._rules[host]]

    async def _remove(self) -> None:
        made, self._made = self._made, []
        removing = asyncio.gather(
            *(_remove(name) for name in reversed(made)), return_exceptions=True
        )
        for failure in await asyncio.shield(removing):
            if isinstance(failure, BaseException):
                raise failure


async def _remove(namespace: str) -> None:
    try:
        for pid in await _processes(namespace):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        await _run("ip", "netns", "del", namespace)


async def _processes(namespace: str) -> list[int]:
    return [int(pid) for pid in (await _run("ip", "netns", "pids", namespace)).split()]


def _random(share: float) -> str:
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: expected above 0, at most 1")
    return "" if share == 1 else f"numgen random mod 1000 < {round(share * 1000)}"


async def _run(*argv: str) -> str:
    """Run a command; return what it prints.

    Raises:
        OSError: it failed; tells the command and what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            stdout, stderr = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise OSError(_told(argv, stderr))
    return stdout.decode()


def _told(argv: Sequence[str], stderr: bytes) -> str:
    return f"{' '.join(argv)}: {stderr.decode(errors='replace').strip() or 'failed'}"
