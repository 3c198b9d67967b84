"""The guardian's own parts, without a guardian: whom it signals when, and what it removes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from launcher.process.guardian import messages, program, tree

Sent = list[tuple[int, int]]


class Stray(program._Stray):
    """A process left behind, as `advance` sees it."""

    def __init__(self, *, is_in_group: bool = False, was_signalled: bool = False) -> None:
        self.is_in_group = is_in_group
        self.was_signalled = was_signalled


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Return the list of (pid, signal) that nobody gets."""
    sent: Sent = []
    monkeypatch.setattr(program, "send_signal", lambda *pair: sent.append(pair))
    return sent


def clearing(quiet: float, group_grace: float, stray_grace: float) -> program._Clearing:
    """Return a request made at 100 s."""
    body = messages.CLEAR.pack(1, signal.SIGTERM, quiet, group_grace, stray_grace)
    return program._Clearing(body, 100.0)


def test_strays_have_their_quiet_then_the_signal_then_sigkill(sent: Sent) -> None:
    """Each step is due when the one before says; the signal is sent once."""
    request, strays = clearing(1.0, 9.0, 3.0), {7: Stray()}

    assert request.advance(strays, 100.0) == 101.0
    assert (request.advance(strays, 101.0), sent) == (104.0, [(7, signal.SIGTERM)])
    assert (request.advance(strays, 102.0), len(sent)) == (104.0, 1)
    assert request.advance(strays, 104.0) == 106.0
    assert sent[1:] == [(7, signal.SIGKILL)]
    assert request.advance(strays, 106.0) is None


def test_members_of_a_workers_group_have_its_grace(sent: Sent) -> None:
    """Those that the group's signal reached do not get another one."""
    request = clearing(0.0, 9.0, 3.0)
    strays = {7: Stray(is_in_group=True, was_signalled=True), 8: Stray(is_in_group=True)}

    assert request.advance(strays, 100.0) == 109.0
    assert sent == [(8, signal.SIGTERM)]


def test_nobody_left_is_done(sent: Sent) -> None:
    """There is nothing to wait for."""
    assert clearing(1.0, 9.0, 3.0).advance({}, 100.0) is None
    assert sent == []


def test_only_empty_folders_and_files_are_removed(tmp_path: Path) -> None:
    """A folder with a file in it stays, and so does the file; what is gone is no error."""
    kept = tmp_path / "root" / "1" / "error.json"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (tmp_path / "root" / "0").mkdir()
    secret = tmp_path / "secret"
    secret.touch()
    for path in (tmp_path / "root", secret, tmp_path / "none"):
        program._remove(os.fsencode(path))

    assert sorted(tmp_path.rglob("*")) == [tmp_path / "root", kept.parent, kept]


def test_children_are_not_looked_up_in_a_strange_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process namespace the numbers mean somebody else."""
    monkeypatch.setattr(os, "readlink", lambda _: "4711")

    assert list(tree.children()) == []
