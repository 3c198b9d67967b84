"""Going in order: workers hear that their node has to go, and how long they have.

`on_preempt` and `preempted` are for workers, whose import of this package loads neither the event
loop nor anything else of the launcher; `NoticeServer` is the launcher's side.
"""

from launcher.preemption.client import SOCKET_VARIABLE, on_preempt, preempted
from launcher.preemption.server import NoticeServer

__all__ = ("SOCKET_VARIABLE", "NoticeServer", "on_preempt", "preempted")
