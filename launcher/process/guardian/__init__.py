"""The guardian process, parent of all workers of an agent, and the agent's side of it."""

from launcher.process.guardian.client import Cleared, Exit, GuardedProcess, Guardian
from launcher.process.guardian.tree import process_state

__all__ = ("Cleared", "Exit", "GuardedProcess", "Guardian", "process_state")
