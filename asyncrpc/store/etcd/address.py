"""Where an etcd is and how to be let in: ``etcd://host:port,host:port/prefix`` and credentials.

The URL may be shown to anybody; what is secret lies in a file that only its owner can read.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

__all__ = ("CREDENTIALS_VARIABLE", "EtcdAddress", "EtcdCredentials", "parse_members")

CREDENTIALS_VARIABLE = "ASYNCRPC_STORE_CREDENTIALS"
"""Environment variable with the path of the file that `EtcdCredentials.load` reads."""

_DEFAULT_PORT = 2379
_DEFAULT_PREFIX = "asyncrpc"
_SCHEME = "etcd://"


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdCredentials:
    """What etcd asks of its clients.

    Args:
        user: name, empty for none.
        password: of the user. Not shown by repr.
        cacert: path of the certificates that the servers' are checked with; empty: the system's.
        cert: path of this client's certificate, empty for none.
        key: path of its private key; empty: it is in the same file.
        protocol: ``http`` or ``https``; empty: ``https`` if any certificate is given.

    Raises:
        ValueError: one is given that is of no use without another, or the protocol is unknown.
    """

    user: str = ""
    password: str = ""
    cacert: str = ""
    cert: str = ""
    key: str = ""
    protocol: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str):
                raise TypeError(f"{field.name} must be a str, got {type(value).__name__}")
        if self.protocol not in ("", "http", "https"):
            raise ValueError(f"protocol={self.protocol}: expected http or https")
        if self.protocol == "http" and (self.cacert or self.cert):
            raise ValueError("protocol=http: certificates are used with https only")
        for field_name, needed in (("password", "user"), ("user", "password"), ("key", "cert")):
            if getattr(self, field_name) and not getattr(self, needed):
                raise ValueError(f"{needed}=: expected one, as {field_name} is given")

    def __repr__(self) -> str:
        shown = {**asdict(self), "password": "***" if self.password else ""}
        given = ", ".join(f"{name}={value!r}" for name, value in shown.items() if value)
        return f"EtcdCredentials({given})"

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self.protocol or ("https" if self.cacert or self.cert else "http")

    def make_context(self) -> ssl.SSLContext | None:
        """Return what TLS connections are made with, ``None`` without TLS.

        Raises:
            ValueError: a file cannot be read or is no certificate; names it.
        """
        if self.scheme == "http":
            return None
        shown = f"cacert={self.cacert}"
        try:
            context = ssl.create_default_context(cafile=self.cacert or None)
            if self.cert:
                shown = f"cert={self.cert}, key={self.key}"
                context.load_cert_chain(self.cert, self.key or None)
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"{shown}: {error.strerror or error}") from error
        return context

    def dump(self) -> bytes:
        """Return the content of the file that `load` reads."""
        given = {name: value for name, value in asdict(self).items() if value}
        return json.dumps(given).encode()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read credentials from a file: a JSON object of them by name.

        Raises:
            ValueError: it cannot be read, holds something else, or others may read a password in
                it.
        """
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                found = json.loads(file.read())
        except OSError as error:
            raise ValueError(f"credentials {path}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"credentials {path}: expected a JSON object: {error}") from None
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or not names.issuperset(found):
            raise ValueError(
                f"credentials {path}: expected a JSON object of {', '.join(sorted(names))}"
            )
        if found.get("password") and status.st_mode & _forbidden(status.st_uid):
            raise ValueError(f"credentials {path}: others may read it, expected mode 0600")
        try:
            return cls(**found)
        except (TypeError, ValueError) as error:
            raise ValueError(f"credentials {path}: {error}") from error

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Self:
        """Return the credentials of the file that the environment names; none if it does not.

        Raises:
            ValueError: see `load`.
        """
        path = environ.get(CREDENTIALS_VARIABLE)
        return cls.load(path) if path else cls()


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """The members of an etcd, and the part of it that a store has.

    Args:
        members: host and port of each; any of them will do.
        prefix: under which all keys of the store lie, without slashes around it.
    """

    members: tuple[tuple[str, int], ...]
    prefix: str = _DEFAULT_PREFIX

    def __str__(self) -> str:
        return f"{_SCHEME}{self.authority}/{self.prefix}"

    @property
    def authority(self) -> str:
        """The members as a comma list."""
        return ",".join(f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in self.members)

    @classmethod
    def parse(cls, url: object) -> Self:
        """Read ``etcd://host:port,host:port/prefix``; the port defaults to 2379.

        Raises:
            ValueError: it breaks this form; names the part.
        """
        if not isinstance(url, str) or not url.startswith(_SCHEME):
            raise ValueError(f"store URL must be {_SCHEME}host:port,…/prefix, got {url!r:.200}")
        members, _, path = url.removeprefix(_SCHEME).partition("/")
        return cls(parse_members(members), path.strip("/") or _DEFAULT_PREFIX)


def _forbidden(owner: int) -> int:
    # a secret that a container mounts belongs to root, and its group reads it
    return 0o037 if owner == 0 else 0o077


def parse_members(text: str) -> tuple[tuple[str, int], ...]:
    """Read a comma list of ``host[:port]``.

    Raises:
        ValueError: one of them is malformed; names it.
    """
    return tuple(_parse_member(part.strip()) for part in text.split(","))


def _parse_member(text: str) -> tuple[str, int]:
    if "@" in text:
        raise ValueError(
            "etcd member contains an @: a password is not given in a URL, which others can see"
        )
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_DEFAULT_PORT)
    if host.startswith("["):
        host = host[1:].removesuffix("]")
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535
    if not (host and is_port) or set(host) & set("/?#% \t"):
        raise ValueError(f"etcd member must be host:port with a port from 1 to 65535, got {text!r}")
    return host, int(port)
