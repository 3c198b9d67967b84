"""The table against a model, and its rules about time, events, waiters and leases."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from asyncrpc.errors import QueueEmptyError, StoreError, StoreTimeoutError
from asyncrpc.store.commands import (
    NO_LEASE,
    NO_VERSION,
    Add,
    Append,
    Barrier,
    Cancel,
    Check,
    Command,
    CompareSet,
    DeleteKey,
    Get,
    GrantLease,
    ListKeys,
    MultiGet,
    MultiSet,
    NumKeys,
    Ping,
    QueueLen,
    QueuePop,
    QueuePush,
    QueueReturn,
    RenewLease,
    RevokeLease,
    Set,
    Snapshot,
    StoreEvent,
    Wait,
    Watch,
)
from asyncrpc.store.table import BEHIND, PENDING, Table


class Client:
    """One session of a table, with everything that came out of the table for anybody."""

    def __init__(self, table: Table, name: str = "client") -> None:
        self.table = table
        self.name = name
        self.now = 0.0
        self.numbers = itertools.count(1)
        self.last = 0

    def __call__(self, command: Command) -> object:
        self.last = next(self.numbers)
        return self.table.apply(self.name, self.last, command, self.now)

    def outcomes(self) -> list[tuple[str, int, object]]:
        """Take what became due."""
        return self.table.take_outbox()

    def versions(self) -> list[object]:
        """Take what became due: versions of events, other outcomes as they are."""
        return [o.version if isinstance(o, StoreEvent) else o for _, _, o in self.outcomes()]


@pytest.fixture
def table() -> Table:
    """An empty table that keeps few events."""
    return Table(max_value=100, max_events=5, max_event_bytes=60, grace=1.0)


@pytest.fixture
def client(table: Table) -> Client:
    """A session of it."""
    return Client(table)


# --- waiters


def test_a_waiter_is_answered_by_the_write(client: Client) -> None:
    """A get that waits is answered with the value of the write that makes its key exist."""
    assert client(Get("k", 5.0)) is PENDING
    waiting = client.last
    client(Set("k", b"v", NO_LEASE))

    assert [("client", waiting, b"v")] == client.outcomes()


def test_waiters_are_answered_once(client: Client) -> None:
    """A second write, the deadline or a closed session do not answer a waiter again."""
    client(Get("k", 5.0))
    client(Set("k", b"v", NO_LEASE))
    client.outcomes()
    client(DeleteKey("k"))
    client(Set("k", b"w", NO_LEASE))
    client.table.expire(100.0)
    client.table.close_session("client", 100.0)

    assert client.outcomes() == []
    assert math.inf == client.table.next_expiry()


def test_a_wait_times_out_at_its_deadline(client: Client) -> None:
    """The time-out comes at the deadline, not before, and names what is missing then."""
    client(Wait(["a", "b"], 5.0))
    waiting = client.last
    client(Set("a", b"", NO_LEASE))

    assert client.table.next_expiry() == 5.0
    client.table.expire(4.999)
    assert client.outcomes() == []
    client.table.expire(5.0)
    [(_, number, error)] = client.outcomes()
    assert waiting == number
    assert isinstance(error, StoreTimeoutError)
    assert error.keys == ("b",)
    assert client.table.debug_info()["waiting"] == 0


def test_time_outs_name_at_most_16_keys(client: Client) -> None:
    """The text names 16 missing keys and counts the rest; `keys` has all."""
    keys = [f"k{index}" for index in range(20)]
    with pytest.raises(StoreTimeoutError, match="k15 and 4 more") as caught:
        client(Wait(keys, 0.0))

    assert tuple(keys) == caught.value.keys


def test_an_unbounded_wait_has_no_deadline(client: Client) -> None:
    """Infinity as a time-out leaves nothing to expire; nan is like 0."""
    client(Wait(["a"], math.inf))

    assert math.inf == client.table.next_expiry()
    with pytest.raises(StoreTimeoutError):
        client(Wait(["a"], math.nan))


def test_a_key_that_comes_twice_is_awaited_once(client: Client) -> None:
    """Duplicate keys in one wait are one key."""
    client(MultiGet(["a", "a", "b"], 5.0))
    waiting = client.last
    client(MultiSet(["a", "b"], [b"1", b"2"]))

    assert [("client", waiting, [b"1", b"1", b"2"])] == client.outcomes()


def test_cancel_withdraws_a_waiter(client: Client) -> None:
    """A cancelled request is never answered; cancelling twice, or another's, says False."""
    client(Get("k", 5.0))
    waiting = client.last

    assert Client(client.table, "other")(Cancel(waiting)) is False
    assert client(Cancel(waiting)) is True
    assert client(Cancel(waiting)) is False
    client(Set("k", b"v", NO_LEASE))
    assert client.outcomes() == []


