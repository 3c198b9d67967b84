"""Standard values made of other values: sets, ranges, aware times, fractions, WorkerInfo.

Sans-IO. Tuples and dicts are encoded by the walk itself and only built here.
"""

from __future__ import annotations

from typing import Any

from asyncrpc.errors import EncodingError
from asyncrpc.identity import WorkerInfo

from .extensions import encode_naive_datetime, encode_naive_time, load
from .state import Builder, DecodeState, Encoder, EncodeState, Kind, UnencodableError, mark

__all__ = ("STANDARD_ENCODERS", "STRUCTURE_BUILDERS", "STRUCTURE_ENCODERS")

_SET = mark(Kind.SET)
_FROZENSET = mark(Kind.FROZENSET)
_RANGE = mark(Kind.RANGE)
_SLICE = mark(Kind.SLICE)
_FRACTION = mark(Kind.FRACTION)
_TIME = mark(Kind.TIME)
_DATETIME = mark(Kind.DATETIME)
_TIMEZONE = mark(Kind.TIMEZONE)
_ZONEINFO = mark(Kind.ZONEINFO)
_WORKER_INFO = mark(Kind.WORKER_INFO)


def _build_tuple(_: DecodeState, node: list[Any]) -> object:
    return tuple(node[1:])


def _encode_set(_: EncodeState, value: set[Any]) -> object:
    return [_SET, *value]


def _build_set(_: DecodeState, node: list[Any]) -> object:
    return set(node[1:])


def _encode_frozenset(_: EncodeState, value: frozenset[Any]) -> object:
    return [_FROZENSET, *value]


def _build_frozenset(_: DecodeState, node: list[Any]) -> object:
    return frozenset(node[1:])


def _build_dict(_: DecodeState, node: list[Any]) -> object:
    return dict(zip(node[1::2], node[2::2], strict=True))


def _encode_range(_: EncodeState, value: range) -> object:
    return [_RANGE, value.start, value.stop, value.step]


def _build_range(_: DecodeState, node: list[Any]) -> object:
    _mark, start, stop, step = node
    return range(start, stop, step)


def _encode_slice(_: EncodeState, value: slice) -> object:
    return [_SLICE, value.start, value.stop, value.step]


def _build_slice(_: DecodeState, node: list[Any]) -> object:
    _mark, start, stop, step = node
    return slice(start, stop, step)


def _encode_fraction(_: EncodeState, value: Any) -> object:
    return [_FRACTION, value.numerator, value.denominator]


def _build_fraction(_: DecodeState, node: list[Any]) -> object:
    _mark, numerator, denominator = node
    if type(numerator) is not int or type(denominator) is not int:
        raise TypeError("a Fraction must be of two ints")
    return load("fractions", "Fraction")(numerator, denominator)


def _encode_time(_: EncodeState, value: Any) -> object:
    if value.tzinfo is None:
        return encode_naive_time(value)
    return [_TIME, value.replace(tzinfo=None), value.tzinfo]


def _encode_datetime(_: EncodeState, value: Any) -> object:
    if value.tzinfo is None:
        return encode_naive_datetime(value)
    return [_DATETIME, value.replace(tzinfo=None), value.tzinfo]


def _build_time(_: DecodeState, node: list[Any]) -> object:
    _mark, naive, zone = node
    if type(naive) is not load("datetime", "time"):
        raise TypeError("an aware time must start with its naive time")
    return naive.replace(tzinfo=zone)


def _build_datetime(_: DecodeState, node: list[Any]) -> object:
    _mark, naive, zone = node
    if type(naive) is not load("datetime", "datetime"):
        raise TypeError("an aware datetime must start with its naive datetime")
    return naive.replace(tzinfo=zone)


def _encode_timezone(_: EncodeState, value: Any) -> object:
    return [_TIMEZONE, *value.__getinitargs__()]


def _build_timezone(_: DecodeState, node: list[Any]) -> object:
    timezone = load("datetime", "timezone")
    return timezone(*node[1:]) if len(node) > len(("mark", "offset")) or node[1] else timezone.utc


def _encode_zoneinfo(_: EncodeState, value: Any) -> object:
    if value.key is None:
        raise UnencodableError("a ZoneInfo read from a file has no name to travel under")
    return [_ZONEINFO, value.key]


def _build_zoneinfo(_: DecodeState, node: list[Any]) -> object:
    _mark, key = node
    if type(key) is not str:
        raise TypeError("a time zone must be named by a str")
    try:
        return load("zoneinfo", "ZoneInfo")(key)
    except (OSError, LookupError) as error:
        raise EncodingError(f"time zone {key!r} is not known on this host") from error


def _encode_worker_info(_: EncodeState, value: WorkerInfo) -> object:
    return [_WORKER_INFO, value.name, value.id]


def _build_worker_info(_: DecodeState, node: list[Any]) -> object:
    _mark, name, worker_id = node
    return WorkerInfo(name, worker_id)


STRUCTURE_ENCODERS: dict[type, Encoder] = {
    set: _encode_set,
    frozenset: _encode_frozenset,
    range: _encode_range,
    slice: _encode_slice,
    WorkerInfo: _encode_worker_info,
}
STANDARD_ENCODERS: tuple[tuple[str, str, Encoder], ...] = (
    ("fractions", "Fraction", _encode_fraction),
    ("datetime", "time", _encode_time),
    ("datetime", "datetime", _encode_datetime),
    ("datetime", "timezone", _encode_timezone),
    ("zoneinfo", "ZoneInfo", _encode_zoneinfo),
)
"""(module, class, encoder) of classes whose module need not be loaded."""
STRUCTURE_BUILDERS: dict[Kind, Builder] = {
    Kind.TUPLE: _build_tuple,
    Kind.SET: _build_set,
    Kind.FROZENSET: _build_frozenset,
    Kind.DICT: _build_dict,
    Kind.RANGE: _build_range,
    Kind.SLICE: _build_slice,
    Kind.FRACTION: _build_fraction,
    Kind.TIME: _build_time,
    Kind.DATETIME: _build_datetime,
    Kind.TIMEZONE: _build_timezone,
    Kind.ZONEINFO: _build_zoneinfo,
    Kind.WORKER_INFO: _build_worker_info,
}
