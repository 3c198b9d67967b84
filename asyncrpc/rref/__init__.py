"""Remote references: values that live on one worker and are referred to from others."""

from __future__ import annotations

from asyncrpc.rref.context import RRefContext
from asyncrpc.rref.keeping import RRefRow
from asyncrpc.rref.reference import RRef

__all__ = ("RRef", "RRefContext", "RRefRow")