@pytest.mark.parametrize("command", [Get("k", 5.0), Barrier("b", 2, 5.0, b""), GrantLease(1, 5.0)])
def test_new_deadlines_are_told(client: Client, command: Command) -> None:
    """Whoever sets a timer hears that it may be needed earlier, and not of anything else."""
    horizon = client.table.horizon
    client(Set("other", b"", NO_LEASE))
    assert not horizon.is_nearer
    client(command)
    assert horizon.is_nearer
    assert client.table.next_expiry() == 5.0
    assert not horizon.is_nearer


def test_an_abandoned_lease_is_told() -> None:
    """A closed session brings the end of its leases nearer."""
    table = Table(grace=1.0)
    table.apply("client", 1, GrantLease(1, 60.0), 0.0)
    table.next_expiry()
    table.close_session("client", 2.0)

    assert table.horizon.is_nearer
    assert table.next_expiry() == 3.0


def test_deadlines_of_answered_waiters_are_forgotten(client: Client) -> None:
    """However many waits were answered before their deadlines, little is kept of them."""
    for _ in range(1000):
        client(Get("k", 300.0))
        client(Set("k", b"", NO_LEASE))
        client(DeleteKey("k"))

    assert len(client.table._requests.deadlines._heap) < 200


def test_a_request_number_cannot_wait_twice(client: Client) -> None:
    """A number that still waits is refused, so that no waiter is lost sight of."""
    client(Get("k", 5.0))
    with pytest.raises(StoreError, match="waiting already"):
        client.table.apply("client", client.last, Get("k", 5.0), 0.0)


def test_closing_a_session_withdraws_all_it_waits_for(client: Client) -> None:
    """Nothing is sent to a session that is gone."""
    for command in (Get("k", 5.0), QueuePop("q", True, 5.0), Watch("", NO_VERSION)):
        client(command)
    client(Barrier("b", 2, 5.0, b""))
    client.table.close_session("client", 0.0)
    other = Client(client.table, "other")
    other(Set("k", b"", NO_LEASE))
    other(QueuePush("q", b"x"))

    assert other.outcomes() == []
    assert other(QueueLen("q")) == 1
    assert other(Barrier("b", 2, 5.0, b"")) is PENDING


# --- queues and barriers


def test_a_push_shows_the_queue_to_waiters_before_it_is_popped(client: Client) -> None:
    """One push serves those who wait for the queue to exist and the first who pops."""
    client(Wait(["q"], 5.0))
    client(QueuePop("q", True, 5.0))
    client(QueuePop("q", True, 5.0))
    client(QueuePush("q", b"x"))

    assert client.outcomes() == [("client", 1, None), ("client", 2, b"x")]
    assert client(QueueLen("q")) == 0


