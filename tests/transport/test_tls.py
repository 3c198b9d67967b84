"""Mutual TLS: which options are taken, and who gets through."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from asyncrpc.testing import ChaosProxy
from asyncrpc.transport import Address, SocketNetwork, tcp
from asyncrpc.transport.tls import TlsOptions, client_context, server_context
from tests.transport.links import TIMEOUT, Recorder, Server, identity, recorder, serving

ANY_PORT = Address.parse("tls://127.0.0.1:0")


@pytest.fixture
def options(member: TlsOptions) -> TlsOptions:
    """Return options with a certificate for 127.0.0.1 and worker.test."""
    return member


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
    stranger = identity(tmp_path / "other", trustme.CA(), "127.0.0.1", trusted=authority)

    with pytest.raises(ssl.SSLError, match=r"(?i)verify.failed"):
        shake(server_context(options), client_context(stranger), "127.0.0.1")


def test_server_of_another_authority_is_refused(
    tmp_path: Path, options: TlsOptions, authority: trustme.CA
) -> None:
    """The client demands one too."""
    stranger = identity(tmp_path / "other", trustme.CA(), "127.0.0.1", trusted=authority)

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
@pytest.mark.parametrize(
    "value", ["/nowhere.pem", "/", "", "a\0b", "a" * 5000, b"/dev/null", None, 3, []]
)
def test_file_that_is_not_there(options: TlsOptions, field: str, value: object) -> None:
    """Each path is checked when the options are made, and named."""
    with pytest.raises(ValueError, match=f"tls {field} must be the path of a PEM file, got"):
        dataclasses.replace(options, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("server_hostname", ""),
        ("server_hostname", 1),
        ("server_hostname", b"a.test"),
        ("check_hostname", None),
        ("check_hostname", 1),
        ("check_hostname", []),
    ],
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
    other = identity(tmp_path / "other", authority, "127.0.0.1")

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


# --- over sockets


def ignore_reports() -> None:
    """Let the stock loop's debug mode tell nobody of TLS handshakes that failed."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)


async def expect_room(server: Server) -> None:
    """Check that a member gets in where one connection is allowed: nothing else is counted."""
    near, far = await server.pair()
    near.write(b"in")

    assert await recorder(far).received(2) == b"in"
    near.close()
    await far.wait_closed()


@pytest.mark.asyncio
async def test_members_talk(options: TlsOptions) -> None:
    """Bytes go both ways and are not the bytes on the wire."""
    async with serving(SocketNetwork(options), ANY_PORT) as server:
        near, far = await server.pair()
        near.write(b"ping")
        far.write(b"pong")

        assert await recorder(far).received(4) == b"ping"
        assert await recorder(near).received(4) == b"pong"
        assert near.peer == str(server.address)
        near.close()
        assert await recorder(far).ended() is None


@pytest.mark.asyncio
async def test_stranger_is_not_served(
    tmp_path: Path, options: TlsOptions, authority: trustme.CA
) -> None:
    """A client of another authority is turned away, and not counted as a connection."""
    ignore_reports()
    stranger = identity(tmp_path / "other", trustme.CA(), "127.0.0.1", trusted=authority)
    async with serving(SocketNetwork(options), ANY_PORT, max_connections=1) as server:
        for _ in range(3):
            taking = Recorder()
            try:
                network = SocketNetwork(stranger)
                stream = await network.connect(server.address, taking, timeout=TIMEOUT)
            except ConnectionError:
                assert taking.ends == []
                continue
            stream.write(b"hello")  # with TLS 1.3 a client learns only later
            await taking.ended()
            assert taking.data == b""

        assert server.streams == []
        await expect_room(server)


@pytest.mark.asyncio
async def test_client_that_shows_nothing_is_not_served(options: TlsOptions) -> None:
    """It trusts the server but has no certificate."""
    ignore_reports()
    context = ssl.create_default_context(cafile=str(options.ca))
    async with serving(SocketNetwork(options), ANY_PORT, max_connections=1) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            reader, writer = await asyncio.open_connection(
                server.address.host, server.address.port, ssl=context
            )
            try:
                writer.write(b"hello")
                await reader.read()
                raise ConnectionAbortedError
            finally:
                writer.transport.abort()

        assert server.streams == []
        await expect_room(server)


