"""Where the sockets of this user's launches are: a folder that nobody else can enter.

Called by both ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from launcher.logs import temporary_folder

__all__ = ("SUFFIX", "control_folder", "open_folder")

SUFFIX = ".sock"
"""What the names of sockets end with; they begin with the process id of the launcher."""


def control_folder(environ: Mapping[str, str]) -> str:
    """Return the path of the folder, whether it is there or not.

    Args:
        environ: where ``XDG_RUNTIME_DIR`` and the folder for temporary files are looked up.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        return os.path.join(runtime, "launcher")
    return os.path.join(temporary_folder(environ), f"launcher-{os.geteuid()}")


def open_folder(path: str) -> int:
    """Open the folder.

    Args:
        path: of the folder.

    Returns:
        A descriptor, the caller's; through it sockets have short names, whatever the path's length.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: it is another user's, or others can enter it.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise PermissionError(0, "expected a folder of this user alone, mode 0700", path)
    return descriptor
