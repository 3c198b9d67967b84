"""`launcher.environment.mpi`: what the variables of MPI's starters say."""

from __future__ import annotations

import pytest

from launcher.environment import Environment
from launcher.environment.mpi import detect

# What mpirun of Open MPI 4.1 sets for the second of two processes, among much else.
OPEN_MPI = {
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1916600320.0;tcp://192.0.2.2,198.51.100.2:52341;tcp6://[fd00::2]:3",
    "PMIX_NAMESPACE": "1916600321",
    "PMIX_RANK": "1",
}


def found(environ: dict[str, str]) -> Environment:
    """Return what is detected."""
    environment = detect(environ)
    assert environment is not None
    return environment


def test_a_process_of_mpirun_is_a_node() -> None:
    """All meet where mpirun was started; who has the address hosts the store."""
    environment = found(OPEN_MPI)

    assert environment == Environment(
        source="Open MPI job 1916600321",
        node_rank=1,
        node_count=2,
        run_id="1916600321",
        host="192.0.2.2",
        port=environment.port,
    )
    assert 20_000 <= environment.port < 32_000
    assert found({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0"}).port == environment.port


def test_processes_on_one_machine_meet_there() -> None:
    """A trial needs no network."""
    environment = found({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})

    assert (environment.host, environment.warning) == ("127.0.0.1", "")


def test_several_processes_on_each_machine_are_a_mistake_most_likely() -> None:
    """The user is told of --nproc-per-node."""
    sizes = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}

    assert "--nproc-per-node=4" in found({**OPEN_MPI, **sizes}).warning


def test_open_mpi_5_names_its_host_in_the_namespace() -> None:
    """There is no address of a head node any more."""
    environ = {**OPEN_MPI, "PMIX_NAMESPACE": "prterun-gpu-node-7-4711@1"}
    del environ["OMPI_MCA_orte_hnp_uri"]

    assert found(environ).host == "gpu-node-7"


def test_pmix_alone_says_who_but_not_how_many() -> None:
    """The user says it by --nnodes."""
    environment = found({"PMIX_NAMESPACE": "prterun-head-12@1", "PMIX_RANK": "3"})

    assert (environment.node_rank, environment.node_count) == (3, None)
    assert (environment.host, environment.run_id) == ("head", "prterun-head-12@1")


def test_pmi_says_who_and_how_many_but_not_where() -> None:
    """Except on one machine; else the user says it by --rdzv-endpoint."""
    environ = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "2", "PMI_JOBID": "kvs_7"}
    environment = found(environ)

    assert (environment.source, environment.run_id) == ("PMI job kvs_7", "kvs_7")
    assert (environment.node_rank, environment.node_count) == (1, 4)
    assert (environment.host, environment.port) == ("", 0)
    assert found({**environ, "MPI_LOCALNRANKS": "4"}).host == "127.0.0.1"


def test_hydra_names_its_host_in_the_job() -> None:
    """All meet there; a trial on one machine needs no network."""
    environ = {"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_KVS": "kvs_4711_0_1706894297_node-7"}

    assert found({**environ, "MPI_LOCALNRANKS": "2"}).host == "node-7"
    assert found({**environ, "MPI_LOCALNRANKS": "4"}).host == "127.0.0.1"


def test_jobs_without_a_name_are_given_no_place() -> None:
    """They would all meet at the same."""
    environment = found({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"})

    assert (environment.source, environment.run_id) == ("PMI", "")
    assert (environment.host, environment.port) == ("", 0)


def test_nothing_is_said_without_a_starter() -> None:
    """Settings of MPI are no job."""
    assert detect({"OMPI_MCA_btl": "tcp,self"}) is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "0"}, "OMPI_COMM_WORLD_SIZE=0: expected"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "2"}, "Open MPI job 1916600321: expected a rank"),
        ({"PMI_RANK": "0"}, "PMI_SIZE is not set"),
        ({"PMI_RANK": "x", "PMI_SIZE": "2"}, "PMI_RANK=x: expected"),
        ({"PMIX_RANK": "x"}, "PMIX_RANK=x: expected"),
    ],
)
def test_variables_that_make_no_sense_are_named(environ: dict[str, str], message: str) -> None:
    """Whoever set them sees which."""
    with pytest.raises(ValueError) as caught:
        detect(environ)

    assert str(caught.value).startswith(message)
