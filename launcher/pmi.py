"""What a PMI-1 server says that its variables do not: `with_job` asks for the name of the job.

MPICH's hydra tells rank and size by variables, but the job, which all its processes have in common,
only at the socket of ``$PMI_FD``. Called by `commandline`, before the variables are read.

Source: MPICH's src/pmi/simple/simple_pmi.c, "get_my_kvsname"; tried with hydra of MPICH 4.0.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress

__all__ = ("with_job",)

_PATIENCE = 5.0  # seconds; the server is a process of this machine
_MOST_BYTES = 4096  # of an answer; more is none
_NAME = re.compile(rb"kvsname=(\S+)")


def with_job(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Ask the server for the name of the job, where no variable says it.

    Once: who has asked is no longer known to the server, so that others outlive it.

    Args:
        environ: the variables of this process.

    Returns:
        The same, with the name as ``PMI_KVS``, unless it is known already or nobody answers.
    """
    if "PMI_FD" not in environ or "PMI_JOBID" in environ or "PMI_KVS" in environ:
        return environ
    name = _job_name(environ["PMI_FD"])
    return {**environ, "PMI_KVS": name} if name else environ


def _job_name(descriptor: str) -> str:
    try:
        server = socket.socket(fileno=int(descriptor))
    except (OSError, ValueError, OverflowError):
        return ""
    answer = b""
    with suppress(OSError):
        server.settimeout(_PATIENCE)
        answer = _ask(server, b"get_my_kvsname")
        # A process that spoke and did not say goodbye counts as crashed when it ends, whatever its
        # status, and hydra kills all the others.
        _ask(server, b"finalize")
    server.detach()  # it came with the process, and goes with it
    match = _NAME.search(answer)
    return match[1].decode(errors="replace") if match else ""


def _ask(server: socket.socket, command: bytes) -> bytes:
    server.sendall(b"cmd=%b\n" % command)
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < _MOST_BYTES:
        received = server.recv(_MOST_BYTES)
        if not received:
            break
        answer += received
    return answer
