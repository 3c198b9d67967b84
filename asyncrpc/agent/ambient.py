"""What surrounds the calls made here: one context variable for all that may ride on them.

Read once per call by `Caller`; unset, it costs a plain call that one look. Set by `wait_all`, by
call contexts, and by whatever adds entries to the header map of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from asyncrpc.execution import ServedCall
from asyncrpc.wire import HeaderMap

if TYPE_CHECKING:
    from asyncrpc.agent.contexts import CallContext
    from asyncrpc.agent.scope import WaitAll

__all__ = ("Ambient", "Surrounding", "ambient", "carried")


@dataclass(frozen=True, slots=True)
class Ambient:
    """What surrounds calls.

    Args:
        scope: collects them, innermost; ``None`` for none.
        context: the call context that they are made in; ``None`` for that of the call served.
        trace: W3C ``traceparent``; empty for that of the call served.
        metadata: entries for the header map.
    """

    scope: WaitAll | None = None
    context: CallContext | None = None
    trace: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


ambient: ContextVar[Ambient | None] = ContextVar("asyncrpc_ambient", default=None)
"""What surrounds the calls made here; ``None`` for nothing."""


class Surrounding:
    """Sets parts of `ambient` between `enter` and `leave`, which may nest."""

    __slots__ = ("_token",)

    def __init__(self) -> None:
        self._token: Token[Ambient | None] | None = None

    def enter(self, **parts: Any) -> None:
        """Surround the calls made from now on by these parts, and by what there was."""
        self._token = ambient.set(replace(ambient.get() or Ambient(), **parts))

    def leave(self) -> None:
        """Go back to what there was. Idempotent."""
        if self._token is not None:
            token, self._token = self._token, None
            ambient.reset(token)


def carried(
    around: Ambient | None,
    served: ServedCall | None,
    is_reached: Callable[[str], bool],
) -> HeaderMap:
    """Return what a call carries beside its arguments.

    Args:
        around: what surrounds it.
        served: the call on whose behalf it is made, whose context and trace it inherits.
        is_reached: asked with the id of the context, whether it still lives; notes the destination.
    """
    inherited = served.headers if served is not None else None
    context = trace = ""
    metadata: Mapping[str, str] = {}
    if inherited is not None:
        context, trace = inherited.context, inherited.trace
    if around is not None:
        context = around.context.id if around.context is not None else context
        trace, metadata = around.trace or trace, around.metadata
    if context and not is_reached(context):
        context = ""
    return HeaderMap(context=context, trace=trace, metadata=dict(metadata))
