"""The options of the command line: each declared once, in `OPTIONS`.

Flag, environment variable, rule, default and help all come from there; what texts mean is said in
`rules`. `commandline` turns options into a `LaunchConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from launcher.config import DEFAULT_SIGNALS, START_METHODS
from launcher.rules import (
    catchable_signals,
    filled,
    integer_from,
    one_of,
    to_name,
    to_nodes,
    to_port,
    to_ranks,
    to_seconds,
    to_settings,
    to_span,
    to_text,
    to_texts,
    to_truth,
    to_words,
    to_workers,
    valid_address,
    valid_signals,
)

__all__ = ("OPTIONS", "Option", "options_table")

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
        return to_truth(text) if self.parse is None else self.parse(text)


def _to_hosts(text: str) -> object:
    from launcher.hosts import to_hosts  # noqa: PLC0415 -- only for several hosts

    return to_hosts(text)


OPTIONS: tuple[Option, ...] = (
    Option(
        name="config",
        help="a TOML file with options under [tool.launcher], their names with underscores, such "
        "as nproc_per_node = 4",
        parse=filled("a file"),
        metavar="FILE",
    ),
    Option(
        name="nnodes",
        help="number of nodes, N or MIN:MAX: the run goes on while there are MIN, and grows to MAX",
        parse=to_nodes,
        default="1",
        metavar="N",
    ),
    Option(
        name="nproc-per-node",
        help="workers on this node: a number, or auto or cpu for one per usable processor",
        parse=to_workers,
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
        help="how nodes find each other: tcp (or c10d), etcd, static, or an entry "
        "point of the group launcher.rendezvous or torchrun.handlers; "
        "default: static if --master-addr or --master-port is given, else tcp",
        parse=to_name,
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
        parse=to_text,
        default="",
        metavar="ID",
    ),
    Option(
        name="rdzv-conf",
        help="settings such as join_timeout=60,last_call_timeout=5,join_debounce=0.3",
        parse=to_settings,
        default="",
        metavar="SETTINGS",
    ),
    Option(
        name="node-rank",
        help="rank of this node, kept in every round of that many nodes; default: by host name, "
        "0 with static",
        parse=integer_from(0),
        metavar="RANK",
    ),
    Option(
        name="expect-nodes",
        help="number of nodes that the first round waits for and no longer; default: the MAX of "
        "--nnodes",
        parse=integer_from(1),
        metavar="N",
    ),
    Option(
        name="master-addr",
        help="where rank 0 of the workers listens; selects static; default: 127.0.0.1",
        parse=to_name,
        metavar="HOST",
    ),
    Option(
        name="master-port",
        help="the port it listens on; several nodes meet at the next one; default: 29500",
        parse=to_port,
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
        parse=_to_hosts,
        metavar="a:4,b:4",
    ),
    Option(
        name="ssh",
        help="the program that reaches the hosts of --hosts, with options of its own",
        parse=to_words,
        default="ssh",
        metavar="COMMAND",
    ),
    Option(
        name="local-addr",
        help="where other nodes reach this one; default: the address it reaches the store from",
        parse=to_name,
        metavar="HOST",
    ),
    Option(
        name="environment",
        help="the scheduler to ask for nodes, rank, endpoint and run: slurm, mpi, kubernetes, or "
        "an entry point of the group launcher.environment; default: the one that started this",
        parse=to_name,
        metavar="NAME",
    ),
    Option(name="no-detect", help="ask no scheduler", parse=None),
    Option("role", "what the workers are; they read it as ROLE_NAME", to_name, "default", "NAME"),
    Option(
        name="max-restarts",
        help="how often the run may be restarted after failures, on all nodes together",
        parse=integer_from(0),
        default="0",
        metavar="N",
    ),
    Option(
        name="restart-window",
        help="seconds after which a restart no longer counts; default: it always counts",
        parse=to_span,
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
        parse=catchable_signals,
        default=DEFAULT_SIGNALS,
        metavar="NAMES",
    ),
    Option(
        name="forward-signals",
        help="signals that are passed on to the workers and stop nothing, such as USR1,USR2",
        parse=valid_signals,
        default="",
        metavar="NAMES",
    ),
    Option(
        name="preempt-signals",
        help="signals that say that this node has to go: workers prepare for it (see "
        "launcher.preemption), the node leaves the run, and the exit status is 85; default: what "
        "the scheduler sends",
        parse=valid_signals,
        default="",
        metavar="NAMES",
    ),
    Option(
        name="preempt-notice",
        help="seconds from such a signal to the end of the node",
        parse=to_span,
        default="60",
        metavar="SECONDS",
    ),
    Option(
        name="stdin",
        help="local rank that gets the launcher's standard input; default: 0 if it is the only one",
        parse=integer_from(0),
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
        parse=one_of(*START_METHODS),
        default="spawn",
        metavar="METHOD",
    ),
    Option(
        name="log-dir",
        help="directory for the logs of the run; /dev/null keeps none",
        parse=filled("a folder"),
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
        help="prefix output on the console and write it to files as well; values as for -r; "
        "$TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE says with what",
        default="0",
        metavar="STD",
    ),
    Option(
        name="fold",
        help="show a line that several workers write within 0.3 s once, with how many and which "
        "local ranks wrote it; files have them all",
        parse=None,
    ),
    Option(
        name="local-ranks-filter",
        help="local ranks whose output reaches the console, such as 0,2; default: all",
        parse=to_ranks,
        default="",
        metavar="RANKS",
    ),
    Option(
        name="duplicate-stdout-filters",
        help="copy lines of stdout with any of these texts, separated by commas, to one "
        "filtered_stdout.log for all workers; ,, is a comma",
        parse=to_texts,
        default="",
        metavar="TEXTS",
    ),
    Option(
        name="duplicate-stderr-filters",
        help="the same for stderr and filtered_stderr.log",
        parse=to_texts,
        default="",
        metavar="TEXTS",
    ),
    Option(
        name="logs-specs",
        help="what decides where logs go: an entry point of the group launcher.logs_specs",
        parse=to_name,
        metavar="NAME",
    ),
    Option(
        name="numa-binding",
        help="bind workers to processors: node, socket, exclusive or core-complex",
        parse=one_of("node", "socket", "exclusive", "core-complex"),
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
        parse=to_span,
        default="0.1",
        metavar="SECONDS",
    ),
    Option(
        name="health-port",
        help="the port, or HOST:PORT, to serve /healthz, /status and /metrics at by HTTP, on "
        "loopback unless HOST is given; default: $TORCHELASTIC_HEALTH_CHECK_PORT, else they are "
        "not served",
        parse=valid_address,
        metavar="PORT",
    ),
    Option(
        name="event-log-handler",
        help="where events of the run go: null, console (JSON lines on stderr), file:PATH (at its "
        "end) or a registered handler",
        parse=to_name,
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
