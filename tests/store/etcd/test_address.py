"""`asyncrpc.store.etcd.address`: URLs anybody may see, and credentials nobody else may."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from asyncrpc.store import CREDENTIALS_VARIABLE, EtcdAddress, EtcdCredentials, parse_members


@pytest.mark.parametrize(
    ("url", "members", "prefix"),
    [
        ("etcd://h", (("h", 2379),), "asyncrpc"),
        ("etcd://h/", (("h", 2379),), "asyncrpc"),
        ("etcd://a:1,b:2/runs/x/", (("a", 1), ("b", 2)), "runs/x"),
        ("etcd://[::1]:7,[::2]/p", (("::1", 7), ("::2", 2379)), "p"),
    ],
)
def test_urls_are_read(url: str, members: tuple[tuple[str, int], ...], prefix: str) -> None:
    """Any number of members, with a port or etcd's own, and a prefix."""
    address = EtcdAddress.parse(url)

    assert (address.members, address.prefix) == (members, prefix)
    assert EtcdAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:1",
        "http://h:1",
        "etcd://",
        "etcd://a:0",
        "etcd://a:x",
        "etcd://a:1,",
        "etcd://a b",
        5,
    ],
)
def test_other_urls_are_refused(url: object) -> None:
    """With what is wrong, and what was expected."""
    with pytest.raises(ValueError, match=r"^(store URL|etcd member) must be "):
        EtcdAddress.parse(url)


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    """URLs end up in logs and process lists."""
    with pytest.raises(ValueError, match="contains an @") as caught:
        parse_members("user:hunter2@h:1")

    assert "hunter2" not in str(caught.value)


def test_credentials_travel_by_file(tmp_path: Path) -> None:
    """What was dumped is loaded; the environment names the file."""
    given = EtcdCredentials(user="u", password="p", cacert="/ca", cert="/c", key="/k")
    path = tmp_path / "credentials"
    path.write_bytes(given.dump())
    path.chmod(0o600)

    assert EtcdCredentials.load(path) == given
    assert EtcdCredentials.of_environment({CREDENTIALS_VARIABLE: str(path)}) == given
    assert EtcdCredentials.of_environment({}) == EtcdCredentials()
    assert pickle.loads(pickle.dumps(given)) == given


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A file without one may be read by anybody."""
    path = tmp_path / "credentials"
    path.write_bytes(EtcdCredentials(user="u", password="p").dump())
    path.chmod(0o644)
    with pytest.raises(ValueError, match="others may read it, expected mode 0600"):
        EtcdCredentials.load(path)
    path.write_bytes(EtcdCredentials(cacert="/ca").dump())

    assert EtcdCredentials.load(path).cacert == "/ca"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected a JSON object of cacert, cert, key, password, protocol, user"),
        ('{"usr": "x"}', "expected a JSON object of"),
        ("{", "expected a JSON object: "),
        ('{"cacert": 1}', "cacert must be a str, got int"),
        ('{"key": "/k"}', "cert=: expected one, as key is given"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    """With the file and what is wrong in it."""
    path = tmp_path / "credentials"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        EtcdCredentials.load(path)

    assert str(caught.value).startswith(f"credentials {path}: {problem}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(ValueError, match=r"nowhere: No such file or directory$"):
        EtcdCredentials.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"user": "u"}, "password=: expected one, as user is given"),
        ({"password": "p"}, "user=: expected one, as password is given"),
        ({"protocol": "ftp"}, "protocol=ftp: expected http or https"),
        ({"protocol": "http", "cacert": "/ca"}, "protocol=http: certificates"),
    ],
)
def test_credentials_that_make_no_sense_are_refused(fields: dict[str, str], problem: str) -> None:
    """One is of no use without the other."""
    with pytest.raises(ValueError) as caught:
        EtcdCredentials(**fields)

    assert str(caught.value).startswith(problem)


def test_repr_hides_the_password() -> None:
    """It may be logged."""
    assert repr(EtcdCredentials(user="u", password="hunter2")) == (
        "EtcdCredentials(user='u', password='***')"
    )


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [({}, "http"), ({"protocol": "https"}, "https"), ({"cacert": "/ca"}, "https")],
)
def test_certificates_mean_https(fields: dict[str, str], scheme: str) -> None:
    """So does the protocol, which then relies on the system's certificates."""
    assert EtcdCredentials(**fields).scheme == scheme


def test_unreadable_certificates_are_named(tmp_path: Path) -> None:
    """Missing ones, and files that are none."""
    assert EtcdCredentials().make_context() is None
    with pytest.raises(ValueError, match=r"^cacert=/nowhere: No such file or directory$"):
        EtcdCredentials(cacert="/nowhere").make_context()
    empty = tmp_path / "cert"
    empty.touch()
    with pytest.raises(ValueError, match=f"^cert={empty}, key=: "):
        EtcdCredentials(cert=str(empty)).make_context()
