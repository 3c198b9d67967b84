"""Rounds of figures to medians, and to ratios between rows of the same round. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.budget import SIZES

__all__ = ("RATIOS", "Ratio", "Rounds", "ratios_of", "spread")

Rounds = dict[str, list[dict[str, float] | None]]
"""Row name to the figures of each round; None where the round failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Our figure divided by another row's figure of the same round."""

    title: str
    ours: str  # the figure, or figures joined by "+", of our row
    theirs: str
    rows: tuple[str, ...]  # the other rows: the best of them counts
    more_is_better: bool
    target: float  # the goal of the project; shown, not enforced
    subject: str = ""  # the row of ours that it is about, empty for all


def _more(
    title: str, figure: str, rows: tuple[str, ...], target: float, subject: str = ""
) -> Ratio:
    return Ratio(
        title=title,
        ours=figure,
        theirs=figure,
        rows=rows,
        more_is_better=True,
        target=target,
        subject=subject,
    )


def _less(
    title: str, figure: str, rows: tuple[str, ...], target: float, subject: str = ""
) -> Ratio:
    return Ratio(
        title=title,
        ours=figure,
        theirs=figure,
        rows=rows,
        more_is_better=False,
        target=target,
        subject=subject,
    )


def _copies(title: str, figure: str) -> Ratio:
    """Return a ratio of what goes through shared memory to a plain copy of it."""
    return Ratio(
        title=title,
        ours=figure,
        theirs="memcpy_gb_s",
        rows=("raw",),
        more_is_better=True,
        target=0.6,
        subject=_SHARED,
    )


_SHARED = "asyncrpc-shm"
_FLIGHT = "in_flight_calls_s"
_TORCH = ("torch", "torch-uv")

RATIOS = (
    _more("128 in flight / MIN", _FLIGHT, ("min",), 0.9),
    _more("128 in flight / OPT", _FLIGHT, ("opt",), 0.55),
    _more("128 in flight / raw frames", _FLIGHT, ("raw",), 0.3),
    _more("128 in flight / grpc.aio", _FLIGHT, ("grpc",), 20.0),
    _more("128 in flight / torch.rpc (best)", _FLIGHT, _TORCH, 10.0),
    _more("128 in flight / rpyc", _FLIGHT, ("rpyc",), 6.0),
    _more("128 in flight / pyzmq", _FLIGHT, ("pyzmq",), 9.0),
    _more("128 in flight / Ray", _FLIGHT, ("ray",), 70.0),
    _less("sequential p50 / MIN", "sequential_p50_us", ("min",), 1.25),
    _less("sequential p50 / MIN, on one core", "pinned_p50_us", ("min",), 1.25),
    _less("sequential p50 / MIN, on two cores", "apart_p50_us", ("min",), 0.4, "asyncrpc-spin"),
    _less("sequential p50 / torch.rpc (best)", "sequential_p50_us", _TORCH, 0.35),
    _less("CPU per call / MIN", "client_cpu_s_100k+server_cpu_s_100k", ("min",), 1.6),
    _more("64 MiB one way / raw, warm memory", "array_send_gb_s", ("raw",), 0.9),
    Ratio(
        title="64 MiB one way / raw, fresh memory",
        ours="array_send_gb_s",
        theirs="array_send_fresh_gb_s",
        rows=("raw",),
        more_is_better=True,
        target=0.9,
    ),
    _more("64 MiB echo / raw, warm memory", "array_echo_gb_s", ("raw",), 0.9),
    _copies("64 MiB one way / memcpy", "array_send_gb_s"),
    _copies("64 MiB echo / memcpy", "array_echo_gb_s"),
    _more("64 MiB one way / torch.rpc (best)", "array_send_gb_s", _TORCH, 10.0, _SHARED),
    _more("64 MiB echo / torch.rpc (best)", "array_echo_gb_s", _TORCH, 10.0, _SHARED),
    _more("64 MiB one way / dask", "array_send_gb_s", ("dask",), 3.0, _SHARED),
    _more("64 MiB echo / dask", "array_echo_gb_s", ("dask",), 3.0, _SHARED),
    *(
        _less(f"{size} echo / {name}", f"echo {size}_us", rows, 1.0)
        for name, rows in (("pyzmq", ("pyzmq",)), ("torch.rpc (best)", _TORCH))
        for size in SIZES
    ),
)
"""What the project measures itself by. Absolute figures depend on the machine, these much less."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, min and max."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios_of(subject: str, rounds: Rounds) -> dict[str, dict[str, float]]:
    """Return the spread of each ratio that can be formed for a row.

    A unix row is compared with the unix rows of the limits where these were run.
    """
    result = {}
    for ratio in RATIOS:
        if ratio.subject not in ("", subject):
            continue
        rows = tuple(_same_transport(subject, row, rounds) for row in ratio.rows)
        values = _per_round(ratio, rounds[subject], [rounds[row] for row in rows if row in rounds])
        if values:
            result[ratio.title] = spread(values) | {"target": ratio.target}
    return result


def _same_transport(subject: str, row: str, rounds: Rounds) -> str:
    unix = f"{row}-unix"
    return unix if subject.endswith("-unix") and unix in rounds else row


def _per_round(
    ratio: Ratio,
    ours: list[dict[str, float] | None],
    theirs: list[list[dict[str, float] | None]],
) -> list[float]:
    values = []
    for index, figures in enumerate(ours):
        mine = _figure(figures, ratio.ours)
        others = [_figure(row[index], ratio.theirs) for row in theirs if index < len(row)]
        found = [other for other in others if other]
        if mine and found:
            values.append(mine / (max(found) if ratio.more_is_better else min(found)))
    return values


def _figure(figures: dict[str, float] | None, name: str) -> float | None:
    parts = name.split("+")
    if figures is None or not all(part in figures for part in parts):
        return None
    return sum(figures[part] for part in parts)
