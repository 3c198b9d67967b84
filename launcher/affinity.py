"""Which processors each worker may use, so that it stays near its memory or its cache.

torch derives a worker's NUMA node from its GPU. Without one, workers are dealt out over the nodes
in order, a run of local ranks to each. `assign_cpus` is pure; `read_topology` reads the kernel's
small files. Called by the api, to find mistakes early, and by the process contexts.
"""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = (
    "AffinityMode",
    "Cpu",
    "NumaOptions",
    "assign_cpus",
    "cpus_of_workers",
    "read_topology",
)

_NODES = "/sys/devices/system/node"
_CPUS = "/sys/devices/system/cpu"

_log = logging.getLogger("launcher.affinity")


class AffinityMode(enum.StrEnum):
    """How a worker is bound; values are torch's."""

    NODE = "node"
    """To the processors of its NUMA node."""
    SOCKET = "socket"
    """To those of all NUMA nodes in its node's socket."""
    EXCLUSIVE = "exclusive"
    """To cores of its node that no other worker has."""
    CORE_COMPLEX = "core-complex"
    """To those of its node that share one last-level cache."""


@dataclass(frozen=True, slots=True)
class NumaOptions:
    """How workers are bound to processors.

    Args:
        affinity_mode: the mode, or its value such as "node".
        should_fall_back_if_binding_fails: whether workers run unbound where the system does not
            say what belongs together.

    Raises:
        ValueError: there is no such mode.
    """

    affinity_mode: AffinityMode
    should_fall_back_if_binding_fails: bool = False

    def __post_init__(self) -> None:
        try:
            mode = AffinityMode(self.affinity_mode)
        except ValueError:
            modes = ", ".join(AffinityMode)
            raise ValueError(
                f"numa_binding={self.affinity_mode}: expected one of {modes}"
            ) from None
        object.__setattr__(self, "affinity_mode", mode)


class Cpu(NamedTuple):
    """A logical processor and what it is part of."""

    number: int
    node: int
    socket: int
    core: tuple[int, ...]
    """The processors of its core, itself included."""
    cache: tuple[int, ...]
    """Those that share its last-level cache, itself included; empty if that is not known."""


def cpus_of_workers(options: NumaOptions | None, workers: int) -> tuple[frozenset[int], ...]:
    """Say which processors each worker may use on this machine.

    Args:
        options: how they are bound; ``None``: not at all.
        workers: how many there are, at least 1.

    Returns:
        For each worker, by local rank; empty sets where they are not bound.

    Raises:
        ValueError: they cannot be bound like that, and shall not run otherwise.
    """
    unbound = (frozenset[int](),) * workers
    if options is None:
        return unbound
    try:
        topology = read_topology(os.sched_getaffinity(0))
        return assign_cpus(topology, options.affinity_mode, workers)
    except ValueError as error:
        if not options.should_fall_back_if_binding_fails:
            raise
        _log.warning("workers are not bound to processors: %s", error)
        return unbound


