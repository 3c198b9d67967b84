"""The guardian process, parent of all workers of an agent, and the agent's side of it."""

from launcher.process.guardian.client import Guardian
from launcher.process.guardian.process import Cleared, Exit, GuardedProcess
from launcher.process.guardian.spawn import IGNORED_VARIABLE
from launcher.process.guardian.tree import process_state

__all__ = (
    "IGNORED_VARIABLE",
    "Cleared",
    "Exit",
    "GuardedProcess",
    "Guardian",
    "process_state",
)
