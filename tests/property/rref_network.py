"""Workers that are nothing but `Lifecycle` machines, on a network that does its worst.

One random source decides everything: what users do, which message moves next, which is lost or
comes twice, who crashes, which link breaks. The simulation is the shell: it keeps the values,
repeats control messages and checks each instruction against what really is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from random import Random

from asyncrpc.errors import RpcError
from asyncrpc.rref.ids import read_id
from asyncrpc.rref.lifecycle import Lifecycle
from asyncrpc.rref.values import (
    AnswerFetch,
    FailFetch,
    FailParked,
    Fork,
    FreeValue,
    GlobalId,
    Instruction,
    RunParked,
    Send,
    UserState,
    WantFlush,
)

MAX_IN_FLIGHT = 60  # messages; beyond that the network moves before users do
SMALL = 200  # bytes that a message of every second worker may have: 3 ids


@dataclass
class Message:
    """One thing on its way."""

    kind: str
    source: bytes
    to: bytes
    ident: int
    body: tuple[object, ...] = ()


@dataclass
class Worker:
    """One agent: its machine, and what its shell keeps."""

    name: bytes
    machine: Lifecycle
    values: set[GlobalId] = field(default_factory=set)
    running: list[GlobalId] = field(default_factory=list)
    handles: list[Fork] = field(default_factory=list)  # what user code holds, once per object
    out: dict[int, tuple[Send, int]] = field(default_factory=dict)  # control messages, tries
    creations: dict[int, Fork] = field(default_factory=dict)
    calls: dict[int, tuple[bytes, list[Fork]]] = field(default_factory=dict)
    replies: dict[int, tuple[bytes, list[Fork]]] = field(default_factory=dict)
    fetches: dict[int, tuple[bytes, Fork]] = field(default_factory=dict)
    served: set[int] = field(default_factory=set)
    parked: dict[Hashable, tuple[list[Fork], list[Fork], bytes | None]] = field(
        default_factory=dict
    )
    wants_flush: bool = False
    lost: set[bytes] = field(default_factory=set)
    waiting: set[Hashable] = field(default_factory=set)  # fetches that the machine has to answer


def left_in(machine: Lifecycle) -> dict[str, int]:
    """Return the sizes of all tables of a machine that hold anything, but for tombstones."""
    owners, users = machine._owners, machine._users
    parts = (owners, owners.holders, users, machine._parking, machine._notices,
             machine._reconciler, machine.exchange)  # fmt: skip
    tables = {
        f"{type(part).__name__}.{slot}": getattr(part, slot)
        for part in parts
        for slot in type(part).__slots__
    }
    del tables["Exchange.lost"]
    return {name: len(table) for name, table in tables.items() if type(table) is dict and table}


class Network:
    """Four workers and the messages between them.

    Args:
        seed: of the random source.
        loss: probability that a message vanishes when its turn comes.
        double: probability that it stays to come again.
        crashes: how many workers may die.
        attempts: sends of one control message before it is given up.
        failing: how many of them fail at the send.
    """

    def __init__(
        self,
        seed: int,
        *,
        loss: float = 0.0,
        double: float = 0.0,
        crashes: int = 0,
        attempts: int = 6,
        failing: int = 0,
    ) -> None:
        self.random = Random(seed)
        self.loss = loss
        self.double = double
        self.crashes = crashes
        self.attempts = attempts
        self.failing = failing
        self.workers: dict[bytes, Worker] = {}
        self.messages: list[Message] = []
        self.notices: list[tuple[bytes, bytes]] = []  # (who hears, who is gone)
        self.dead: list[bytes] = []
        self.ran: set[GlobalId] = set()
        self.excused: set[GlobalId] = set()  # values and forks for which an error is the truth
        self.forks: dict[GlobalId, Fork] = {}
        self.seen: Counter[str] = Counter()
        self._count = 0
        for _ in range(4):
            self.join()

    def join(self) -> None:
        """Add a worker."""
        name = (len(self.seen) + self._next()).to_bytes(16, "big")
        self.workers[name] = Worker(name, Lifecycle(name))
        if len(self.workers) % 2:
            self.workers[name].machine.fit(SMALL)
        self.notices += [(name, gone) for gone in self.dead]

    def _next(self) -> int:
        self._count += 1
        return self._count

    # -- what users do

    def act(self) -> None:
        """Let one worker's user code do something."""
        worker = self.random.choice(list(self.workers.values()))
        peer = self.random.choice([n for n in self.workers if n not in worker.lost])
        action = self.random.choice([self.create, self.own, self.call, self.call, self.fetch,
                                     self.fetch, self.release, self.release])  # fmt: skip
        action(worker, peer)
        self.perform(worker)

    def own(self, worker: Worker, peer: bytes) -> None:
        """RRef(value)."""
        handle = worker.machine.own()
        worker.values.add(handle.rref)
        self.ran.add(handle.rref)
        worker.handles.append(handle)

    def create(self, worker: Worker, peer: bytes) -> None:
        """Make a reference by `remote`, one in ten failing at the send."""
        handle = worker.machine.create(peer)
        worker.handles.append(handle)
        if self.random.random() < 0.1:
            self.creation_failed(worker, handle, is_unsent=True)
            return
        ident = self._next()
        worker.creations[ident] = handle
        self.send("create", worker, peer, ident, (handle.rref, handle.fork))

    def creation_failed(self, worker: Worker, handle: Fork, *, is_unsent: bool = False) -> None:
        self.seen["creation failed"] += 1
        self.excused.add(handle.rref)
        worker.machine.creation_failed(handle.fork, "timed out", is_unsent=is_unsent)

    def encode(self, worker: Worker, to: bytes) -> list[Fork]:
        """Put some of the worker's references into a message."""
        forks: list[Fork] = []
        for _ in range(self.random.randrange(4)):
            if not worker.handles:
                break
            handle = self.random.choice(worker.handles)
            try:
                fork = worker.machine.fork(handle.fork, to)
            except RpcError as error:
                self.excuse(worker, handle, type(error).__name__)
            else:
                self.forks[fork.fork] = fork
                forks.append(fork)
        return forks

    def call(self, worker: Worker, peer: bytes) -> None:
        """Call a function with references; one in ten does not leave."""
        forks = self.encode(worker, peer)
        if self.random.random() < 0.1:
            worker.machine.roll_back(forks, peer)
            return
        ident = self._next()
        worker.calls[ident] = (peer, forks)
        self.send("call", worker, peer, ident, tuple(forks))

    def fetch(self, worker: Worker, peer: bytes) -> None:
        """to_here()."""
        if not worker.handles:
            return
        handle = self.random.choice(worker.handles)
        try:
            worker.machine.use(handle.fork)
        except RpcError as error:
            self.excuse(worker, handle, type(error).__name__)
            return
        ident = self._next()
        worker.fetches[ident] = (handle.owner, handle)
        self.send("fetch", worker, handle.owner, ident, (handle.rref, handle.fork))

    def release(self, worker: Worker, peer: bytes) -> None:
        """Drop some RRef objects."""
        self.random.shuffle(worker.handles)
        count = self.random.randrange(len(worker.handles) + 1)
        worker.machine.release([handle.fork for handle in worker.handles[:count]])
        del worker.handles[:count]

    # -- what happens to them

    def disturb(self) -> None:
        """Let something go on, or go wrong, that no message brings about."""
        worker = self.random.choice(list(self.workers.values()))
        kind = self.random.randrange(10)
        if kind == 0 and worker.creations:
            handle = worker.creations.pop(self.random.choice(list(worker.creations)))
            self.creation_failed(worker, handle)
        elif kind == 1 and worker.calls:
            self.end_call(worker, self.random.choice(list(worker.calls)))
        elif kind == 2 and worker.fetches:
            self.end_fetch(worker, self.random.choice(list(worker.fetches)))
        elif kind == 3 and worker.out:
            self.resend(worker, self.random.choice(list(worker.out)))
        elif kind == 4 and worker.running:
            rref = worker.running.pop(self.random.randrange(len(worker.running)))
            worker.values.add(rref)
            worker.machine.settled(rref, is_error=self.random.random() < 0.2)
        elif kind == 5 and self.random.random() < 0.1:
            self.reconnect(worker, self.random.choice(list(self.workers.values())))
        elif kind == 6 and self.crashes and self.random.random() < 0.03:
            self.crash(worker)
        elif kind == 7 and self.notices:
            self.notify(self.notices.pop(self.random.randrange(len(self.notices))))
        elif kind == 8 and worker.running:
            rref = self.random.choice(worker.running)
            self.excused.add(rref)
            worker.machine.stopped(rref, "told to stop")
        else:
            self.flush(worker)
        self.doubt_replies(worker)
        self.perform(worker)

    def end_call(self, worker: Worker, ident: int) -> None:
        """Time a call out."""
        to, forks = worker.calls.pop(ident)
        self.excused.update(fork.fork for fork in forks)
        worker.machine.doubt(forks, to)
        self.perform(worker)

    def end_fetch(self, worker: Worker, ident: int) -> None:
        """Time a fetch out; its cancel stops it at the owner."""
        to, _ = worker.fetches.pop(ident)
        if to in self.workers:
            self.workers[to].machine.fetch_withdrawn((worker.name, ident))
            self.workers[to].waiting.discard((worker.name, ident))
            self.workers[to].served.add(ident)

    def doubt_replies(self, worker: Worker) -> None:
        """Find out about references in results of calls that are over for their caller."""
        for ident, (to, forks) in list(worker.replies.items()):
            if to not in self.workers or ident not in self.workers[to].calls:
                del worker.replies[ident]
                self.excused.update(fork.fork for fork in forks)
                worker.machine.doubt(forks, to)

    def flush(self, worker: Worker) -> None:
        if worker.wants_flush:
            worker.wants_flush = False
            worker.machine.flush()

    def resend(self, worker: Worker, ticket: int) -> None:
        """Repeat a control message, or give it up."""
        send, tries = worker.out[ticket]
        if tries == self.attempts:
            del worker.out[ticket]
            self.seen["exhausted"] += 1
            if send.kind.name == "RREF_FORK_REQUEST":
                fork = send.payload[1]
                assert isinstance(fork, bytes)
                self.excused.add(fork)
            worker.machine.exhausted(ticket, "no answer")
        else:
            self.transmit(worker, send, tries + 1)

    def transmit(self, worker: Worker, send: Send, attempt: int) -> None:
        """Send a control message for the ``attempt``-th time."""
        worker.out[send.ticket] = (send, attempt)
        if attempt > self.failing:
            self.send("control", worker, send.to, send.ticket, (send,))

    def reconnect(self, one: Worker, other: Worker) -> None:
        """Break the link between two workers and open it again."""
        if one is other or one.name in other.lost or other.name in one.lost:
            return
        self.seen["reconnect"] += 1
        ends = {one.name, other.name}
        kept = [m for m in self.messages if {m.source, m.to} != ends or self.random.random() < 0.3]
        self.messages = kept
        for worker, peer in ((one, other), (other, one)):
            for ident in [i for i, (to, _) in worker.calls.items() if to == peer.name]:
                self.end_call(worker, ident)
            worker.machine.reconnected(peer.name)
            self.perform(worker)

    def crash(self, worker: Worker) -> None:
        """End a worker; the others hear of it one by one; another one takes its place."""
        self.crashes -= 1
        self.seen["crash"] += 1
        del self.workers[worker.name]
        self.dead.append(worker.name)
        self.excused.update(f.fork for f in self.forks.values() if f.parent == worker.name)
        for handle in worker.creations.values():
            if handle.rref not in self.ran:
                self.excused.add(handle.rref)
        self.notices += [(name, worker.name) for name in self.workers]
        self.messages = [m for m in self.messages if m.to != worker.name]
        self.join()

    def notify(self, notice: tuple[bytes, bytes]) -> None:
        """Let a worker hear of another's end."""
        name, gone = notice
        if name not in self.workers:
            return
        worker = self.workers[name]
        worker.lost.add(gone)
        worker.machine.worker_gone(gone, "killed")
        worker.waiting = {t for t in worker.waiting if isinstance(t, tuple) and t[0] != gone}
        for ident in [i for i, (to, _) in worker.calls.items() if to == gone]:
            self.end_call(worker, ident)
        for ident in [i for i, (to, _) in worker.fetches.items() if to == gone]:
            del worker.fetches[ident]
        for ident in [i for i, h in worker.creations.items() if h.owner == gone]:
            self.creation_failed(worker, worker.creations.pop(ident))
        for ticket in [t for t, (send, _) in worker.out.items() if send.to == gone]:
            del worker.out[ticket]
        self.perform(worker)

        for handle in worker.handles:
            if handle.owner == gone:
                assert worker.machine.state(handle.fork) is UserState.LOST
        assert not any(gone in row.holders for row in worker.machine.owner_rows())

    # -- messages

    def send(
        self, kind: str, worker: Worker, to: bytes, ident: int, body: tuple[object, ...]
    ) -> None:
        self.messages.append(Message(kind, worker.name, to, ident, body))

    def move(self) -> None:
        """Deliver, lose or double one message, whichever comes next."""
        index = self.random.randrange(len(self.messages))
        message = self.messages[index]
        fate = self.random.random()
        if fate >= self.double:
            self.messages[index] = self.messages[-1]
            self.messages.pop()
        if fate > 1 - self.loss:
            return
        worker = self.workers.get(message.to)
        if worker is not None and message.source not in worker.lost:
            getattr(self, f"on_{message.kind}")(worker, message)
            self.perform(worker)

    def on_control(self, worker: Worker, message: Message) -> None:
        (send,) = message.body
        assert isinstance(send, Send)
        answer = worker.machine.handle(send.kind, send.payload, message.source)
        self.send("answer", worker, message.source, message.ident, (answer,))

    def on_answer(self, worker: Worker, message: Message) -> None:
        worker.out.pop(message.ident, None)
        worker.machine.acked(message.ident, message.body[0])

    def on_create(self, worker: Worker, message: Message) -> None:
        rref, fork = map(read_id, message.body)
        if worker.machine.created(rref, fork, message.source):
            assert rref not in self.ran, "the function of a creation ran twice"
            self.ran.add(rref)
            worker.running.append(rref)
        self.send("created", worker, message.source, message.ident, ())

    def on_created(self, worker: Worker, message: Message) -> None:
        handle = worker.creations.pop(message.ident, None)
        if handle is not None:
            worker.machine.creation_confirmed(handle.fork)

    def on_call(self, worker: Worker, message: Message) -> None:
        if message.ident in worker.served and self.random.random() < 0.7:
            return
        forks = [fork for fork in message.body if isinstance(fork, Fork)]
        handles = [worker.machine.receive(fork) for fork in forks]
        if message.ident in worker.served:
            worker.machine.release(
                [handle.fork for handle in handles]
            )  # decoded, then found to be a double
            return
        worker.served.add(message.ident)
        worker.parked[message.ident] = (handles, forks, message.source)
        worker.machine.park(message.ident, [handle.fork for handle in handles])

    def on_reply(self, worker: Worker, message: Message) -> None:
        call = worker.calls.pop(message.ident, None)
        if call is None:
            return
        forks = [fork for fork in message.body if isinstance(fork, Fork)]
        handles = [worker.machine.receive(fork) for fork in forks]
        worker.parked["result", message.ident] = (handles, forks, None)
        worker.machine.park(("result", message.ident), [handle.fork for handle in handles])
        if call[0] in self.workers:
            self.workers[call[0]].replies.pop(message.ident, None)

    def on_fetch(self, worker: Worker, message: Message) -> None:
        if message.ident not in worker.served:
            worker.served.add(message.ident)
            rref, fork = map(read_id, message.body)
            token = (message.source, message.ident)
            worker.waiting.add(token)
            worker.machine.fetch(rref, fork, message.source, token)

    def on_value(self, worker: Worker, message: Message) -> None:
        fetch = worker.fetches.pop(message.ident, None)
        if fetch is not None and message.body:
            handle = fetch[1]
            if handle in worker.handles:
                self.excuse(worker, handle, str(message.body[0]))

    # -- instructions, and what must be true of them

    def perform(self, worker: Worker) -> None:
        """Carry out what the machine says."""
        while todo := worker.machine.take():
            for instruction in todo:
                self.carry_out(worker, instruction)

    def carry_out(self, worker: Worker, instruction: Instruction) -> None:
        self.seen[type(instruction).__name__] += 1
        match instruction:
            case Send():
                self.transmit(worker, instruction, 1)
            case WantFlush():
                worker.wants_flush = True
            case FreeValue(rref=rref):
                worker.values.remove(rref)
                self.check_free(rref)
            case RunParked(token=token):
                self.run(worker, token)
            case FailParked(token=token):
                handles, forks, _ = worker.parked.pop(token)
                for handle, fork in zip(handles, forks, strict=True):
                    if worker.machine.cause(handle.fork) is not None:
                        self.excuse(worker, fork, "parked")
                worker.machine.release([handle.fork for handle in handles])
            case AnswerFetch(token=token, rref=rref):
                assert rref in worker.values, "a fetch is answered from a value that is gone"
                self.answer_fetch(worker, token)
            case FailFetch(token=token, cause=cause):
                self.answer_fetch(worker, token, cause.kind.value)
            case _:
                pass

    def answer_fetch(self, worker: Worker, token: Hashable, *body: object) -> None:
        worker.waiting.remove(token)
        match token:
            case (bytes(source), int(ident)):
                self.send("value", worker, source, ident, body)
            case _:
                raise AssertionError(token)

    def run(self, worker: Worker, token: Hashable) -> None:
        """Give a call or a result to user code, which keeps some of the references."""
        handles, forks, caller = worker.parked.pop(token)
        for handle, fork in zip(handles, forks, strict=True):
            if not worker.machine.is_confirmed(handle.fork):
                self.excuse(worker, fork, "unconfirmed")
        worker.handles += handles
        if caller is not None and caller not in worker.lost:
            assert isinstance(token, int)
            forks = self.encode(worker, caller)
            worker.replies[token] = (caller, forks)
            self.send("reply", worker, caller, token, tuple(forks))

    def excuse(self, worker: Worker, handle: Fork, error: str) -> None:
        """Check that an error that a user got is the truth."""
        assert (
            handle.owner not in self.workers
            or handle.rref in self.excused
            or handle.fork in self.excused
        ), f"{error} for a reference that is alive"

    def check_free(self, rref: GlobalId) -> None:
        """Check that no user holds a value that goes."""
        for other in self.workers.values():
            for handle in other.handles:
                if handle.rref == rref and other.machine.cause(handle.fork) is None:
                    assert handle.fork in self.excused or rref in self.excused, "freed early"

    # -- the whole of it

    def play(self, steps: int) -> None:
        """Let users act and the network do its worst."""
        for _ in range(steps):
            if self.messages and (
                len(self.messages) > MAX_IN_FLIGHT or self.random.random() < 0.45
            ):
                self.move()
            elif self.random.random() < 0.5:
                self.act()
            else:
                self.disturb()

    def drain(self) -> int:
        """Release everything and let the network work; return the rounds it took."""
        self.loss, self.double, self.crashes = 0.0, 0.05, 0
        for rounds in range(1, 200):
            while self.notices:
                self.notify(self.notices.pop())
            for worker in list(self.workers.values()):
                self.settle(worker)
            while self.messages:
                self.move()
            workers = list(self.workers.values())
            if all(w.machine.is_drained and not (w.wants_flush or w.waiting) for w in workers):
                return rounds
            if rounds % 10 == 0 and self.seen["exhausted"]:
                for one, other in zip(workers, workers[1:] + workers[:1], strict=True):
                    self.reconnect(one, other)
                self.reconnect(workers[0], workers[2])
                self.reconnect(workers[1], workers[3])
        return 0

    def settle(self, worker: Worker) -> None:
        """End whatever a worker's users wait for, and release what they hold."""
        for ident in list(worker.creations):
            self.creation_failed(worker, worker.creations.pop(ident))
        for ident in list(worker.calls):
            self.end_call(worker, ident)
        for ident, (to, _) in list(worker.fetches.items()):
            owner = self.workers.get(to)
            if owner is None or (worker.name, ident) not in owner.waiting:
                self.end_fetch(worker, ident)  # a message was lost; else the answer has to come
        self.doubt_replies(worker)
        while worker.running:
            rref = worker.running.pop()
            worker.values.add(rref)
            worker.machine.settled(rref, is_error=False)
        worker.machine.release([handle.fork for handle in worker.handles])
        worker.handles.clear()
        self.flush(worker)
        self.perform(worker)
        for ticket in list(worker.out):
            self.resend(worker, ticket)
        self.perform(worker)
