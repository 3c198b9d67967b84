"""What etcd's members and the way to them answer instead of what was asked, as errors.

`MemberError` and `StaleTokenError` are for the gateway alone, which goes on elsewhere or logs in
anew; all others reach the user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asyncrpc.errors import Delivery, RpcError, StatusCode, StoreError
from asyncrpc.store.etcd.address import EtcdAddress
from asyncrpc.store.etcd.messages import read_reply

__all__ = (
    "MemberError",
    "RefusedError",
    "StaleTokenError",
    "check_version",
    "refusal",
    "refusal_of",
    "translated",
)

_OLDEST = (3, 4)  # first version whose gateway has the paths used here
_PERMISSION_DENIED = 7
_UNAUTHENTICATED = 16
# gRPC codes of a member that cannot answer now: cancelled, deadline exceeded, unavailable
_PASSING = (1, 4, 14)
_UNKNOWN = 2
_TOO_MANY = "too many requests"  # none of which was carried out
_TOO_LARGE = ("request is too large", "larger than max")
_NO_LEASE = "requested lease not found"
_STALE_TOKENS = ("invalid auth token", "user name is empty", "revision of auth store is old")
_NOT_FOUND = 404
_BAD_REQUEST = 400


class RefusedError(StoreError):
    """Etcd has understood a request, and did not carry it out."""

    delivery = Delivery.EXECUTED


class MemberError(Exception):
    """One member cannot answer; another one may.

    Args:
        text: why.
        may_have_run: whether the request may have been carried out.
        is_hopeless: whether it will never answer, unless somebody changes something.
    """

    def __init__(self, text: str, *, may_have_run: bool, is_hopeless: bool = False) -> None:
        super().__init__(text)
        self.may_have_run = may_have_run
        self.is_hopeless = is_hopeless


class StaleTokenError(Exception):
    """The token is no longer, or not yet, good."""


def check_version(version: str, address: EtcdAddress) -> None:
    """Refuse servers whose gateway does not have what is needed.

    Raises:
        StoreError: it is too old, or no etcd; says which version is needed.
    """
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(found) < len(_OLDEST):
        raise StoreError(f"what listens at {address} is no etcd: it says version {version!r}")
    if found < _OLDEST:
        api = "speaks only the v2 API" if found[0] < _OLDEST[0] else "has no gateway at /v3"
        raise StoreError(
            f"etcd at {address} is version {version}, which {api}: version 3.4 or later is needed"
        )


def refusal_of(status: int, data: bytes, address: EtcdAddress, user: str) -> Exception:
    """Return what a reply with another HTTP status than 200 means."""
    try:
        fields = read_reply(data)
    except ValueError:
        if status == _NOT_FOUND:
            return StoreError(
                f"etcd at {address} has no v3 gateway at /v3: version 3.4 or later is needed"
            )
        text = f"HTTP {status}: {data[:80].decode('utf-8', 'replace').strip()}"
        return MemberError(text, may_have_run=True, is_hopeless=status == _BAD_REQUEST)
    return refusal(fields, address, user)


def refusal(fields: dict[str, Any], address: EtcdAddress, user: str) -> Exception:
    """Return what an error means that etcd has put into words."""
    error = fields.get("error")
    inner = error if isinstance(error, dict) else fields
    code = int(inner.get("code") or inner.get("grpc_code") or _UNKNOWN)
    text = str(inner.get("message") or error or fields)
    if code == _UNAUTHENTICATED or any(stale in text for stale in _STALE_TOKENS):
        return StaleTokenError(text)
    if code in _PASSING or _TOO_MANY in text:
        return MemberError(text, may_have_run=_TOO_MANY not in text)
    if code == _PERMISSION_DENIED:
        return RefusedError(
            f"etcd at {address}: {text}: user {user!r} needs read and write access to all keys "
            f"that begin with /{address.prefix}/",
            code=StatusCode.PERMISSION_DENIED,
        )
    if any(limit in text for limit in _TOO_LARGE):
        return RefusedError(
            f"etcd at {address} takes less at once than this operation carries (1.5 MiB, unless "
            f"its --max-request-bytes says otherwise): {text}",
            code=StatusCode.RESOURCE_EXHAUSTED,
        )
    if _NO_LEASE in text:
        text = "the lease has lapsed or was left"
    return RefusedError(f"etcd at {address}: {text.removeprefix('etcdserver: ')}")


@contextmanager
def translated() -> Iterator[None]:
    """Say as a `MemberError` that a connection failed, or that what came by it makes no sense."""
    import aiohttp  # noqa: PLC0415 -- an extra, and slow to load; the gateway has loaded it

    try:
        yield
    except RpcError:  # our own, some of which are OSErrors too
        raise
    except aiohttp.ConnectionTimeoutError as error:
        raise MemberError("no connection in time", may_have_run=False) from error
    except aiohttp.ClientConnectorDNSError as error:
        raise MemberError(f"{error.host} is not known", may_have_run=False) from error
    except aiohttp.ClientConnectorError as error:
        raise _unconnected(error) from error
    except TimeoutError as error:
        raise MemberError("no answer in time", may_have_run=True) from error
    except (aiohttp.ClientError, OSError) as error:
        text = str(error) or type(error).__name__
        raise MemberError(text, may_have_run=True, is_hopeless=_is_final(text)) from error
    except (ValueError, KeyError, TypeError) as error:
        text = f"no etcd answers like that: {error!r}"
        raise MemberError(text, may_have_run=True) from error


def _unconnected(error: Any) -> MemberError:
    """Return the error of a connection that was not made, for one reason or another."""
    inner: OSError = getattr(error, "certificate_error", None) or error.os_error
    is_hopeless = _is_final(str(inner))
    why = os.strerror(inner.errno) if inner.errno and not is_hopeless else str(inner)
    why = why or "disconnected when TLS was to begin"  # about which aiohttp says nothing
    text = f"{error.host}:{error.port}: {why}"
    return MemberError(text, may_have_run=False, is_hopeless=is_hopeless)


def _is_final(text: str) -> bool:
    """Return whether it is TLS that failed: certificates do not mend by themselves.

    A member that dies while TLS begins is another matter: it comes back.
    """
    return "[SSL" in text and "EOF" not in text
