"""The handshake: what it accepts, and that it accepts nothing else."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.errors import AuthenticationError, Delivery, RemoteProtocolError
from asyncrpc.secret import run_digest, run_key
from asyncrpc.wire.handshake import MAX_MESSAGE_BYTES, Handshake, HandshakeRefused
from asyncrpc.wire.hello import Hello, Purpose

SECRET = b"sixteen bytes ok"
KEY = run_key(SECRET, "run")
REFUSALS = (AuthenticationError, RemoteProtocolError)


def make_hello(name: str = "worker0", **changes: Any) -> Hello:
    """Return a hello of run "run" for RPC."""
    fields: dict[str, Any] = {
        "purpose": Purpose.RPC,
        "run_id": run_digest("run"),
        "incarnation": name.encode().ljust(16, b"-")[:16],
        "host": b"h" * 16,
        "features": 5,
        "name": name,
        "worker_id": 3,
        "flags": 2,
    }
    return Hello(**{**fields, **changes})


def counting_random(start: int) -> Callable[[int], bytes]:
    """Return a random source that repeats itself from one test run to the next."""
    numbers = itertools.count(start)
    return lambda size: hashlib.sha256(str(next(numbers)).encode()).digest()[:size]


def make_client(*, key: bytes = KEY, nonces: int = 1, **changes: Any) -> Handshake:
    """Return the side that opened the connection."""
    hello = make_hello(**{"name": "client", **changes})
    return Handshake(key=key, hello=hello, is_client=True, random=counting_random(nonces))


def make_server(
    *,
    key: bytes = KEY,
    nonces: int = 1000,
    authorize: Callable[[Hello], str | None] | None = None,
    **changes: Any,
) -> Handshake:
    """Return the side that accepted it."""
    return Handshake(
        key=key,
        hello=make_hello(**{"name": "server", **changes}),
        is_client=False,
        authorize=authorize,
        random=counting_random(nonces),
    )


def feed_whole(side: Handshake, data: bytes) -> bytes:
    """Feed all of it in one call."""
    return side.feed(data) if data else b""


def feed_bytewise(side: Handshake, data: bytes) -> bytes:
    """Feed one byte per call."""
    return b"".join(side.feed(data[index : index + 1]) for index in range(len(data)))


def exchange(
    client: Handshake, server: Handshake, feed: Callable[[Handshake, bytes], bytes] = feed_whole
) -> list[bytes]:
    """Let the two talk until nothing is said; return every message."""
    said = client.start()
    messages: list[bytes] = []
    for side in itertools.cycle((server, client)):
        if not said:
            return messages
        messages.append(said)
        said = feed(side, said)
    raise AssertionError


def both_errors(client: Handshake, server: Handshake) -> tuple[Exception | None, Exception | None]:
    """Let the two talk, farewells included; return what each side raised."""
    errors: dict[Handshake, Exception] = {}
    said = client.start() + server.start()
    for side in itertools.cycle((server, client)):
        if not said or side in errors:
            break
        try:
            said = side.feed(said)
        except REFUSALS as error:
            errors[side] = error
            said = side.farewell
    return errors.get(client), errors.get(server)


# --- agreement


@pytest.mark.parametrize("feed", [feed_whole, feed_bytewise])
def test_both_sides_learn_the_others_hello(feed: Callable[[Handshake, bytes], bytes]) -> None:
    """Fed whole or byte by byte, each side ends with the other's whole hello."""
    client, server = make_client(), make_server()

    exchange(client, server, feed)

    assert (client.is_done, server.is_done) == (True, True)
    assert client.peer == make_hello("server")
    assert server.peer == make_hello("client")
    assert (client.leftover, server.leftover) == (b"", b"")


def test_no_message_exceeds_its_limit() -> None:
    """The longest names and the longest reason fit in 512 bytes a message."""
    longest = "n" * 255
    client, server = make_client(name=longest), make_server(name=longest)

    messages = exchange(client, server)

    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES
    assert server.peer.name == longest


def test_bytes_behind_the_last_message_are_left_over() -> None:
    """Both sides keep what follows the handshake for the next protocol, later bytes too."""
    client, server = make_client(), make_server()
    proof = client.feed(server.feed(client.start()))
    verdict = server.feed(proof + b"early")
    client.feed(verdict + b"first")
    client.feed(b" second")

    assert server.leftover == b"early"
    assert client.leftover == b"first second"


