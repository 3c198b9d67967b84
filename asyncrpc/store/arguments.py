"""Checks of what callers pass to a store: wrong types and values end at the call, named.

Pure. Used by the stores' fronts before anything is sent.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable

from asyncrpc.store.commands import NO_VERSION
from asyncrpc.store.table import MAX_KEY

__all__ = (
    "UNSET",
    "Timeout",
    "Unset",
    "Value",
    "check_host",
    "check_integer",
    "check_key",
    "check_keys",
    "check_port",
    "check_since",
    "check_span",
    "check_timeout",
    "to_bytes",
)

MAX_KEYS = 1 << 16
_INT64 = 1 << 63
_MAX_PORT = 65535


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "unset"


UNSET = Unset.UNSET
"""Stands for an argument that was not given."""

Timeout = float | Unset | None
"""Seconds; ``None`` for no limit, `UNSET` for the store's own."""

Value = bytes | bytearray | memoryview | str
"""What can be stored; str is encoded as UTF-8, and bytes always come back."""


def check_key(key: object, field: str = "key") -> str:
    """Return a key or prefix that can travel."""
    if type(key) is str and len(key) <= MAX_KEY and key.isascii():
        return key
    if not isinstance(key, str):
        raise TypeError(f"{field} must be a str, got {type(key).__name__}: {key!r:.100}")
    if len(key) > MAX_KEY:
        raise ValueError(f"{field} must have at most {MAX_KEY} characters, got {len(key)}")
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{field} cannot be encoded as UTF-8: {key!r:.100}") from error
    return str.__str__(key)


def check_keys(keys: object, field: str = "keys") -> list[str]:
    """Return a list of keys; a single str is a mistake, not a list of its characters."""
    if type(keys) is not list and (isinstance(keys, str | bytes) or not isinstance(keys, Iterable)):
        raise TypeError(f"{field} must be a list of str, got {type(keys).__name__}: {keys!r:.100}")
    checked: list[str] = []
    for key in keys:
        if type(key) is str and len(key) <= MAX_KEY and key.isascii():
            checked.append(key)
        else:
            checked.append(check_key(key, f"{field}[{len(checked)}]"))
    if len(checked) > MAX_KEYS:
        raise ValueError(f"{field} must have at most {MAX_KEYS} items, got {len(checked)}")
    return checked


def to_bytes(value: object, field: str = "value") -> bytes:
    """Return the bytes to store."""
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{field} cannot be encoded as UTF-8: {value!r:.100}") from error
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"{field} must be bytes or str, got {type(value).__name__}: {value!r:.100}")


def check_integer(value: object, field: str, minimum: int = -_INT64) -> int:
    """Return an integer of at most 64 bits."""
    if type(value) is int and minimum <= value < _INT64:
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{field} must be an int, got {type(value).__name__}: {value!r:.100}")
    if not minimum <= value < _INT64:
        raise ValueError(f"{field} must be from {minimum} to {_INT64 - 1}, got {value}")
    return int(value)


def check_host(host: object) -> str:
    """Return a host name or IP address."""
    if not isinstance(host, str) or not host:
        raise ValueError(f"host must be a name or an IP address, got {host!r:.100}")
    return host


def check_port(port: object, minimum: int) -> int:
    """Return a port number."""
    if not isinstance(port, int) or isinstance(port, bool) or not minimum <= port <= _MAX_PORT:
        raise ValueError(f"port must be an int from {minimum} to {_MAX_PORT}, got {port!r:.100}")
    return port


def check_since(since: int | None) -> int:
    """Return the version a watch resumes after, `NO_VERSION` for none."""
    return NO_VERSION if since is None else check_integer(since, "since", 0)


def check_span(value: float, field: str) -> float:
    """Return a span of seconds above 0 and finite."""
    seconds = _number(value, field)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{field} must be seconds above 0, got {value!r}")
    return seconds


def check_timeout(timeout: float | None, field: str = "timeout") -> float:
    """Return seconds from 0; infinity for ``None``."""
    if timeout is None:
        return math.inf
    seconds = _number(timeout, field)
    if not seconds >= 0:
        raise ValueError(f"{field} must be seconds from 0, or None for no limit, got {timeout!r}")
    return seconds


def _number(value: object, field: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{field} must be a number of seconds, got {type(value).__name__}")
    return float(value)
