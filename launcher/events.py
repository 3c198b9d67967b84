"""Events of a run: what happened, as values that can be logged, and where they go.

An event is recorded to a destination: ``null`` drops it, ``console`` writes a line of JSON to
stderr, ``file:PATH`` appends one to a file, any other name is a logging handler that was
registered. Called by the api and the agent.
"""

from __future__ import annotations

import enum
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = (
    "Event",
    "EventSource",
    "Fact",
    "check_destination",
    "record",
    "register_handler",
    "status_event",
)

Fact = str | int | float | bool | None
"""Something known of an event."""

_NOWHERE = ("null", "dynamic_rendezvous")  # the latter torch's, who drops what goes there too
_FILE = "file:"  # what the destinations begin with that are files

_handlers: dict[str, logging.Handler] = {}

_log = logging.getLogger("launcher.events")


class EventSource(enum.StrEnum):
    """Who an event is about; names and values are torch's."""

    AGENT = "AGENT"
    WORKER = "WORKER"


@dataclass(slots=True)
class Event:
    """Something that happened in a run."""

    name: str
    """What, such as ``torchelastic.worker.status.SUCCEEDED``."""
    source: EventSource
    timestamp: int = 0
    """When, milliseconds of the wall clock; 0 for not known."""
    metadata: dict[str, Fact] = field(default_factory=dict)
    """What else is known, by name."""

    def __str__(self) -> str:
        return self.serialize()

    def serialize(self) -> str:
        """Return the event as JSON."""
        import json  # noqa: PLC0415 -- slow, and most runs log no events

        return json.dumps(asdict(self))

    @staticmethod
    def deserialize(data: str | Event) -> Event:
        """Return the event that JSON was made of.

        Args:
            data: what `serialize` returned; an event is returned as it is.

        Raises:
            ValueError: it is something else.
        """
        if isinstance(data, Event):
            return data
        import json  # noqa: PLC0415 -- few launches write events

        try:
            fields = json.loads(data)
            return Event(**{**fields, "source": EventSource(fields["source"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"data={data!r:.100}: expected the JSON of an event") from error


def status_event(state: str, source: EventSource, metadata: Mapping[str, Fact]) -> Event:
    """Return the event that something has come into a state just now.

    Args:
        state: name of the state, such as ``SUCCEEDED``.
        source: who has.
        metadata: what else is known.
    """
    now = time.time_ns() // 1_000_000
    name = f"torchelastic.worker.status.{state}"
    return Event(name, source, now, {**metadata, "state": state})


def check_destination(destination: str) -> None:
    """Make sure that events can be recorded to a destination.

    Args:
        destination: ``null``, ``console``, ``file:PATH``, or the name of a registered handler.

    Raises:
        ValueError: no handler has that name, or the file cannot be written.
    """
    if destination.startswith(_FILE):
        try:
            _append(destination.removeprefix(_FILE), "")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ValueError(
                f"event_log_handler={destination!r}: expected a file that can be written: {why}"
            ) from None
    elif destination not in (*_NOWHERE, "console", *_handlers):
        names = ", ".join(("null", "console", "file:PATH", *sorted(_handlers)))
        raise ValueError(f"event_log_handler={destination!r}: expected one of {names}")


def record(event: Event, destination: str = "null") -> None:
    """Send an event where it is wanted.

    Args:
        event: what happened.
        destination: ``null``, ``console``, ``file:PATH``, or the name of a registered handler; a
            file that cannot be written any more costs the event, and a warning says so.

    Raises:
        ValueError: no handler has that name.
    """
    if destination in _NOWHERE:
        return
    text = event.serialize()
    if destination in _handlers:
        entry = logging.LogRecord("launcher.events", logging.INFO, "", 0, text, None, None)
        _handlers[destination].handle(entry)
    elif destination.startswith(_FILE):
        try:
            _append(destination.removeprefix(_FILE), f"{text}\n")
        except OSError as error:
            _log.warning("event %s is lost: %s: %s", event.name, destination, error.strerror)
    else:
        check_destination(destination)
        if sys.stderr is not None:  # closed
            sys.stderr.write(f"{text}\n")


def register_handler(name: str, handler: logging.Handler) -> None:
    """Let events be recorded to a logging handler; its records are the events as JSON.

    Args:
        name: what ``destination`` and ``event_log_handler`` call it.
        handler: anything that handles log records; replaces another of the name.
    """
    _handlers[name] = handler


def _append(path: str, text: str) -> None:
    # In one write to the end of the file, so that several launchers can share it.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
