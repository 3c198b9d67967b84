"""Where each worker's output and error file go: `Std` choices, folders, paths.

Makes folders, opens no file. Called by the command line (to parse choices) and, once per round,
by the process layer (`reify`).
"""

from __future__ import annotations

import enum
import os
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Self

from launcher.logs.temporary import temporary_folder

__all__ = (
    "DefaultLogsSpecs",
    "LogsDest",
    "LogsSpecs",
    "Std",
    "line_prefix",
    "to_map",
)

_ONE_CHOICE = re.compile(r"[0-3]\Z")
_CHOICE_PER_RANK = re.compile(r"\d+:[0-3](,\d+:[0-3])*\Z", re.ASCII)
_DEFAULT_RUN_ID = "test_run_id"  # torchrun's, for workers started without an agent
_RUN_ID_VARIABLE = "TORCHELASTIC_RUN_ID"


class Std(enum.IntFlag):
    """Which of a worker's standard streams an option is about."""

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = OUT | ERR

    @classmethod
    def from_str(cls, value: str) -> Self | dict[int, Self]:
        """Parse the value of ``--redirects`` or ``--tee``.

        Args:
            value: "0" to "3" for all workers, or "0:3,1:0" by local rank.

        Returns:
            One choice for all, or choices by local rank.

        Raises:
            ValueError: the value is neither.
        """
        if _ONE_CHOICE.match(value):
            return cls(int(value))
        if not _CHOICE_PER_RANK.match(value):
            raise ValueError(
                f"streams must be 0, 1, 2 or 3, or <local rank>:<0-3> with commas, got {value!r}"
            )
        pairs = (pair.split(":") for pair in value.split(","))
        return {int(rank): cls(int(choice)) for rank, choice in pairs}


def to_map(val_or_map: Std | Mapping[int, Std], local_world_size: int) -> dict[int, Std]:
    """Return one choice for each local rank.

    Args:
        val_or_map: one choice for all, or choices by local rank.
        local_world_size: number of workers; ranks not named get `Std.NONE`, ranks beyond it are
            dropped.
    """
    if isinstance(val_or_map, Std):
        return dict.fromkeys(range(local_world_size), val_or_map)
    return {rank: val_or_map.get(rank, Std.NONE) for rank in range(local_world_size)}


def line_prefix(template: str | None, *, role_name: str, rank: int, local_rank: int) -> str:
    """Return what is put before each line of a worker whose stream is teed.

    Args:
        template: text with ``${role_name}``, ``${rank}`` and ``${local_rank}``, other ``$`` are
            kept; ``None`` for "[<role><local rank>]:".
        role_name: the worker's role.
        rank: global rank.
        local_rank: rank on this node.
    """
    if template is None:
        return f"[{role_name}{local_rank}]:"
    return string.Template(template).safe_substitute(
        role_name=role_name, rank=rank, local_rank=local_rank
    )


@dataclass(frozen=True, slots=True)
class LogsDest:
    """Where the streams of the workers of one round go; every map is keyed by local rank.

    A worker's stream is shown on the console unless it has a path in ``stdouts`` (``stderrs``)
    and none in ``tee_stdouts`` (``tee_stderrs``).
    """

    stdouts: dict[int, str] = field(default_factory=dict)
    """File that receives stdout; "" for none, ``/dev/null`` to throw it away."""
    stderrs: dict[int, str] = field(default_factory=dict)
    """File that receives stderr; likewise."""
    tee_stdouts: dict[int, str] = field(default_factory=dict)
    """Of the workers whose stdout is also shown, prefixed: the file, "" to keep none."""
    tee_stderrs: dict[int, str] = field(default_factory=dict)
    """Of the workers whose stderr is also shown, prefixed; likewise."""
    error_files: dict[int, str] = field(default_factory=dict)
    """File a worker may record its error in; "" for none."""
    filtered_stdout: str = ""
    """File for those lines of all workers' stdout that are to be duplicated; "" for none."""
    filtered_stderr: str = ""
    """The same for stderr."""
    folds: bool = False
    """Whether lines that several workers write at about the same time are shown once."""