def test_peer_is_hidden_until_it_is_proven() -> None:
    """A claimed identity cannot be read before the exchange is over."""
    client, server = make_client(), make_server()
    proof = client.feed(server.feed(client.start()))

    with pytest.raises(RuntimeError, match="not proven"):
        _ = server.peer
    server.feed(proof)
    assert server.peer.name == "client"


def test_client_waits_for_the_verdict() -> None:
    """The client is not done before the server has accepted it."""
    client, server = make_client(), make_server()
    client.feed(server.feed(client.start()))

    assert not client.is_done


def test_start_speaks_once() -> None:
    """A client says its hello once, a server says nothing of itself."""
    client = make_client()
    first = client.start()

    assert (bool(first), client.start(), make_server().start()) == (True, b"", b"")


def test_nonces_are_fresh() -> None:
    """With the default random source no two exchanges look alike."""
    hello = make_hello()
    first, second = (Handshake(key=KEY, hello=hello, is_client=True).start() for _ in range(2))

    assert first != second


# --- refusals, each with its own text


def test_wrong_secret() -> None:
    """Another secret is an authentication error that speaks of the secret, on both sides."""
    client, server = make_client(key=run_key(b"another" * 4, "run")), make_server()

    at_client, at_server = both_errors(client, server)

    assert isinstance(at_client, AuthenticationError)
    assert "secret" in str(at_client)
    assert "$ASYNCRPC_SECRET_FILE" in str(at_client)
    assert isinstance(at_server, AuthenticationError)
    assert "secret" in str(at_server)
    assert "$ASYNCRPC_SECRET_FILE" in str(at_server)


def test_server_refuses_a_client_that_ignores_its_wrong_proof() -> None:
    """A client without the key fails at the server too when it goes on regardless."""
    client, server = make_client(), make_server()
    client.start()
    server.feed(make_client().start())

    with pytest.raises(AuthenticationError, match="client does not know"):
        server.feed(b"ARPC\x01\x03\x00\x20" + bytes(32))


def test_another_run() -> None:
    """Another run id is an authentication error that names the run, on both sides."""
    client = make_client(key=run_key(SECRET, "other"), run_id=run_digest("other"))

    at_client, at_server = both_errors(client, make_server())

    assert isinstance(at_client, AuthenticationError)
    assert "another run" in str(at_client)
    assert isinstance(at_server, AuthenticationError)
    assert "another run" in str(at_server)
    assert run_digest("other").hex()[:8] in str(at_server)


def test_client_refuses_a_server_of_another_run() -> None:
    """The client checks the server's run id itself."""
    client = make_client()
    answer = make_server().feed(client.start())

    with pytest.raises(AuthenticationError, match="another run"):
        client.feed(answer.replace(run_digest("run"), run_digest("other")))


@pytest.mark.parametrize("purpose", [Purpose.HEARTBEAT, Purpose.STORE, Purpose.CONTROL])
def test_another_purpose(purpose: Purpose) -> None:
    """A peer that wants something else is refused, and both sides say so."""
    at_client, at_server = both_errors(make_client(purpose=purpose), make_server())

    assert isinstance(at_client, RemoteProtocolError)
    assert "purpose" in str(at_client)
    assert isinstance(at_server, RemoteProtocolError)
    assert f"for {purpose.name.lower()}, expected rpc" in str(at_server)


@pytest.mark.parametrize("speaker", ["client", "server"])
def test_another_version(speaker: str) -> None:
    """A newer peer is refused with both versions named, and is told ours."""
    client, server = make_client(), make_server()
    said = client.start()
    side = server
    if speaker == "server":
        said, side = server.feed(said), client

    with pytest.raises(RemoteProtocolError, match="version 2, expected 1"):
        side.feed(said[:4] + b"\x02" + said[5:])
    assert side.farewell[:5] == b"ARPC\x01"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01", "TLS"),
        (b"\x93\x01\x02\x03", "does not speak asyncrpc"),
        (b"ARPX", "does not speak asyncrpc"),
    ],
)
def test_strangers_are_told_nothing(data: bytes, text: str) -> None:
    """Other protocols are named in our error and get no answer."""
    server = make_server()

    with pytest.raises(RemoteProtocolError, match=text):
        server.feed(data)
    assert server.farewell == b""


def test_first_wrong_byte_is_enough() -> None:
    """Nothing is awaited from a peer whose first byte is wrong."""
    with pytest.raises(RemoteProtocolError):
        make_server().feed(b"B")


def test_stated_length_beyond_the_limit_is_refused_at_once() -> None:
    """A prefix that announces a large message is refused before the message comes."""
    with pytest.raises(RemoteProtocolError, match="expected <= 504"):
        make_server().feed(b"ARPC\x01\x01\xff\xff")


def test_reflected_hello_is_refused() -> None:
    """A client's own hello is no answer to it."""
    client = make_client()

    with pytest.raises(RemoteProtocolError, match="expected SERVER_HELLO"):
        client.feed(client.start())


def test_reflected_proof_is_refused() -> None:
    """The server's own proof, sent back as the client's, does not pass."""
    client, server = make_client(), make_server()
    answer = server.feed(client.start())

    with pytest.raises(AuthenticationError):
        server.feed(b"ARPC\x01\x03\x00\x20" + answer[-32:])


def test_replayed_exchange_is_refused() -> None:
    """A recorded client does not get in a second time: the server's nonce is new."""
    client, server = make_client(), make_server()
    hello, _, proof, _ = exchange(client, server)
    again = make_server(nonces=2000)
    again.feed(hello)

    with pytest.raises(AuthenticationError):
        again.feed(proof)


def test_replayed_server_is_refused() -> None:
    """A recorded server does not convince a new client: the client's nonce is new."""
    _, answer, _, _ = exchange(make_client(), make_server())
    client = make_client(nonces=50)
    client.start()

    with pytest.raises(AuthenticationError):
        client.feed(answer)


def test_downgraded_features_are_refused() -> None:
    """Feature bits taken out on the way break the proof."""
    client, server = make_client(features=0xFF), make_server()
    said = client.start()
    weakened = said.replace((0xFF).to_bytes(8, "big"), (0).to_bytes(8, "big"), 1)

    with pytest.raises(AuthenticationError):
        client.feed(server.feed(weakened))


@pytest.mark.parametrize("speaker", ["client", "server"])
def test_bytes_before_a_reply_are_refused(speaker: str) -> None:
    """Nobody may go on before the other side has answered; nothing is buffered."""
    client, server = make_client(), make_server()
    said = client.start()
    side = server
    if speaker == "server":
        said, side = server.feed(said), client

    with pytest.raises(RemoteProtocolError, match="expected none before a reply"):
        side.feed(said + b"x")
    assert len(side._buffer) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_closed_early(count: int) -> None:
    """A connection that closes after any message, or inside it, names what was awaited."""
    client, server = make_client(), make_server()
    messages = exchange(client, server)
    side = make_server() if count % 2 == 0 else make_client()
    side.start()
    for index, message in enumerate(messages[:count]):
        if index % 2 == count % 2:
            side.feed(message)
    side.feed(messages[count][:-1])
    awaited = ["client hello", "server hello", "client proof", "verdict"][count]

    with pytest.raises(RemoteProtocolError, match=f"expected its {awaited}"):
        side.feed_eof()
    assert not side.is_done


def test_eof_after_the_end_is_no_error() -> None:
    """Once done, the end of the stream is the next protocol's business."""
    client, server = make_client(), make_server()
    exchange(client, server)
    client.feed_eof()

    assert client.is_done


def test_error_is_raised_again() -> None:
    """After a refusal every further byte, and the end, meets the same error."""
    server = make_server()
    with pytest.raises(RemoteProtocolError) as first:
        server.feed(b"x")

    with pytest.raises(RemoteProtocolError) as second:
        server.feed(b"ARPC")
    with pytest.raises(RemoteProtocolError) as third:
        server.feed_eof()
    assert first.value is second.value is third.value
    assert not server.is_done


# --- authorisation


def test_authorize_sees_the_proven_hello() -> None:
    """The callback gets the client's hello once, after its proof."""
    seen: list[Hello] = []

    def note(peer: Hello) -> None:
        seen.append(peer)

    client, server = make_client(), make_server(authorize=note)
    server_hello = server.feed(client.start())
    assert seen == []
    server.feed(client.feed(server_hello))

    assert seen == [make_hello("client")]


