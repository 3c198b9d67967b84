"""`FaultPlan`: which messages fail, are lost, wait, come twice, change places or break their link.

Values and decisions only: no I/O, no clock, no loop. `agent.faulting` asks the plan about every
message of an agent and does what it says. The decision for the n-th message of one worker,
direction, peer and type depends on the seed and these alone, so a run can be repeated.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Literal, get_args

from asyncrpc.wire import MessageType

__all__ = ("Fault", "FaultEvent", "FaultPlan", "Identity")

FaultKind = Literal["fail", "drop", "delay", "duplicate", "reorder", "disconnect", "corrupt"]
"""What a fault does; see `Fault`."""
Direction = Literal["out", "in"]
"""Whether a message is on its way out of the worker that has the plan, or into it."""
Identity = tuple[object, ...]
"""What the sends of one message have in common, and no two messages."""

KINDS: tuple[str, ...] = get_args(FaultKind)
DIRECTIONS: tuple[str, ...] = get_args(Direction)

REFERENCE_NAMES = (
    "RREF_FORK_REQUEST",
    "RREF_CHILD_ACCEPT",
    "RREF_USER_DELETE",
    "CLEANUP_AUTOGRAD_CONTEXT_REQ",
    "SCRIPT_REMOTE_CALL",
    "PYTHON_REMOTE_CALL",
    "SCRIPT_CALL",
    "PYTHON_CALL",
    "SCRIPT_RREF_FETCH_CALL",
    "PYTHON_RREF_FETCH_CALL",
)
"""The messages that the reference's faulty agent can be told to fail or delay."""

