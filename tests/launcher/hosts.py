"""Several hosts on one machine, as far as namespaces go: network, name, table of hosts.

`Network` makes them, with a switch between them, and takes everything away at its end, processes
included. They take a privileged user, and the programs ip, nsenter and unshare.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest

_SWITCH = "switch"
_ENTER = 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; exec "$@"'
_PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}


class Host(NamedTuple):
    """One of the hosts."""

    name: str
    address: str
    namespace: str
    table: Path
    """Its file of hosts."""

    def command(self, *argv: str | os.PathLike[str], is_pod: bool = False) -> list[str]:
        """Return what runs a command there.

        Args:
            argv: the command.
            is_pod: whether it is process 1 of process numbers of its own, and all others there
                end with it.
        """
        own = ["--pid", "--fork", "--kill-child", "--mount-proc"] if is_pod else []
        there = ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "-m", "-u", *own]
        return [*there, "sh", "-c", _ENTER, "-", self.name, str(self.table), *map(str, argv)]

    def run(self, *argv: str | os.PathLike[str], **options: Any) -> str:
        """Run a command there, and return what it prints."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.command(*argv),
            check=True,
            text=True,
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.PIPE, "timeout": 30, **options},
        )
        return done.stdout

    def processes(self) -> list[int]:
        """Return the ids of the processes there."""
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]


class Network:
    """Hosts that reach each other, from entering it as a context to leaving it.

    Args:
        folder: for their tables.
        prefix: the first three numbers of their addresses.
    """

    def __init__(self, folder: Path, prefix: str = "10.78.0") -> None:
        self._folder = folder
        self._prefix = prefix
        self._mark = f"{os.getpid()}-{os.urandom(3).hex()}"  # in names that the machine shares
        self._count = 0  # hosts made so far
        self.hosts: dict[str, Host] = {}
        """By name."""

    def __enter__(self) -> Self:
        for program, package in _PROGRAMS.items():
            if shutil.which(program) is None:
                pytest.skip(f"needs the program {program}, of the package {package}")
        try:
            _ip("netns", "add", self._namespace(_SWITCH))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs network namespaces: {error.stderr}")
        try:
            self._in(_SWITCH, "link", "add", _SWITCH, "type", "bridge")
            self._in(_SWITCH, "link", "set", _SWITCH, "up")
        except subprocess.CalledProcessError as error:
            _ip("netns", "del", self._namespace(_SWITCH))
            pytest.skip(f"needs network bridges: {error.stderr}")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in tuple(self.hosts):
            self.remove(name)
        _ip("netns", "del", self._namespace(_SWITCH))

    def add(self, name: str, known: Sequence[str] = ()) -> Host:
        """Make a host, with a new address.

        Args:
            name: of the host.
            known: hosts that it knows by name, besides itself.
        """
        self._count += 1
        namespace = self._namespace(name)
        table = self._folder / f"hosts-{name}"
        host = Host(name, f"{self._prefix}.{self._count}", namespace, table)
        _ip("netns", "add", namespace)
        self.hosts[name] = host
        port = f"to-{self._count}"
        self._in(_SWITCH, "link", "add", port, "type", "veth", "peer", "wire", "netns", namespace)
        self._in(_SWITCH, "link", "set", port, "master", _SWITCH, "up")
        _ip("-n", namespace, "addr", "add", f"{host.address}/24", "dev", "wire")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "set", "wire", "up")
        self.know(name, {other: self.hosts[other].address for other in (name, *known)})
        return host

    def know(self, name: str, addresses: dict[str, str]) -> None:
        """Let a host know these names and no others; at once, also what runs there.

        Args:
            name: of the host.
            addresses: by name.
        """
        lines = ["127.0.0.1 localhost", *(f"{a} {n}" for n, a in addresses.items())]
        # In place: what runs there has the file itself, not its path.
        self.hosts[name].table.write_text("\n".join((*lines, "")))

    def cut(self, name: str) -> None:
        """Pull a host's plug."""
        _ip("-n", self.hosts[name].namespace, "link", "set", "wire", "down")

    def remove(self, name: str) -> None:
        """End what runs on a host, and take it away."""
        host = self.hosts[name]
        deadline = time.monotonic() + 10
        while (left := host.processes()) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # they are in a namespace of ours: we started them
            time.sleep(0.02)
        del self.hosts[name]
        _ip("netns", "del", host.namespace)

    def _namespace(self, name: str) -> str:
        return f"{name}-{self._mark}"

    def _in(self, name: str, *args: str) -> None:
        _ip("-n", self._namespace(name), *args)


def _ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout
