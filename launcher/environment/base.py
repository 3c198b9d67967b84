"""`Environment`: what a scheduler says about this launcher, and how its variables are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ("Environment", "port_for", "read_integer")

# Below what the kernel gives to outgoing connections, above what services are configured to.
_FIRST_PORT = 20_000
_PORTS = 12_000


class Environment(NamedTuple):
    """What a scheduler says about this launcher and the others of its job.

    Each launcher is a node of the run, also where several are on one machine.
    """

    source: str
    """What was detected, for people: "Slurm job 123"."""
    node_rank: int = 0
    """Rank of this launcher among those of the job."""
    node_count: int | None = None
    """How many there are; ``None``: the scheduler does not say."""
    run_id: str = ""
    """What all launchers of the job, and no others, call the run."""
    host: str = ""
    """Where all can meet: name or address of a node; empty: the scheduler does not say."""
    port: int = 0
    """The port there, the same for all of the job; 0: unknown, as the host is."""
    is_host: bool | None = None
    """Whether that node is this one; ``None``: whoever has the address."""
    restart_attempt: int = 0
    """How often the scheduler has started the job again."""
    preempt_signals: str = ""
    """Comma list of the signals by which the scheduler announces that the job has to go, without
    their SIG."""
    requeue: str = ""
    """The command that has the scheduler start the job again; empty: there is none."""
    nproc_hint: int | None = None
    """How many workers fit what this node was given; ``None``: as many as processors."""
    local_addr: str = ""
    """Where other nodes reach this one; empty: found out."""
    warning: str = ""
    """What looks like a mistake in how the job was started, with what to do; empty: nothing."""


def read_integer(
    environ: Mapping[str, str], name: str, at_least: int = 0, *, default: int | None = None
) -> int:
    """Read a variable that a scheduler sets to a number.

    Args:
        environ: has the variable.
        name: of the variable.
        at_least: the smallest number that makes sense.
        default: returned if it is not there; ``None``: it has to be.

    Raises:
        ValueError: it is missing, or no such number; names it.
    """
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise ValueError(f"{name} is not set: expected an integer, at least {at_least}")
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) >= at_least:
        return int(text)
    raise ValueError(f"{name}={text}: expected an integer, at least {at_least}")


def port_for(number: int) -> int:
    """Return a port that all nodes of a job come to by themselves, and other jobs rarely.

    A job that does come to the same has another run id, so its nodes are refused.

    Args:
        number: of the job.
    """
    return _FIRST_PORT + number % _PORTS
