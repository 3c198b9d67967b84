"""Message types: their numbers are the reference's, and every request has its reply."""

from __future__ import annotations

import pytest

from asyncrpc.wire import CALLS, REPLIES, MessageType


@pytest.mark.parametrize(
    ("request_name", "reply_name"),
    [
        ("SCRIPT_CALL", "SCRIPT_RET"),
        ("PYTHON_CALL", "PYTHON_RET"),
        ("SCRIPT_REMOTE_CALL", "REMOTE_RET"),
        ("PYTHON_REMOTE_CALL", "REMOTE_RET"),
        ("SCRIPT_RREF_FETCH_CALL", "SCRIPT_RREF_FETCH_RET"),
        ("PYTHON_RREF_FETCH_CALL", "PYTHON_RREF_FETCH_RET"),
        ("RREF_USER_DELETE", "RREF_ACK"),
        ("RREF_FORK_REQUEST", "RREF_ACK"),
        ("RREF_CHILD_ACCEPT", "RREF_ACK"),
        ("RREF_SYNC", "RREF_ACK"),
        ("CLEANUP_AUTOGRAD_CONTEXT_REQ", "CLEANUP_AUTOGRAD_CONTEXT_RESP"),
    ],
)
def test_replies(request_name: str, reply_name: str) -> None:
    """Each request is answered by the type that the reference answers it with."""
    assert MessageType[reply_name] == REPLIES[MessageType[request_name]]
    assert MessageType[reply_name].is_response
    assert not MessageType[request_name].is_response


def test_nobody_answers_a_notification() -> None:
    """A one-way call is a request all the same."""
    assert 0 == REPLIES[MessageType.NOTIFY]


def test_calls() -> None:
    """What users send, and nothing that the agents say among themselves."""
    assert {MessageType(kind).name for kind in CALLS} == {
        "SCRIPT_CALL",
        "PYTHON_CALL",
        "STREAM_CALL",
        "SCRIPT_REMOTE_CALL",
        "PYTHON_REMOTE_CALL",
        "SCRIPT_RREF_FETCH_CALL",
        "PYTHON_RREF_FETCH_CALL",
    }