def test_a_push_may_wake_one_waiter_only() -> None:
    """The first whose last missing key it is; a value that is set wakes all of them."""
    client = Client(Table(push_wakes_one=True))
    client(Wait(["q", "other"], math.inf))
    client(Wait(["q"], math.inf))
    client(Wait(["q"], math.inf))
    client(QueuePush("q", b"x"))
    assert client.outcomes() == [("client", 2, None)]
    client(QueuePush("q", b"x"))
    assert client.outcomes() == [("client", 3, None)]
    client(Set("other", b"", NO_LEASE))
    assert client.outcomes() == [("client", 1, None)]
    client(QueuePop("q", False, 0.0))
    client(QueuePop("q", False, 0.0))
    for number in range(2):
        client(Wait(["q", f"k{number}"], math.inf))
        client(Set(f"k{number}", b"", NO_LEASE))
    client(DeleteKey("k1"))
    client(QueuePush("q", b"x"))
    assert client.outcomes() == [("client", 9, None)]
    client(QueuePush("q", b"x"))

    assert client.outcomes() == []  # the other misses a key again


def test_a_returned_value_is_the_first_again(client: Client) -> None:
    """What a withdrawn pop gives back is popped next."""
    client(QueuePush("q", b"1"))
    client(QueuePush("q", b"2"))
    taken = client(QueuePop("q", False, 0.0))
    client(QueueReturn("q", b"1"))

    assert b"1" == taken == client(QueuePop("q", False, 0.0))


def test_a_barrier_knows_who_was_let_through(client: Client) -> None:
    """An arrival sent again after the barrier opened passes, and is not counted for the next."""
    client(Barrier("b", 2, 5.0, b"one"))
    client(Barrier("b", 2, 5.0, b"two"))
    client.outcomes()

    assert client(Barrier("b", 2, 5.0, b"one")) is None
    assert client(Barrier("b", 2, 5.0, b"three")) is PENDING
    client.now = 1000.0
    assert client(Barrier("b", 2, 5.0, b"one")) is None  # opens the next round with "three"
    assert len(client.table._barriers._released) == 2


# --- versions, events, watches


def test_versions_rise_by_one_with_each_change(client: Client) -> None:
    """Every change of a key makes one version and nothing else does."""
    watch = client(Watch("", NO_VERSION))
    client(Set("a", b"1", NO_LEASE))
    client(MultiSet(["b", "c"], [b"2", b"3"]))
    client(CompareSet("a", b"no", b"x", NO_LEASE))
    client(QueuePush("q", b"x"))
    client(DeleteKey("a"))
    client(DeleteKey("a"))

    assert watch == 0
    assert [outcome for _, _, outcome in client.outcomes()] == [
        ("put", "a", b"1", 1),
        ("put", "b", b"2", 2),
        ("put", "c", b"3", 3),
        ("delete", "a", b"", 4),
    ]
    assert client(Ping()) == 4


def test_a_watch_resumes_after_a_version(client: Client) -> None:
    """All events after the version come first, and only those under the prefix."""
    for key in ("p/a", "x", "p/b"):
        client(Set(key, b"", NO_LEASE))
    client(Watch("p/", 1))

    assert [StoreEvent("put", "p/b", b"", 3)] == [item for _, _, item in client.outcomes()]


def test_a_long_past_is_told_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one when it is asked for, then what came meanwhile; a ping says how far it is."""
    monkeypatch.setattr("asyncrpc.store.table.changes._PORTION", 2)
    client = Client(Table(max_events=100))
    for index in range(3):
        client(Set("k", b"%d" % index, NO_LEASE))

    assert 3 == client(Watch("", 0))
    watch = client.last
    client(Set("k", b"3", NO_LEASE))
    assert [1, 2, BEHIND] == client.versions()
    assert 2 == client(Ping())
    client.table.replay("client", watch)
    assert [3, 4] == client.versions()
    assert 4 == client(Ping())
    client(Set("k", b"4", NO_LEASE))
    assert [5] == client.versions()
    client.table.replay("client", watch)
    assert [] == client.outcomes()


def test_a_reader_slower_than_the_writers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the rest of the past is dropped before it is asked for, the watch ends with an error."""
    monkeypatch.setattr("asyncrpc.store.table.changes._PORTION", 2)
    client = Client(Table(max_events=5))
    for index in range(5):
        client(Set("k", b"%d" % index, NO_LEASE))
    client(Watch("", 0))
    watch = client.last
    for index in range(5):
        client(Set("k", b"%d" % index, NO_LEASE))

    client.table.replay("client", watch)
    *_, (_, _, error) = client.outcomes()
    assert isinstance(error, StoreError)
    assert "version 2 is too old" in str(error)
    assert 0 == client.table.debug_info()["waiting"]


