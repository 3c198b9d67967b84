"""Hosts that a launch starts its nodes on by itself: what `--hosts` means. Pure.

Called by `options` and `commandline`; `ssh` carries it out.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("GREETING", "Fleet", "Host", "to_hosts")

GREETING = "launcher.remote 1 "
"""Before the facts of a host, in one line of stdout there; what login scripts print is earlier."""


class Host(NamedTuple):
    """One node of a launch."""

    name: str
    """What ssh knows it by: ``name`` or ``user@name``."""
    workers: int | None
    """Workers on it; ``None``: as many as ``--nproc-per-node`` says."""


class Fleet(NamedTuple):
    """A launch on several hosts."""

    hosts: tuple[Host, ...]
    """The first one has node rank 0 and hosts the run's store."""
    options: tuple[str, ...]
    """Options of the launcher on each of them."""
    command: tuple[str, ...]
    """What workers run, with its arguments."""
    min_nodes: int
    ssh: tuple[str, ...]
    """The program that reaches a host, and its options."""
    has_endpoint: bool
    """Whether the options say where the nodes meet."""

    def arguments(self, rank: int, endpoint: str, run_id: str) -> list[str]:
        """Return the command line of the launcher on one of the hosts.

        Args:
            rank: of the host, from 0.
            endpoint: where the nodes meet, unless the options say so.
            run_id: of the run, unless the options name it.
        """
        host = self.hosts[rank]
        own = [f"--rdzv-id={run_id}", f"--nnodes={len(self.hosts)}"]
        if len(self.hosts) > 1 and not self.has_endpoint:
            own.append(f"--rdzv-endpoint={endpoint}")
        if host.workers is not None:
            own.append(f"--nproc-per-node={host.workers}")
        # The last of several counts: the user's choice, but for the rank.
        return [*own, *self.options, f"--node-rank={rank}", "--no-detect", *self.command]


def to_hosts(text: str) -> tuple[Host, ...]:
    """Read a list of hosts.

    Args:
        text: ``a:4,user@b:4,[fd00::1]:2,c``.

    Raises:
        ValueError: says what was expected.
    """
    if not text.strip():  # a variable that is not set; to run here alone is not what was meant
        raise ValueError("expected hosts such as a:4,b:4, none given")
    hosts = tuple(_host(part.strip()) for part in text.split(","))
    names = [host.name for host in hosts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"expected each host once, {', '.join(sorted(twice))} came more often")
    return hosts


def _host(text: str) -> Host:
    name, colon, workers = text.rpartition(":")
    if text.endswith("]") or not colon:
        name, workers = text, ""
    elif not (workers.isascii() and workers.isdigit() and 0 < int(workers[:9]) <= 10**6):
        raise ValueError("expected hosts such as a:4,b:4 with workers from 1")
    bare = name.removeprefix("[").removesuffix("]") if name.startswith("[") else name
    # A name that ssh would take for an option must not reach it.
    if not bare or bare.startswith("-") or any(c.isspace() for c in bare):
        raise ValueError("expected hosts such as a:4,b:4 with names that ssh knows")
    return Host(bare, int(workers) if workers else None)