def test_refusal_reaches_both_sides_with_its_reason() -> None:
    """What authorize answers is raised at the server and, proven, at the client."""
    client = make_client()
    server = make_server(authorize=lambda peer: f"duplicate connection of {peer.name}")

    at_client, at_server = both_errors(client, server)

    assert isinstance(at_client, HandshakeRefused)
    assert isinstance(at_server, HandshakeRefused)
    assert at_client.reason == at_server.reason == "duplicate connection of client"
    assert client.refusal == server.refusal == "duplicate connection of client"
    assert at_client.delivery is Delivery.NOT_SENT
    assert (client.is_done, server.is_done) == (False, False)


def test_long_reason_is_cut() -> None:
    """A reason is cut to 200 bytes, inside a character if need be."""
    client, server = make_client(), make_server(authorize=lambda _: "é" * 500)

    both_errors(client, server)

    assert client.refusal is not None
    assert client.refusal == "é" * 100
    assert len(server.farewell) <= MAX_MESSAGE_BYTES


def test_forged_acceptance_is_refused() -> None:
    """A refusal turned into an acceptance on the way does not pass."""
    client, server = make_client(), make_server(authorize=lambda _: "")
    proof = client.feed(server.feed(client.start()))
    with pytest.raises(HandshakeRefused):
        server.feed(proof)
    forged = bytearray(server.farewell)
    forged[8] = 1

    with pytest.raises(AuthenticationError):
        client.feed(forged)


def test_refused_error_survives_pickling() -> None:
    """The reason is kept when the error travels between processes."""
    error = HandshakeRefused("no", reason="full")

    assert pickle.loads(pickle.dumps(error)).reason == "full"


@pytest.mark.parametrize(("code", "kind"), [(1, RemoteProtocolError), (2, AuthenticationError)])
def test_alert_chooses_only_the_text(code: int, kind: type[Exception]) -> None:
    """An alert ends the exchange, whatever its code, and is not answered."""
    client = make_client()
    client.start()

    with pytest.raises(kind):
        client.feed(b"ARPC\x01\x05\x00\x01" + bytes([code]))
    assert client.farewell == b""


@pytest.mark.parametrize("body", [b"", b"\x00", b"\xff", b"\x01\x01"])
def test_unknown_alert(body: bytes) -> None:
    """An alert with a code of another time is a protocol error."""
    client = make_client()
    client.start()

    with pytest.raises(RemoteProtocolError, match="unknown alert"):
        client.feed(b"ARPC\x01\x05\x00" + bytes([len(body)]) + body)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_proof_and_verdict_of_another_length(length: int) -> None:
    """A proof that is not 32 bytes long, and a verdict too short for one, are refused."""
    client, server = make_client(), make_server()
    client.feed(server.feed(client.start()))

    with pytest.raises(RemoteProtocolError, match="expected 32"):
        server.feed(b"ARPC\x01\x03\x00" + bytes([length]) + bytes(length))
    with pytest.raises(REFUSALS):
        client.feed(b"ARPC\x01\x04\x00" + bytes([length]) + bytes(length))


@pytest.mark.parametrize("body", [b"", bytes(120), b"\x09" + bytes(111), bytes(110) + b"\x05\xff"])
def test_malformed_hello(body: bytes) -> None:
    """A hello that is short, of an unknown purpose or misstates its name is refused."""
    with pytest.raises(RemoteProtocolError):
        make_server().feed(b"ARPC\x01\x01\x00" + bytes([len(body)]) + body)


# --- our own mistakes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", b"short"),
        ("incarnation", b""),
        ("host", bytes(17)),
        ("features", -1),
        ("features", 2**64),
        ("worker_id", -2),
        ("flags", 2**32),
        ("name", "n" * 256),
        ("name", "line\nbreak"),
        ("name", "é"),
    ],
)
def test_hello_checks_its_fields(field: str, value: Any) -> None:
    """A field that could not travel is refused when the hello is made, by name."""
    with pytest.raises(ValueError, match=f"hello {field} must"):
        make_hello(**{field: value})


def test_key_of_another_length() -> None:
    """A key is 32 bytes; the error does not show it."""
    with pytest.raises(ValueError, match="32 bytes, got 5") as caught:
        make_client(key=b"hello")

    assert "hello" not in str(caught.value)


