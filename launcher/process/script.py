"""Runs a script inside a worker that was started for a function, so that start methods apply.

Runs in workers only.
"""

from __future__ import annotations

import os
import runpy
import sys

__all__ = ("run_script",)


def run_script(path: str, *args: str) -> None:
    """Run a Python script as the main program of this process.

    Args:
        path: the script.
        args: its arguments.

    Raises:
        BaseException: whatever ends it.
    """
    sys.argv = [path, *args]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))  # as Python does for its script
    runpy.run_path(path, run_name="__main__")
