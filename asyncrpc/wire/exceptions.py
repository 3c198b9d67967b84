"""Exceptions taken apart and rebuilt without running an ``__init__`` written in Python.

Sans-IO. Used for exceptions that travel as values, and by whoever sends the failure of a call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

__all__ = ("ExceptionParts", "rebuild_exception", "split_exception")

_E = TypeVar("_E", bound=BaseException)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set on classes made by a class statement
_UNICODE_FIELDS = ("encoding", "object", "start", "end", "reason")
_FIELDS: tuple[tuple[type[BaseException], tuple[str, ...]], ...] = (
    (OSError, ("errno", "strerror", "filename", "filename2")),
    (ImportError, ("msg", "name", "path", "name_from")),
    (AttributeError, ("name", "obj")),
    (NameError, ("name",)),
    (
        SyntaxError,
        (
            "msg",
            "filename",
            "lineno",
            "offset",
            "text",
            "end_lineno",
            "end_offset",
            "print_file_and_line",
        ),
    ),
    (UnicodeDecodeError, _UNICODE_FIELDS),
    (UnicodeEncodeError, _UNICODE_FIELDS),
    (UnicodeTranslateError, _UNICODE_FIELDS[1:]),
    (StopIteration, ("value",)),
    (SystemExit, ("code",)),
)
"""Builtin exceptions that keep state outside ``args`` and ``__dict__``."""


class ExceptionParts(NamedTuple):
    """All of an exception but its class, cause, context and traceback."""

    args: tuple[Any, ...]
    fields: dict[str, Any]
    """State of the builtin base, as ``filename`` of an `OSError`; unset ones are left out."""
    attributes: dict[str, Any]
    """The instance's ``__dict__``, notes included."""


def split_exception(error: BaseException) -> ExceptionParts:
    """Return what `rebuild_exception` needs besides the class."""
    fields = {
        name: value
        for name, descriptor in _fields(type(error)).items()
        if (value := descriptor.__get__(error)) is not None
    }
    return ExceptionParts(BaseException.args.__get__(error), fields, dict(vars(error)))  # type: ignore[attr-defined]  # a getset


def rebuild_exception(
    cls: type[_E],
    args: tuple[Any, ...],
    fields: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> _E:
    """Return an instance of ``cls`` whose Python-level ``__init__`` did not run.

    The nearest builtin base is initialised with ``args``; then its own fields and the instance
    dict are restored. Names in ``fields`` that the base does not have are ignored.

    Raises:
        TypeError: the builtin base cannot make an instance of ``cls`` from ``args``.
    """
    base: Any = next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)
    error: _E = base.__new__(cls, *args)
    # The sender may have replaced args; the fields then say what they said at first.
    with contextlib.suppress(TypeError, ValueError):
        base.__init__(error, *args)
    BaseException.args.__set__(error, args)  # type: ignore[attr-defined]  # a getset
    for name, descriptor in _fields(cls).items():
        if name in fields:
            descriptor.__set__(error, fields[name])
    vars(error).update(attributes)
    return error


def _fields(cls: type) -> dict[str, Any]:
    """Return the descriptors of the builtin base's state, out of reach of the class's own names."""
    for base, names in _FIELDS:
        if issubclass(cls, base):
            return {name: getattr(base, name) for name in names if hasattr(base, name)}
    return {}