def test_repr_shows_no_key() -> None:
    """Neither the key nor anything made of it is in the repr."""
    assert KEY.hex() not in repr(make_client())
    assert repr(KEY) not in repr(make_client())


# --- properties


def sides_after(messages: list[bytes], count: int) -> Handshake:
    """Return the side that is about to read message ``count`` of the recorded exchange."""
    side = make_client() if count % 2 else make_server()
    side.start()
    for index in range(count):
        if index % 2 == count % 2:
            side.feed(messages[index])
    return side


def is_refused(count: int, changed: bytes, messages: list[bytes]) -> bool:
    """Return whether an exchange with one changed message ends without both sides done."""
    side = sides_after(messages, count)
    try:
        said = side.feed(changed)
        if count == 0:  # the server may answer a changed hello; the client then finds it out
            client = make_client()
            client.start()
            client.feed(said)
        side.feed_eof()
    except REFUSALS:
        return True
    return False


@pytest.mark.parametrize("count", range(4))
def test_every_single_bit_flip_is_refused(count: int) -> None:
    """No bit of any message can change without the exchange failing."""
    messages = exchange(make_client(), make_server())
    accepted = []
    for bit in range(len(messages[count]) * 8):
        changed = bytearray(messages[count])
        changed[bit // 8] ^= 1 << bit % 8
        if not is_refused(count, bytes(changed), messages):
            accepted.append(bit)

    assert accepted == []


@given(st.binary(max_size=600), st.booleans(), st.sampled_from([b"", b"ARPC", b"ARPC\x01"]))
def test_garbage_raises_only_refusals(data: bytes, is_client: bool, prefix: bytes) -> None:
    """Random bytes raise one of the two errors or wait for more, and buffer at most 512."""
    side = make_client() if is_client else make_server()
    side.start()
    try:
        feed_bytewise(side, prefix + data)
    except REFUSALS:
        return

    assert not side.is_done
    assert len(side._buffer) < MAX_MESSAGE_BYTES


@given(st.integers(0, 3), st.data())
def test_damaged_messages_raise_only_refusals(count: int, data: st.DataObject) -> None:
    """Messages cut, overwritten or lengthened anywhere are refused or waited for."""
    messages = exchange(make_client(), make_server())
    at = data.draw(st.integers(0, len(messages[count])))
    replacement = data.draw(st.binary(max_size=40))
    cut = data.draw(st.integers(0, 40))
    changed = messages[count][:at] + replacement + messages[count][at + cut :]
    side = sides_after(messages, count)
    if changed.startswith(messages[count]):  # untouched, with a tail
        return
    try:
        side.feed(changed)
    except REFUSALS:
        return

    assert not side.is_done


@given(st.lists(st.integers(1, 64), max_size=30), st.binary(max_size=20))
def test_any_chunking_gives_the_same_result(sizes: list[int], tail: bytes) -> None:
    """Where the stream is cut does not matter; a tail is kept whole."""
    messages = exchange(make_client(), make_server())

    def feed_chunks(side: Handshake, data: bytes) -> None:
        cuts = itertools.accumulate(sizes)
        edges = [0, *(cut for cut in cuts if cut < len(data)), len(data)]
        for start, end in itertools.pairwise(edges):
            side.feed(data[start:end])

    client = sides_after(messages, 3)
    feed_chunks(client, messages[3] + tail)

    assert client.is_done
    assert client.leftover == tail


@given(
    st.builds(
        make_hello,
        name=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=255),
        features=st.integers(0, 2**64 - 1),
        worker_id=st.integers(-1, 2**31 - 1),
        flags=st.integers(0, 2**32 - 1),
        purpose=st.sampled_from(Purpose),
        run_id=st.binary(min_size=32, max_size=32),
    )
)
def test_hello_round_trip(hello: Hello) -> None:
    """What encode makes, decode gives back equal."""
    assert Hello.decode(hello.encode()) == hello


@given(st.binary(max_size=400))
def test_hello_decode_raises_only_value_error(data: bytes) -> None:
    """Bytes that are no hello raise ValueError and nothing else."""
    try:
        hello = Hello.decode(data)
    except ValueError:
        return

    assert hello.encode() == data
