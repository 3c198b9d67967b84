"""What the tests of remote references share: what workers run, and a look into their tables."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import asyncrpc as rpc
from tests.agent.groups import at_rest

kept: list[Any] = []
"""References and values that functions keep; tests clear it."""
gates: dict[str, asyncio.Event] = {}
"""Events by name, on which functions wait."""


class Counter:
    """A value with state."""

    shared = 7

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def plus(self, n: int = 1) -> int:
        """Add in a thread."""
        self.value += n
        return self.value

    async def async_plus(self, n: int = 1) -> int:
        """Add on the loop."""
        self.value += n
        return self.value

    def get(self) -> int:
        """Return the count."""
        return self.value

    @staticmethod
    def twice(n: int) -> int:
        """Need no instance."""
        return 2 * n

    @classmethod
    def make(cls, n: int) -> Counter:
        """Make another one."""
        return cls(n)

    @rpc.functions.async_execution
    def later(self, to: str) -> object:
        """Return an awaitable of another call."""
        return rpc.rpc_async(to, add, args=(self.value, 1))

    async def slow(self, gate: str) -> int:
        """Wait for a gate."""
        await passed(gate)
        return self.value

    def fail(self) -> None:
        """Raise."""
        raise KeyError("on purpose")

    def _hidden(self) -> int:
        return self.value


class Gated(Counter):
    """Another class, which nobody exposes."""


class Changing:
    """An instance that has something in place of its method."""

    def __init__(self) -> None:
        vars(self)["act"] = lambda: "instance"

    def act(self) -> str:
        """Be a method."""
        return "method"


async def make_slowly(gate: str, value: Any) -> Any:
    """Give the argument back once the gate is open."""
    await passed(gate)
    return value


async def passed(gate: str) -> None:
    """Wait until a gate is open."""
    await gates.setdefault(gate, asyncio.Event()).wait()


def open_gate(gate: str) -> None:
    """Let those go on that wait at a gate."""
    gates.setdefault(gate, asyncio.Event()).set()


def add(a: int, b: int = 10) -> int:
    """Add."""
    return a + b


async def echo(value: Any) -> Any:
    """Give the argument back."""
    return value


async def one_by_one(*values: Any) -> AsyncIterator[Any]:
    """Give the arguments back."""
    for value in values:
        yield value


async def fail(text: str) -> None:
    """Raise a ValueError."""
    raise ValueError(text)


async def add_values(*rrefs: rpc.RRef) -> int:
    """Add what references refer to."""
    return sum([await rref for rref in rrefs])


async def is_confirmed(rref: rpc.RRef) -> bool:
    """Say whether a reference in the arguments is confirmed."""
    return rref.confirmed_by_owner()


async def keep(*values: Any) -> int:
    """Keep the arguments."""
    kept.extend(values)
    return len(kept)


async def forget() -> None:
    """Drop what was kept."""
    kept.clear()


async def make_rrefs(n: int) -> list[rpc.RRef]:
    """Return references to values of this worker's own."""
    return [rpc.RRef([number]) for number in range(n)]


def make_rref_in_thread(value: Any) -> rpc.RRef:
    """Return a reference made in a thread."""
    return rpc.RRef(value)


async def create_elsewhere(to: str, n: int) -> int:
    """Create a value on a third worker and read it."""
    return int(await rpc.remote(to, add, args=(n, 1)))


async def pass_on(names: list[str], rref: rpc.RRef) -> Any:
    """Hand a reference on, from worker to worker, and read it on the last one."""
    if not names:
        return await rref
    return await rpc.rpc_async(names[0], pass_on, args=(names[1:], rref))


async def own_value_of(rref: rpc.RRef) -> Any:
    """Return a value to its owner."""
    return rref.local_value()


async def change(rref: rpc.RRef, item: Any) -> None:
    """Change a list where it is."""
    rref.local_value().append(item)


def blocking(rref: rpc.RRef) -> int:
    """Use a reference from a thread."""
    return int(rref.rpc_sync().plus(1)) + int(
        rref.remote().plus(1).rpc_sync().__class__ is not None
    )


def _inside(machine: Any) -> dict[str, Any]:
    """Return what a machine that is not drained holds."""
    owners = machine._owners
    return {
        "owner": [(n, owners.state(rref).value) for rref, n in owners._uses.items()],
        "handles": owners._handles,
        "forks": len(owners.holders),
        "user": machine._users.rows(),
        "children": len(machine._users._children),
        "parked": len(machine._parking),
        "out": machine.counts()["num_pending_futures"],
        "asked": len(machine._reconciler._asked),
        "is told": machine._notices.is_empty,
    }


async def empty(agents: Iterable[Any], seconds: float = 5.0) -> dict[str, Any]:
    """Wait until no table holds anything, references included; return what is left."""
    agents = list(agents)
    gc.collect()
    machines = [agent.references.machine for agent in agents]
    deadline = time.monotonic() + seconds
    while not all(machine.is_drained for machine in machines) and time.monotonic() < deadline:
        await asyncio.sleep(0.005)  # long enough for virtual time to go on meanwhile
    if not all(machine.is_drained for machine in machines):
        return {agent.info.name: _inside(agent.references.machine) for agent in agents}
    left: dict[str, Any] = dict(await at_rest(agents, seconds))
    while any(kept := _kept(agents).values()) and time.monotonic() < deadline:
        await asyncio.sleep(0.005)  # the word that something came may be on its way
    del kept
    return left | {name: size for name, size in _kept(agents).items() if size}


def _kept(agents: Iterable[Any]) -> dict[str, int]:
    """Return how much is in each table of the agents' references beside the machine."""
    sizes: dict[str, int] = {}
    for agent in agents:
        context, name = agent.references, agent.info.name
        sizes |= {
            f"{name} values": len(context.keeper._values),
            f"{name} creations": len(context.keeper._creations),
            f"{name} unsure": len(context._unsure),
            f"{name} endings": len(context._endings),
            f"{name} sought": len(context.sought),
            f"{name} passed": sum(len(server.passed) for server in agent._agent.servers),
        }
    return sizes


class Box:
    """Travels by pickle."""

    def __init__(self, content: Any) -> None:
        self.content = content


class Summing:
    """A value whose methods take references."""

    async def sum(self, *rrefs: rpc.RRef) -> int:
        """Add what they refer to."""
        assert all(rref.confirmed_by_owner() for rref in rrefs)
        return await add_values(*rrefs)


async def bad_result() -> list[Any]:
    """Return what cannot travel, behind references that can."""
    return [rpc.RRef(1), lambda: 1]


async def hold_until(gate: str, *rrefs: rpc.RRef) -> int:
    """Hold references until a gate opens."""
    await passed(gate)
    return len(rrefs)


async def keep_and_wait(gate: str, value: Any) -> Any:
    """Write down that it runs, and wait."""
    kept.append(value)
    await passed(gate)
    return value


async def give() -> list[Any]:
    """Return what is kept."""
    return list(kept)


async def create_and_keep(to: str) -> None:
    """Keep a reference to a value on another worker."""
    rref = rpc.remote(to, Counter)
    await rref
    kept.append(rref)


async def give_references(count: int, to: str = "") -> AsyncIterator[rpc.RRef]:
    """Give references to values of this worker's own, or of another one."""
    for number in range(count):
        yield rpc.remote(to, echo, args=([number],)) if to else rpc.RRef([number])


async def give_badly(is_large: bool) -> AsyncIterator[Any]:
    """Give a reference, then one in an item that is too large, or cannot travel at all."""
    yield rpc.RRef(0)
    yield [rpc.RRef(1), bytes(200_000) if is_large else lambda: 1]
