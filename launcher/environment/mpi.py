"""MPI's starters: Open MPI's ``mpirun``, MPICH's ``mpiexec`` and others by PMI, PRRTE by PMIx.

Each process that they start is a launcher, and a node of the run. Source: the variables that
Open MPI 4.1 and 5.0, hydra of MPICH 4.0, and Slurm's pmi2 and pmix set.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

from launcher.environment.base import Environment, port_for, read_integer

__all__ = ("detect",)

_LOOPBACK = "127.0.0.1"
# Of "1916600320.0;tcp://192.0.2.2,198.51.100.2:52341;tcp6://[fd00::2]:39967" the first address.
_URI = re.compile(r"tcp[46]?://(\[[0-9A-Fa-f:.]+\]|[0-9.]+)")
# Of "prterun-node1-4711@1" the host that prterun was started on; its process id follows.
_NAMESPACE = re.compile(r"[A-Za-z]+-(.+)-\d+@\d+")
# Of hydra's "kvs_4711_0_1706894297_node-7" the host that mpiexec was started on.
_KVS = re.compile(r"kvs_\d+_\d+_\d+_(.+)")


def detect(environ: Mapping[str, str]) -> Environment | None:
    """Say what an MPI starter tells by these variables; ``None`` if none has set them.

    Raises:
        ValueError: they make no sense; names one.
    """
    if "OMPI_COMM_WORLD_RANK" in environ:
        found = _open_mpi(environ)
    elif "PMI_RANK" in environ:
        found = _pmi(environ)
    elif "PMIX_RANK" in environ:
        found = _pmix(environ)
    else:
        return None
    if found.node_count is not None and found.node_rank >= found.node_count:
        raise ValueError(
            f"{found.source}: expected a rank below the size, {found.node_count}, "
            f"not {found.node_rank}"
        )
    return found


def _open_mpi(environ: Mapping[str, str]) -> Environment:
    size = read_integer(environ, "OMPI_COMM_WORLD_SIZE", 1)
    local = read_integer(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", 1, default=1)
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid", "")
    match = _URI.search(environ.get("OMPI_MCA_orte_hnp_uri", ""))
    host = match[1] if match else _host_of(job)
    return _started(
        "Open MPI", job, read_integer(environ, "OMPI_COMM_WORLD_RANK"), size, local, host
    )


def _pmi(environ: Mapping[str, str]) -> Environment:
    size = read_integer(environ, "PMI_SIZE", 1)
    local = read_integer(environ, "MPI_LOCALNRANKS", 1, default=1)
    job = environ.get("PMI_JOBID") or environ.get("PMI_KVS", "")
    match = _KVS.fullmatch(job)
    host = match[1] if match else ""
    return _started("PMI", job, read_integer(environ, "PMI_RANK"), size, local, host)


def _pmix(environ: Mapping[str, str]) -> Environment:
    job = environ.get("PMIX_NAMESPACE", "")
    return _started("PMIx", job, read_integer(environ, "PMIX_RANK"), None, 1, _host_of(job))


def _started(
    source: str, job: str, rank: int, size: int | None, local: int, host: str
) -> Environment:
    if not job:
        host = ""  # where two jobs without a name would meet each other
    elif local == size:
        host = _LOOPBACK  # all are on this machine
    return Environment(
        source=f"{source} job {job}" if job else source,
        node_rank=rank,
        node_count=size,
        run_id=job,
        host=host,
        # The job's name is all that its processes have in common.
        port=port_for(zlib.crc32(job.encode())) if host else 0,
        warning=_several(source, local, size),
    )


def _host_of(namespace: str) -> str:
    match = _NAMESPACE.fullmatch(namespace)
    return match[1] if match else ""


def _several(source: str, local: int, size: int | None) -> str:
    # All on one machine is a trial, several on each of many most likely a mistake.
    if local in (1, size):
        return ""
    return (
        f"{source} started {local} launchers on one machine, and each counts as a node of the "
        f"run: one for each machine and --nproc-per-node={local} are meant most likely"
    )
