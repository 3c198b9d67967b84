"""Backends: what kind of agent `init_rpc` starts, by name.

Two are built in: ``BackendType.ASYNCIO``, with `RpcOptions`, and ``BackendType.FAULTY_ASYNCIO``,
with `FaultyRpcOptions`. `register_backend` adds one. Used by `RpcAgent.start`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from asyncrpc.errors import RpcError, StatusCode
from asyncrpc.options import FaultyRpcOptions, RpcOptions

__all__ = (
    "BackendType",
    "backend_registered",
    "construct_rpc_backend_options",
    "register_backend",
    "resolve",
)


class _Members(type):
    """Gives a class members as those of an `enum.Enum`, to which more can be added."""

    def __getattr__(cls, name: str) -> BackendType:
        if name in _registered:
            return _registered[name]
        raise AttributeError(f"BackendType has no member {name}, only {', '.join(_registered)}")

    def __getitem__(cls, name: str) -> BackendType:
        return _registered[name]

    def __iter__(cls) -> Iterator[BackendType]:
        return iter(tuple(_registered.values()))

    def __len__(cls) -> int:
        return len(_registered)

    @property
    def __members__(cls) -> Mapping[str, BackendType]:
        """All members by name, as an `enum.Enum` shows them."""
        return MappingProxyType(_registered)


class BackendType(metaclass=_Members):
    """A kind of agent; ``BackendType.NAME`` or ``BackendType["NAME"]`` is the one of that name.

    Args:
        name: as it was registered.
        construct_options: makes its options of keyword arguments.
        init: starts an agent; ``None`` for the agents of this package.
    """

    __slots__ = ("construct_options", "init", "name")

    def __init__(
        self,
        name: str,
        construct_options: Callable[..., Any],
        init: Callable[..., Awaitable[Any]] | None,
    ) -> None:
        self.name = name
        self.construct_options = construct_options
        self.init = init

    def __repr__(self) -> str:
        return f"BackendType.{self.name}"

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, ...]:
        return _member, (self.name,)


_registered: dict[str, BackendType] = {
    backend.name: backend
    for backend in (
        BackendType("ASYNCIO", RpcOptions, None),
        BackendType("FAULTY_ASYNCIO", FaultyRpcOptions, None),
    )
}


def backend_registered(name: str) -> bool:
    """Whether there is a backend of that name."""
    return name in _registered


def register_backend(
    name: str, construct_options: Callable[..., Any], init: Callable[..., Awaitable[Any]]
) -> BackendType:
    """Add a backend for the rest of this process.

    Args:
        name: an identifier, unique among the backends.
        construct_options: makes its options of keyword arguments, and has defaults for all.
        init: coroutine function that starts an agent; called with the keyword arguments ``name``,
            ``rank``, ``world_size``, ``options`` and ``store`` as `init_rpc` got them.

    Returns:
        The new member of `BackendType`.

    Raises:
        ValueError: ``name`` is no identifier, or another argument not callable.
        RpcError: there is a backend of that name.
    """
    if not _is_identifier(name):
        raise ValueError(f"name must be an identifier that begins with a letter, got {name!r}")
    for field, value in (("construct_options", construct_options), ("init", init)):
        if not callable(value):
            raise ValueError(f"{field} must be callable, got {value!r}")
    if hasattr(BackendType, name):  # as a member or otherwise
        raise RpcError(f"RPC backend {name}: already registered", code=StatusCode.ALREADY_EXISTS)
    _registered[name] = backend = BackendType(name, construct_options, init)
    return backend


def construct_rpc_backend_options(backend: BackendType, **settings: Any) -> Any:
    """Return options for a backend.

    Args:
        backend: a member of `BackendType`.
        settings: fields of its options.

    Raises:
        TypeError: ``backend`` is no such member, or its options have no such field.
        ValueError: a value breaks its rule.
    """
    return _checked(backend).construct_options(**settings)


def resolve(backend: object, options: object) -> tuple[BackendType, Any]:
    """Return the backend to start and its options, where one or both may be left out.

    Args:
        backend: a member, or ``None`` to take the one whose options these are.
        options: its options, or ``None`` for its defaults.

    Raises:
        TypeError: they are none, or do not belong together.
    """
    if backend is None and options is None:
        return _registered["ASYNCIO"], RpcOptions()
    if backend is None:
        if not isinstance(options, RpcOptions):
            raise TypeError(f"Could not infer backend for options {options!r}")
        is_faulty = isinstance(options, FaultyRpcOptions)
        return _registered["FAULTY_ASYNCIO" if is_faulty else "ASYNCIO"], options
    chosen = _checked(backend)
    if options is None:
        return chosen, chosen.construct_options()
    if chosen.init is None and resolve(None, options)[0] is not chosen:
        wanted, got = chosen.construct_options, type(options).__name__
        raise TypeError(f"options of {chosen} must be {wanted.__name__}, got {got}")
    return chosen, options


def _checked(backend: object) -> BackendType:
    if not isinstance(backend, BackendType):
        raise TypeError(f"Argument backend must be a member of BackendType, got {backend!r}")
    return backend


def _is_identifier(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")


def _member(name: str) -> BackendType:
    return _registered[name]