def test_a_version_too_old_is_refused(client: Client) -> None:
    """A watch cannot resume after events that were dropped, by number or by size."""
    for index in range(6):
        client(Set("k", b"%d" % index, NO_LEASE))

    client(Watch("", 1))
    assert len(client.outcomes()) == 5
    with pytest.raises(StoreError, match="too old"):
        client(Watch("", 0))
    client(Set("k", b"x" * 50, NO_LEASE))
    client(Set("k", b"x" * 50, NO_LEASE))
    client(Watch("", 7))
    with pytest.raises(StoreError, match="too old"):
        client(Watch("", 6))


def test_a_version_of_the_future_is_refused(client: Client) -> None:
    """A version the store has not reached is another store's."""
    with pytest.raises(StoreError, match="not of this store"):
        client(Watch("", 1))

    assert client.table.debug_info()["waiting"] == 0


# --- leases


def test_a_lease_lapses_without_renewal(client: Client) -> None:
    """Keys vanish when the ttl has passed since the last renewal, each with an event."""
    client(GrantLease(7, 3.0))
    client(Set("k", b"v", 7))
    client.now = 2.0
    assert client(RenewLease(7)) is True
    client(Watch("", NO_VERSION))

    client.table.expire(3.0)
    assert client(Check(["k"])) is True
    assert client.table.next_expiry() == 5.0
    client.table.expire(5.0)
    assert [StoreEvent("expire", "k", b"", 2)] == [item for _, _, item in client.outcomes()]
    assert client(RenewLease(7)) is False
    with pytest.raises(StoreError, match="lapsed"):
        client(Set("k", b"v", 7))


def test_a_closed_session_shortens_its_leases_to_the_grace(client: Client) -> None:
    """The grace starts when the session closes; a longer life is cut, a shorter one is not."""
    client(GrantLease(1, 30.0))
    client(GrantLease(2, 0.5))
    client.table.close_session("client", 0.0)

    assert client.table.next_expiry() == 0.5
    client.table.expire(0.5)
    assert client.table.next_expiry() == 1.0


def test_a_lease_can_be_resumed_within_the_grace(client: Client) -> None:
    """Another session that renews it in time has it then; the old one closing late is nothing."""
    client(GrantLease(1, 30.0))
    client(Set("k", b"v", 1))
    client.table.close_session("client", 0.0)
    heir = Client(client.table, "heir")
    heir.now = 0.9
    assert heir(RenewLease(1)) is True
    client.table.close_session("client", 1.0)
    client.table.expire(30.0)

    assert heir(Check(["k"])) is True
    assert client.table.next_expiry() == 30.9


def test_renewing_keeps_one_deadline(client: Client) -> None:
    """However often a lease is renewed or granted again, it takes one place among deadlines."""
    for index in range(100):
        client.now = index / 10
        client(GrantLease(1, 3.0))
        client(RenewLease(1))
        client.table.next_expiry()

    assert len(client.table._leases._heap) == 1


def test_revoking_takes_the_keys_at_once(client: Client) -> None:
    """A revoked lease is gone with its keys; revoking it again says False."""
    client(GrantLease(1, 30.0))
    client(Set("k", b"v", 1))

    assert client(RevokeLease(1)) is True
    assert client(RevokeLease(1)) is False
    assert client(Check(["k"])) is False


@pytest.mark.parametrize("ttl", [0.0, -1.0, math.inf, math.nan])
def test_a_lease_needs_a_span(client: Client, ttl: float) -> None:
    """A ttl that is not above 0 and finite is refused, as is the number of no lease."""
    with pytest.raises(StoreError):
        client(GrantLease(1, ttl))
    with pytest.raises(StoreError):
        client(GrantLease(NO_LEASE, 1.0))


