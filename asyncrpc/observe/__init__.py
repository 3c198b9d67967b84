"""What can be seen of a running worker, and the clock it is measured by."""

from __future__ import annotations

from asyncrpc.observe.clock import Clock, LoopClock, Timer

__all__ = ("Clock", "LoopClock", "Timer")
