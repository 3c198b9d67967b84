"""The words of the command line and its help: argparse, made of the options.

What they mean is for `commandline`, its only caller. Loads nothing slow but argparse.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

from launcher.errors import UsageError
from launcher.options import OPTIONS

__all__ = ("HELP_HINT", "make_parser", "nearest_option", "print_and_exit")

HELP_HINT = "python -m launcher --help lists the options"
"""What to do when a command line is not understood."""

_DISTRIBUTION = "asyncrpc"
_QUESTIONS = ("--help", "--version", "--print-config", "--print-completion")
_WIDTH = 100
_DESCRIPTION = """\
Start workers on this machine, watch over them, and start them all again when one fails.

Every worker learns who it is from its environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ...):
scripts written for torchrun run unchanged, and asyncrpc.init_rpc() needs no arguments.
"""
_EPILOG = """\
Options may be written with underscores for dashes. The variable in brackets sets an option that is
not given; where neither is, the file counts that --config names, such as pyproject.toml. What
follows the script is handed to it unchanged.

exit status:
  0 when every worker succeeded; else that of the worker that failed first, 128+N if signal N ended
  it; 2 for a usage error; 85 when the node had to go and wants to be started again; 128+N when the
  launcher itself was told to stop by signal N

commands, instead of a script (one of such a name is given as ./status):
  python -m launcher status [RUN] [--json]                  show the launches on this machine
  python -m launcher logs [RUN] [--rank RANK] [--follow]    show the log files of one
  python -m launcher stop [RUN]                             end one, as SIGTERM does
  python -m launcher k8s render --help                      make a manifest for Kubernetes

examples:
  python -m launcher --nproc-per-node 4 train.py --epochs 3
  python -m launcher --nproc-per-node auto -t 3 --log-dir logs -m package.train
  python -m launcher --nproc-per-node 2 --no-python bash -c 'echo rank $RANK of $WORLD_SIZE'
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of options, questions and script; its mistakes are `UsageError`s."""
    parser = _Parser(
        prog="python -m launcher",
        usage="python -m launcher [options] script [args ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,  # an abbreviation breaks when an option is added
    )
    for option in OPTIONS:
        shown = f" (default: {option.default})" if option.default else ""
        text = f"{option.help}{shown} [{option.variable}]"
        extra: dict[str, Any] = {"metavar": option.metavar}
        if option.parse is None:
            extra = {"action": "store_const", "const": "1"}
        parser.add_argument(
            *option.flags, dest=option.field, default=None, help=text.replace("%", "%%"), **extra
        )
    _add_questions(parser)
    command = parser.add_argument(
        "command",
        nargs=argparse.PARSER,  # one word, then everything after it, options and -- included
        metavar="script",
        help="what every worker runs: a Python script, or a module or program by -m, --no-python",
    )
    command.required = False  # `parse` misses it, so that a mistyped option is told first
    return parser


def nearest_option(words: Iterable[str]) -> str:
    """Return the option that was probably meant; "" if none is near.

    Args:
        words: of the command line, those that nobody knows.
    """
    from difflib import get_close_matches  # noqa: PLC0415 -- for a mistake only

    known = [*(f"--{option.name}" for option in OPTIONS), *_QUESTIONS]
    mistyped = next((word for word in words if word.startswith("--") and len(word) > 2), "")
    flag = mistyped.partition("=")[0].replace("_", "-").lower()
    begun = [name for name in known if flag and name.startswith(flag)]
    return begun[0] if len(begun) == 1 else next(iter(get_close_matches(flag, known, 1)), "")


def print_and_exit(text: str) -> NoReturn:
    """Answer a question of the command line, which then starts nothing.

    Args:
        text: the answer, for stdout.

    Raises:
        SystemExit: always, with status 0.
    """
    print(text)  # noqa: T201 -- a command line talks
    raise SystemExit(0)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows one spelling of each option; the other differs by underscores only."""

    def __init__(self, prog: str) -> None:
        # Left to itself, argparse loads shutil to ask for the width, once per option.
        super().__init__(prog, width=_WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = [flag for flag in action.option_strings if "_" not in flag]
        if not shown:
            return super()._format_action_invocation(action)
        value = f" {action.metavar}" if action.nargs != 0 else ""
        return ", ".join(shown) + value


class _Parser(argparse.ArgumentParser):
    """Reports errors as ours do: one line, without the usage block."""

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        raise UsageError(
            text.replace("ignored explicit argument", "expected no value, got", 1), HELP_HINT
        )


def _add_questions(parser: argparse.ArgumentParser) -> None:
    """Add the options that print something instead of launching."""
    parser.add_argument(
        "--version", action=_PrintVersion, nargs=0, help="print the version, and exit"
    )
    parser.add_argument(
        "--print-config",
        "--print_config",
        action="store_true",
        help="print what each option is set to and by what, as a file for --config, and exit",
    )
    parser.add_argument(
        "--print-completion",
        "--print_completion",
        action=_PrintCompletion,
        metavar="SHELL",
        help="print a completion script for bash, zsh or tcsh, and exit; needs the extra "
        "asyncrpc[completion]",
    )


class _PrintVersion(argparse.Action):
    """Prints the version as soon as it is met, as help does."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        _values: Any,
        _option: str | None = None,
    ) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 -- slow

        try:
            print_and_exit(f"launcher {version(_DISTRIBUTION)}")
        except PackageNotFoundError:
            print_and_exit("launcher, of a source tree that is not installed")


class _PrintCompletion(argparse.Action):
    """Prints the completion of a shell as soon as it is met, as help does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        values: Any,
        _option: str | None = None,
    ) -> NoReturn:
        try:
            import shtab  # noqa: PLC0415 -- an extra
        except ImportError:
            raise UsageError(
                "--print-completion: expected the extra: pip install asyncrpc[completion]"
            ) from None
        if values not in shtab.SUPPORTED_SHELLS:
            shells = ", ".join(shtab.SUPPORTED_SHELLS)
            raise UsageError(f"--print-completion={values}: expected one of {shells}")
        parser.prog = "launcher"
        print_and_exit(shtab.complete(parser, values))
