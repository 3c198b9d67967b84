"""What is said to etcd's JSON gateway, and what it says: requests built, replies read.

Pure. Keys and values travel as base64, numbers of 64 bits as text; what is zero or false is left
out. Servers differ in how they write names of fields: `read_reply` makes all of them alike.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = (
    "SESSION",
    "Row",
    "delete",
    "exists",
    "flatten",
    "is_absent",
    "is_empty",
    "modified_by",
    "nest",
    "prefix_end",
    "put",
    "read",
    "read_prefix",
    "read_reply",
    "revision_of",
    "row_of",
    "rows_of",
    "txn",
    "value_below",
    "value_is",
    "watch",
)

Json = dict[str, Any]
"""One object of a request or a reply."""

SESSION = -1
"""In place of a lease: the one of the client's session."""

_CAMEL = re.compile(rb'"[a-z]+[A-Z]\w*":')
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SMALL = 120  # operations on one level; etcd takes 128, those of nested transactions among them
_WIDTHS = (60, 40)  # operations on each of two levels, and of three


class Row(NamedTuple):
    """A key as it was at some revision."""

    key: bytes
    value: bytes
    created: int
    """Revision that created it."""
    modified: int
    """Revision that wrote it last."""


def read_reply(data: bytes) -> Json:
    """Read one JSON object, with the names of fields as the protocol writes them.

    Raises:
        ValueError: it is none.
    """
    # later gateways say modRevision; base64 cannot look like that in front of a colon
    hook = _snake if _CAMEL.search(data) else None
    found = json.loads(data, object_hook=hook)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {data[:80]!r}")
    return found


def _snake(fields: Json) -> Json:
    return {_snake_name(name): value for name, value in fields.items()}


def _snake_name(name: str) -> str:
    parts = _HUMP.split(name)
    return "_".join(parts).lower() if len(parts) > 1 else name  # ID and TTL stay as they are


def revision_of(reply: Json) -> int:
    """Return the store's revision at the time of a reply."""
    return int(reply["header"]["revision"])


def rows_of(response: Json) -> list[Row]:
    """Return the keys in a range's response."""
    return [row_of(fields) for fields in response.get("kvs", ())]


def row_of(fields: Json) -> Row:
    """Return one key of a response or an event."""
    return Row(
        b64decode(fields["key"]),
        b64decode(fields.get("value", "")),
        int(fields.get("create_revision", 0)),
        int(fields.get("mod_revision", 0)),
    )


def flatten(responses: Iterable[Json]) -> Iterator[tuple[str, Json]]:
    """Yield kind and content of each response, those of nested transactions in their place."""
    for response in responses:
        ((kind, content),) = response.items()
        if kind == "response_txn":
            yield from flatten(content.get("responses", ()))
        else:
            yield kind.removeprefix("response_"), content


# Operations


def put(key: bytes, value: bytes, lease: int = 0, *, keeps_lease: bool = False) -> Json:
    """Write a key, which hangs on ``lease`` then, on none, or on the one it has.

    On `SESSION` it hangs on that of the client, whichever that is when it is written.
    """
    fields: Json = {"key": _text(key), "value": _text(value)}
    if keeps_lease:
        fields["ignore_lease"] = True
    elif lease:
        fields["lease"] = str(lease)
    return {"request_put": fields}


def read(key: bytes, end: bytes = b"", **options: object) -> Json:
    """Read a key, or all from it to before ``end``."""
    return {"request_range": {**_range(key, end), **options}}


def read_prefix(prefix: bytes, **options: object) -> Json:
    """Read all keys with a prefix."""
    return read(prefix, prefix_end(prefix), **options)


def delete(key: bytes, end: bytes = b"") -> Json:
    """Delete a key, or all from it to before ``end``."""
    return {"request_delete_range": _range(key, end)}


def txn(compare: Sequence[Json], success: Sequence[Json], failure: Sequence[Json] = ()) -> Json:
    """Do the one if all comparisons hold, else the other."""
    return {
        "request_txn": {
            "compare": list(compare),
            "success": nest(success),
            "failure": nest(failure),
        }
    }


def nest(operations: Sequence[Json]) -> list[Json]:
    """Return operations so that a server takes them in one transaction, however many."""
    found = list(operations)
    if len(found) <= _SMALL:
        return found
    width = _WIDTHS[len(found) > _WIDTHS[0] ** 2]
    while len(found) > width:
        parts = [found[start : start + width] for start in range(0, len(found), width)]
        found = [{"request_txn": {"success": part}} for part in parts]
    return found


def watch(start: bytes, end: bytes, revision: int) -> Json:
    """Ask for all changes of keys from one to before another, from a revision on."""
    return {
        "create_request": {
            **_range(start, end),
            "start_revision": str(revision),
            "fragment": True,
            "progress_notify": True,
        }
    }


# Comparisons


def exists(key: bytes, end: bytes = b"") -> Json:
    """The key is there; of a range: any is."""
    return {**_compare(key, end, "VERSION", "GREATER"), "version": "0"}


def is_absent(key: bytes) -> Json:
    """The key is not there."""
    return is_empty(key, b"")


def is_empty(key: bytes, end: bytes) -> Json:
    """No key of a range is there."""
    return {**_compare(key, end, "VERSION", "EQUAL"), "version": "0"}


def modified_by(key: bytes, revision: int, end: bytes = b"") -> Json:
    """The key was written last by a revision; of a range: none was written after it."""
    if end:
        return {**_compare(key, end, "MOD", "LESS"), "mod_revision": str(revision + 1)}
    return {**_compare(key, end, "MOD", "EQUAL"), "mod_revision": str(revision)}


def value_is(key: bytes, value: bytes) -> Json:
    """The key is there and has that value."""
    return {**_compare(key, b"", "VALUE", "EQUAL"), "value": _text(value)}


def value_below(key: bytes, value: bytes) -> Json:
    """The key is there and has a value that comes before that one."""
    return {**_compare(key, b"", "VALUE", "LESS"), "value": _text(value)}


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key behind all that start with a prefix."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\x00"


def _compare(key: bytes, end: bytes, target: str, result: str) -> Json:
    return {**_range(key, end), "target": target, "result": result}


def _range(key: bytes, end: bytes) -> Json:
    return {"key": _text(key), "range_end": _text(end)} if end else {"key": _text(key)}


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")
