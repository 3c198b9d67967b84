"""Values that travel as one msgpack extension item: numbers, naive times, UUIDs, paths.

Sans-IO. Modules of the standard library are loaded when the first such value arrives, and
recognised by name when one is sent, so that importing the codec stays cheap.
"""

from __future__ import annotations

import functools
import importlib
import struct
from collections.abc import Callable
from typing import Any

from msgpack import ExtType

from .state import MalformedError

__all__ = ("LEAF_DECODERS", "LEAF_ENCODERS", "encode_big_int", "load")

CODE_BIG_INT = 3
CODE_COMPLEX = 4
CODE_DECIMAL = 5
CODE_UUID = 6
CODE_DATE = 7
CODE_TIME = 8
CODE_DATETIME = 9
CODE_TIMEDELTA = 10
CODE_PATH = 11

_COMPLEX = struct.Struct(">dd")
_DATE = struct.Struct(">HBB")
_TIME = struct.Struct(">BBBIB")
_DATETIME = struct.Struct(">HBBBBBIB")
_TIMEDELTA = struct.Struct(">iii")
_PATH_KINDS = ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")


@functools.cache
def load(module: str, name: str) -> Any:
    """Return ``module.name``, importing the module if need be."""
    return getattr(importlib.import_module(module), name)


def encode_big_int(value: object) -> ExtType:
    """Encode an int beyond 64 bits; anything else is our bug: the walk left it in the tree."""
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} was left for msgpack to pack")
    length = value.bit_length() // 8 + 1
    return ExtType(CODE_BIG_INT, value.to_bytes(length, "little", signed=True))


def _decode_big_int(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _encode_complex(value: complex) -> ExtType:
    return ExtType(CODE_COMPLEX, _COMPLEX.pack(value.real, value.imag))


def _decode_complex(data: bytes) -> complex:
    return complex(*_COMPLEX.unpack(data))


def _encode_decimal(value: Any) -> ExtType:
    return ExtType(CODE_DECIMAL, str(value).encode())


def _decode_decimal(data: bytes) -> object:
    try:
        return load("decimal", "Decimal")(data.decode("ascii"))
    except ArithmeticError:
        raise MalformedError("a Decimal must be a number") from None


def _encode_uuid(value: Any) -> ExtType:
    return ExtType(CODE_UUID, value.bytes)


def _decode_uuid(data: bytes) -> object:
    return load("uuid", "UUID")(bytes=data)


def _encode_date(value: Any) -> ExtType:
    return ExtType(CODE_DATE, _DATE.pack(value.year, value.month, value.day))


def _decode_date(data: bytes) -> object:
    return load("datetime", "date")(*_DATE.unpack(data))


def encode_naive_time(value: Any) -> ExtType:
    """Encode a ``datetime.time`` without its tzinfo."""
    return ExtType(
        CODE_TIME,
        _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold),
    )


def _decode_time(data: bytes) -> object:
    *fields, fold = _TIME.unpack(data)
    return load("datetime", "time")(*fields, fold=fold)


def encode_naive_datetime(value: Any) -> ExtType:
    """Encode a ``datetime.datetime`` without its tzinfo."""
    return ExtType(
        CODE_DATETIME,
        _DATETIME.pack(
            value.year,
            value.month,
            value.day,
            value.hour,
            value.minute,
            value.second,
            value.microsecond,
            value.fold,
        ),
    )


def _decode_datetime(data: bytes) -> object:
    *fields, fold = _DATETIME.unpack(data)
    return load("datetime", "datetime")(*fields, fold=fold)


def _encode_timedelta(value: Any) -> ExtType:
    return ExtType(CODE_TIMEDELTA, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds))


def _decode_timedelta(data: bytes) -> object:
    return load("datetime", "timedelta")(*_TIMEDELTA.unpack(data))


def _encode_path(value: Any) -> ExtType:
    kind = _PATH_KINDS.index(type(value).__name__)
    return ExtType(CODE_PATH, bytes((kind,)) + str(value).encode("utf-8", "surrogatepass"))


def _decode_path(data: bytes) -> object:
    if not data or data[0] >= len(_PATH_KINDS):
        raise MalformedError("a path must start with its kind")
    cls = load("pathlib", _PATH_KINDS[data[0]])
    return cls(data[1:].decode("utf-8", "surrogatepass"))


LEAF_ENCODERS: tuple[tuple[str, str, Callable[[Any], ExtType]], ...] = (
    ("builtins", "complex", _encode_complex),
    ("decimal", "Decimal", _encode_decimal),
    ("uuid", "UUID", _encode_uuid),
    ("datetime", "date", _encode_date),
    ("datetime", "timedelta", _encode_timedelta),
    *(("pathlib", name, _encode_path) for name in _PATH_KINDS),
)
"""(module, class, encoder) of every class that is always one item."""

LEAF_DECODERS: dict[int, Callable[[bytes], object]] = {
    CODE_BIG_INT: _decode_big_int,
    CODE_COMPLEX: _decode_complex,
    CODE_DECIMAL: _decode_decimal,
    CODE_UUID: _decode_uuid,
    CODE_DATE: _decode_date,
    CODE_TIME: _decode_time,
    CODE_DATETIME: _decode_datetime,
    CODE_TIMEDELTA: _decode_timedelta,
    CODE_PATH: _decode_path,
}
"""Decoder of every extension code that is a whole value; each result is hashable."""