class LogsSpecs(ABC):
    """What the user wants logged, and how that becomes files in each round.

    Args:
        log_dir: folder for files; ``None`` for none that the user has named.
        redirects: streams written to files and not shown.
        tee: streams shown with a prefix on each line, and written to files.
        local_ranks_filter: the only local ranks whose output is shown; ``None`` or empty for all.
    """

    @abstractmethod
    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        redirects: Std | Mapping[int, Std] = Std.NONE,
        tee: Std | Mapping[int, Std] = Std.NONE,
        local_ranks_filter: Iterable[int] | None = None,
    ) -> None: ...

    @property
    @abstractmethod
    def root_log_dir(self) -> str | None:
        """The folder of this run's logs; ``None`` before the first round, or if none is kept."""

    @property
    def temporary_dir(self) -> str | None:
        """The folder among the temporary files that is ours; ``None``: nothing is kept there.

        Should this process die before `tidy`, somebody else removes what is empty in it.
        """
        return None

    @property
    def descriptors_per_worker(self) -> int:
        """How many the launcher holds open for one worker's output, at most: pipes and files."""
        return 4

    def for_run(self) -> Self:
        """Return what decides for one run alone; itself, unless it remembers another run."""
        return self

    @abstractmethod
    def reify(self, envs: Mapping[int, Mapping[str, str]]) -> LogsDest:
        """Make the folders of the next round and return its paths.

        Args:
            envs: environment of each worker, by local rank.

        Raises:
            NotADirectoryError: a file is where a folder has to be.
            OSError: a folder cannot be made.
        """

    def tidy(self) -> None:  # noqa: B027 -- nothing to do is a sound default
        """Remove what nobody would miss; called after each round, when its workers are gone."""


