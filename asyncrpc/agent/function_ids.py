"""The ids that an agent gives to the functions it calls: names travel once, ids with each call.

Used by `Caller`. An id stands for one name for as long as the agent lives; a link tells its peer
the name before the id is first used on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType

from asyncrpc.errors import EncodingError
from asyncrpc.execution import SCRIPT, FunctionRef, describe

__all__ = ("PLAIN_TYPES", "FunctionIds")

PLAIN_TYPES = (FunctionType, BuiltinFunctionType, type)
"""Types of callables that carry no arguments of their own and hash by identity."""

Named = tuple[int, tuple[object, ...], Mapping[str, object] | None]
"""Id of a function, positional and keyword arguments."""


class FunctionIds:
    """Ids of functions by what the user calls, and names by id."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self.names: list[str] = [""]
        """Names by id, as reports show them."""
        self.plain: dict[object, int] = {}
        """Ids of plain functions, for the hot path."""
        self.scripts: set[int] = set()
        """Ids of script functions."""

    def identify(
        self, func: object, args: tuple[object, ...], kwargs: Mapping[str, object] | None
    ) -> Named:
        """Return the id of a function, and the call's arguments with those bound to it.

        Raises:
            EncodingError: it cannot be named, or is a script function that does not take these
                arguments.
            TypeError: it is not callable.
        """
        reference = describe(func)
        if reference.args or reference.kwargs:
            args, kwargs = (*reference.args, *args), {**reference.kwargs, **(kwargs or {})}
        wire_name = SCRIPT + reference.name if reference.is_script else reference.name
        ident = self._ids.get(wire_name)
        if ident is None:
            ident = self._add(wire_name, reference)
        if reference.is_script:
            _check(reference, args, kwargs)
        elif func.__class__ in PLAIN_TYPES:
            self.plain[func] = ident
        return ident, args, kwargs

    def method(self, name: str) -> int:
        """Return the id of a method of values that are referred to."""
        wire_name = f".{name}"
        ident = self._ids.get(wire_name)
        if ident is None:
            ident = self._ids[wire_name] = len(self.names)
            self.names.append(wire_name)
        return ident

    def wire_name(self, function: int) -> str:
        """Return the name that a peer is told for an id."""
        name = self.names[function]
        return SCRIPT + name if function in self.scripts else name

    def _add(self, wire_name: str, reference: FunctionRef) -> int:
        ident = self._ids[wire_name] = len(self.names)
        self.names.append(reference.name)
        if reference.is_script:
            self.scripts.add(ident)
        return ident


def _check(
    reference: FunctionRef, args: tuple[object, ...], kwargs: Mapping[str, object] | None
) -> None:
    if reference.check is None:  # known to the callee alone, which checks
        return
    try:
        reference.check(args, kwargs or {})
    except TypeError as error:
        raise EncodingError(str(error), path="args") from None
