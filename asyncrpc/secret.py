"""Where the shared secret comes from, and the keys made of it.

Reads and creates files, nothing else; the handshake uses the keys, the launcher the run's secret.
No secret, and nothing it could be guessed from, appears in an error text.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a launch loads this, and pathlib is half as slow as starting Python
    from pathlib import Path

__all__ = (
    "NoUserSecretError",
    "hkdf",
    "load_secret",
    "run_digest",
    "run_key",
    "run_secret",
)

SECRET_FILE_VARIABLE = "ASYNCRPC_SECRET_FILE"  # noqa: S105 -- a variable's name
MIN_SECRET_BYTES = 16  # 128 bits: a server's proof lets a stranger test guesses at home
MAX_SECRET_BYTES = 1 << 16  # a larger file is not a secret but a mistake
NEW_SECRET_BYTES = 32
_MAKING = "make it with: (umask 077; head -c 32 /dev/urandom > FILE), the same on all nodes"
_REMEDY = f"give a secret or set ${SECRET_FILE_VARIABLE}"

_KEY_INFO = b"asyncrpc/1 handshake"
_RUN_SECRET_INFO = b"asyncrpc/1 run secret"
# Others may neither read nor write it, its group may not write it; a root-owned 0440 file, which
# is how Kubernetes mounts a secret for a group, passes.
_FORBIDDEN_MODE = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP


class NoUserSecretError(ValueError):
    """There is no per-user secret file, and none can be made."""


def load_secret(secret: bytes | Path | None, environ: Mapping[str, str]) -> bytes:
    """Return the shared secret of this process.

    Args:
        secret: the secret itself (at least 16 bytes, or ``b""`` for the unauthenticated mode,
            which the caller must confine to this host), or the path of a file that holds it, or
            ``None``: the file named by ``ASYNCRPC_SECRET_FILE``, else the per-user file
            ``$XDG_CONFIG_HOME/asyncrpc/secret`` (default ``~/.config``), which is created with 32
            random bytes, mode 0600, on first use.
        environ: environment variables to read.

    Returns:
        The secret; the content of a file is taken as it is, a final newline included.

    Raises:
        NoUserSecretError: the per-user file is asked for, is not there and cannot be created.
        ValueError: the secret has 1 to 15 bytes, or its file is missing, empty, over 64 KiB, not
            a regular file, or open to others (mode) or owned by another user (per-user file).
    """
    if isinstance(secret, (bytes, bytearray, memoryview)):
        return _checked(bytes(secret), "secret")
    if isinstance(secret, os.PathLike):
        return _read(os.path.expanduser(secret), f"secret file {str(secret)!r}")
    if secret is not None:
        raise ValueError(f"secret must be bytes or a Path, got {type(secret).__name__}")
    named = environ.get(SECRET_FILE_VARIABLE)
    if named:
        return _read(named, f"${SECRET_FILE_VARIABLE} {named!r}")
    return _load_user_secret(environ)


def run_key(secret: bytes, run_id: str) -> bytes:
    """Return the 32-byte key with which members of one run prove themselves."""
    return hkdf(secret, salt=run_id.encode(), info=_KEY_INFO)


def run_secret(secret: bytes, run_id: str) -> bytes:
    """Return the 32-byte secret of one run, made of the secret its agents share.

    Raises:
        ValueError: the secret is empty; what came of it would only look like a secret.
    """
    if not secret:
        raise ValueError("a run's secret cannot be made of an empty secret")
    return hkdf(secret, salt=run_id.encode(), info=_RUN_SECRET_INFO)


def run_digest(run_id: str) -> bytes:
    """Return the SHA-256 of a run id, 32 bytes: the form in which it travels."""
    import hashlib  # noqa: PLC0415 -- slow, and not needed for a launch

    return hashlib.sha256(run_id.encode()).digest()


def hkdf(secret: bytes, *, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """Return ``length`` bytes (at most 8160) derived from ``secret``.

    Source: RFC 5869 with SHA-256, sections 2.2 and 2.3.
    """
    # An HMAC key is padded with zeros, so an empty salt is the RFC's default of 32 zero bytes.
    extracted = hmac.digest(salt, secret, "sha256")
    output = block = b""
    for index in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([index]), "sha256")
        output += block
    return output[:length]


def _user_file(environ: Mapping[str, str]) -> str:
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # the XDG specification says to ignore a relative one
        home = environ.get("HOME") or os.path.expanduser("~")
        if home.startswith("~"):  # of a user without an entry in /etc/passwd
            raise NoUserSecretError(f"no home folder for a per-user secret file: {_REMEDY}")
        base = os.path.join(home, ".config")
    return os.path.join(base, "asyncrpc", "secret")


def _load_user_secret(environ: Mapping[str, str]) -> bytes:
    path = _user_file(environ)
    if not os.path.exists(path):
        try:
            _create(path)
        except OSError as error:
            raise NoUserSecretError(
                f"cannot create the per-user secret file {path!r} ({error.strerror}): {_REMEDY}"
            ) from None
    return _read(path, f"per-user secret file {path!r}", is_own=True)


def _create(path: str) -> None:
    """Make the file so that nobody ever sees a part of it and the first of two makers wins."""
    folder = os.path.dirname(path)
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    draft = os.path.join(folder, f".secret-{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask left of it
            file.write(os.urandom(NEW_SECRET_BYTES))
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)


def _read(path: str, what: str, *, is_own: bool = False) -> bytes:
    try:
        # Not blocking, as a FIFO's open would; a regular file does not mind.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = f"; {_MAKING}" if isinstance(error, FileNotFoundError) else ""
        raise ValueError(f"{what} cannot be opened: {error.strerror}{hint}") from None
    try:
        _check_file(os.fstat(descriptor), what, is_own=is_own)  # what is checked is what is read
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    finally:
        os.close(descriptor)
    if not content:
        raise ValueError(f"{what} is empty, expected at least {MIN_SECRET_BYTES} bytes")
    if len(content) > MAX_SECRET_BYTES:
        raise ValueError(f"{what} is larger than {MAX_SECRET_BYTES} bytes")
    return _checked(content, what)


def _check_file(status: os.stat_result, what: str, *, is_own: bool) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{what} is {stat.filemode(status.st_mode)}, expected a regular file")
    if mode & _FORBIDDEN_MODE:
        raise ValueError(
            f"{what} has mode {mode:04o}, expected 0600: not readable or writable by others, "
            "not writable by its group"
        )
    if is_own and os.geteuid() not in {0, status.st_uid} and status.st_uid != 0:
        raise ValueError(f"{what} belongs to user {status.st_uid}, expected {os.geteuid()}")


def _checked(secret: bytes, what: str) -> bytes:
    if 0 < len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"{what} has {len(secret)} bytes, expected at least {MIN_SECRET_BYTES}")
    return secret
