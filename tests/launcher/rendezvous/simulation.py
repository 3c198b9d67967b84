"""A world in which many agents agree on rounds: late news, lost agents, writes that come twice.

No loop and no clock. Each agent knows the common store by its own news, which reach it in order and
late; what it writes reaches the store late too, and sometimes twice. The agents decide with the
real `decide` and `Leader`; everything else here stands for `dynamic` and `membership`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from launcher.rendezvous.leader import Leader, Terms
from launcher.rendezvous.state import (
    NO_RANK,
    End,
    Enter,
    GiveUp,
    Node,
    Over,
    Record,
    Renew,
    Seat,
    Stage,
    decide,
    decode_node,
    decode_record,
    encode,
)

MAX_RESTARTS = 2
TTL = 3.0
JOIN_TIMEOUT = 1e9  # nobody gives up: a round must come while there are enough


@dataclass
class Agent:
    """One agent, as it is, and the world as far as it has heard of it."""

    node: Node
    leader: Leader
    record: Record = field(default_factory=Record)
    stored: bytes = b""
    leads: str = ""
    nodes: dict[str, Node] = field(default_factory=dict)
    heard: int = 0  # news of the world that reached it
    is_alive: bool = True
    entered: int = NO_RANK  # round it entered last
    done: int = NO_RANK  # round whose workers have all succeeded here
    is_running: bool = False  # whether workers of that round run
    is_joining: bool = True
    is_over: bool = False


class World:
    """The store, the agents, and everything that is under way between them.

    Args:
        seed: of all that is random.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        low = self.random.randint(1, 3)
        self.terms = Terms(
            min_nodes=low,
            max_nodes=(high := low + self.random.randint(0, 3)),
            expect_nodes=self.random.randint(low, high),
            last_call=self.random.choice([0.0, 1.0, 5.0]),
            join_debounce=self.random.choice([0.0, 0.3]),
        )
        self.now = 0.0
        self.values: dict[str, bytes] = {}
        self.news: list[tuple[str, bytes]] = []
        self.agents: dict[str, Agent] = {}
        self.under_way: list[tuple[str, Callable[[], None]]] = []  # by agent, in its order
        self.lapses: list[tuple[float, str]] = []
        self.rounds: dict[int, tuple[Seat, ...]] = {}
        self.restarts = 0

    # The store

    def put(self, key: str, value: bytes) -> None:
        """Write, and let everybody hear of it some time."""
        self.values[key] = value
        self.news.append((key, value))

    def drop(self, key: str) -> None:
        """Delete a key, if it is there."""
        if self.values.pop(key, None) is not None:
            self.news.append((key, b""))

    def lapse(self, agent_id: str) -> None:
        """End the lease of an agent, and what hangs on it."""
        self.drop(f"nodes/{agent_id}")
        if self.values.get("leader") == agent_id.encode():
            self.drop("leader")

    def write_record(self, agent: Agent, expected: bytes, record: Record) -> None:
        """Compare and set, and check what must hold of every record that is written."""
        if self.values.get("record", b"") != expected:
            self.learn(agent, "record", self.values.get("record", b""))
            return
        self.check(decode_record(expected), record)
        self.put("record", encode(record))
        self.learn(agent, "record", self.values["record"])

    def check(self, before: Record, after: Record) -> None:
        """Check what must hold of every record that is written."""
        assert after.revision == before.revision + 1
        assert after.round - before.round in (0, 1)
        assert after.restarts - before.restarts in (0, 1)
        assert after.restarts <= MAX_RESTARTS
        assert before.end is End.NOT_YET
        if not after.is_formed or before.is_formed:
            assert after.end is not End.NOT_YET or after.seats == before.seats
            return
        assert after.round not in self.rounds, "two worlds for one round"
        self.rounds[after.round] = after.seats
        ids = [seat.id for seat in after.seats]
        assert len(set(ids)) == len(ids)
        assert self.terms.min_nodes <= len(ids) <= self.terms.max_nodes
        for rank, seat in enumerate(after.seats):
            agent = self.agents[seat.id]
            assert not (agent.is_alive and agent.is_running), "workers of two rounds at once"
            rivals = [self.agents[i].node.rank for i in ids].count(agent.node.rank)
            if NO_RANK < agent.node.rank < len(ids) and rivals == 1:
                assert rank == agent.node.rank

    # The agents

    def add_agent(self, rank: int = NO_RANK) -> None:
        """Start an agent."""
        name = f"n{self.random.randint(0, 20)}"
        number = len(self.agents)
        node = Node(f"id{number}", name, number, name, 1000, rank, Stage.READY, 0)
        agent = self.agents[node.id] = Agent(node, Leader(self.terms))
        self.announce(agent)

    def announce(self, agent: Agent, **fields: object) -> None:
        """Let an agent's announcement reach the store some time, perhaps twice."""
        agent.node = node = agent.node._replace(**fields)  # type: ignore[arg-type]

        def arrive() -> None:
            self.put(f"nodes/{node.id}", encode(node))

        for _ in range(self.random.choice([1, 1, 1, 2])):
            self.under_way.append((node.id, arrive))

    def learn(self, agent: Agent, key: str, value: bytes) -> None:
        """Let an agent know a key's value."""
        if key == "leader":
            agent.leads = value.decode()
        elif key == "record":
            record = decode_record(value)
            if record.revision > agent.record.revision:
                agent.record, agent.stored = record, value
        elif value:
            agent.nodes[key.removeprefix("nodes/")] = decode_node(value)
        else:
            agent.nodes.pop(key.removeprefix("nodes/"), None)

    def hear(self, agent: Agent, count: int) -> None:
        """Let an agent hear some more news, in order."""
        for key, value in self.news[agent.heard : agent.heard + count]:
            self.learn(agent, key, value)
        agent.heard = min(len(self.news), agent.heard + count)

    def act(self, agent: Agent) -> None:
        """Let an agent do what follows from what it knows."""
        if agent.is_over:
            return
        if not agent.leads:
            self.under_way.append((agent.node.id, lambda: self.run_for_leader(agent)))
        elif agent.leads == agent.node.id:
            self.lead(agent)
        if agent.is_joining:
            self.join(agent)
        elif agent.record.end is not End.NOT_YET:
            agent.is_over, agent.is_running = True, False
        elif agent.record.round != agent.entered and self.random.random() < 0.5:
            # The round is over, and the workers have been stopped.
            agent.is_running = False
            agent.is_joining = True
            self.announce(agent, stage=Stage.READY, round=agent.entered + 1)

    def run_for_leader(self, agent: Agent) -> None:
        """Compare and set who leads."""
        if f"nodes/{agent.node.id}" in self.values and "leader" not in self.values:
            self.put("leader", agent.node.id.encode())
        self.learn(agent, "leader", self.values.get("leader", b""))

    def lead(self, agent: Agent) -> None:
        """Let an agent that believes to lead write what follows."""
        plan = agent.leader.lead(agent.record, agent.nodes, self.now)
        if plan.record is not agent.record:
            expected = agent.stored
            record = plan.record._replace(revision=agent.record.revision + 1)
            self.under_way.append(
                (agent.node.id, lambda: self.write_record(agent, expected, record))
            )

    def join(self, agent: Agent) -> None:
        """Let an agent that wants to enter a round see whether it can."""
        action = decide(
            agent.record,
            agent.node,
            self.now,
            deadline=JOIN_TIMEOUT,
            max_nodes=self.terms.max_nodes,
        )
        match action:
            case Enter(rank):
                assert self.rounds[agent.record.round][rank].id == agent.node.id
                agent.entered = agent.record.round
                agent.is_joining, agent.is_running = False, True
            case Renew(number):
                self.announce(agent, round=number)
            case Over():
                agent.is_joining, agent.is_over = False, True
            case action:
                assert not isinstance(action, GiveUp)

    # What happens to them

    def crash(self, agent: Agent) -> None:
        """End an agent without notice; its lease lapses later, its last writes may still come."""
        agent.is_alive = agent.is_running = False
        self.lapses.append((self.now + self.random.uniform(0.1, TTL), agent.node.id))

    def leave(self, agent: Agent) -> None:
        """End an agent in order."""
        self.announce(agent, stage=Stage.LEAVING)
        agent.is_alive = agent.is_running = False
        self.under_way.append((agent.node.id, lambda: self.lapse(agent.node.id)))

    def end_workers(self, agent: Agent, *, is_failure: bool) -> None:
        """Let the workers of an agent end by themselves."""
        agent.is_running = False
        if not is_failure:
            agent.done = agent.entered
        self.announce(
            agent,
            stage=Stage.FAILED if is_failure else Stage.DONE,
            round=agent.entered,
            failure="x" * is_failure,
            max_restarts=MAX_RESTARTS,
        )

    def mishap(self) -> None:
        """Let something happen to somebody."""
        alive = [agent for agent in self.agents.values() if agent.is_alive and not agent.is_over]
        running = [agent for agent in alive if agent.is_running]
        chance = self.random.random()
        if chance < 0.3 and len(self.agents) < 12:
            self.add_agent(self.random.choice([NO_RANK] * 5 + [0, 1, 2]))
        elif chance < 0.5 and alive:
            self.crash(self.random.choice(alive))
        elif chance < 0.6 and alive:
            self.leave(self.random.choice(alive))
        elif running:
            self.end_workers(self.random.choice(running), is_failure=chance < 0.85)

    def step(self) -> None:
        """Let time pass, and some of what is under way arrive."""
        self.now += self.random.uniform(0.0, 0.3)
        for at, agent_id in [entry for entry in self.lapses if entry[0] <= self.now]:
            self.lapses.remove((at, agent_id))
            self.under_way = [entry for entry in self.under_way if entry[0] != agent_id]
            self.lapse(agent_id)
        arrived: set[str] = set()  # who something is still under way from, in its order
        for entry in list(self.under_way):
            if entry[0] not in arrived and self.random.random() < 0.6:
                self.under_way.remove(entry)
                entry[1]()
            else:
                arrived.add(entry[0])
        for agent in self.agents.values():
            if agent.is_alive:
                self.hear(agent, self.random.randint(0, 4))
                if not any(by == agent.node.id for by, _ in self.under_way):
                    self.act(agent)

    def is_settled(self) -> bool:
        """Return whether everybody knows all there is to know, and nothing follows from it."""
        alive = [agent for agent in self.agents.values() if agent.is_alive]
        if self.under_way or self.lapses or any(a.heard < len(self.news) for a in alive):
            return False
        if not alive:
            return True
        record = decode_record(self.values.get("record", b""))
        if record.end is not End.NOT_YET:
            return all(agent.is_over for agent in alive)
        if not record.is_formed:  # for want of nodes alone
            too_few = len(alive) < self.terms.min_nodes
            return too_few and not any(agent.is_running for agent in alive)
        seated = {seat.id for seat in record.seats}
        is_full = len(seated) == self.terms.max_nodes
        # Who is done may go: it is missed by nobody, and nobody joins a round that is ending.
        done = {i for i in seated if self.agents[i].done == record.round}
        return (
            all(a.entered == record.round for a in alive if a.node.id in seated)
            and seated - done <= {agent.node.id for agent in alive}
            and (is_full or bool(done) or seated == {agent.node.id for agent in alive})
            and not any(a.node.stage is Stage.FAILED for a in alive)
        )
