"""The first bytes of every connection: who are you, which run, and do you know the secret.

Sans-IO: bytes in, bytes out. No sockets, clocks or logging; nothing is decoded but fixed structs,
so a stranger's bytes reach no other parser. Called by the transport's ``authenticate``.

Theory of operation::

    client                                             server
    CLIENT_HELLO  hello, nonce_c                  ->
                  <-  SERVER_HELLO  hello, nonce_s, MAC(key, "S" + all so far)
    CLIENT_PROOF  MAC(key, "C" + all so far)      ->
                  <-  VERDICT  accepted?, reason, MAC(key, "V" + all so far)

Every message is ``ARPC``, version, kind, length, body. The labels S, C and V stop reflection, the
fresh nonces replay, and the MAC over the whole transcript any change to what either side said,
version and feature bits included. Each side speaks only after the other has answered, so bytes
beyond an answer are an error until the last one. A side that gives up may send an ALERT, one code
without a MAC: it only chooses the text of the error on the other side, which fails in any case.
"""

from __future__ import annotations

import enum
import hmac
import secrets
import struct
from collections.abc import Callable
from typing import Never

from asyncrpc.errors import AuthenticationError, Delivery, RemoteProtocolError, RpcError
from asyncrpc.wire.hello import Hello

__all__ = ("Handshake", "HandshakeRefused")

MAGIC = b"ARPC"
VERSION = 1
MAX_MESSAGE_BYTES = 512  # also all that is ever buffered: under the 4 KiB a stranger may cost us
MAX_REASON_BYTES = 200
KEY_BYTES = NONCE_BYTES = MAC_BYTES = 32

_PREFIX = struct.Struct("!4sBBH")  # magic, version, kind, length of the body
_MAX_BODY_BYTES = MAX_MESSAGE_BYTES - _PREFIX.size

# One length for all labels, so that label + transcript cannot be read in two ways.
_SERVER_LABEL = b"arpc1 S"
_CLIENT_LABEL = b"arpc1 C"
_VERDICT_LABEL = b"arpc1 V"
_REMEDY = (
    "both sides need the same: given as secret=, in $ASYNCRPC_SECRET_FILE or in the user's file"
)


class _Kind(enum.IntEnum):
    """Which message of the exchange follows."""

    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    CLIENT_PROOF = 3
    VERDICT = 4
    ALERT = 5


class _Alert(enum.IntEnum):
    """Why a side gives up before the other is proven."""

    VERSION = 1
    RUN = 2
    PURPOSE = 3
    PROOF = 4


class HandshakeRefused(RemoteProtocolError):  # noqa: N818 -- a verdict, not a fault of ours
    """A server that knows the secret turned this connection down; ``reason`` says why."""

    delivery = Delivery.NOT_SENT
    reason: str = ""


