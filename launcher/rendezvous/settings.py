"""The settings of a rendezvous among several nodes: names, defaults and rules of `--rdzv-conf`.

Pure. Names and defaults are torchrun's, with `join_debounce` and `expect_nodes` on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from launcher.config import DEFAULT_RDZV_TIMEOUT
from launcher.rendezvous.base import RendezvousParameters

__all__ = ("Settings", "read_settings")


class Settings(NamedTuple):
    """What can be set; spans in seconds."""

    join_timeout: float = 600.0
    """How long a node waits for a round, for a replacement too."""
    last_call_timeout: float = 30.0
    """How long the first round waits for more than `min_nodes`."""
    close_timeout: float = 30.0
    """How long ending the run, and leaving it in order, may take."""
    heartbeat_timeout: float = 5.0
    """How long announcing something may take."""
    keep_alive_interval: float = 5.0
    """Between the signs of life of a node."""
    keep_alive_max_attempt: int = 3
    """Signs of life that may be missed before a silent node is lost."""
    read_timeout: float = 60.0
    """How long the store may take to answer."""
    join_debounce: float = 0.3
    """How long after the last newcomer a round ends for the newcomers."""
    expect_nodes: int | None = None
    """Nodes that end the last call; ``None``: `max_nodes`."""
    rank: int | None = None
    """The rank this node is to have; ``None``: whatever comes."""
    is_host: bool | None = None
    """Whether this node serves the store; ``None``: if it can listen at the endpoint."""
    store_type: str = "tcp"
    """Torch's; there is no store in a file here."""

    @property
    def ttl(self) -> float:
        """Seconds of silence after which a node is lost."""
        return self.keep_alive_interval * self.keep_alive_max_attempt


_SPANS = (
    "join_timeout",
    "last_call_timeout",
    "close_timeout",
    "heartbeat_timeout",
    "keep_alive_interval",
    "read_timeout",
)
_ALIASES = {"timeout": "join_timeout"}  # what the static backend and older scripts call it


def read_settings(parameters: RendezvousParameters, others: Sequence[str] = ()) -> Settings:
    """Read the settings of a run.

    Args:
        parameters: of the run.
        others: names of settings that the backend reads itself.

    Returns:
        The settings given, defaults for the others.

    Raises:
        ValueError: a name is unknown, tells the nearest one; or a value breaks its rule.
    """
    for name in parameters.config:
        if name not in Settings._fields and name not in _ALIASES and name not in others:
            raise ValueError(f"rdzv_conf {name}: {_unknown(name, others)}")
    given = {alias: parameters.get(name) for name, alias in _ALIASES.items()}
    if parameters.backend != "static" and given["join_timeout"] == DEFAULT_RDZV_TIMEOUT:
        del given["join_timeout"]  # nobody's choice, and torch's other backends have their own
    given = {name: value for name, value in given.items() if value is not None}
    given |= {name: v for name in Settings._fields if (v := parameters.get(name)) is not None}
    settings = Settings(**{name: _read(parameters, name, value) for name, value in given.items()})
    _check_nodes(parameters, settings)
    return settings


def _read(parameters: RendezvousParameters, name: str, value: object) -> Any:
    if name == "is_host":
        return parameters.get_as_bool(name)
    if name == "store_type":
        if value != "tcp":
            raise ValueError(f"rdzv_conf store_type={value}: expected tcp, there are no others")
        return value
    if name in ("keep_alive_max_attempt", "expect_nodes", "rank"):
        return _integer(name, value, at_least=0 if name == "rank" else 1)
    return _span(name, value, is_zero_allowed=name not in _SPANS)


def _integer(name: str, value: object, at_least: int) -> int:
    text = str(value).strip()
    if not isinstance(value, bool) and text.isascii() and text.isdigit() and int(text) >= at_least:
        return int(text)
    raise ValueError(f"rdzv_conf {name}={value}: expected an integer, at least {at_least}")


def _span(name: str, value: object, *, is_zero_allowed: bool) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and (seconds > 0 or (is_zero_allowed and seconds == 0)):
        return seconds
    rule = "at least 0" if is_zero_allowed else "above 0"
    raise ValueError(f"rdzv_conf {name}={value}: expected seconds, {rule}")


def _check_nodes(parameters: RendezvousParameters, settings: Settings) -> None:
    expected = settings.expect_nodes
    low, high = parameters.min_nodes, parameters.max_nodes
    if expected is not None and not low <= expected <= high:
        raise ValueError(
            f"expect_nodes={expected}: expected within --nnodes (min_nodes to max_nodes), "
            f"{low} to {high}"
        )
    if settings.rank is not None and settings.rank >= high:
        raise ValueError(f"node_rank={settings.rank}: expected below --nnodes (max_nodes), {high}")


def _unknown(name: str, others: Sequence[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 -- for a mistake only

    names = sorted({*Settings._fields, *_ALIASES, *others} - {"store_type"})  # which has no use
    nearest = get_close_matches(name.replace("-", "_").lower(), names, n=1, cutoff=0.5)
    return (
        f"there is no such setting, did you mean {nearest[0]}?"
        if nearest
        else (f"there is no such setting, expected one of {', '.join(names)}")
    )
