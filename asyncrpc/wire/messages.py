"""The kinds of message that travel between workers.

Sans-IO: values only. The names and numbers of the first block are those of the reference system
(torch.distributed.rpc), so that fault plans and logs read alike; the second block is ours.
"""

from __future__ import annotations

import enum

__all__ = ("CALLS", "CONTROL", "REPLIES", "RESPONSE", "MessageType")

_REQUEST = 0x100
RESPONSE = 0x200
"""Bit of the types that answer a request."""


class MessageType(enum.IntEnum):
    """What a frame is; requests carry 0x100, responses 0x200, ours 0x400.

    Source: torch/csrc/distributed/rpc/message.h (names and values of the first block).
    """

    SCRIPT_CALL = 0x00 | _REQUEST
    SCRIPT_RET = 0x01 | RESPONSE
    PYTHON_CALL = 0x02 | _REQUEST
    PYTHON_RET = 0x03 | RESPONSE
    SCRIPT_REMOTE_CALL = 0x04 | _REQUEST
    PYTHON_REMOTE_CALL = 0x05 | _REQUEST
    REMOTE_RET = 0x06 | RESPONSE
    SCRIPT_RREF_FETCH_CALL = 0x07 | _REQUEST
    PYTHON_RREF_FETCH_CALL = 0x08 | _REQUEST
    SCRIPT_RREF_FETCH_RET = 0x09 | RESPONSE
    PYTHON_RREF_FETCH_RET = 0x0A | RESPONSE
    RREF_USER_DELETE = 0x0B | _REQUEST
    RREF_FORK_REQUEST = 0x0C | _REQUEST
    RREF_CHILD_ACCEPT = 0x0D | _REQUEST
    RREF_ACK = 0x0E | RESPONSE
    FORWARD_AUTOGRAD_REQ = 0x0F | _REQUEST
    FORWARD_AUTOGRAD_RESP = 0x10 | RESPONSE
    BACKWARD_AUTOGRAD_REQ = 0x11 | _REQUEST
    BACKWARD_AUTOGRAD_RESP = 0x12 | RESPONSE
    CLEANUP_AUTOGRAD_CONTEXT_REQ = 0x13 | _REQUEST
    CLEANUP_AUTOGRAD_CONTEXT_RESP = 0x14 | RESPONSE
    RUN_WITH_PROFILING_REQ = 0x15 | _REQUEST
    RUN_WITH_PROFILING_RESP = 0x16 | RESPONSE
    RREF_BACKWARD_REQ = 0x17 | _REQUEST
    RREF_BACKWARD_RESP = 0x18 | RESPONSE
    EXCEPTION = 0x37 | RESPONSE
    UNKNOWN = 0x3C

    CANCEL = 0x401
    PING = 0x402
    PONG = 0x403
    GOAWAY = 0x404
    INTERN = 0x405
    NOTIFY = 0x406
    REPLY_ACK = 0x407
    BUFFER_ACK = 0x408
    STREAM_CALL = 0x409
    STREAM_ITEM = 0x40A
    STREAM_END = 0x40B
    STREAM_CREDIT = 0x40C
    RREF_SYNC = 0x40D
    MEMBER = 0x40E
    DRAIN = 0x40F
    GATHER = 0x410
    CHUNK = 0x411
    CANCELLED = 0x412
    RREF_TAKEN = 0x413
    ARENA = 0x414

    @property
    def is_request(self) -> bool:
        """Whether the reference counts it among the requests."""
        return bool(self & _REQUEST)

    @property
    def is_response(self) -> bool:
        """Whether the reference counts it among the responses."""
        return bool(self & RESPONSE)


_NAMES = {
    "SCRIPT_CALL": "SCRIPT_RET",
    "PYTHON_CALL": "PYTHON_RET",
    "STREAM_CALL": "STREAM_END",
    "SCRIPT_REMOTE_CALL": "REMOTE_RET",
    "PYTHON_REMOTE_CALL": "REMOTE_RET",
    "SCRIPT_RREF_FETCH_CALL": "SCRIPT_RREF_FETCH_RET",
    "PYTHON_RREF_FETCH_CALL": "PYTHON_RREF_FETCH_RET",
    "RREF_USER_DELETE": "RREF_ACK",
    "RREF_FORK_REQUEST": "RREF_ACK",
    "RREF_CHILD_ACCEPT": "RREF_ACK",
    "RREF_SYNC": "RREF_ACK",
    "CLEANUP_AUTOGRAD_CONTEXT_REQ": "CLEANUP_AUTOGRAD_CONTEXT_RESP",
    "DRAIN": "PYTHON_RET",
    "GATHER": "PYTHON_RET",
}

# Plain ints: members of an enum hash several times slower, and each message is looked up here.
REPLIES: dict[int, int] = {
    int(MessageType.NOTIFY): 0,
    **{int(MessageType[request]): int(MessageType[reply]) for request, reply in _NAMES.items()},
}
"""Type of each request -> type of what answers it, be it a result or an error; 0 for none."""

CALLS = frozenset(kind for kind in REPLIES if MessageType(kind).name.endswith("_CALL"))
"""Requests of users, which take a place in flight; all others are the agents' own."""

CONTROL = frozenset(
    kind for kind in REPLIES if MessageType(kind).name.startswith(("RREF_", "CLEANUP_"))
)
"""Requests of the reference protocol, which may be sent by hand and come more than once."""