class Handshake:
    """One side of the exchange that opens a connection.

    Args:
        key: the run's key, 32 bytes (`asyncrpc.secret.run_key`).
        hello: what to say about this side.
        is_client: whether this side opened the connection and speaks first.
        authorize: server only; gets the proven `Hello` of the client and returns ``None`` to let
            it in, or the reason to refuse it (shown to it, cut after 200 bytes).
        random: gives that many random bytes; tests pass their own.

    Raises:
        ValueError: the key has another length.
    """

    __slots__ = (
        "_authorize",
        "_buffer",
        "_error",
        "_expected",
        "_is_client",
        "_key",
        "_leftover",
        "_ours",
        "_random",
        "_theirs",
        "_transcript",
        "farewell",
        "refusal",
    )

    def __init__(
        self,
        *,
        key: bytes,
        hello: Hello,
        is_client: bool,
        authorize: Callable[[Hello], str | None] | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key must have {KEY_BYTES} bytes, got {len(key)}")
        self._key = key
        self._ours = hello
        self._theirs: Hello | None = None  # claimed until the last message, then proven
        self._is_client = is_client
        self._authorize = authorize
        self._random = random
        # The one kind of message that may come next; None when the exchange is over.
        self._expected: _Kind | None = _Kind.SERVER_HELLO if is_client else _Kind.CLIENT_HELLO
        self._buffer = bytearray()  # less than one message between two calls of feed
        self._transcript = b""  # every message so far, in both directions
        self._leftover = b""
        self._error: RpcError | None = None
        self.farewell = b""
        """After an error: bytes to send before closing, often none."""
        self.refusal: str | None = None
        """Why the server turned the connection down, on both sides; else ``None``."""

    @property
    def is_done(self) -> bool:
        """Whether both sides are proven and the server has accepted."""
        return self._expected is None and self._error is None

    @property
    def peer(self) -> Hello:
        """What the other side said about itself.

        Raises:
            RuntimeError: the exchange is not over, so nothing of it is proven.
        """
        if self._theirs is None or not self.is_done:
            raise RuntimeError("the peer is not proven before the handshake is done")
        return self._theirs

    @property
    def leftover(self) -> bytes:
        """Bytes that came behind the handshake; they belong to the next protocol."""
        return self._leftover

    def start(self) -> bytes:
        """Return the bytes to send first: the client's hello, nothing for a server."""
        if not self._is_client or self._transcript:
            return b""
        body = self._ours.encode() + self._random(NONCE_BYTES)
        return self._record(_message(_Kind.CLIENT_HELLO, body))

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take what the peer sent and return what to send now.

        Args:
            data: any number of bytes, cut anywhere; copied. Once the handshake is done they are
                added to `leftover`.

        Returns:
            Bytes to send, maybe none.

        Raises:
            AuthenticationError: the peer has another secret or belongs to another run.
            HandshakeRefused: the server's ``authorize`` turned the client down.
            RemoteProtocolError: the peer does not speak this protocol, or wants something else.
                After any of these send `farewell` and close; no call was sent.
        """
        if self._error is not None:
            raise self._error
        if self._expected is None:
            self._leftover += data
            return b""
        self._buffer += data
        try:
            return self._advance()
        except RpcError as error:
            self._error = error
            self._buffer.clear()
            raise

    def feed_eof(self) -> None:
        """Tell that the peer closed its side.

        Raises:
            RemoteProtocolError: the handshake was not done; an earlier error is raised again.
        """
        if self._error is not None:
            raise self._error
        if self._expected is not None:
            awaited = self._expected.name.lower().replace("_", " ")
            self._error = _broken(
                f"the peer closed the connection during the handshake, expected its {awaited}"
            )
            raise self._error

    # -- one step -------------------------------------------------------------------------------

    def _advance(self) -> bytes:
        length = self._message_length()
        if length is None or len(self._buffer) < length:
            return b""
        message = bytes(self._buffer[:length])
        rest = bytes(self._buffer[length:])
        kind = _Kind(message[5])
        if rest and (kind is _Kind.CLIENT_HELLO or kind is _Kind.SERVER_HELLO):
            raise _broken(f"{len(rest)} bytes after the {kind.name}, expected none before a reply")
        self._buffer.clear()
        reply = self._handle(kind, message)
        self._leftover = rest
        return reply

    def _message_length(self) -> int | None:
        """Check the prefix as far as it is there; return the whole message's length if it is."""
        head = bytes(self._buffer[: _PREFIX.size])
        _check_magic(head)
        if len(head) > len(MAGIC) and head[len(MAGIC)] != VERSION:
            self._give_up(
                _Alert.VERSION,
                _broken(f"peer speaks handshake version {head[len(MAGIC)]}, expected {VERSION}"),
            )
        if len(head) < _PREFIX.size:
            return None
        _, _, kind, length = _PREFIX.unpack(head)
        is_alert = kind == _Kind.ALERT and self._expected is not _Kind.CLIENT_HELLO
        if kind != self._expected and not is_alert:
            assert self._expected is not None
            raise _broken(f"handshake message of kind {kind}, expected {self._expected.name}")
        if length > _MAX_BODY_BYTES:
            raise _broken(f"handshake message of {length} bytes, expected <= {_MAX_BODY_BYTES}")
        return _PREFIX.size + int(length)

    def _handle(self, kind: _Kind, message: bytes) -> bytes:
        match kind:
            case _Kind.CLIENT_HELLO:
                return self._on_client_hello(message)
            case _Kind.SERVER_HELLO:
                return self._on_server_hello(message)
            case _Kind.CLIENT_PROOF:
                return self._on_client_proof(message)
            case _Kind.VERDICT:
                return self._on_verdict(message)
            case _Kind.ALERT:
                raise _alert_error(message[_PREFIX.size :])

    def _on_client_hello(self, message: bytes) -> bytes:
        self._take_hello(message, trailing=NONCE_BYTES)
        self._record(message)
        said = self._ours.encode() + self._random(NONCE_BYTES)
        prefix = _prefix(_Kind.SERVER_HELLO, len(said) + MAC_BYTES)
        proof = self._mac(_SERVER_LABEL, prefix + said)
        self._expected = _Kind.CLIENT_PROOF
        return self._record(prefix + said + proof)

    def _on_server_hello(self, message: bytes) -> bytes:
        self._take_hello(message, trailing=NONCE_BYTES + MAC_BYTES)
        self._check_mac(_SERVER_LABEL, message, "server")
        self._record(message)
        prefix = _prefix(_Kind.CLIENT_PROOF, MAC_BYTES)
        self._expected = _Kind.VERDICT
        return self._record(prefix + self._mac(_CLIENT_LABEL, prefix))

    def _on_client_proof(self, message: bytes) -> bytes:
        if len(message) != _PREFIX.size + MAC_BYTES:
            raise _broken(f"proof of {len(message) - _PREFIX.size} bytes, expected {MAC_BYTES}")
        self._check_mac(_CLIENT_LABEL, message, "client")
        self._record(message)
        assert self._theirs is not None
        refusal = self._authorize(self._theirs) if self._authorize is not None else None
        reason = b"" if refusal is None else refusal.encode("utf-8", "replace")[:MAX_REASON_BYTES]
        said = bytes([refusal is None]) + reason
        prefix = _prefix(_Kind.VERDICT, len(said) + MAC_BYTES)
        verdict = prefix + said + self._mac(_VERDICT_LABEL, prefix + said)
        if refusal is not None:
            self.farewell = verdict
            self._refuse(f"refused the connection of {_shown(self._theirs)}", refusal)
        self._expected = None
        return verdict

    def _on_verdict(self, message: bytes) -> bytes:
        if len(message) < _PREFIX.size + 1 + MAC_BYTES:
            raise _broken("verdict is too short")
        self._check_mac(_VERDICT_LABEL, message, "server")
        said = message[_PREFIX.size : -MAC_BYTES]
        if not said[0]:
            assert self._theirs is not None
            reason = said[1:].decode("utf-8", "replace")
            self._refuse(f"{_shown(self._theirs)} refused the connection", reason)
        self._expected = None
        return b""

    # -- parts of a step ------------------------------------------------------------------------

    def _take_hello(self, message: bytes, *, trailing: int) -> None:
        body = message[_PREFIX.size :]
        if len(body) < trailing:
            raise _broken(f"hello of {len(body)} bytes, expected at least {trailing}")
        try:
            theirs = Hello.decode(body[:-trailing])
        except ValueError as error:
            raise _broken(f"malformed hello: {error}") from None
        if not hmac.compare_digest(theirs.run_id, self._ours.run_id):
            self._give_up(
                _Alert.RUN,
                AuthenticationError(
                    f"{_shown(theirs)} belongs to another run: digest of its run id is "
                    f"{theirs.run_id.hex()[:8]}…, expected {self._ours.run_id.hex()[:8]}…"
                ),
            )
        if theirs.purpose is not self._ours.purpose:
            self._give_up(
                _Alert.PURPOSE,
                _broken(
                    f"{_shown(theirs)} wants a connection for {theirs.purpose.name.lower()}, "
                    f"expected {self._ours.purpose.name.lower()}"
                ),
            )
        self._theirs = theirs

    def _mac(self, label: bytes, said: bytes) -> bytes:
        return hmac.digest(self._key, label + self._transcript + said, "sha256")

    def _check_mac(self, label: bytes, message: bytes, who: str) -> None:
        said, proof = message[:-MAC_BYTES], message[-MAC_BYTES:]
        if not hmac.compare_digest(self._mac(label, said), proof):
            self._give_up(
                _Alert.PROOF,
                AuthenticationError(
                    f"the {who} does not know this run's secret, or its messages were changed "
                    f"on the way: its proof does not match; {_REMEDY}"
                ),
            )

    def _record(self, message: bytes) -> bytes:
        self._transcript += message
        return message

    def _give_up(self, alert: _Alert, error: RpcError) -> Never:
        self.farewell = _message(_Kind.ALERT, bytes([alert]))
        raise error

    def _refuse(self, what: str, reason: str) -> Never:
        self.refusal = reason
        raise HandshakeRefused(f"{what}: {reason}", reason=reason)


def _prefix(kind: _Kind, length: int) -> bytes:
    return _PREFIX.pack(MAGIC, VERSION, kind, length)


def _message(kind: _Kind, body: bytes) -> bytes:
    return _prefix(kind, len(body)) + body


def _broken(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, delivery=Delivery.NOT_SENT)


def _check_magic(head: bytes) -> None:
    if head[: len(MAGIC)] == MAGIC[: len(head)]:
        return
    if head[:1] == b"\x16":
        raise _broken("peer speaks TLS, expected an asyncrpc connection without it")
    if head[:4] in {b"GET ", b"POST", b"HEAD", b"PUT ", b"HTTP", b"OPTI", b"PRI "}:
        raise _broken("peer speaks HTTP, expected an asyncrpc connection")
    raise _broken(f"peer does not speak asyncrpc: first bytes {head[:4]!r}, expected {MAGIC!r}")


def _alert_error(body: bytes) -> RpcError:
    code = body[0] if len(body) == 1 else 0
    if code == _Alert.RUN:
        return AuthenticationError("the peer belongs to another run: its run id is not ours")
    if code == _Alert.PURPOSE:
        return _broken("the peer serves another purpose than the one asked for")
    if code == _Alert.PROOF:
        return AuthenticationError(
            f"the peer did not accept our proof: its secret is not ours; {_REMEDY}"
        )
    if code == _Alert.VERSION:
        return _broken(f"the peer refused handshake version {VERSION}")
    return _broken(f"unknown alert of {len(body)} bytes during the handshake")


def _shown(hello: Hello) -> str:
    return f"peer {hello.name!r}" if hello.name else "the peer"
