"""The shared secret: where it may come from, and what is made of it."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from asyncrpc import secret as secret_module
from asyncrpc.secret import (
    NoUserSecretError,
    hkdf,
    load_secret,
    run_digest,
    run_key,
    run_secret,
)

GOOD = b"0123456789abcdef"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """Return a secret file of mode 0600."""
    path = tmp_path / "secret"
    path.write_bytes(GOOD)
    path.chmod(0o600)
    return path


# --- given directly


@pytest.mark.parametrize("given", [GOOD, GOOD * 4, b""])
def test_bytes_are_taken_as_they_are(given: bytes) -> None:
    """A secret given as bytes is returned; empty means the unauthenticated mode."""
    assert load_secret(given, {"ASYNCRPC_SECRET_FILE": "/nowhere"}) == given


@pytest.mark.parametrize("size", [1, 15])
def test_short_secret(size: int) -> None:
    """1 to 15 bytes are refused, with the length and without the bytes."""
    with pytest.raises(
        ValueError, match=f"secret has {size} bytes, expected at least 16"
    ) as caught:
        load_secret(b"z" * size, {})

    assert "zzz" not in str(caught.value)


def test_secret_of_another_type() -> None:
    """A str is neither; it is not shown."""
    with pytest.raises(ValueError, match="bytes or a Path, got str") as caught:
        load_secret("password", {})  # type: ignore[arg-type]

    assert "password" not in str(caught.value)


# --- files


def test_path_wins_over_the_environment(secret_file: Path) -> None:
    """A given path is read whatever the variable says."""
    assert load_secret(secret_file, {"ASYNCRPC_SECRET_FILE": "/nowhere"}) == GOOD


def test_variable_names_a_file(secret_file: Path) -> None:
    """Without a given secret the file of the variable is read."""
    assert load_secret(None, {"ASYNCRPC_SECRET_FILE": str(secret_file)}) == GOOD


def test_content_is_not_stripped(secret_file: Path) -> None:
    """A final newline is part of the secret."""
    secret_file.write_bytes(GOOD + b"\n")

    assert load_secret(secret_file, {}) == GOOD + b"\n"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640, 0o700, 0o611])
def test_accepted_modes(secret_file: Path, mode: int) -> None:
    """Files that others cannot read or write and the group cannot write pass, 0440 among them."""
    secret_file.chmod(mode)

    assert load_secret(secret_file, {}) == GOOD


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o660, 0o666, 0o444])
@pytest.mark.parametrize("way", ["path", "variable"])
def test_refused_modes(secret_file: Path, mode: int, way: str) -> None:
    """Files open to others are refused; file, mode and expectation are named."""
    secret_file.chmod(mode)
    given = secret_file if way == "path" else None

    with pytest.raises(ValueError, match=f"mode {mode:04o}, expected 0600") as caught:
        load_secret(given, {"ASYNCRPC_SECRET_FILE": str(secret_file)})
    assert str(secret_file) in str(caught.value)
    assert GOOD.decode() not in str(caught.value)


@pytest.mark.parametrize("home", ["/dev/null", "/proc"])
def test_no_per_user_file_can_be_made(home: str) -> None:
    """An error of its own: one process alone can do without what it would share."""
    with pytest.raises(NoUserSecretError, match=f"secret file '{home}/.config/asyncrpc/secret'"):
        load_secret(None, {"HOME": home})


def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers run as users that no file knows."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)

    with pytest.raises(NoUserSecretError, match="no home folder"):
        load_secret(None, {})


def test_missing_file_of_the_variable(tmp_path: Path) -> None:
    """A variable that names no file is an error, never a reason to look elsewhere."""
    with pytest.raises(ValueError, match=r"ASYNCRPC_SECRET_FILE .*none.* cannot be opened"):
        load_secret(None, {"ASYNCRPC_SECRET_FILE": str(tmp_path / "none"), "HOME": str(tmp_path)})
    with pytest.raises(ValueError, match="; make it with: "):
        load_secret(tmp_path / "none", {})

    assert list(tmp_path.iterdir()) == []


def test_missing_given_file(tmp_path: Path) -> None:
    """A path to nothing is an error that names it."""
    with pytest.raises(ValueError, match="gone"):
        load_secret(tmp_path / "gone", {})


def test_short_file(secret_file: Path) -> None:
    """A file is held to the same length."""
    secret_file.write_bytes(b"short")

    with pytest.raises(ValueError, match="has 5 bytes, expected at least 16"):
        load_secret(secret_file, {})


def test_empty_file_is_not_the_unauthenticated_mode(secret_file: Path) -> None:
    """Only ``secret=b""`` turns authentication off, a truncated file does not."""
    secret_file.write_bytes(b"")

    with pytest.raises(ValueError, match="is empty"):
        load_secret(secret_file, {})


def test_large_file(secret_file: Path) -> None:
    """A file over 64 KiB is refused unread."""
    secret_file.write_bytes(bytes(65537))

    with pytest.raises(ValueError, match="larger than 65536"):
        load_secret(secret_file, {})


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_no_regular_file(tmp_path: Path, kind: str) -> None:
    """A directory or a FIFO is refused at once, without waiting for a writer."""
    path = tmp_path / kind
    path.mkdir(0o700) if kind == "directory" else os.mkfifo(path, 0o600)

    with pytest.raises(ValueError, match="regular file"):
        load_secret(path, {})


def test_symbolic_link_is_followed(secret_file: Path, tmp_path: Path) -> None:
    """A link is judged by the file it names, as Kubernetes mounts secrets."""
    link = tmp_path / "link"
    link.symlink_to(secret_file)

    assert load_secret(link, {}) == GOOD


# --- the per-user file


@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME"])
def test_user_file_is_created_once(tmp_path: Path, variable: str) -> None:
    """On first use 32 random bytes are written 0600 in a 0700 directory, then found again."""
    environ = {variable: str(tmp_path / "deep")}
    if variable == "XDG_CONFIG_HOME":
        environ["HOME"] = "/nowhere"

    first, second = load_secret(None, environ), load_secret(None, environ)

    middle = ".config/" if variable == "HOME" else ""
    path = tmp_path / f"deep/{middle}asyncrpc/secret"
    assert first == second == path.read_bytes()
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_users_differ(tmp_path: Path) -> None:
    """Two users have two secrets."""
    first, second = (load_secret(None, {"HOME": str(tmp_path / name)}) for name in "ab")

    assert first != second


@pytest.mark.parametrize("umask", [0, 0o077])
def test_umask_does_not_matter(tmp_path: Path, umask: int) -> None:
    """The mode is 0600 under any umask."""
    before = os.umask(umask)
    try:
        load_secret(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "asyncrpc/secret").stat().st_mode) == 0o600


def test_relative_xdg_directory_is_ignored(tmp_path: Path) -> None:
    """As the XDG specification asks."""
    load_secret(None, {"XDG_CONFIG_HOME": "relative", "HOME": str(tmp_path)})

    assert (tmp_path / ".config/asyncrpc/secret").exists()


def test_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    """An empty ASYNCRPC_SECRET_FILE leads to the per-user file."""
    found = load_secret(None, {"ASYNCRPC_SECRET_FILE": "", "HOME": str(tmp_path)})

    assert found == (tmp_path / ".config/asyncrpc/secret").read_bytes()


def test_open_user_file_is_refused(tmp_path: Path) -> None:
    """The per-user file is held to the same rules."""
    environ = {"HOME": str(tmp_path)}
    load_secret(None, environ)
    (tmp_path / ".config/asyncrpc/secret").chmod(0o644)

    with pytest.raises(ValueError, match="mode 0644"):
        load_secret(None, environ)


def test_foreign_user_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A per-user file that belongs to somebody else is not ours."""
    environ = {"HOME": str(tmp_path)}
    load_secret(None, environ)
    path = tmp_path / ".config/asyncrpc/secret"
    owner = path.stat().st_uid
    if owner == 0:
        os.chown(path, 12345, -1)
        owner = 12345
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(ValueError, match=f"belongs to user {owner}, expected {owner + 1}"):
        load_secret(None, environ)


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """Without a place for the per-user file the error says what to give instead."""
    (tmp_path / ".config").write_bytes(b"")

    with pytest.raises(ValueError, match=r"cannot create .*give a secret or set \$ASYNCRPC"):
        load_secret(None, {"HOME": str(tmp_path)})


