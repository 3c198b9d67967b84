"""Where temporary files go. Looks at folders, makes none; called by whoever makes one.

Not the tempfile module: its import costs more than starting a worker.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ("temporary_folder",)

_VARIABLES = ("TMPDIR", "TEMP", "TMP")  # and these folders: the tempfile module's
_FOLDERS = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 -- names in them are random, modes private


def temporary_folder(environ: Mapping[str, str]) -> str:
    """Find the folder for temporary files.

    Args:
        environ: where ``TMPDIR``, ``TEMP`` and ``TMP`` are looked up; what they name is passed
            over if it is no folder that can be written to.

    Returns:
        An absolute path.

    Raises:
        FileNotFoundError: there is no such folder; names those that were tried.
    """
    named = [environ[name] for name in _VARIABLES if environ.get(name)]
    candidates = [*named, *_FOLDERS]
    for folder in candidates:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return os.path.abspath(folder)
    tried = ", ".join(candidates)
    raise FileNotFoundError(f"no folder for temporary files that can be written to: {tried}")
