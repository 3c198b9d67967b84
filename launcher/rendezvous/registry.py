"""Names of rendezvous backends, and the handlers made by name.

The registry is the package's one mutable table: backends of the package are known to it from the
start and imported when asked for, others come by `register`, or by entry point. A handler that is
none of ours has blocking methods, as torch's, and is called in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import iscoroutinefunction
from typing import cast

from launcher.rendezvous.base import RendezvousHandler, RendezvousParameters, read_name

__all__ = ("HandlerFactory", "get_rendezvous_handler", "register", "unregister")

HandlerFactory = Callable[[RendezvousParameters], RendezvousHandler]
"""Makes a handler; plain, and nothing is opened before its first coroutine."""

# c10d is what torchrun calls its own store; scripts and habits know it by that name.
_BUILT_IN = {
    "tcp": "launcher.rendezvous.tcp",
    "c10d": "launcher.rendezvous.tcp",
    "etcd": "launcher.rendezvous.etcd",
    "etcd-v2": "launcher.rendezvous.etcd",
    "static": "launcher.rendezvous.static",
}
_registered: dict[str, HandlerFactory] = {}


def register(backend: str, creator: HandlerFactory) -> None:
    """Make a backend known.

    Args:
        backend: its name, as given to ``--rdzv-backend``.
        creator: makes its handlers.

    Raises:
        ValueError: the name is empty or belongs to another creator.
    """
    if not backend:
        raise ValueError("backend='': expected a name")
    if backend in _BUILT_IN or _registered.get(backend, creator) is not creator:
        raise ValueError(f"backend={backend!r}: expected a name that is not taken")
    _registered[backend] = creator


def unregister(backend: str) -> None:
    """Forget a backend that came by `register`; unknown names are ignored."""
    _registered.pop(backend, None)


def get_rendezvous_handler(params: RendezvousParameters) -> RendezvousHandler:
    """Make the handler of the backend that the parameters name.

    Args:
        params: what the handler is for.

    Returns:
        A handler that has opened nothing yet.

    Raises:
        ValueError: no such backend, or the backend refuses the parameters.
        RuntimeError: the handler answers to another name than it was registered by.
    """
    handler: object = _factory(params.backend)(params)
    if not isinstance(handler, RendezvousHandler) or not iscoroutinefunction(
        handler.next_rendezvous
    ):
        from launcher.rendezvous.threaded import ThreadedHandler  # noqa: PLC0415 -- of others only

        handler = ThreadedHandler(handler)
    if (name := read_name(handler.get_backend())) != params.backend:
        raise RuntimeError(f"rdzv_backend={params.backend!r}: its handler calls itself {name!r}")
    return handler


def _factory(backend: str) -> HandlerFactory:
    if backend in _BUILT_IN:
        return cast("HandlerFactory", import_module(_BUILT_IN[backend]).create_handler)
    if backend in _registered:
        return _registered[backend]
    from launcher.rendezvous.plugins import find_backend, list_backends  # noqa: PLC0415 -- slow

    if (found := find_backend(backend)) is not None:
        return cast("HandlerFactory", found)
    known = ", ".join(sorted({*_BUILT_IN, *_registered, *list_backends()}))
    raise ValueError(f"rdzv_backend={backend!r}: expected one of {known}")
