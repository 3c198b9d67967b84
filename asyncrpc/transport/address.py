"""Where a listener is: ``tcp://host:port``, ``tls://host:port``, ``unix:///path``, ``memory://name``.

Values only. Parsed from options and store records, printed into them and into error messages.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import Self

__all__ = ("Address",)

_MAX_UNIX_PATH = 107  # sun_path of sockaddr_un, less the final zero
_LOOPBACK_6 = bytes(15) + b"\1"


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """One address; ``str(address)`` and `Address.parse` are inverse.

    Args:
        scheme: ``tcp``, ``tls``, ``unix`` or ``memory``.
        host: host name or IP address (no brackets) for tcp and tls, the name for memory.
        port: 0 to 65535 for tcp and tls; 0 asks a listener for a free one.
        path: file-system path for unix.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            ValueError: ``text`` is no address; the message says what was expected.
        """
        scheme, separator, rest = text.partition("://")
        if not separator:
            raise ValueError(f"address {text!r} must look like tcp://host:port or unix:///path")
        if scheme in ("tcp", "tls"):
            host, port = _host_port(text, rest)
            return cls(scheme, host, port)
        if scheme == "unix":
            if not _is_socket_path(rest):
                raise ValueError(
                    f"address {text!r} must name an absolute path of at most {_MAX_UNIX_PATH} bytes"
                )
            return cls(scheme, path=rest)
        if scheme == "memory" and rest:
            return cls(scheme, rest)
        raise ValueError(f"address {text!r} must start with tcp://, tls://, unix:// or memory://")

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        if self.scheme == "memory":
            return f"memory://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it: loopback, unix or memory."""
        return (
            self.scheme in ("unix", "memory")
            or self.host == "localhost"
            or _is_loopback(socket.AF_INET, self.host)
            or _is_loopback(socket.AF_INET6, self.host)
        )


def _is_socket_path(path: str) -> bool:
    return path.startswith("/") and "\0" not in path and len(os.fsencode(path)) <= _MAX_UNIX_PATH


def _is_loopback(family: socket.AddressFamily, host: str) -> bool:
    """Whether it is a loopback address; a name such as 127.example is none."""
    try:
        packed = socket.inet_pton(family, host)
    except (OSError, ValueError):
        return False
    return packed[0] == 127 if family == socket.AF_INET else packed == _LOOPBACK_6


def _host_port(text: str, rest: str) -> tuple[str, int]:
    host, separator, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {text!r} must put an IPv6 host in brackets")
    if not separator or not host or any(c.isspace() or c in "/\0" for c in host):
        raise ValueError(f"address {text!r} must give a host and a port")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"address {text!r} must give a port from 0 to 65535, got {port!r}")
    return host, int(port)
