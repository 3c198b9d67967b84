"""Starting, watching and ending the workers of a node.

The names below are loaded when first used: a worker that records its errors needs no event loop.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the typing module would delay the start of every worker
if TYPE_CHECKING:
    from launcher.errors import ChildFailedError, ProcessFailure, SignalException
    from launcher.process.base import ProcessContext
    from launcher.process.command import CommandContext
    from launcher.process.errorfile import ErrorHandler, record
    from launcher.process.function import FunctionContext
    from launcher.process.guardian import IGNORED_VARIABLE, Guardian
    from launcher.process.result import RunProcsResult
    from launcher.process.script import run_script
    from launcher.process.starting import start_processes
    from launcher.process.validation import validate_full_rank

__all__ = (
    "IGNORED_VARIABLE",
    "ChildFailedError",
    "CommandContext",
    "ErrorHandler",
    "FunctionContext",
    "Guardian",
    "ProcessContext",
    "ProcessFailure",
    "RunProcsResult",
    "SignalException",
    "record",
    "run_script",
    "start_processes",
    "validate_full_rank",
)

_HOMES = {
    "ChildFailedError": "launcher.errors",
    "CommandContext": "launcher.process.command",
    "ErrorHandler": "launcher.process.errorfile",
    "FunctionContext": "launcher.process.function",
    "Guardian": "launcher.process.guardian",
    "IGNORED_VARIABLE": "launcher.process.guardian",
    "ProcessContext": "launcher.process.base",
    "ProcessFailure": "launcher.errors",
    "RunProcsResult": "launcher.process.result",
    "SignalException": "launcher.errors",
    "record": "launcher.process.errorfile",
    "run_script": "launcher.process.script",
    "start_processes": "launcher.process.starting",
    "validate_full_rank": "launcher.process.validation",
}


def __getattr__(name: str) -> object:
    """Load a public name; see PEP 562."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 -- only when something is used

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
