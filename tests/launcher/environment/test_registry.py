"""`launcher.environment.registry`: which scheduler is asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint

import pytest

from launcher.environment import Environment, detect
from tests.launcher.environment.test_kubernetes import POD
from tests.launcher.environment.test_mpi import OPEN_MPI
from tests.launcher.environment.test_slurm import BATCH, TASK

PMI = {"PMI_RANK": "0", "PMI_SIZE": "2"}
MPICH = {**PMI, "MPI_LOCALRANKID": "0"}


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        (TASK, "Slurm job 123"),
        (OPEN_MPI, "Open MPI job 1916600321"),
        (POD, "Kubernetes Job train"),
        (MPICH, "PMI"),
        ({**OPEN_MPI, **TASK}, "Open MPI job 1916600321"),  # mpirun starts its daemons by srun
        ({**MPICH, **TASK}, "PMI"),  # so does mpiexec
        ({**PMI, **TASK}, "Slurm job 123"),  # srun --mpi=pmi2
        ({**OPEN_MPI, **POD}, "Open MPI job 1916600321"),
        ({**BATCH, **POD}, "Slurm job 123"),
    ],
)
def test_the_nearest_scheduler_is_asked(environ: dict[str, str], source: str) -> None:
    """Schedulers start each other."""
    environment = detect(environ)

    assert environment is not None
    assert environment.source == source


def test_a_scheduler_is_asked_by_name() -> None:
    """Whatever else is there."""
    environment = detect({**OPEN_MPI, **TASK}, "slurm")

    assert environment is not None
    assert environment.source == "Slurm job 123"


def test_without_a_scheduler_there_is_nothing() -> None:
    """Most launches."""
    assert detect({"PATH": "/bin"}) is None


def test_a_scheduler_asked_by_name_must_have_started_the_process() -> None:
    """The user expects something of it."""
    with pytest.raises(ValueError, match=r"^environment=slurm: expected a process that it has"):
        detect({}, "slurm")


def test_an_unknown_name_is_refused() -> None:
    """The message lists those there are."""
    with pytest.raises(ValueError) as caught:
        detect({}, "pbs")

    assert str(caught.value) == "environment=pbs: expected one of kubernetes, mpi, slurm"


def lsf(environ: Mapping[str, str]) -> Environment | None:
    """Detect a scheduler of another package."""
    return Environment(source=f"LSF job {environ['LSB_JOBID']}")


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another package have entry points."""

    def entry_points(*, group: str, name: str = "") -> list[EntryPoint]:
        found = [
            EntryPoint("lsf", f"{__name__}:lsf", "launcher.environment"),
            EntryPoint("broken", "no.such.module:detect", "launcher.environment"),
        ]
        return [point for point in found if group == point.group and name in ("", point.name)]

    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)


def test_other_packages_bring_detectors(points: None) -> None:
    """An entry point of the group, by its name."""
    assert detect({"LSB_JOBID": "9"}, "lsf") == Environment(source="LSF job 9")


def test_an_entry_point_that_cannot_be_loaded_is_told(points: None) -> None:
    """Its name, where it leads and why."""
    with pytest.raises(ValueError, match=r"^environment=broken: entry point no\.such\.module:"):
        detect({}, "broken")


def test_unknown_names_are_told_those_of_other_packages(points: None) -> None:
    """Both kinds."""
    with pytest.raises(ValueError, match="broken, kubernetes, lsf, mpi, slurm"):
        detect({}, "pbs")