_UPKEEP = frozenset(("CANCEL", "REPLY_ACK", "GOAWAY", "MEMBER", "DRAIN", "GATHER"))
"""What keeps calls and group in order; a rule without a message leaves it alone."""
_MAX_MESSAGES = 65_536  # messages whose sends are counted; older ones have long had their retries


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One rule of a plan: what happens to which messages.

    Args:
        kind: ``fail`` fails a request at the send (NOT_SENT) or turns a reply into an error
            (EXECUTED); ``drop`` loses the message; ``delay`` makes it wait without blocking
            anything else; ``duplicate`` sends it twice; ``reorder`` lets the next message of the
            same direction and peer overtake it; ``disconnect`` breaks the link in its place;
            ``corrupt`` spoils its bytes.
        message: a `MessageType` or its name, which is kept; ``None`` for calls, replies and
            references, but not for CANCEL, GATHER and what keeps the group together. INTERN, PING,
            PONG, CHUNK and CANCELLED never match: they are parts of the link.
        peer: name of the worker at the other end; ``None`` for all.
        direction: ``"out"`` or ``"in"``, seen from the worker that has the plan.
        times: how often it acts on messages of one worker, peer and type; ``None`` for always.
        probability: 0 to 1, whether it acts on a message that it matches.
        delay: seconds that ``delay`` waits; for ``reorder`` the longest wait for a next message,
            where 0 stands for 0.1 s.
        each_message: ``times`` counts the sends of each message on its own.

    Raises:
        ValueError: a value breaks its rule; the message names field, value and rule.
    """

    kind: FaultKind
    message: MessageType | str | None = None
    peer: str | None = None
    direction: Direction = "out"
    times: int | None = None
    probability: float = 1.0
    delay: float = 0.0
    each_message: bool = False

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, KINDS)
        _check_choice("direction", self.direction, DIRECTIONS)
        if isinstance(self.message, MessageType):
            object.__setattr__(self, "message", self.message.name)
        if self.message is not None:
            _check_name("message", self.message, tuple(MessageType.__members__))
        if self.peer is not None and not _is_text(self.peer):
            raise ValueError(f"peer must be a worker's name or None, got {self.peer!r}")
        if self.times is not None:
            _check_count("times", self.times)
        if not _is_number(self.probability) or not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be a number from 0 to 1, got {self.probability!r}")
        _check_delay("delay", self.delay)

    def matches(self, direction: str, peer: str, message: str) -> bool:
        """Whether the rule is about messages of this direction, peer and type."""
        return (
            self.direction == direction
            and self.peer in (None, peer)
            and (self.message == message or (self.message is None and message not in _UPKEEP))
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultEvent:
    """One fault that was injected.

    Args:
        seq: number of the message among those of its worker, direction, peer and type, from 0.
        kind: what was done.
        message: name of its type.
        peer: worker at the other end.
        direction: ``"out"`` or ``"in"``.
        call_id: call it belongs to, as its caller numbers them; not compared, since the number
            depends on what else the caller does.
        delay: seconds it waits, 0 where it does not.
        worker: whose plan acted.
    """

    seq: int
    kind: str
    message: str
    peer: str
    direction: str
    call_id: int = dataclasses.field(compare=False)
    delay: float = 0.0
    worker: str = ""


class FaultPlan:
    """Rules, a seed, and the log of what was done.

    Of the rules that match a message, the first one that acts is the only one. A plan may serve
    several agents of one process: each has counts of its own, the log is common.

    Args:
        rules: in the order in which they are asked.
        seed: decides where a ``probability`` is neither 0 nor 1.

    Attributes:
        rules: as given.
        seed: as given.
        events: what was injected, in the order in which it was.

    Raises:
        ValueError: a rule is no `Fault`, or ``seed`` no int.
    """

    def __init__(self, rules: Iterable[Fault], seed: int = 0) -> None:
        if not isinstance(rules, Iterable | Fault):
            raise ValueError(f"rules must be Fault objects, got {rules!r}")
        self.rules = (rules,) if isinstance(rules, Fault) else tuple(rules)
        for rule in self.rules:
            if not isinstance(rule, Fault):
                raise ValueError(f"rules must be Fault objects, got {rule!r}")
        if type(seed) is not int:
            raise ValueError(f"seed must be an int, got {seed!r}")
        self.seed = seed
        self.events: list[FaultEvent] = []
        self._counts: dict[tuple[str, str, str, str], _Count] = {}
        self._sends: OrderedDict[Identity, int] = OrderedDict()

    @classmethod
    def from_messages(
        cls,
        messages_to_fail: Iterable[str] = (),
        messages_to_delay: Mapping[str, float] | None = None,
        num_fail_sends: int = 0,
    ) -> FaultPlan:
        """Return the plan of the reference's faulty agent.

        Args:
            messages_to_fail: types, each among the reference's ten, whose messages fail.
            messages_to_delay: seconds by type; the wait counts against the call's deadline.
            num_fail_sends: how many first sends of each message fail; a new call is a new message.

        Raises:
            ValueError: an unknown name, or a negative count or delay.

        Source: torch/csrc/distributed/rpc/testing/faulty_tensorpipe_agent.cpp, what it does.
        """
        if isinstance(messages_to_fail, str):
            raise ValueError(f"messages_to_fail must be names, got the str {messages_to_fail!r}")
        if not isinstance(messages_to_fail, Iterable):
            raise ValueError(f"messages_to_fail must be names, got {messages_to_fail!r}")
        if not isinstance(messages_to_delay, Mapping | None):
            raise ValueError(
                f"messages_to_delay must be a dict of seconds by name, got {messages_to_delay!r}"
            )
        _check_count("num_fail_sends", num_fail_sends)
        names = tuple(dict.fromkeys(messages_to_fail))
        delays = dict(messages_to_delay or {})
        for name in names:
            _check_name("messages_to_fail", name, REFERENCE_NAMES)
        for name, delay in delays.items():
            _check_name("messages_to_delay", name, REFERENCE_NAMES)
            _check_delay(f"messages_to_delay[{name!r}]", delay)
        rules = [Fault("fail", n, times=num_fail_sends, each_message=True) for n in names]
        return cls([*rules, *(Fault("delay", n, delay=d) for n, d in delays.items())])

    def decide(
        self,
        worker: str,
        direction: str,
        peer: str,
        message: str,
        *,
        call_id: int,
        identity: Identity = (),
    ) -> FaultEvent | None:
        """Count a message and return what is to be done to it, which is in the log then.

        Args:
            worker: who sends or receives it.
            direction: ``"out"`` or ``"in"``.
            peer: who is at the other end.
            message: name of its type.
            call_id: call it belongs to.
            identity: what its sends have in common.

        Returns:
            The event, or ``None`` to let it pass.
        """
        key = (worker, direction, peer, message)
        count = self._counts.get(key)
        if count is None:
            rules = [n for n, r in enumerate(self.rules) if r.matches(direction, peer, message)]
            count = self._counts[key] = _Count(rules)
        seq = count.messages
        count.messages += 1
        for number in count.rules:
            rule = self.rules[number]
            if not self._draws(number, rule, key, seq):
                continue
            if not self._has_times_left(number, rule, count, (worker, peer, *identity)):
                continue
            event = FaultEvent(
                seq=seq, kind=rule.kind, message=message, peer=peer, direction=direction,
                call_id=call_id, delay=rule.delay, worker=worker,
            )  # fmt: skip
            self.events.append(event)
            return event
        return None

    def __repr__(self) -> str:
        return f"<FaultPlan of {len(self.rules)} rules, seed {self.seed}>"

    def _draws(self, number: int, rule: Fault, key: Sequence[str], seq: int) -> bool:
        """Decide by the seed, the same for every worker with this plan."""
        if rule.probability in (0, 1):
            return rule.probability == 1
        text = "\0".join([str(self.seed), str(number), *key[1:], str(seq)])
        drawn = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
        return drawn < rule.probability * 2**64

    def _has_times_left(self, number: int, rule: Fault, count: _Count, identity: Identity) -> bool:
        """Use up one of the times that a rule acts, if there is one left."""
        if rule.times is None:
            return True
        if not rule.each_message:
            used = count.used.get(number, 0)
            count.used[number] = used + 1
            return used < rule.times
        sends = self._sends
        message = (number, *identity)
        used = sends.pop(message, 0)
        sends[message] = used + 1
        if len(sends) > _MAX_MESSAGES:
            sends.popitem(last=False)
        return used < rule.times


class _Count:
    """What was seen of one worker, direction, peer and type."""

    __slots__ = ("messages", "rules", "used")

    def __init__(self, rules: list[int]) -> None:
        self.rules = rules  # numbers of those that match
        self.messages = 0
        self.used: dict[int, int] = {}  # times that each rule acted


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{field} must be one of {', '.join(choices)}, got {value!r}")


def _check_name(field: str, value: object, names: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in names:
        shown = value if isinstance(value, str) else repr(value)
        raise ValueError(
            f"No mapping to rpc::MessageType exists for {shown}: {field} must be one of "
            f"{', '.join(names)}"
        )


def _check_count(field: str, value: object) -> None:
    if type(value) is not int:
        raise ValueError(f"{field} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{field} should be non-negative, got {value!r}")


def _check_delay(field: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not _is_finite(value):
        raise ValueError(f"{field} must be a finite number of seconds, got {value!r}")
    if value < 0:
        raise ValueError(f"{field} must be non-negative: delays are seconds, got {value!r}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the largest float
        return False