def test_simultaneous_first_uses_agree(tmp_path: Path) -> None:
    """Many that create the file at once all return the one that won."""
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def use() -> None:
        barrier.wait()
        found.append(load_secret(None, {"HOME": str(tmp_path)}))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    directory = tmp_path / ".config/asyncrpc"
    assert found == [(directory / "secret").read_bytes()] * 8
    assert [entry.name for entry in directory.iterdir()] == ["secret"]


def test_loser_of_the_race_reads_the_winners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds the file made between its look and its link takes that one."""
    environ = {"HOME": str(tmp_path)}
    create = secret_module._create

    def create_after_another(path: str) -> None:
        create(path)
        create(path)

    monkeypatch.setattr(secret_module, "_create", create_after_another)

    assert load_secret(None, environ) == (tmp_path / ".config/asyncrpc/secret").read_bytes()


# --- derivation


def test_hkdf_matches_the_rfc() -> None:
    """Test case 1 of RFC 5869."""
    output = hkdf(
        bytes.fromhex("0b" * 22),
        salt=bytes.fromhex("000102030405060708090a0b0c"),
        info=bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"),
        length=42,
    )

    assert output == bytes.fromhex(
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_hkdf_without_salt_matches_the_rfc() -> None:
    """Test case 3 of RFC 5869: empty salt and info."""
    output = hkdf(bytes.fromhex("0b" * 22), salt=b"", info=b"", length=42)

    assert output == bytes.fromhex(
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_keys_depend_on_secret_run_and_use() -> None:
    """Every secret, run id and use gives its own 32 bytes, the same each time."""
    derived = [
        make(secret, run_id)
        for make in (run_key, run_secret)
        for secret in (GOOD, GOOD + b"!")
        for run_id in ("", "a", "b")
    ]

    assert len(set(derived)) == len(derived)
    assert {len(key) for key in derived} == {32}
    assert run_key(GOOD, "a") == run_key(GOOD, "a")


def test_no_run_secret_without_a_secret() -> None:
    """An empty secret must not turn into one that looks real."""
    with pytest.raises(ValueError, match="empty secret"):
        run_secret(b"", "run")


def test_run_digest_is_sha256() -> None:
    """Of the run id's UTF-8."""
    assert run_digest("").hex().startswith("e3b0c44298fc1c14")
