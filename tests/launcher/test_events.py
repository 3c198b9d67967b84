"""launcher.events: events as JSON, and where they go."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import events
from launcher.events import (
    Event,
    EventSource,
    check_destination,
    record,
    register_handler,
    status_event,
)


class Kept(logging.Handler):
    """Keeps what it handles."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Return a handler registered as "kept"."""
    handler = Kept()
    register_handler("kept", handler)
    yield handler
    del events._handlers["kept"]


EVENT = Event("name", EventSource.WORKER, 7, {"rank": 1, "host": None})


def test_an_event_survives_json() -> None:
    """Names and values are torch's."""
    assert json.loads(str(EVENT)) == {
        "name": "name",
        "source": "WORKER",
        "timestamp": 7,
        "metadata": {"rank": 1, "host": None},
    }
    assert Event.deserialize(EVENT.serialize()) == EVENT
    assert Event.deserialize(EVENT) is EVENT


@pytest.mark.parametrize("data", ["{}", "[]", "7", '{"source": "WORKER"}', "{"])
def test_other_json_is_refused(data: str) -> None:
    """By a ValueError, whatever it is."""
    with pytest.raises(ValueError):
        Event.deserialize(data)


def test_a_status_event_is_of_now() -> None:
    """Milliseconds of the wall clock, and the state in name and metadata."""
    event = status_event("FAILED", EventSource.AGENT, {"role": "r"})

    assert event.name == "torchelastic.worker.status.FAILED"
    assert event.metadata == {"role": "r", "state": "FAILED"}
    assert abs(event.timestamp - time.time() * 1000) < 5000


def test_destinations(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    """Nowhere, stderr, or a handler of one's own."""
    for destination in ("null", "dynamic_rendezvous", "console", "kept"):
        record(EVENT, destination)
    record(EVENT)

    assert capsys.readouterr().err == f"{EVENT}\n"
    assert kept.lines == [str(EVENT)]


def test_an_unknown_destination() -> None:
    """Those that there are, are named."""
    with pytest.raises(
        ValueError, match=r"event_log_handler='x': expected one of null, console, file:PATH$"
    ):
        record(EVENT, "x")


def test_a_file_gets_a_line_for_each_event(tmp_path: Path) -> None:
    """What is in it already stays."""
    path = tmp_path / "events.jsonl"
    path.write_text("before\n")
    check_destination(f"file:{path}")
    record(EVENT, f"file:{path}")
    record(EVENT, f"file:{path}")

    assert path.read_text() == f"before\n{EVENT}\n{EVENT}\n"


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    """Before anything is started; later it costs the event alone, and a warning says so."""
    with pytest.raises(ValueError, match=r"event_log_handler='file:.*/no/x': expected a file that"):
        check_destination(f"file:{tmp_path}/no/x")
    with pytest.raises(ValueError, match=r"event_log_handler='file:': expected a file that"):
        check_destination("file:")


def test_a_file_that_went_costs_the_event_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run does not end for it."""
    record(EVENT, f"file:{tmp_path}/no/x")

    assert "event name is lost" in caplog.text