@pytest.mark.asyncio
async def test_strange_server_is_refused(
    tmp_path: Path, options: TlsOptions, authority: trustme.CA
) -> None:
    """The error names the address and says that it is the certificate."""
    ignore_reports()
    stranger = identity(tmp_path / "other", trustme.CA(), "127.0.0.1", trusted=authority)
    async with serving(SocketNetwork(stranger), ANY_PORT, max_connections=1) as server:
        taking = Recorder()
        with pytest.raises(
            ConnectionError, match=f"to {server.address}: certificate verify failed: .*issuer"
        ):
            await SocketNetwork(options).connect(server.address, taking, timeout=TIMEOUT)

        assert (taking.ends, server.streams) == ([], [])


@pytest.mark.asyncio
async def test_server_of_another_name_is_refused(options: TlsOptions) -> None:
    """A member's certificate does not pass for another host."""
    ignore_reports()
    expecting = dataclasses.replace(options, server_hostname="other.test")
    async with serving(SocketNetwork(options), ANY_PORT) as server:
        with pytest.raises(ConnectionError, match=r"certificate verify failed: .*other\.test"):
            await SocketNetwork(expecting).connect(server.address, Recorder(), timeout=TIMEOUT)


@pytest.mark.asyncio
async def test_server_without_tls_is_refused() -> None:
    """A server that answers in plain text is named."""
    async with serving(SocketNetwork(), Address.parse("tcp://127.0.0.1:0")) as server:
        authority = trustme.CA()
        with pytest.MonkeyPatch.context() as patch:
            context = ssl.create_default_context()
            authority.configure_trust(context)
            patch.setattr("asyncrpc.transport.tls.client_context", lambda _: context)
            address = dataclasses.replace(server.address, scheme="tls")
            task = asyncio.create_task(
                SocketNetwork(any_options()).connect(address, Recorder(), timeout=TIMEOUT)
            )
            async with asyncio.timeout(TIMEOUT):
                while not server.streams:
                    await asyncio.sleep(0)
            server.streams[0].write(b"220 mail.test ready\r\n")
            with pytest.raises(ConnectionError, match=f"cannot connect to {address}: "):
                await task


def any_options() -> TlsOptions:
    """Return options whose files exist; what is in them does not matter."""
    return TlsOptions(__file__, __file__, __file__)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 99]
)
async def test_garbage_is_not_served(options: TlsOptions, garbage: bytes) -> None:
    """What is no TLS closes that connection alone and is not counted."""
    ignore_reports()
    async with serving(SocketNetwork(options), ANY_PORT, max_connections=1) as server:
        for _ in range(3):
            reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
            writer.write(garbage)
            writer.write_eof()
            await reader.read()
            writer.close()

        assert server.streams == []
        await expect_room(server)


@pytest.mark.asyncio
async def test_silence_is_not_waited_for(
    options: TlsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that starts no TLS is dropped after a time."""
    ignore_reports()
    monkeypatch.setattr(tcp, "_TLS_TIMEOUT", 0.05)
    async with serving(SocketNetwork(options), ANY_PORT) as server:
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
        async with asyncio.timeout(TIMEOUT):
            assert await reader.read() == b""
        writer.close()

        assert server.streams == []


@pytest.mark.slow
@pytest.mark.asyncio
async def test_peer_that_does_not_say_goodbye(
    options: TlsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that does not answer the end of TLS holds a closed stream for a time only."""
    monkeypatch.setattr(tcp, "_TLS_TIMEOUT", 0.5)
    async with serving(SocketNetwork(options), ANY_PORT) as server:
        async with ChaosProxy(server.address.host, server.address.port) as proxy:
            address = Address("tls", proxy.host, proxy.port)
            near = await server.network.connect(address, Recorder(), timeout=TIMEOUT)
            near.write(b"x")
            async with asyncio.timeout(TIMEOUT):
                while not server.streams:
                    await asyncio.sleep(0)
            (far,) = server.streams
            await recorder(far).received(1)
            proxy.set(blackhole=True)
            far.close()

            await recorder(far).ended()
            near.abort()


@pytest.mark.asyncio
async def test_end_without_goodbye(options: TlsOptions) -> None:
    """A peer whose socket just ends (its process was killed) ends the stream."""
    async with serving(SocketNetwork(options), ANY_PORT) as server:
        near, far = await server.pair()
        sock = near.socket
        assert sock is not None
        duplicate = socket.socket(fileno=socket.dup(sock.fileno()))
        duplicate.shutdown(socket.SHUT_RDWR)
        duplicate.close()

        await recorder(far).ended()
        await recorder(near).ended()
