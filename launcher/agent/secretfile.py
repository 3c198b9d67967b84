"""The file through which workers get the run's secret: only its owner can read it, and it goes.

Called by the agent, around a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from launcher.logs import temporary_folder

__all__ = ("secret_file",)


@contextmanager
def secret_file(secret: bytes) -> Iterator[str]:
    """Keep a secret in a new file among the temporary ones, for as long as the context lasts.

    Args:
        secret: what the file holds, unchanged.

    Yields:
        The path; the file's mode is 0600 and nobody can have made it before.

    Raises:
        OSError: the file cannot be made; names it.
    """
    path = os.path.join(temporary_folder(os.environ), f"launcher_secret_{os.urandom(8).hex()}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            with open(descriptor, "wb") as file:
                file.write(secret)
        except OSError as error:
            error.filename = path
            raise
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
