"""Script functions: called by name, with a typed signature that is checked before anything is sent.

`script` registers a function under a name that caller and callee share. The callee looks only into
its registry: no module is imported for a request, and no pickle travels.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, overload

from asyncrpc.functions.conformity import conforms, describe_annotation

__all__ = ("ScriptFunction", "ScriptRegistry", "script", "script_of", "scripts")

_ATTRIBUTE = "__asyncrpc_script__"
_MAX_NAME = 255
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_F = TypeVar("_F", bound=Callable[..., object])


class ScriptFunction:
    """A registered function: its name and what may be passed to it.

    Args:
        function: what runs.
        name: what travels.

    Raises:
        TypeError: a parameter has no annotation.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name
        self.signature = inspect.signature(function)
        for parameter in self.signature.parameters.values():
            if parameter.annotation is parameter.empty:
                raise TypeError(
                    f"script function {name} must have typed parameters, but {parameter.name!r} "
                    "has no annotation"
                )
        self._plain = all(p.kind in _POSITIONAL for p in self.signature.parameters.values())

    def __repr__(self) -> str:
        return f"<ScriptFunction {self.name}{self.signature}>"

    @functools.cached_property
    def annotations(self) -> dict[str, Any]:
        """The parameters' types, by name; read late, so that classes below the function count.

        Raises:
            TypeError: an annotation names nothing.
        """
        try:
            hints = typing.get_type_hints(inspect.unwrap(self.function), include_extras=True)
        except NameError as error:
            raise TypeError(f"an annotation of script function {self.name}: {error}") from None
        return {name: hints.get(name, Any) for name in self.signature.parameters}

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check arguments against the signature.

        Raises:
            TypeError: one is missing, too much, or not of its type; names function and parameter.
        """
        annotations = self.annotations
        if self._plain and not kwargs and len(args) == len(annotations):
            for (name, annotation), value in zip(annotations.items(), args, strict=True):
                self._check_one(name, value, annotation)
            return
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"script function {self.name}{self.signature}: {error}") from None
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            several: Any = [value]
            if kind is inspect.Parameter.VAR_POSITIONAL:
                several = value
            elif kind is inspect.Parameter.VAR_KEYWORD:
                several = value.values()
            for item in several:
                self._check_one(name, item, annotations[name])

    def _check_one(self, name: str, value: object, annotation: Any) -> None:
        if not conforms(value, annotation):
            raise TypeError(
                f"script function {self.name}: argument {name!r} must be "
                f"{describe_annotation(annotation)}, got {type(value).__qualname__}: "
                f"{value!r:.100}"
            )


class ScriptRegistry:
    """The script functions of a process, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, ScriptFunction] = {}

    def add(self, function: ScriptFunction) -> None:
        """Take a function in; one that was defined anew in the same place takes its place.

        Raises:
            ValueError: another function has the name.
        """
        old = self._by_name.get(function.name)
        if old is not None and _place(old.function) != _place(function.function):
            raise ValueError(
                f"script name {function.name!r} is taken by {'.'.join(_place(old.function))}"
            )
        self._by_name[function.name] = function

    def get(self, name: str) -> ScriptFunction | None:
        """Return the function of that name, or ``None``."""
        return self._by_name.get(name)

    def discard(self, name: str) -> None:
        """Forget a function, for tests."""
        self._by_name.pop(name, None)

    def __iter__(self) -> Iterator[ScriptFunction]:
        return iter(tuple(self._by_name.values()))


scripts = ScriptRegistry()
"""What `script` registered in this process."""


@overload
def script(function: _F, /) -> _F: ...
@overload
def script(*, name: str) -> Callable[[_F], _F]: ...


def script(
    function: Callable[..., object] | None = None, /, *, name: str | None = None
) -> Callable[..., object]:
    """Register a script function: typed, called by name, without import or pickle on the callee.

    Its arguments are checked against its signature on the caller before anything is sent, and again
    on the callee. Arguments and result must travel without pickle. The decorated function is called
    locally as before. Goes with `inline` and `async_execution`, in either order, and with ``async
    def``.

    Args:
        function: a ``def`` or ``async def`` whose parameters are all annotated.
        name: what travels, 1 to 255 characters, the same on caller and callee; left out:
            ``module:qualname``.

    Returns:
        ``function`` itself, or the decorator if only ``name`` is given.

    Raises:
        TypeError: ``function`` is no function, or a parameter has no annotation.
        ValueError: another function is registered under that name, or the name breaks its rule.
    """
    given: object = name
    if given is not None and not (isinstance(given, str) and 1 <= len(given) <= _MAX_NAME):
        raise ValueError(f"name must be a str of 1 to {_MAX_NAME} characters, got {name!r:.300}")
    if function is None:
        return functools.partial(_register, name=name)
    return _register(function, name=name)


def script_of(function: object) -> ScriptFunction | None:
    """Return what `script` registered ``function`` as, or ``None``."""
    found = getattr(function, "__dict__", {}).get(_ATTRIBUTE)
    return found if isinstance(found, ScriptFunction) else None


def _register(function: Callable[..., object], *, name: str | None) -> Callable[..., object]:
    if not inspect.isfunction(function):
        raise TypeError(f"script registers functions written in Python, got {function!r}")
    if name is None:
        name = ":".join(_place(function))
    registered = ScriptFunction(function, name)
    scripts.add(registered)
    setattr(function, _ATTRIBUTE, registered)
    return function


def _place(function: Callable[..., object]) -> tuple[str, str]:
    module = function.__module__
    # a child of multiprocessing's "spawn" knows the main module by another name
    return "__main__" if module == "__mp_main__" else module, function.__qualname__
