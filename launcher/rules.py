"""Rules of texts: what the words of an option, a variable or a field mean.

Each rule takes the text as the user wrote it and returns the value, or raises a `ValueError` that
says what it expected; whoever calls it names the option. Pure but for the number of processors,
which ``auto`` asks for. Called by `options` and `config`.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable

__all__ = (
    "catchable_signals",
    "filled",
    "integer_from",
    "one_of",
    "split_signals",
    "to_address",
    "to_name",
    "to_nodes",
    "to_port",
    "to_ranks",
    "to_seconds",
    "to_settings",
    "to_signals",
    "to_span",
    "to_text",
    "to_texts",
    "to_truth",
    "to_words",
    "to_workers",
    "valid_address",
    "valid_signals",
)

_LAST_PORT = 65535


def to_truth(text: str) -> bool:
    """Read 1 or 0, or the words that people write for them; empty is 0."""
    # torchrun takes 0 and 1 alone, and fails on `PET_STANDALONE=true` with a traceback.
    lowered = text.strip().lower()
    if lowered in ("1", "true", "t", "yes", "y", "on"):
        return True
    if lowered in ("", "0", "false", "f", "no", "n", "off"):
        return False
    raise ValueError("expected 1 or 0 (or true, false, yes, no)")


def integer_from(least: int) -> Callable[[str], int]:
    """Return the rule of an integer, `least` or above."""

    def to_integer(text: str) -> int:
        return _integer(text, least)

    return to_integer


def _integer(text: str, at_least: int) -> int:
    # `str.isdecimal` takes other scripts' digits and `int` takes underscores: neither is meant.
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= at_least:
        return int(text)
    raise ValueError(f"expected an integer, at least {at_least}")


def to_workers(text: str) -> int:
    """Read a number of workers; ``auto`` and ``cpu`` are one per processor we may use."""
    if text in ("auto", "cpu"):
        return len(os.sched_getaffinity(0))
    try:
        return _integer(text, 1)
    except ValueError:
        raise ValueError("expected an integer, at least 1, or auto or cpu") from None


def to_nodes(text: str) -> tuple[int, int]:
    """Read the least and the most nodes of a run."""
    low, colon, high = text.partition(":")
    try:
        least = _integer(low, 1)
        most = _integer(high, least) if colon else least
    except ValueError:
        raise ValueError(
            "expected N or MIN:MAX, from 1, MIN not above MAX, such as 2 or 1:4"
        ) from None
    return least, most


def to_ranks(text: str) -> frozenset[int]:
    """Read local ranks separated by commas; empty: none."""
    try:
        return frozenset(_integer(part.strip(), 0) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError("expected local ranks separated by commas, such as 0,2") from None


def to_seconds(text: str) -> float:
    """Read seconds from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if math.isfinite(value) and value >= 0:
        return value
    raise ValueError("expected seconds, at least 0")


def to_span(text: str) -> float:
    """Read seconds above 0."""
    try:
        value = to_seconds(text)
    except ValueError:
        value = 0.0
    if value > 0:
        return value
    raise ValueError("expected seconds, above 0")


def to_port(text: str) -> int:
    """Read a port that one can connect to."""
    try:
        if (port := _integer(text, 1)) <= _LAST_PORT:
            return port
    except ValueError:
        pass
    raise ValueError(f"expected a port, from 1 to {_LAST_PORT}")


def to_address(text: str) -> tuple[str, int]:
    """Split ``[HOST:]PORT``.

    Args:
        text: a port from 1 to 65535, after a host if there is one; IPv6 addresses in brackets.

    Returns:
        Host and port; the host is 127.0.0.1 if none is given.

    Raises:
        ValueError: it is something else.
    """
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) <= _LAST_PORT
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not is_port or (":" in bare and bare == host) or (not bare and text != port):
        raise ValueError(f"expected [HOST:]PORT, a port from 1 to {_LAST_PORT}")
    return bare or "127.0.0.1", int(port)


def valid_address(text: str) -> str:
    """Return the text of an address as it is; see `to_address`."""
    to_address(text)
    return text


def to_signals(names: str) -> tuple[signal.Signals, ...]:
    """Turn a comma list of signal names into signals, each once, in the order given.

    Args:
        names: such as ``SIGTERM,SIGINT``; the ``SIG`` may be left out; empty: none.

    Returns:
        The signals.

    Raises:
        ValueError: a name is no signal, or one that cannot be caught.
    """
    found, unknown = split_signals(names)
    if unknown:
        raise ValueError(f"expected names of signals, {unknown[0]!r} is none")
    return found


def split_signals(names: str) -> tuple[tuple[signal.Signals, ...], tuple[str, ...]]:
    """Turn a comma list of signal names into signals, and those that are none into a list.

    Args:
        names: such as ``SIGTERM,SIGINT``; the ``SIG`` may be left out; empty: none.

    Returns:
        The signals, each once, in the order given; and the names that are no signals.

    Raises:
        ValueError: one cannot be caught.
    """
    found: dict[signal.Signals, None] = {}
    unknown = []
    for raw in filter(None, map(str.strip, names.split(","))):
        name = raw.upper()
        number = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
        if number is None:
            unknown.append(raw)
        elif number in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"expected signals that can be caught, {number.name} cannot")
        else:
            found[number] = None
    return tuple(found), tuple(unknown)


def valid_signals(text: str) -> str:
    """Return names of signals in full, separated by commas; see `to_signals`."""
    return ",".join(number.name for number in to_signals(text))


def catchable_signals(text: str) -> str:
    """Return names of signals in full, and after them those that are none; see `split_signals`."""
    found, unknown = split_signals(text)
    return ",".join((*(number.name for number in found), *unknown))


def to_text(text: str) -> str:
    """Return what other programs can read: text in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected text in UTF-8") from None
    return text


def to_name(text: str) -> str:
    """Return text in UTF-8 that is not empty."""
    return to_text(filled("a name")(text))


def filled(what: str) -> Callable[[str], str]:
    """Return the rule of a text that is not empty, of bytes of any kind: `os.fsencode` knows them.

    Args:
        what: it is, for the message.
    """

    def to_filled(text: str) -> str:
        if text:
            return text
        raise ValueError(f"expected {what}")

    return to_filled


def to_texts(text: str) -> tuple[str, ...]:
    """Read texts separated by commas; as torch has it, a comma that is meant is written twice."""
    parts = text.replace(",,", "\0").split(",")
    return tuple(part.replace("\0", ",") for part in parts if part)


def to_words(text: str) -> tuple[str, ...]:
    """Read the words of a command, quoted as for a shell."""
    import shlex  # noqa: PLC0415 -- only for several hosts

    if not (words := tuple(shlex.split(text))):
        raise ValueError("expected a program, such as ssh, or ssh -p 2222")
    return words


def to_settings(text: str) -> dict[str, object]:
    """Read settings separated by commas, each ``name=value``."""
    found: dict[str, object] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if part.strip() and not (equals and name.strip() and value.strip()):
            raise ValueError("expected settings such as join_timeout=60,last_call_timeout=5")
        if part.strip():
            found[name.strip()] = value.strip()
    return found


def one_of(*names: str) -> Callable[[str], str]:
    """Return the rule of a text that is one of the names."""

    def to_one(text: str) -> str:
        if text in names:
            return text
        raise ValueError(f"expected one of {', '.join(names)}")

    return to_one
