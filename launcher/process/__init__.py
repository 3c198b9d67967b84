"""Starting, watching and ending the workers of a node."""

from launcher.errors import ChildFailedError, ProcessFailure, SignalException
from launcher.process.base import ProcessContext, validate_full_rank
from launcher.process.command import CommandContext, start_processes
from launcher.process.guardian import Guardian
from launcher.process.result import RunProcsResult

__all__ = (
    "ChildFailedError",
    "CommandContext",
    "Guardian",
    "ProcessContext",
    "ProcessFailure",
    "RunProcsResult",
    "SignalException",
    "start_processes",
    "validate_full_rank",
)
