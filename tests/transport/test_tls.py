"""Mutual TLS: which options are taken, and who gets through."""

from __future__ import annotations

import dataclasses
import ssl
from pathlib import Path

import pytest
import trustme

from asyncrpc.transport.tls import TlsOptions, client_context, server_context


def write_identity(
    directory: Path, authority: trustme.CA, *names: str, trusted: trustme.CA | None = None
) -> TlsOptions:
    """Write a certificate of ``authority`` for ``names`` and return options that use it."""
    directory.mkdir()
    identity = authority.issue_cert(*names)
    identity.private_key_pem.write_to_path(directory / "key.pem")
    for pem in identity.cert_chain_pems:
        pem.write_to_path(directory / "cert.pem", append=True)
    (trusted or authority).cert_pem.write_to_path(directory / "ca.pem")
    return TlsOptions(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority of our own."""
    return trustme.CA()


@pytest.fixture
def options(tmp_path: Path, authority: trustme.CA) -> TlsOptions:
    """Return options with a certificate for 127.0.0.1 and worker.test."""
    return write_identity(tmp_path / "good", authority, "127.0.0.1", "worker.test")


def shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """Let both sides shake hands and exchange bytes in memory; return the version agreed on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepted = server.wrap_bio(to_server, to_client, server_side=True)
    opened = client.wrap_bio(to_client, to_server, server_hostname=host)
    for step in (opened, accepted, opened, accepted, opened):
        try:
            step.do_handshake()
        except ssl.SSLWantReadError:
            continue
    opened.write(b"ping")
    assert accepted.read(4) == b"ping"
    version = opened.version()
    assert version is not None
    return version


@pytest.mark.parametrize("host", ["127.0.0.1", "worker.test"])
def test_members_of_one_authority_connect(options: TlsOptions, host: str) -> None:
    """Two workers with certificates of one authority talk, by address or by name."""
    assert shake(server_context(options), client_context(options), host) == "TLSv1.3"


def test_tls_1_2_is_enough(options: TlsOptions) -> None:
    """The older peer still connects; anything below 1.2 is off."""
    client = client_context(options)
    client.maximum_version = ssl.TLSVersion.TLSv1_2

    assert shake(server_context(options), client, "127.0.0.1") == "TLSv1.2"
    assert server_context(options).minimum_version is ssl.TLSVersion.TLSv1_2


def test_client_of_another_authority_is_refused(
    tmp_path: Path, options: TlsOptions, authority: trustme.CA
) -> None:
    """The server demands a certificate it can trace."""
    stranger = write_identity(tmp_path / "other", trustme.CA(), "127.0.0.1", trusted=authority)

    with pytest.raises(ssl.SSLError, match=r"(?i)verify.failed"):
        shake(server_context(options), client_context(stranger), "127.0.0.1")


def test_server_of_another_authority_is_refused(
    tmp_path: Path, options: TlsOptions, authority: trustme.CA
) -> None:
    """The client demands one too."""
    stranger = write_identity(tmp_path / "other", trustme.CA(), "127.0.0.1", trusted=authority)

    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server_context(stranger), client_context(options), "127.0.0.1")


def test_client_without_certificate_is_refused(options: TlsOptions) -> None:
    """One that trusts the server but shows nothing does not get in."""
    client = ssl.create_default_context(cafile=str(options.ca))

    with pytest.raises(ssl.SSLError, match=r"(?i)did.not.return.a.certificate"):
        shake(server_context(options), client, "127.0.0.1")


def test_system_authorities_are_not_trusted(options: TlsOptions) -> None:
    """Only the given authority is loaded."""
    contexts = (server_context(options), client_context(options))

    assert [context.cert_store_stats()["x509_ca"] for context in contexts] == [1, 1]


def test_name_is_checked(options: TlsOptions) -> None:
    """A certificate for another host does not pass."""
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)mismatch|not valid"):
        shake(server_context(options), client_context(options), "other.test")


def test_name_check_can_be_turned_off(options: TlsOptions) -> None:
    """Then the authority alone decides."""
    client = client_context(dataclasses.replace(options, check_hostname=False))

    assert shake(server_context(options), client, "other.test") == "TLSv1.3"
    assert client.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("field", ["cert", "key", "ca"])
@pytest.mark.parametrize("value", ["/nowhere.pem", "/", None, 3])
def test_file_that_is_not_there(options: TlsOptions, field: str, value: object) -> None:
    """Each path is checked when the options are made, and named."""
    with pytest.raises(ValueError, match=f"tls {field} must be the path of a PEM file, got"):
        dataclasses.replace(options, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("server_hostname", ""), ("server_hostname", 1), ("check_hostname", None)],
)
def test_other_fields(options: TlsOptions, field: str, value: object) -> None:
    """An empty name and a check that is neither on nor off are refused by name."""
    with pytest.raises(ValueError, match=f"tls {field} must be"):
        dataclasses.replace(options, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["cert", "key", "ca"])
def test_file_of_another_kind(tmp_path: Path, options: TlsOptions, field: str) -> None:
    """A file that holds no PEM is named with its field when the context is made."""
    path = tmp_path / "text"
    path.write_text("not a certificate")
    changed = dataclasses.replace(options, **{field: path})  # type: ignore[arg-type]

    for make in (server_context, client_context):
        with pytest.raises(ValueError, match=rf"tls .*{field} .*text"):
            make(changed)


def test_key_of_another_certificate(
    tmp_path: Path, options: TlsOptions, authority: trustme.CA
) -> None:
    """Certificate and key must belong together."""
    other = write_identity(tmp_path / "other", authority, "127.0.0.1")

    with pytest.raises(ValueError, match="key values mismatch"):
        server_context(dataclasses.replace(options, key=other.key))


def test_encrypted_key_is_refused_without_asking(tmp_path: Path, options: TlsOptions) -> None:
    """Nobody is asked for a password on the terminal."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(Path(options.key).read_bytes(), None)
    path = tmp_path / "encrypted.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )

    with pytest.raises(ValueError, match="key is encrypted"):
        client_context(dataclasses.replace(options, key=path))
