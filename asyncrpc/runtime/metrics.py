"""`Metrics`: an agent's counters and gauges as plain values, for whoever shows or exports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asyncrpc.agent import Agent
from asyncrpc.errors import StatusCode

__all__ = ("Metrics", "PeerMetrics", "measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMetrics:
    """What is known of the way to one worker that is there.

    Args:
        name: the worker.
        is_connected: whether there is a link to it.
        in_flight: calls made to it that are out.
        queued: calls to it that wait for the link or for a place in flight.
        rtt: seconds of the last ping's round trip, 0 before the first one.
    """

    name: str
    is_connected: bool
    in_flight: int
    queued: int
    rtt: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What an agent has done since its start, and what it does now.

    Args:
        worker: name of the worker.
        calls_made: calls of users that were started here, of all kinds, whatever became of them.
        calls_failed: those that failed, by code; an exception of the function counts as INTERNAL
            unless it has a code, one that was cancelled as CANCELLED.
        calls_served: calls whose function was started here.
        served_failed: those that failed, by code likewise, and those that were refused unheard.
        retries: attempts after the first ones, of all calls.
        bytes_received: over all links to other workers, those that are closed included.
        bytes_sent: likewise; what goes through shared memory is not among them.
        calls_in_flight: calls made that are out.
        calls_queued: calls made that wait.
        calls_serving: calls whose function has not ended.
        threads: threads that run plain functions now.
        threads_idle: those of them that have nothing to do.
        threads_queued: plain functions that wait for a thread.
        loop_lag: seconds by which the loop's latest tick was late.
        peers: the workers of the group that are there, this one included, by id.
    """

    worker: str
    calls_made: int
    calls_failed: Mapping[StatusCode, int]
    calls_served: int
    served_failed: Mapping[StatusCode, int]
    retries: int
    bytes_received: int
    bytes_sent: int
    calls_in_flight: int
    calls_queued: int
    calls_serving: int
    threads: int
    threads_idle: int
    threads_queued: int
    loop_lag: float
    peers: tuple[PeerMetrics, ...]


def measured(agent: Agent) -> Metrics:
    """Return an agent's metrics; may be called from any thread."""
    # tuple() and dict() of what the loop may change meanwhile: each is one step of the interpreter
    tally, threads = agent.tally, agent.executor.threads
    peers = tuple(
        PeerMetrics(
            name=peer.info.name,
            is_connected=peer.connection is not None,
            in_flight=peer.inflight,
            queued=peer.waiting,
            rtt=0.0 if (link := peer.connection) is None else link.upkeep.rtt,
        )
        for peer in agent.members.present()
    )
    return Metrics(
        worker=agent.info.name,
        calls_made=tally.made,
        calls_failed=dict(tally.failed),
        calls_served=agent.served,
        served_failed=dict(tally.failed_served),
        retries=agent.retrier.count,
        bytes_received=tally.received,
        bytes_sent=tally.sent,
        calls_in_flight=sum(peer.in_flight for peer in peers),
        calls_queued=sum(peer.queued for peer in peers),
        calls_serving=sum(len(server.calls) for server in tuple(agent.servers)),
        threads=threads.size,
        threads_idle=threads.idle,
        threads_queued=threads.queued,
        loop_lag=agent.detector.lag,
        peers=peers,
    )