# --- limits


@pytest.mark.parametrize(
    "write",
    [
        lambda value: Set("k", value, NO_LEASE),
        lambda value: Append("k", value),
        lambda value: CompareSet("k", b"", value, NO_LEASE),
        lambda value: MultiSet(["other", "k"], [b"", value]),
        lambda value: QueuePush("k", value),
        lambda value: QueueReturn("k", value),
    ],
)
def test_values_have_a_limit(client: Client, write: Callable[[bytes], Command]) -> None:
    """A value beyond the limit is refused by every write, and nothing has changed."""
    with pytest.raises(StoreError, match="101 bytes"):
        client(write(b"x" * 101))

    assert client(Ping()) == 0
    assert client(Check(["k"])) is False
    client(write(b"x" * 100))


def test_appending_cannot_pass_the_limit(client: Client) -> None:
    """The limit holds for the whole value, not for the part."""
    client(Append("k", b"x" * 60))
    with pytest.raises(StoreError, match="120 bytes"):
        client(Append("k", b"x" * 60))

    assert client(Get("k", 0.0)) == b"x" * 60


def test_keys_have_a_limit(client: Client) -> None:
    """A key longer than the limit is refused."""
    with pytest.raises(StoreError, match="8193 characters"):
        client(Set("k" * 8193, b"", NO_LEASE))


# --- against a model

KEYS = st.sampled_from(["a", "b", "a/x"])
VALUES = st.sampled_from([b"", b"1", b"-3", b"word"])
MODEL_DIGITS = 18  # more are numbers as well, up to the 64 bits that have a test of their own