class DefaultLogsSpecs(LogsSpecs):
    """Files in ``<log_dir>/<run_id>_<random>/attempt_<n>/<local_rank>/``.

    There are ``stdout.log``, ``stderr.log`` and ``error.json``, and beside the ranks
    ``filtered_stdout.log`` and ``filtered_stderr.log``, each only if something goes there; n counts
    the rounds of this object from 0. Nothing with content is ever deleted.

    Args:
        log_dir: folder, made when needed; ``/dev/null`` keeps no file at all. ``None`` keeps no
            file for teed streams; redirected ones and error files go to a new folder among the
            temporary files.
        redirects: streams written to files and not shown.
        tee: streams shown with a prefix on each line, and written to files.
        local_ranks_filter: the only local ranks whose output is shown; ``None`` or empty for all.
        folds: whether a line that several workers write within a moment is shown once, with a note.

    Raises:
        NotADirectoryError: ``log_dir`` is a file.
        ValueError: ``redirects`` or ``tee`` is no choice of streams.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        redirects: Std | Mapping[int, Std] = Std.NONE,
        tee: Std | Mapping[int, Std] = Std.NONE,
        local_ranks_filter: Iterable[int] | None = None,
        *,
        folds: bool = False,
    ) -> None:
        # Whoever asks for the paths later may be in another folder.
        self._log_dir = os.path.abspath(log_dir) if log_dir else None
        self._redirects = _checked("redirects", redirects)
        self._tee = _checked("tee", tee)
        self._shown = frozenset(local_ranks_filter or ())
        self._folds = folds
        self._run_dir: str | None = None
        self._rounds = 0
        self._is_taken = False  # by a run
        if not self._is_discarding and self._log_dir and os.path.isfile(self._log_dir):
            raise NotADirectoryError(f"log_dir must be a folder, {self._log_dir} is a file")

    @property
    def root_log_dir(self) -> str | None:
        """The folder of this run's logs; ``None`` before the first round, or if none is kept."""
        return self._run_dir

    @property
    def temporary_dir(self) -> str | None:
        """The folder made without a ``log_dir``; ``None`` before the first round, or with one."""
        if self._log_dir is not None or self._run_dir is None:
            return None
        return os.path.dirname(self._run_dir)

    @property
    def descriptors_per_worker(self) -> int:
        """A pipe for each stream, and the file it is copied to if it is teed."""
        keeps_file = self._tee != Std.NONE and self._log_dir is not None
        return 4 if keeps_file and not self._is_discarding else 2

    def for_run(self) -> Self:
        """Return itself for the first run, and for each further one a copy with its own folder."""
        if not self._is_taken:
            self._is_taken = True
            return self
        own = copy(self)
        own._run_dir, own._rounds = None, 0
        return own

    def reify(self, envs: Mapping[int, Mapping[str, str]]) -> LogsDest:
        """Make the folders of the next round and return its paths.

        Args:
            envs: environment of each worker, by local rank; the run id is taken from it.

        Raises:
            NotADirectoryError: a file is where a folder has to be.
            OSError: a folder cannot be made.
        """
        size = max(envs, default=-1) + 1
        redirects, tee = to_map(self._redirects, size), to_map(self._tee, size)
        folders = self._make_folders(envs)
        common = os.path.dirname(next(iter(folders.values()), None) or "")
        filtered = [
            os.path.join(common, name) if common else ""
            for name in ("filtered_stdout.log", "filtered_stderr.log")
        ]
        dest = LogsDest(filtered_stdout=filtered[0], filtered_stderr=filtered[1], folds=self._folds)
        streams = (
            (Std.OUT, "stdout.log", dest.stdouts, dest.tee_stdouts),
            (Std.ERR, "stderr.log", dest.stderrs, dest.tee_stderrs),
        )
        for rank, folder in folders.items():
            dest.error_files[rank] = "" if folder is None else os.path.join(folder, "error.json")
            for stream, file_name, paths, teed in streams:
                path = os.devnull if folder is None else os.path.join(folder, file_name)
                is_teed = bool(tee[rank] & stream)
                paths[rank] = self._file_of(
                    path, is_redirected=bool(redirects[rank] & stream), is_teed=is_teed
                )
                if self._shown and rank not in self._shown:
                    paths[rank] = paths[rank] or os.devnull
                elif is_teed:
                    teed[rank] = paths[rank]
        return dest

    def tidy(self) -> None:
        """Remove the empty folders of a run that keeps its files among the temporary ones."""
        if self.temporary_dir is None:
            return
        for folder, _, _ in os.walk(self.temporary_dir, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:  # not empty: somebody's output
                continue

    @property
    def _is_discarding(self) -> bool:
        return self._log_dir == os.devnull

    def _file_of(self, path: str, *, is_redirected: bool, is_teed: bool) -> str:
        """Return the path that a stream is written to, "" for none."""
        if is_teed:
            keeps_file = self._log_dir is not None and not self._is_discarding
            return path if keeps_file else ""
        return path if is_redirected else ""

    def _make_folders(self, envs: Mapping[int, Mapping[str, str]]) -> dict[int, str | None]:
        if self._is_discarding:
            return dict.fromkeys(envs)
        if self._run_dir is None or self._is_tidied():
            self._run_dir = self._make_run_dir(envs)
        attempt = os.path.join(self._run_dir, f"attempt_{self._rounds}")
        self._rounds += 1
        folders: dict[int, str | None] = {rank: os.path.join(attempt, str(rank)) for rank in envs}
        for folder in folders.values():
            if folder is not None:
                os.makedirs(folder, exist_ok=True)
        return folders

    def _is_tidied(self) -> bool:
        """Return whether the folder is gone; nobody else may have made it in the meantime."""
        return self.temporary_dir is not None and not os.path.isdir(self.temporary_dir)

    def _make_run_dir(self, envs: Mapping[int, Mapping[str, str]]) -> str:
        first = next(iter(envs.values()), {})
        run_id = (first.get(_RUN_ID_VARIABLE) or _DEFAULT_RUN_ID).replace(os.sep, "_")
        if self._log_dir is None:
            root = _make_unique(temporary_folder(os.environ), "launcher", mode=0o700)
        else:
            root = self._log_dir
            try:
                os.makedirs(root, exist_ok=True)
            except FileExistsError as error:
                raise NotADirectoryError(f"log_dir must be a folder, {root} is a file") from error
        return _make_unique(root, run_id, mode=0o777)


def _make_unique(parent: str, name: str, mode: int) -> str:
    """Make and return the new folder ``<parent>/<name>_<random>``."""
    path = os.path.join(parent, f"{name}_{os.urandom(6).hex()}")
    os.mkdir(path, mode)
    return path


def _checked(name: str, value: Std | Mapping[int, Std]) -> Std | Mapping[int, Std]:
    """Return a choice of streams; refuse what would fail, or be without effect, much later."""
    ranks: Iterable[object] = value if isinstance(value, Mapping) else ()
    choices: Iterable[object] = value.values() if isinstance(value, Mapping) else (value,)
    is_rank = all(isinstance(rank, int) and rank >= 0 for rank in ranks)
    is_choice = all(isinstance(choice, int) and 0 <= choice <= Std.ALL for choice in choices)
    if not (is_rank and is_choice):
        raise ValueError(
            f"{name}={value!r}: expected Std, or Std by local rank; Std.from_str reads texts"
        )
    return value if isinstance(value, Mapping) else Std(value)