def assign_cpus(
    topology: Sequence[Cpu], mode: AffinityMode, workers: int
) -> tuple[frozenset[int], ...]:
    """Say which processors each worker may use.

    Args:
        topology: the processors there are to use, at least one.
        mode: how workers are bound.
        workers: how many there are, at least 1.

    Returns:
        For each worker, by local rank, at least one processor.

    Raises:
        ValueError: there are fewer cores than workers that want one alone, or the system does not
            say who shares a cache.
    """
    nodes = sorted({cpu.node for cpu in topology})
    chosen = [nodes[worker * len(nodes) // workers] for worker in range(workers)]
    return tuple(
        frozenset(cpu.number for cpu in _of_worker(topology, mode, chosen, worker))
        for worker in range(workers)
    )


def _of_worker(
    topology: Sequence[Cpu], mode: AffinityMode, chosen: Sequence[int], worker: int
) -> Sequence[Cpu]:
    node = chosen[worker]
    own = [cpu for cpu in topology if cpu.node == node]
    index, count = chosen[:worker].count(node), chosen.count(node)
    match mode:
        case AffinityMode.NODE:
            return own
        case AffinityMode.SOCKET:
            return [cpu for cpu in topology if cpu.socket == own[0].socket]
        case AffinityMode.EXCLUSIVE:
            return _share(own, index, count, node)
        case AffinityMode.CORE_COMPLEX:
            return _complex(own, index, node)


def _share(own: Sequence[Cpu], index: int, count: int, node: int) -> Sequence[Cpu]:
    """Return one worker's cores; the first workers have one more if they do not come out even."""
    cores = _groups(own, lambda cpu: cpu.core)
    if len(cores) < count:
        raise ValueError(
            f"numa_binding=exclusive: expected a core for each worker, NUMA node {node} has "
            f"{len(cores)} for {count}"
        )
    least, more = divmod(len(cores), count)
    start = index * least + min(index, more)
    return [cpu for core in cores[start : start + least + (index < more)] for cpu in core]


def _complex(own: Sequence[Cpu], index: int, node: int) -> Sequence[Cpu]:
    """Return a group that shares a cache; the biggest first, in turn."""
    if not all(cpu.cache for cpu in own):
        raise ValueError(
            f"numa_binding=core-complex: the system does not say which processors of NUMA node "
            f"{node} share a cache"
        )
    groups = sorted(_groups(own, lambda cpu: cpu.cache), key=len, reverse=True)
    return groups[index % len(groups)]


def _groups(cpus: Iterable[Cpu], key: Callable[[Cpu], tuple[int, ...]]) -> list[list[Cpu]]:
    groups: dict[tuple[int, ...], list[Cpu]] = {}
    for cpu in cpus:
        groups.setdefault(key(cpu), []).append(cpu)
    return list(groups.values())


def read_topology(
    allowed: Iterable[int], *, nodes: str = _NODES, cpus: str = _CPUS
) -> tuple[Cpu, ...]:
    """Read what belongs together from the kernel.

    Args:
        allowed: processors that may be used.
        nodes: folder of the NUMA nodes.
        cpus: folder of the processors.

    Returns:
        The processors allowed, by number.

    Raises:
        ValueError: the system does not say.
    """
    node_of = _node_of_cpus(nodes)
    found = []
    for number in sorted(allowed):
        if number not in node_of:
            raise ValueError(
                f"numa_binding: {nodes} does not say which NUMA node processor {number} belongs to"
            )
        folder = f"{cpus}/cpu{number}"
        socket = _read(f"{folder}/topology/physical_package_id") or "0"
        core = _cpu_list(_read(f"{folder}/topology/thread_siblings_list")) or (number,)
        found.append(Cpu(number, node_of[number], int(socket), core, _last_cache(folder)))
    return tuple(found)


def _node_of_cpus(folder: str) -> Mapping[int, int]:
    try:
        names = os.listdir(folder)
    except OSError:  # no NUMA in this kernel, or no /sys in this container
        return {}
    numbers = (int(name[4:]) for name in names if name[:4] == "node" and name[4:].isdigit())
    return {
        cpu: number
        for number in numbers
        for cpu in _cpu_list(_read(f"{folder}/node{number}/cpulist"))
    }


def _last_cache(folder: str) -> tuple[int, ...]:
    """Return who shares the cache of the highest level."""
    best = 0
    shared: tuple[int, ...] = ()
    try:
        names = os.listdir(f"{folder}/cache")
    except OSError:
        return ()
    for name in names:
        level = _read(f"{folder}/cache/{name}/level")
        if level.isdigit() and int(level) > best:
            best, shared = int(level), _cpu_list(_read(f"{folder}/cache/{name}/shared_cpu_list"))
    return shared


def _cpu_list(text: str) -> tuple[int, ...]:
    """Return the numbers of the kernel's lists, such as "0-3,8"."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _read(path: str) -> str:
    """Return what a file says, "" if it cannot be read."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
