"""`asyncrpc.store.etcd.messages`: requests as etcd takes them, any version's replies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncrpc.store.etcd.messages import (
    Row,
    exists,
    flatten,
    modified_by,
    nest,
    prefix_end,
    put,
    read_reply,
    revision_of,
    rows_of,
)

SNAKE = {
    "header": {"revision": "7", "member_id": "1"},
    "kvs": [{"key": "YQ==", "value": "MQ==", "create_revision": "3", "mod_revision": "5"}],
    "more": True,
}
CAMEL = {
    "header": {"revision": "7", "memberId": "1"},
    "kvs": [{"key": "YQ==", "value": "MQ==", "createRevision": "3", "modRevision": "5"}],
    "more": True,
}


@pytest.mark.parametrize("fields", [SNAKE, CAMEL])
def test_names_of_fields_may_be_written_either_way(fields: dict[str, Any]) -> None:
    """Gateways differ in that; numbers come as text."""
    reply = read_reply(json.dumps(fields).encode())

    assert reply == SNAKE
    assert revision_of(reply) == 7
    assert rows_of(reply) == [Row(b"a", b"1", 3, 5)]


def test_what_is_left_out_is_zero() -> None:
    """Empty values and zeros are not sent."""
    assert rows_of({}) == []
    assert rows_of({"kvs": [{"key": "YQ=="}]}) == [Row(b"a", b"", 0, 0)]
    assert read_reply(b'{"ID": "7"}') == {"ID": "7"}


def test_names_in_capitals_stay() -> None:
    """However the others are written."""
    found = read_reply(b'{"header": {"raftTerm": "2"}, "ID": "7", "TTL": "9", "grantedTTL": "9"}')

    assert found == {"header": {"raft_term": "2"}, "ID": "7", "TTL": "9", "granted_ttl": "9"}


def test_names_in_values_are_left_alone() -> None:
    """Only fields are renamed."""
    assert read_reply(b'{"message": "modRevision", "modRevision": "1"}') == {
        "message": "modRevision",
        "mod_revision": "1",
    }


@pytest.mark.parametrize("data", [b"", b"404 page not found", b"[]", b'{"a"'])
def test_other_replies_are_refused(data: bytes) -> None:
    """They come from something else."""
    with pytest.raises(ValueError):
        read_reply(data)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"/x/", b"/x0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")],
)
def test_the_end_of_a_prefix_is_the_first_key_behind_it(prefix: bytes, end: bytes) -> None:
    """A zero byte stands for the end of all keys."""
    assert prefix_end(prefix) == end


def test_a_write_names_its_lease_only_if_there_is_one() -> None:
    """Or asks for the one that the key has."""
    assert put(b"a", b"1") == {"request_put": {"key": "YQ==", "value": "MQ=="}}
    assert put(b"a", b"1", 9)["request_put"]["lease"] == "9"
    assert put(b"a", b"1", keeps_lease=True)["request_put"]["ignore_lease"] is True


def test_comparisons_are_of_keys_and_of_ranges() -> None:
    """Revisions and versions are text."""
    assert exists(b"a", b"b") == {
        "key": "YQ==",
        "range_end": "Yg==",
        "target": "VERSION",
        "result": "GREATER",
        "version": "0",
    }
    assert modified_by(b"a", 5)["mod_revision"] == "5"
    assert modified_by(b"a", 5, b"b")["mod_revision"] == "6"
    assert modified_by(b"a", 5, b"b")["result"] == "LESS"


def breadth_and_depth(operations: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the most operations on one way down, and all at the bottom."""
    below = [
        breadth_and_depth(op["request_txn"]["success"]) for op in operations if "request_txn" in op
    ]
    plain = sum("request_txn" not in op for op in operations)
    most = max((most for most, _ in below), default=0)
    return len(operations) + most, plain + sum(count for _, count in below)


@pytest.mark.parametrize("count", [0, 1, 120, 121, 3600, 3601, 60_000])
def test_any_number_of_operations_fits_into_one_transaction(count: int) -> None:
    """Etcd counts 128 on each way through nested ones."""
    operations = [put(b"%d" % number, b"") for number in range(count)]
    most, bottom = breadth_and_depth(nest(operations))

    assert bottom == count
    assert most <= 128


def test_responses_of_nested_transactions_stand_in_order() -> None:
    """As if they had not been nested."""
    responses: list[dict[str, Any]] = [
        {"response_txn": {"responses": [{"response_put": {"n": 1}}, {"response_txn": {}}]}},
        {"response_range": {"n": 2}},
    ]

    assert list(flatten(responses)) == [("put", {"n": 1}), ("range", {"n": 2})]
