"""A watchdog over blocks of code: `expires` in the worker, `TimerServer` in the launcher.

A worker's import of this package loads neither the event loop nor anything else of the launcher.
"""

from launcher.timer.client import TIMER_FILE_VARIABLE, expires
from launcher.timer.server import Expired, TimerServer

__all__ = ("TIMER_FILE_VARIABLE", "Expired", "TimerServer", "expires")
