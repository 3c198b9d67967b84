"""`launcher.pmi`: what is asked of a PMI-1 server, and what if it does not answer."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

import pytest

from launcher import pmi

KVS = b"cmd=my_kvsname kvsname=kvs_21636_0_1706894297_head\n"
GOODBYE = b"cmd=finalize_ack\n"


def job_of(descriptor: str) -> str:
    """Return what is found out about the job at a descriptor; nothing else may change."""
    environ = {"PMI_FD": descriptor, "PMI_RANK": "1"}
    completed = pmi.with_job(environ)
    job = completed.get("PMI_KVS", "")

    assert completed == ({**environ, "PMI_KVS": job} if job else environ)
    return job


def asked(*answers: bytes) -> tuple[str, bytes]:
    """Return the name of the job, of a server that gives these answers, and what it was asked."""
    here, there = socket.socketpair()
    heard = b""

    def serve() -> None:
        nonlocal heard
        with there, suppress(BrokenPipeError):  # who has heard enough of it leaves
            for answer in answers:
                heard += there.recv(100)
                for byte in answer:
                    there.send(bytes([byte]))

    server = threading.Thread(target=serve)
    server.start()
    with here:
        name = job_of(str(here.fileno()))
    server.join()
    return name, heard


def test_the_job_is_asked_for_and_the_server_left() -> None:
    """As hydra answers, byte by byte; without the goodbye it would kill the others at our end."""
    name, heard = asked(KVS, GOODBYE)

    assert name == "kvs_21636_0_1706894297_head"
    assert heard == b"cmd=get_my_kvsname\ncmd=finalize\n"


@pytest.mark.parametrize(
    "answers",
    [(b"",), (b"cmd=my_kvsname", b""), (b"nonsense\n", GOODBYE), (b"\xff" * 5000 + b"\n", GOODBYE)],
)
def test_a_server_of_another_kind_is_none(answers: tuple[bytes, ...]) -> None:
    """Whatever it says, or if it leaves."""
    assert asked(*answers)[0] == ""


@pytest.mark.parametrize("text", ["", "x", "-1", "99999", "9" * 40])
def test_a_descriptor_that_is_none_is_no_server(text: str) -> None:
    """Variables outlive the descriptors that they name."""
    assert job_of(text) == ""


def test_a_descriptor_of_another_kind_stays_as_it_is() -> None:
    """It may have become a file or a pipe."""
    reader, writer = os.pipe()
    name = job_of(str(writer))
    os.close(writer)

    assert (name, os.read(reader, 100)) == ("", b"")
    os.close(reader)


def test_a_server_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch goes on without the name."""
    monkeypatch.setattr(pmi, "_PATIENCE", 0.05)
    here, there = socket.socketpair()
    with here, there:
        assert job_of(str(here.fileno())) == ""


@pytest.mark.parametrize("name", ["PMI_JOBID", "PMI_KVS"])
def test_what_is_known_is_not_asked(name: str) -> None:
    """Slurm's pmi2 has a socket, too, at which another protocol is spoken."""
    here, there = socket.socketpair()
    with here, there:
        environ = {"PMI_FD": str(here.fileno()), name: "1.0"}
        completed = pmi.with_job(environ)
        there.setblocking(False)

        assert completed is environ
        with pytest.raises(BlockingIOError):
            there.recv(100)
