"""`launch_on_hosts`: starts a node of a run on each of several hosts, by ssh.

Theory of operation
-------------------
On every host ssh runs `launcher.remote`, which greets. Nothing is launched before all have. Then
each is told its command line, and a secret that was made for this run; what it prints passes
through here in whole lines, signals go there. ssh's own stdin stays open: when this process ends,
however it does, the far side sees the end of it and stops its node. Called by `cli`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from signal import SIGTERM, Signals
from typing import Any

from launcher.errors import LauncherError
from launcher.hosts import GREETING, Fleet, Host
from launcher.logs import LineAssembler
from launcher.signals import handle_signals, without_echo

__all__ = ("launch_on_hosts",)

_OPTIONS = (
    "-T",
    *("-o", "BatchMode=yes"),  # nobody is there to be asked for a password
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=15"),
)
_GREETED = 60.0  # seconds for all hosts to greet: slow file systems, many hosts
_FAREWELL = 3.0  # seconds for the others to notice that too few nodes are left
_SSH_FAILED = 255
_NOT_FOUND = 127
_CHUNK = 1 << 16
_PAUSE = 0.2  # seconds after which an unfinished line is passed on
_INHERITED = (
    "PYTHONPATH",
    "PYTHON_EXEC",
    "OMP_NUM_THREADS",
    "LOGLEVEL",
    "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE",
)


async def launch_on_hosts(
    fleet: Fleet, environ: Mapping[str, str], stopping: Iterable[Signals], passed: Iterable[Signals]
) -> int:
    """Launch on all hosts, and wait until all have ended.

    Args:
        fleet: hosts, and what to launch on them.
        environ: the variables here.
        stopping: signals that stop the run.
        passed: signals that are only passed on.

    Returns:
        0; 128+N if a signal stopped the run; else the status of the host that failed first.

    Raises:
        LauncherError: not every host could be reached, and nothing was launched.
    """
    nodes = [_Node(host, fleet.ssh) for host in fleet.hosts]
    received: list[int] = []
    greeting = asyncio.create_task(_greet(nodes, environ))

    def stop(number: int) -> None:
        received.append(number)
        if not greeting.cancel():  # else nothing was launched yet
            _send(nodes, number)

    def pass_on(number: int) -> None:
        if greeting.done():
            _send(nodes, number)

    status = 0
    try:
        with handle_signals(stopping, without_echo(stop)), handle_signals(passed, pass_on):
            await asyncio.wait({greeting})
            if not received:
                _order(nodes, fleet, greeting.result(), environ)
                status = await _wait(nodes, fleet.min_nodes)
    finally:
        greeting.cancel()
        await asyncio.gather(*(node.close() for node in nodes))
    return 128 + received[0] if received else status


class _Node:
    """One host, with the ssh that reaches it."""

    def __init__(self, host: Host, ssh: tuple[str, ...]) -> None:
        self.name = host.name
        self.is_lost = False  # whether ssh ended without a status of the launcher there
        self._ssh = ssh
        self._process: asyncio.subprocess.Process | None = None
        self._complaints = b""  # on stderr, before the greeting

    async def greet(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """Reach the host; return what it says of itself.

        Raises:
            LauncherError: it cannot be reached, or has no launcher; says why.
        """
        python = environ.get("PYTHON_EXEC") or sys.executable
        path = environ.get("PYTHONPATH")
        variables = ["env", f"PYTHONPATH={path}"] if path else []
        command = shlex.join([*variables, python, "-m", "launcher.remote"])
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._ssh,
                *_OPTIONS,
                self.name,
                command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us to pass on
            )
        except FileNotFoundError:
            raise LauncherError(
                f"ssh={self._ssh[0]}: expected a program, such as that of the package "
                "openssh-client"
            ) from None
        assert process.stdout is not None
        async for line in process.stdout:
            if line.startswith(GREETING.encode()):
                facts: dict[str, Any] = json.loads(line[len(GREETING) :])
                return facts
        _, self._complaints = await process.communicate()
        raise LauncherError(self._why(await process.wait(), python))

    def _why(self, status: int, python: str) -> str:
        lines = self._complaints.decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"status {status}"
        if status == _SSH_FAILED:
            return f"host {self.name}: cannot be reached by ssh: {last}"
        if status == _NOT_FOUND:
            return (
                f"host {self.name}: there is no {python}; $PYTHON_EXEC names another Python: {last}"
            )
        if "No module named" in last:
            return f"host {self.name}: {python} has no launcher there: {last}"
        return f"host {self.name}: the launcher did not start there: {last}"

    def tell(self, line: str) -> None:
        """Send a line to the far side, if it is there."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, RuntimeError):  # it has ended
                self._process.stdin.write(f"{line}\n".encode())

    async def follow(self, stdout: _Output, stderr: _Output) -> int:
        """Pass on what the far side prints until it ends; return its status."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(stdout.pass_on(process.stdout), stderr.pass_on(process.stderr))
        status = await process.wait()
        self.is_lost = status == _SSH_FAILED or status < 0
        return status

    async def close(self) -> None:
        """End ssh, if it has not ended by itself; the far side learns it."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


