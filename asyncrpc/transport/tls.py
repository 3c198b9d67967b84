"""Mutual TLS: the options a user gives, and the contexts made of them.

Both sides show a certificate of the same authority and check the other's. Used by ``tcp`` for
``tls://`` addresses; ``ssl`` is imported only when a context is made. The handshake on the shared
secret follows inside the encrypted stream.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    import ssl

__all__ = ("TlsOptions", "client_context", "server_context")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Certificates of one worker for mutual TLS, version 1.2 or later.

    Args:
        cert: PEM file with this worker's certificate, then those between it and ``ca``. It must
            allow use as server and as client.
        key: PEM file with its private key, not encrypted.
        ca: PEM file with the authorities whose certificates are accepted from peers, and no
            others: the system's are not.
        server_hostname: name that every peer's certificate must carry; ``None`` means the host
            of the address that is connected to, often an IP address.
        check_hostname: whether a client checks that name. Without it any holder of a certificate
            of ``ca`` passes, so leave it on unless that authority signs for this group alone.

    Raises:
        ValueError: a file does not exist, or the name is empty.
    """

    cert: str | os.PathLike[str]
    key: str | os.PathLike[str]
    ca: str | os.PathLike[str]
    server_hostname: str | None = None
    check_hostname: bool = True

    def __post_init__(self) -> None:
        for field in ("cert", "key", "ca"):
            value = getattr(self, field)
            if not _is_file(value):
                raise ValueError(f"tls {field} must be the path of a PEM file, got {value!r}")
        if self.server_hostname is not None and not _is_name(self.server_hostname):
            raise ValueError(
                f"tls server_hostname must be a non-empty str or None, got {self.server_hostname!r}"
            )
        if not isinstance(self.check_hostname, bool):
            raise ValueError(f"tls check_hostname must be a bool, got {self.check_hostname!r}")


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """Return the context for accepted connections; it demands a certificate of the client.

    Raises:
        ValueError: a file does not hold what its field says.
    """
    import ssl  # noqa: PLC0415 -- only for those who use TLS

    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), options)


def client_context(options: TlsOptions) -> ssl.SSLContext:
    """Return the context for opened connections; connect with ``server_hostname`` or the host.

    Raises:
        ValueError: a file does not hold what its field says.
    """
    import ssl  # noqa: PLC0415 -- only for those who use TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = options.check_hostname
    return _filled(context, options)


def _is_file(path: object) -> bool:
    return isinstance(path, (str, os.PathLike)) and os.path.isfile(path)  # raises for no str


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name)


def _filled(context: ssl.SSLContext, options: TlsOptions) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 -- only for those who use TLS

    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(options.ca)
    except OSError as error:  # SSLError is one
        raise ValueError(f"tls ca {str(options.ca)!r}: {_reason(error)}") from error
    try:
        # Without a password function OpenSSL would ask on the terminal.
        context.load_cert_chain(options.cert, options.key, password=_refuse_password)
    except OSError as error:
        raise ValueError(
            f"tls cert {str(options.cert)!r} with key {str(options.key)!r}: {_reason(error)}"
        ) from error
    return context


def _refuse_password() -> Never:
    raise ValueError("tls key is encrypted, expected an unencrypted PEM file")


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or "not a PEM file"
    return str(reason).lower().replace("_", " ")
