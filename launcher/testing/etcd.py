"""`EtcdCluster`: a real etcd for one test, of one member or several, on free ports of loopback.

Its data lies in a temporary folder and is never synced to the disk. It ends with the test, and with
the thread that started it: so nothing is left of a test run that was killed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ("EtcdCluster", "find_etcd")

_ATTEMPTS = 3  # a free port may be taken before etcd listens there
_POLL = 0.02
_START_TIMEOUT = 20.0
_DEATH_TIMEOUT = 10.0
_ENDED_WITH = shutil.which("setpriv")  # gives a program the parent-death signal


def find_etcd() -> str:
    """Return the path of the etcd server, or "" where there is none."""
    given = os.environ.get("TORCHELASTIC_ETCD_BINARY_PATH", "")  # torch's test server reads it
    return given or shutil.which("etcd") or ""


class EtcdCluster:
    """An etcd whose members can be killed and started again; a context manager.

    Args:
        members: how many, from 1; three or more survive the death of one.
        tls: paths by name for clients that must use https: ``cert`` and ``key`` of the servers,
            ``cacert`` to demand certificates of clients.
        options: more options for each member, such as ``--auth-token-ttl=1``.

    Raises:
        FileNotFoundError: no etcd is installed.

    Example:
        ```python
        with EtcdCluster() as etcd:
            where = f"--rdzv-endpoint={etcd.endpoint}"
            command = ["python", "-m", "launcher", "--rdzv-backend=etcd", where, "train.py"]
            subprocess.run(command, check=True)
        ```
    """

    def __init__(
        self, members: int = 1, *, tls: dict[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> None:
        if not find_etcd():
            raise FileNotFoundError("etcd is not installed: apt-get install etcd-server")
        self._size = members
        self._tls = tls or {}
        self._options = options
        self._folder = ""
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * members
        self._ports: list[tuple[int, int]] = []  # of each member: for clients, for the others

    def __repr__(self) -> str:
        return f"<EtcdCluster {self.endpoint}>"

    @property
    def endpoint(self) -> str:
        """Host and port of each member, as ``--rdzv-endpoint`` takes them."""
        return ",".join(self.endpoint_of(member) for member in range(self._size))

    def endpoint_of(self, member: int) -> str:
        """Return host and port of one member, counted from 0."""
        return f"127.0.0.1:{self._ports[member][0]}"

    def url(self, prefix: str) -> str:
        """Return the URL of a store."""
        return f"etcd://{self.endpoint}/{prefix}"

    def __enter__(self) -> Self:
        for attempt in range(_ATTEMPTS):
            self._folder = tempfile.mkdtemp(prefix="etcd-")
            self._ports = [(ports[0], ports[1]) for ports in _free_ports(self._size)]
            try:
                for member in range(self._size):
                    self.start(member)
                self.wait_until_ready()
            except BaseException as error:
                self.close()
                if not isinstance(error, ChildProcessError) or attempt + 1 == _ATTEMPTS:
                    raise
            else:
                break
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all members and delete their data. Idempotent."""
        for member in range(self._size):
            self.kill(member)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, member: int = 0) -> None:
        """Start a member that does not run, with the data that it has; it is not awaited."""
        if self._processes[member] is not None:
            return
        with open(Path(self._folder, f"log{member}"), "ab") as log:
            self._processes[member] = subprocess.Popen(
                self._command(member), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, member: int = 0) -> None:
        """End a member at once, as SIGKILL does."""
        process, self._processes[member] = self._processes[member], None
        if process is not None:
            process.kill()
            process.wait(_DEATH_TIMEOUT)

    def pause(self, member: int = 0) -> None:
        """Let a member stand still: it answers nothing, and its connections stay open."""
        self._signal(member, signal.SIGSTOP)

    def resume(self, member: int = 0) -> None:
        """Let a member go on."""
        self._signal(member, signal.SIGCONT)

    def kill_all(self) -> None:
        """End all members at once."""
        for member in range(self._size):
            self.kill(member)

    def start_all(self) -> None:
        """Start all members that do not run; they are not awaited."""
        for member in range(self._size):
            self.start(member)

    def demand_password(self, user: str, password: str) -> None:
        """Let nobody in but a user with all rights; for a cluster without TLS.

        Args:
            user: name of that user, beside which there is ``root`` with the same password.
            password: of both.
        """
        for name in {user, "root"}:
            self._ask(0, "/v3/auth/user/add", {"name": name, "password": password})
            self._ask(0, "/v3/auth/user/grant", {"user": name, "role": "root"})
        self._ask(0, "/v3/auth/enable")

    def leader(self) -> int:
        """Return which member leads, waiting until one does.

        Raises:
            TimeoutError: none does.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            for member, process in enumerate(self._processes):
                with contextlib.suppress(OSError, ValueError, KeyError):
                    if process is not None:
                        status = self._ask(member, "/v3/maintenance/status")
                        if status["leader"] == status["header"]["member_id"]:
                            return member
            time.sleep(_POLL)
        raise TimeoutError(f"no member of {self!r} leads: {self.log()}")

    def wait_until_ready(self, timeout: float = _START_TIMEOUT) -> None:
        """Wait until all members that run take writes.

        Args:
            timeout: seconds.

        Raises:
            TimeoutError: they do not; tells the end of their logs.
            ChildProcessError: a member has ended; likewise.
        """
        deadline = time.monotonic() + timeout
        for member, process in enumerate(self._processes):
            while process is not None and not self._is_healthy(member):
                if process.poll() is not None:
                    raise ChildProcessError(f"etcd exited with {process.returncode}: {self.log()}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"etcd is not ready after {timeout:g} s: {self.log()}")
                time.sleep(_POLL)

    def log(self) -> str:
        """Return the end of each member's log."""
        logs = sorted(Path(self._folder).glob("log*"))
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in logs)

    def _command(self, member: int) -> list[str]:
        peers = [f"http://127.0.0.1:{peer}" for _, peer in self._ports]
        client = f"{'https' if self._tls else 'http'}://{self.endpoint_of(member)}"
        command = [
            find_etcd(),
            f"--name=m{member}",
            f"--data-dir={self._folder}/data{member}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peers[member]}",
            f"--initial-advertise-peer-urls={peers[member]}",
            "--initial-cluster=" + ",".join(f"m{n}={url}" for n, url in enumerate(peers)),
            "--unsafe-no-fsync",
            "--bcrypt-cost=4",  # passwords of tests are no secrets
            *self._options,
        ]
        if self._tls:
            command += [f"--cert-file={self._tls['cert']}", f"--key-file={self._tls['key']}"]
            if "cacert" in self._tls:
                command += ["--client-cert-auth", f"--trusted-ca-file={self._tls['cacert']}"]
        return [_ENDED_WITH, "--pdeathsig=KILL", *command] if _ENDED_WITH else command

    def _is_healthy(self, member: int) -> bool:
        if self._tls:  # which may demand a certificate, for this too
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._ports[member][0]), 1.0).close()
                return True
            return False
        try:
            return str(self._ask(member, "/health")["health"]) == "true"
        except (OSError, ValueError, KeyError):
            return False

    def _ask(self, member: int, path: str, fields: dict[str, str] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[member][0], timeout=2.0)
        try:
            body = None if path == "/health" else json.dumps(fields or {})
            connection.request("GET" if body is None else "POST", path, body)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        return found

    def _signal(self, member: int, number: signal.Signals) -> None:
        process = self._processes[member]
        assert process is not None, "the member runs"
        process.send_signal(number)


def _free_ports(pairs: int) -> list[list[int]]:
    """Return ports of loopback that nobody uses, two for each member."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(pairs):
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "12"]
            found.append([sock.getsockname()[1] for sock in sockets])
        return found