def _send(nodes: Iterable[_Node], number: int) -> None:
    for node in nodes:
        node.tell(str(number))


async def _greet(nodes: list[_Node], environ: Mapping[str, str]) -> list[dict[str, Any]]:
    tasks = [asyncio.create_task(node.greet(environ)) for node in nodes]
    try:
        async with asyncio.timeout(_GREETED):
            found = await asyncio.gather(*tasks, return_exceptions=True)
    except TimeoutError:
        silent = [n.name for n, task in zip(nodes, tasks, strict=True) if task.cancelled()]
        raise LauncherError(f"host {', '.join(silent)}: no answer within {_GREETED:g} s") from None
    facts = [each for each in found if not isinstance(each, BaseException)]
    errors = [each for each in found if isinstance(each, BaseException)]
    for error in errors:
        if not isinstance(error, LauncherError):
            raise error
    if errors:
        raise LauncherError("; ".join(dict.fromkeys(map(str, errors))))
    return facts


def _order(
    nodes: list[_Node], fleet: Fleet, facts: list[dict[str, Any]], environ: Mapping[str, str]
) -> None:
    address, port = facts[0]["address"], facts[0]["port"]
    endpoint = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    run_id, secret = os.urandom(8).hex(), os.urandom(32).hex()
    order = {
        "folder": os.getcwd(),
        "environ": {name: environ[name] for name in _INHERITED if name in environ},
        "secret": secret,
    }
    for rank, node in enumerate(nodes):
        node.tell(json.dumps({**order, "argv": fleet.arguments(rank, endpoint, run_id)}))


async def _wait(nodes: list[_Node], min_nodes: int) -> int:
    """Wait for all hosts; return the first status that is not 0."""
    outputs = _Output(1), _Output(2)
    names = {asyncio.create_task(node.follow(*outputs)): node for node in nodes}
    running = set(names)
    status = 0
    is_missing = is_told = False  # too few nodes are left; those that are were told so
    while running:
        patience = _FAREWELL if is_missing and not is_told else None
        ended, running = await asyncio.wait(
            running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
        )
        if not ended:
            _send((names[task] for task in running), SIGTERM)
            is_told = True
        for task in ended:
            if names[task].is_lost:
                _say(f"launcher: host {names[task].name} was lost: ssh ended\n")
            status = status or (1 if names[task].is_lost else task.result())
        # Who ended before it joined is missed by nobody but us.
        is_missing = status != 0 and len(running) < min_nodes
    return status


class _Output:
    """One of our own streams, which all hosts write to in whole lines."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._writing = asyncio.Lock()

    async def pass_on(self, stream: asyncio.StreamReader) -> None:
        """Write what comes from a host, until nothing more does."""
        lines = LineAssembler()
        reading = asyncio.create_task(stream.read(_CHUNK))
        while True:
            await asyncio.wait({reading}, timeout=_PAUSE if lines.unfinished else None)
            if not reading.done():
                await self._write(lines.take_unfinished())
                continue
            data = reading.result()
            if not data:
                await self._write(lines.take_unfinished())
                return
            await self._write(lines.feed(data))
            reading = asyncio.create_task(stream.read(_CHUNK))

    async def _write(self, data: bytes) -> None:
        if data:
            async with self._writing:
                await asyncio.to_thread(_write_all, self._fd, data)


def _write_all(fd: int, data: bytes) -> None:
    with suppress(OSError):  # nobody reads it any more
        while data:
            data = data[os.write(fd, data) :]


def _say(text: str) -> None:
    _write_all(2, text.encode())
