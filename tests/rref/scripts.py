"""Script functions that the tests of references make values with."""

from __future__ import annotations

import asyncrpc as rpc


@rpc.script
def script_add(a: int, b: int) -> int:
    """Add."""
    return a + b
