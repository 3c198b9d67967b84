"""Proxies: an attribute of one is a method of the value that an RRef refers to."""

from __future__ import annotations

import sys
from threading import get_ident
from typing import TYPE_CHECKING, Any

from asyncrpc.agent import Blocked, RpcFuture
from asyncrpc.options import UNSET, Unset

if TYPE_CHECKING:
    from types import FrameType

    from .reference import RRef

__all__ = ("AsyncProxy", "RemoteProxy", "SyncProxy")

_OF_THE_PROXY = frozenset(("__deepcopy__", "__setstate__"))
"""What `copy` and `pickle` look for in the proxy itself."""


class _Proxy:
    """Common to all proxies; may be kept and used for any number of calls.

    Args:
        rref: whose value's methods are called.
        timeout: seconds for each call.
    """

    __slots__ = ("_rref", "_timeout")

    def __init__(self, rref: RRef, timeout: float | None | Unset = UNSET) -> None:
        self._rref = rref
        self._timeout = timeout

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_PROXY:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return _Method(self, name)

    def _call(self, *call: Any) -> Any:
        raise AssertionError(f"{type(self).__name__} must say how it calls: {call}")


class _Method:
    """One method of a value, ready to be called."""

    __slots__ = ("_name", "_proxy")

    def __init__(self, proxy: _Proxy, name: str) -> None:
        self._proxy = proxy
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._proxy._call(self._name, args, kwargs, sys._getframe(1))

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._proxy._rref!r}>"


class AsyncProxy(_Proxy):
    """Methods return an `RpcFuture` of the result; the calls start at once."""

    __slots__ = ()

    def _call(
        self, name: str, args: tuple[object, ...], kwargs: dict[str, object], site: FrameType
    ) -> RpcFuture[Any]:
        rref = self._rref
        context = rref._context
        if get_ident() != context.thread:
            rref._check_thread("await calls by rpc_async()")
        return context.holder.call_method(rref, name, args, kwargs, self._timeout, site)


class SyncProxy(_Proxy):
    """Methods block this thread until their result is here."""

    __slots__ = ()

    def _call(
        self, name: str, args: tuple[object, ...], kwargs: dict[str, object], site: FrameType
    ) -> Any:
        context = self._rref._context
        if context.is_loop_thread():
            raise RuntimeError(
                "rpc_sync would block the loop it waits for: await rpc_async() instead, or call it "
                "from another thread"
            )
        proxy = AsyncProxy(self._rref, self._timeout)
        return Blocked(context.agent.loop).run(lambda: proxy._call(name, args, kwargs, site))


class RemoteProxy(_Proxy):
    """Methods return an `RRef` to the result, at once; errors surface when that is used."""

    __slots__ = ()

    def _call(
        self, name: str, args: tuple[object, ...], kwargs: dict[str, object], site: FrameType
    ) -> RRef:
        rref = self._rref
        context = rref._context

        def create() -> RRef:
            handle = context.holder.create_by_method(rref, name, args, kwargs, self._timeout, site)
            return context.make(handle)

        return context.run_on_loop(create)
