"""What can be seen of a running worker, and the clock it is measured by."""

from __future__ import annotations

from asyncrpc.observe.blocking import LoopWatch
from asyncrpc.observe.clock import Clock, LoopClock, Timer
from asyncrpc.observe.limits import time_limit
from asyncrpc.observe.reminders import reminding

__all__ = ("Clock", "LoopClock", "LoopWatch", "Timer", "reminding", "time_limit")