class TableMachine(RuleBasedStateMachine):
    """Any sequence of commands gives what a few dicts give."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.client = Client(self.table)
        self.values: dict[str, bytes] = {}
        self.queues: dict[str, list[bytes]] = {}
        self.alive: dict[int, float] = {}
        self.held: dict[str, int] = {}
        self.waiting: dict[int, list[str]] = {}
        self.replayed: dict[str, bytes] = {}
        self.version = 0
        self.lease_numbers = itertools.count(1)
        self.client(Watch("", NO_VERSION))
        self.watch = self.client.last

    def put(self, key: str, value: bytes, lease: int) -> None:
        self.values[key] = value
        self.held.pop(key, None)
        if lease:
            self.held[key] = lease

    def vanish(self, lease: int) -> None:
        del self.alive[lease]
        for key in [key for key, holder in self.held.items() if holder == lease]:
            del self.held[key], self.values[key]

    @rule(key=KEYS, value=VALUES)
    def set(self, key: str, value: bytes) -> None:
        assert self.client(Set(key, value, NO_LEASE)) is None
        self.put(key, value, NO_LEASE)

    @rule(key=KEYS, value=VALUES, lease=leases)
    def set_on_lease(self, key: str, value: bytes, lease: int) -> None:
        if lease not in self.alive:
            with pytest.raises(StoreError):
                self.client(Set(key, value, lease))
            return
        self.client(Set(key, value, lease))
        self.put(key, value, lease)

    @rule(key=KEYS, amount=st.integers(-5, 5))
    def add(self, key: str, amount: int) -> None:
        old = self.values.get(key, b"0")
        is_number = re.fullmatch(rb"-?[0-9]{1,18}", old) is not None
        if not is_number:
            with pytest.raises(StoreError):
                self.client(Add(key, amount, NO_LEASE))
            return
        total = int(old) + amount
        assert total == self.client(Add(key, amount, NO_LEASE))
        self.put(key, b"%d" % total, self.held.get(key, NO_LEASE))

    @rule(key=KEYS, expected=VALUES, desired=VALUES)
    def compare_set(self, key: str, expected: bytes, desired: bytes) -> None:
        result = self.client(CompareSet(key, expected, desired, NO_LEASE))
        if key not in self.values:
            assert result == (desired if expected == b"" else expected)
            is_written = expected == b""
        else:
            is_written = self.values[key] == expected
            assert result == (desired if is_written else self.values[key])
        if is_written:
            self.put(key, desired, NO_LEASE)

    @rule(key=KEYS, value=VALUES)
    def append(self, key: str, value: bytes) -> None:
        if len(self.values.get(key, b"")) >= MODEL_DIGITS - 4:
            return
        self.client(Append(key, value))
        self.put(key, self.values.get(key, b"") + value, self.held.get(key, NO_LEASE))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        was_there = key in self.values or key in self.queues
        assert was_there == self.client(DeleteKey(key))
        self.values.pop(key, None)
        self.held.pop(key, None)
        self.queues.pop(key, None)

    @rule(key=KEYS, value=VALUES)
    def push(self, key: str, value: bytes) -> None:
        self.client(QueuePush(key, value))
        self.queues.setdefault(key, []).append(value)

    @rule(key=KEYS)
    def pop(self, key: str) -> None:
        if key not in self.queues:
            with pytest.raises(QueueEmptyError):
                self.client(QueuePop(key, False, 0.0))
            return
        assert self.queues[key].pop(0) == self.client(QueuePop(key, False, 0.0))
        if not self.queues[key]:
            del self.queues[key]

    @rule(keys=st.lists(KEYS, max_size=3))
    def wait(self, keys: list[str]) -> None:
        result = self.client(Wait(keys, math.inf))
        if all(key in self.values or key in self.queues for key in keys):
            assert result is None
        else:
            assert result is PENDING
            self.waiting[self.client.last] = keys

    @rule(target=leases, ttl=st.sampled_from([1.0, 2.0, 5.0]))
    def grant(self, ttl: float) -> int:
        number = next(self.lease_numbers)
        self.client(GrantLease(number, ttl))
        self.alive[number] = ttl
        self.deadlines = {**getattr(self, "deadlines", {}), number: self.client.now + ttl}
        return number

    @rule(lease=leases)
    def renew(self, lease: int) -> None:
        assert (lease in self.alive) == self.client(RenewLease(lease))
        if lease in self.alive:
            self.deadlines[lease] = self.client.now + self.alive[lease]

    @rule(lease=consumes(leases))
    def revoke(self, lease: int) -> None:
        assert (lease in self.alive) == self.client(RevokeLease(lease))
        if lease in self.alive:
            self.vanish(lease)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.client.now += seconds
        self.table.expire(self.client.now)
        for lease in list(self.alive):
            if self.deadlines[lease] <= self.client.now:
                self.vanish(lease)

    @invariant()
    def reads_agree(self) -> None:
        flat = self.client(Snapshot(""))
        assert isinstance(flat, list)
        assert self.values == dict(zip(flat[1::2], flat[2::2], strict=True))
        assert len(self.values) == self.client(NumKeys())
        assert sorted(self.values) == self.client(ListKeys(""))
        for key, value in self.values.items():
            assert value == self.client(Get(key, 0.0))
        for key in ("a", "b", "a/x"):
            assert len(self.queues.get(key, ())) == self.client(QueueLen(key))
            assert (key in self.values or key in self.queues) == self.client(Check([key]))

    @invariant()
    def outcomes_agree(self) -> None:
        for _, number, outcome in self.client.outcomes():
            if number == self.watch:
                assert isinstance(outcome, StoreEvent)
                self.replay(outcome)
            else:
                assert outcome is None
                del self.waiting[number]
        assert self.values == self.replayed
        for keys in self.waiting.values():
            assert not all(key in self.values or key in self.queues for key in keys)

    def replay(self, event: StoreEvent) -> None:
        self.version += 1
        assert self.version == event.version
        if event.kind == "put":
            self.replayed[event.key] = event.value
        else:
            assert event.value == b""
            del self.replayed[event.key]

    @invariant()
    def expiry_agrees(self) -> None:
        earliest = min((self.deadlines[lease] for lease in self.alive), default=math.inf)
        assert earliest == self.table.next_expiry()


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
