"""The messages between agent and guardian: bytes, and no input or output.

Used by both sides. A message is the length of the rest (u32), a kind (u8) and a body; integers
are big-endian. Descriptors for a worker travel as SCM_RIGHTS with the first byte of its START, in
the order of the targets in it.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # the typing module is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

__all__ = (
    "CLEAR",
    "CLEARED",
    "EXITED",
    "FENCE",
    "MAX_DESCRIPTORS",
    "SIGNAL",
    "STARTED",
    "Kind",
    "MessageReader",
    "decode_start",
    "encode",
    "encode_start",
)

MAX_DESCRIPTORS = 253  # SCM_MAX_FD of the kernel: more do not fit one message
SIGNAL = struct.Struct("!IB")
"""Worker, signal: signal the worker's process group, if the worker still runs."""
CLEAR = struct.Struct("!IBddd")
"""Request, signal, three spans in seconds: end what ended workers left behind.

The signal is sent after the first span, except to groups that were signalled before. SIGKILL
follows after the second span to members of the workers' groups, after the third to all others.
"""
FENCE = struct.Struct("!d")
"""When to kill everything if the agent is stopped then, seconds of time.monotonic."""
STARTED = struct.Struct("!IIi?")
"""Worker, process id, errno or 0, whether the errno is about the folder it should start in."""
EXITED = struct.Struct("!Ii?d")
"""Worker, wait status, whether it had been signalled, when (seconds of time.monotonic)."""
CLEARED = struct.Struct("!III")
"""Request, numbers of processes: that could not be killed, that had to be."""
_HEADER = struct.Struct("!IB")
_START = struct.Struct("!IBIII")  # worker; numbers of descriptors, cpus, arguments, variables


class Kind:
    """The kinds of messages; a reply has the number of its request."""

    START = 1
    SIGNAL = 2
    CLEAR = 3
    REMOVE = 4  # the body is the path
    FENCE = 5
    STARTED = 1
    EXITED = 2
    CLEARED = 3


class MessageReader:
    """Cuts a stream of bytes into messages."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes and yield each complete message as (kind, body)."""
        self._data += data
        while len(self._data) >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._data)
            end = length + _HEADER.size - 1
            if len(self._data) < end:
                return
            body = bytes(self._data[_HEADER.size : end])
            del self._data[:end]
            yield kind, body


def encode_start(
    worker: int,
    argv: Sequence[bytes],
    env: Mapping[bytes, bytes],
    cwd: bytes,
    targets: Sequence[int],
    cpus: Collection[int] = (),
) -> bytes:
    """Return the request to start a worker.

    Args:
        worker: the agent's number for it.
        argv: program and arguments, none with a NUL byte.
        env: the whole environment, likewise.
        cwd: folder to start in; empty for the guardian's own.
        targets: numbers the attached descriptors get in the worker, in their order.
        cpus: processors it may use; none for all that the guardian may.
    """
    strings = [cwd, *argv, *(b"%b=%b" % item for item in env.items())]
    head = _START.pack(worker, len(targets), len(cpus), len(argv), len(env))
    numbers = struct.pack(f"!{len(targets) + len(cpus)}I", *targets, *cpus)
    return encode(Kind.START, head + numbers + b"\0".join(strings))


def decode_start(
    body: bytes,
) -> tuple[int, tuple[int, ...], tuple[int, ...], list[bytes], dict[bytes, bytes], bytes]:
    """Return worker, targets, processors, arguments, environment and folder of a START."""
    number, n_targets, n_cpus, n_arguments, n_variables = _START.unpack_from(body)
    numbers = struct.unpack_from(f"!{n_targets + n_cpus}I", body, _START.size)
    cwd, *strings = body[_START.size + 4 * len(numbers) :].split(b"\0")
    assert len(strings) == n_arguments + n_variables
    env = dict(variable.split(b"=", 1) for variable in strings[n_arguments:])
    targets, cpus = numbers[:n_targets], numbers[n_targets:]
    return number, targets, cpus, strings[:n_arguments], env, cwd


def encode(kind: int, body: bytes) -> bytes:
    """Return one message."""
    return _HEADER.pack(len(body) + 1, kind) + body
