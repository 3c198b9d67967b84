"""The decorators that say how a worker runs a function: `inline`, `async_execution`, `script`.

Imports nothing of the package, so a module of plain functions that uses the decorators stays cheap
to import.
"""

from __future__ import annotations

from asyncrpc.functions.marks import Mark, async_execution, inline, mark_of
from asyncrpc.functions.scripting import ScriptFunction, ScriptRegistry, script, script_of, scripts

__all__ = (
    "Mark",
    "ScriptFunction",
    "ScriptRegistry",
    "async_execution",
    "inline",
    "mark_of",
    "script",
    "script_of",
    "scripts",
)
