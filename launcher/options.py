"""The options of the command line: each declared once, in `OPTIONS`.

Flag, environment variable, rule, default and help all come from there. Pure but for the number of
processors, which ``--nproc-per-node auto`` asks for. `cli` turns options into a `LaunchConfig`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from launcher.config import (
    DEFAULT_SIGNALS,
    START_METHODS,
    to_address,
    to_seconds,
    to_signals,
)
from launcher.hosts import to_hosts

__all__ = ("OPTIONS", "Option", "options_table")

_LAST_PORT = 65535
_SHORT_FORMS = {"module": "-m", "redirects": "-r", "tee": "-t"}


class Option(NamedTuple):
    """One option of the command line, under all its names.

    Args:
        name: the flag's name with dashes, without the leading two: ``nproc-per-node``.
        help: what it does, one sentence or two, lower case.
        parse: turns the text of flag or variable into a value; raises `ValueError` saying what it
            expected. ``None`` makes the option a switch that takes no value.
        default: the text parsed when neither flag nor variable is given; ``None`` means unset.
        metavar: what the help shows for the value.
    """

    name: str
    help: str
    parse: Callable[[str], object] | None = str
    default: str | None = None
    metavar: str = "VALUE"

    @property
    def field(self) -> str:
        """The name of the value in programs and configuration: ``nproc_per_node``."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets it, torchrun's: ``PET_NPROC_PER_NODE``."""
        return "PET_" + self.field.upper()

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling of the flag, the short form first."""
        short = (_SHORT_FORMS[self.name],) if self.name in _SHORT_FORMS else ()
        spellings = dict.fromkeys((f"--{self.name}", f"--{self.field}"))
        return (*short, *spellings)

    def read(self, text: str) -> object:
        """Turn the text of the flag or the variable into the option's value.

        Args:
            text: as the user wrote it; for a switch, the text of its variable.

        Returns:
            The value.

        Raises:
            ValueError: the text breaks the option's rule; the message says what was expected.
        """
        return _switch(text) if self.parse is None else self.parse(text)


def _switch(text: str) -> bool:
    # torchrun takes 0 and 1 alone, and fails on `PET_STANDALONE=true` with a traceback.
    lowered = text.strip().lower()
    if lowered in ("1", "true", "t", "yes", "y", "on"):
        return True
    if lowered in ("", "0", "false", "f", "no", "n", "off"):
        return False
    raise ValueError("expected 1 or 0 (or true, false, yes, no)")


def _integer(text: str, at_least: int) -> int:
    # `str.isdecimal` takes other scripts' digits and `int` takes underscores: neither is meant.
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= at_least:
        return int(text)
    raise ValueError(f"expected an integer, at least {at_least}")


def _from_zero(text: str) -> int:
    return _integer(text, 0)


def _from_one(text: str) -> int:
    return _integer(text, 1)


def _workers(text: str) -> int:
    if text in ("auto", "cpu"):
        return len(os.sched_getaffinity(0))
    try:
        return _integer(text, 1)
    except ValueError:
        raise ValueError("expected an integer, at least 1, or auto or cpu") from None


def _nodes(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    try:
        least = _integer(low, 1)
        most = _integer(high, least) if colon else least
    except ValueError:
        raise ValueError(
            "expected N or MIN:MAX, from 1, MIN not above MAX, such as 2 or 1:4"
        ) from None
    return least, most


def _settings(text: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if part.strip() and not (equals and name.strip() and value.strip()):
            raise ValueError("expected settings such as join_timeout=60,last_call_timeout=5")
        if part.strip():
            found[name.strip()] = value.strip()
    return found


def _span(text: str) -> float:
    try:
        value = to_seconds(text)
    except ValueError:
        value = 0.0
    if value > 0:
        return value
    raise ValueError("expected seconds, above 0")


def _command(text: str) -> tuple[str, ...]:
    import shlex  # noqa: PLC0415 -- only for several hosts

    if not (words := tuple(shlex.split(text))):
        raise ValueError("expected a program, such as ssh, or ssh -p 2222")
    return words


def _address(text: str) -> str:
    to_address(text)
    return text


def _port(text: str) -> int:
    try:
        if (port := _integer(text, 1)) <= _LAST_PORT:
            return port
    except ValueError:
        pass
    raise ValueError(f"expected a port, from 1 to {_LAST_PORT}")


def _ranks(text: str) -> frozenset[int]:
    try:
        return frozenset(_integer(part.strip(), 0) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError("expected local ranks separated by commas, such as 0,2") from None


def _signals(text: str) -> str:
    return ",".join(number.name for number in to_signals(text))


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected text in UTF-8") from None
    return text


def _name(text: str) -> str:
    if text:
        return _text(text)
    raise ValueError("expected a name")


def _texts(text: str) -> tuple[str, ...]:
    # torch's: a comma that is meant is written twice.
    parts = text.replace(",,", "\0").split(",")
    return tuple(part.replace("\0", ",") for part in parts if part)


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in names:
            return text
        raise ValueError(f"expected one of {', '.join(names)}")

    return parse


def _file(text: str) -> str:
    if text:
        return text  # bytes of any kind, as of a folder
    raise ValueError("expected a file")


def _folder(text: str) -> str:
    if text:
        return text  # bytes of any kind: `os.fsencode` knows them
    raise ValueError("expected a folder")


OPTIONS: tuple[Option, ...] = (
    Option(
        name="config",
        help="a TOML file with options under [tool.launcher], their names with underscores, such "
        "as nproc_per_node = 4",
        parse=_file,
        metavar="FILE",
    ),
    Option(
        name="nnodes",
        help="number of nodes, N or MIN:MAX: the run goes on while there are MIN, and grows to MAX",
        parse=_nodes,
        default="1",
        metavar="N",
    ),
    Option(
        name="nproc-per-node",
        help="workers on this node: a number, or auto or cpu for one per usable processor",
        parse=_workers,
        default="1",
        metavar="N",
    ),
    Option(
        name="standalone",
        help="run on this node alone, with a store on a free port (what one node does anyway)",
        parse=None,
    ),
    Option(
        name="rdzv-backend",
        help="how nodes find each other: tcp (or c10d), etcd, static, or a registered name; "
        "default: static if --master-addr or --master-port is given, else tcp",
        parse=_name,
        metavar="NAME",
    ),
    Option(
        name="rdzv-endpoint",
        help="host[:port] of the run's store, the same on every node; the node that can listen "
        "there hosts it; of etcd: its members, with commas; default for one node: a free port of "
        "loopback",
        default="",
        metavar="ADDRESS",
    ),
    Option(
        name="rdzv-id",
        help="name of the run, the same on every node; default: a random one for one node, else "
        "the scheduler's job, else none",
        parse=_text,
        default="",
        metavar="ID",
    ),
    Option(
        name="rdzv-conf",
        help="settings such as join_timeout=60,last_call_timeout=5,join_debounce=0.3",
        parse=_settings,
        default="",
        metavar="SETTINGS",
    ),
    Option(
        name="node-rank",
        help="rank of this node, kept in every round of that many nodes; default: by host name, "
        "0 with static",
        parse=_from_zero,
        metavar="RANK",
    ),
    Option(
        name="expect-nodes",
        help="number of nodes that the first round waits for and no longer; default: the MAX of "
        "--nnodes",
        parse=_from_one,
        metavar="N",
    ),
    Option(
        name="master-addr",
        help="where rank 0 of the workers listens; selects static; default: 127.0.0.1",
        parse=_name,
        metavar="HOST",
    ),
    Option(
        name="master-port",
        help="the port it listens on; several nodes meet at the next one; default: 29500",
        parse=_port,
        metavar="PORT",
    ),
    Option(
        name="torch-store",
        help="serve torch's store at MASTER_ADDR:MASTER_PORT from this launcher, instead of from "
        "rank 0 of the workers; without authentication, as torch's own",
        parse=None,
    ),
    Option(
        name="hosts",
        help="start a node on each of these hosts by ssh, with so many workers each; the launcher "
        "and the script lie at the same paths there",
        parse=to_hosts,
        metavar="a:4,b:4",
    ),
    Option(
        name="ssh",
        help="the program that reaches the hosts of --hosts, with options of its own",
        parse=_command,
        default="ssh",
        metavar="COMMAND",
    ),
    Option(
        name="local-addr",
        help="where other nodes reach this one; default: the address it reaches the store from",
        parse=_name,
        metavar="HOST",
    ),
    Option(
        name="environment",
        help="the scheduler to ask for nodes, rank, endpoint and run: slurm, mpi, kubernetes, or "
        "an entry point of the group launcher.environment; default: the one that started this",
        parse=_name,
        metavar="NAME",
    ),
    Option(name="no-detect", help="ask no scheduler", parse=None),
    Option("role", "what the workers are; they read it as ROLE_NAME", _name, "default", "NAME"),
    Option(
        name="max-restarts",
        help="how often the run may be restarted after failures, on all nodes together",
        parse=_from_zero,
        default="0",
        metavar="N",
    ),
    Option(
        name="restart-window",
        help="seconds after which a restart no longer counts; default: it always counts",
        parse=_span,
        metavar="SECONDS",
    ),
    Option(
        name="restart-backoff",
        help="seconds to wait before a restart after a failure, twice as long for each further "
        "one, up to a minute",
        parse=to_seconds,
        default="0",
        metavar="SECONDS",
    ),
    Option(
        name="shutdown-timeout",
        help="seconds between the signal that stops the workers and SIGKILL; 0 kills at once; "
        "default: $TORCH_ELASTIC_SHUTDOWN_TIMEOUT, else 30",
        parse=to_seconds,
        metavar="SECONDS",
    ),
    Option(
        name="signals-to-handle",
        help="signals that stop the run in order, forwarded to the workers",
        parse=_signals,
        default=DEFAULT_SIGNALS,
        metavar="NAMES",
    ),
    Option(
        name="forward-signals",
        help="signals that are passed on to the workers and stop nothing, such as USR1,USR2",
        parse=_signals,
        default="",
        metavar="NAMES",
    ),
    Option(
        name="preempt-signals",
        help="signals that say that this node has to go: workers prepare for it (see "
        "launcher.preemption), the node leaves the run, and the exit status is 85; default: what "
        "the scheduler sends",
        parse=_signals,
        default="",
        metavar="NAMES",
    ),
    Option(
        name="preempt-notice",
        help="seconds from such a signal to the end of the node",
        parse=_span,
        default="60",
        metavar="SECONDS",
    ),
    Option(
        name="stdin",
        help="local rank that gets the launcher's standard input; default: 0 if it is the only one",
        parse=_from_zero,
        metavar="RANK",
    ),
    Option(name="module", help="run a module, as `python -m` does", parse=None),
    Option(name="no-python", help="run a program, not a Python script", parse=None),
    Option(
        name="run-path",
        help="run the script inside workers that are started as --start-method says",
        parse=None,
    ),
    Option(
        name="start-method",
        help="how workers are started with --run-path: spawn, fork or forkserver",
        parse=_one_of(*START_METHODS),
        default="spawn",
        metavar="METHOD",
    ),
    Option(
        name="log-dir",
        help="directory for the logs of the run; /dev/null keeps none",
        parse=_folder,
        metavar="DIR",
    ),
    Option(
        name="redirects",
        help="write output to files instead of the console: 0 none, 1 stdout, 2 stderr, 3 both, "
        "for all workers or by local rank, such as 0:3,1:2",
        default="0",
        metavar="STD",
    ),
    Option(
        name="tee",
        help="prefix output on the console and write it to files as well; values as for -r",
        default="0",
        metavar="STD",
    ),
    Option(
        name="local-ranks-filter",
        help="local ranks whose output reaches the console, such as 0,2; default: all",
        parse=_ranks,
        default="",
        metavar="RANKS",
    ),
    Option(
        name="duplicate-stdout-filters",
        help="copy lines of stdout with any of these texts, separated by commas, to one "
        "filtered_stdout.log for all workers; ,, is a comma",
        parse=_texts,
        default="",
        metavar="TEXTS",
    ),
    Option(
        name="duplicate-stderr-filters",
        help="the same for stderr and filtered_stderr.log",
        parse=_texts,
        default="",
        metavar="TEXTS",
    ),
    Option(
        name="logs-specs",
        help="what decides where logs go: an entry point of the group launcher.logs_specs",
        parse=_name,
        metavar="NAME",
    ),
    Option(
        name="numa-binding",
        help="bind workers to processors: node, socket, exclusive or core-complex",
        parse=_one_of("node", "socket", "exclusive", "core-complex"),
        metavar="MODE",
    ),
    Option(
        name="virtual-local-rank",
        help="give every worker LOCAL_RANK=0, and in CUDA_VISIBLE_DEVICES its own device only",
        parse=None,
    ),
    Option(
        name="monitor-interval",
        help="seconds; accepted for callers of torchrun: nothing here waits for a next look",
        parse=_span,
        default="0.1",
        metavar="SECONDS",
    ),
    Option(
        name="health-port",
        help="the port, or HOST:PORT, to serve /healthz, /status and /metrics at by HTTP, on "
        "loopback unless HOST is given; default: $TORCHELASTIC_HEALTH_CHECK_PORT, else they are "
        "not served",
        parse=_address,
        metavar="PORT",
    ),
    Option(
        name="event-log-handler",
        help="where events of the run go: null, console (JSON lines on stderr), file:PATH (at its "
        "end) or a registered handler",
        parse=_name,
        default="null",
        metavar="NAME",
    ),
)


def options_table() -> str:
    """Return the options as a table of Markdown, for those who come from torchrun."""
    lines = ["| option | variable | default | meaning |", "|---|---|---|---|"]
    for option in OPTIONS:
        flags = ", ".join(f"`{flag}`" for flag in option.flags if "_" not in flag)
        default = f"`{option.default}`" if option.default else ""
        meaning = option.help.replace("|", "\\|")
        lines.append(f"| {flags} | `{option.variable}` | {default} | {meaning} |")
    return "\n".join(lines)
