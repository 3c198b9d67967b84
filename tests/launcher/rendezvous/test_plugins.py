"""`launcher.rendezvous.plugins`: backends of other packages, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.rendezvous import RendezvousParameters, get_rendezvous_handler
from launcher.rendezvous.tcp import TcpRendezvous
from launcher.rendezvous.threaded import ThreadedHandler

PACKAGE = """
from launcher.rendezvous import tcp

class Blocking:
    def __init__(self, params):
        self.params = params
    def get_backend(self):
        return self.params.backend
    def get_run_id(self):
        return self.params.run_id

def get_handler():
    return Blocking
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with entry points of both groups."""
    info = tmp_path / "meeting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: meeting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[launcher.rendezvous]\nmine = meeting:tcp.create_handler\nbroken = meeting:Nothing\n"
        "[torchrun.handlers]\nmine = meeting:Nothing\ntheirs = meeting:get_handler\n"
    )
    (tmp_path / "meeting.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)


def parameters(backend: str) -> RendezvousParameters:
    """Return the parameters of a run on one node."""
    return RendezvousParameters(backend, "", "run", 1, 1, secret=b"s" * 32)


def test_a_backend_of_another_package_makes_handlers() -> None:
    """Ours goes before torch's of the same name."""
    handler = get_rendezvous_handler(parameters("mine"))

    assert isinstance(handler, TcpRendezvous)
    assert handler.get_backend() == "mine"


def test_a_handler_for_torch_is_called_in_threads() -> None:
    """Its entry point gives what makes it, as torch asks for."""
    handler = get_rendezvous_handler(parameters("theirs"))

    assert isinstance(handler, ThreadedHandler)
    assert (handler.get_backend(), handler.get_run_id()) == ("theirs", "run")


def test_a_backend_that_cannot_be_loaded() -> None:
    """The entry point is named."""
    with pytest.raises(ValueError, match="rdzv_backend=broken: entry point meeting:Nothing cannot"):
        get_rendezvous_handler(parameters("broken"))


def test_an_unknown_backend() -> None:
    """Those that there are, are listed."""
    with pytest.raises(ValueError, match=r"one of broken, c10d, .*, mine, static, tcp, th"):
        get_rendezvous_handler(parameters("nothing"))
