"""The command ``k8s render``: reads and checks its arguments, prints the manifest.

What follows ``--`` is a launch like any other and is checked as such. Called by `cli`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from launcher.commandline import parse
from launcher.errors import UsageError
from launcher.kubernetes.manifest import Deployment, render

__all__ = ("run_k8s",)

_USAGE = """\
python -m launcher k8s render --name NAME --image IMAGE [options] -- [launch options] script ..."""
_HINT = "python -m launcher k8s render --help lists the options"
_SERVICE = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_LONGEST_LABEL, _LONGEST_SUBDOMAIN = 63, 253
_MOST_NODES = 100_000  # the API server's limit of an Indexed Job
_LEAST_GRACE = 10  # seconds; below, there is no time to prepare for the end in


def run_k8s(argv: Sequence[str]) -> int:
    """Carry out the command.

    Args:
        argv: its arguments.

    Returns:
        The exit status.

    Raises:
        UsageError: an argument breaks its rule.
    """
    if argv[:1] != ["render"] and argv[:1] not in (["--help"], ["-h"]):
        given = " ".join(("k8s", *argv[:1]))
        raise UsageError(f"{given}: expected k8s render", _HINT)
    own, launch = _split(argv[argv[:1] == ["render"] :])
    options = vars(_parser().parse_args(own))
    deployment = _deployment(options, launch)
    print(render(deployment), end="")  # noqa: T201 -- a command line talks
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports errors as the launcher does: one line, without the usage block."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"k8s render: {message.removeprefix('argument ')}", _HINT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m launcher k8s render",
        usage=_USAGE,
        description="Print what a launch is in Kubernetes: a Service and an Indexed Job, one pod "
        "for each node of --nnodes. What follows -- is the launch, as on any machine: no "
        "--rdzv-endpoint and no --node-rank are needed.",
        allow_abbrev=False,
    )
    parser.add_argument("--name", required=True, help="of the Job and its Service")
    parser.add_argument("--image", required=True, help="has Python, asyncrpc and the script")
    parser.add_argument("--namespace", default="", help="default: where it is applied")
    parser.add_argument("--jobset", action="store_true", help="print a JobSet instead")
    parser.add_argument(
        "--secret", metavar="NAME", help="Secret with the key secret; default: NAME-asyncrpc"
    )
    parser.add_argument(
        "--grace", default="60", metavar="SECONDS", help="from SIGTERM to SIGKILL; default: 60"
    )
    parser.add_argument(
        "--retries",
        default="3",
        metavar="N",
        help="how often a pod that failed is started again (of a JobSet, all of them); default: 3",
    )
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return our arguments, and those of the launch."""
    own = list(argv)
    if "--" not in own:
        return own, []
    at = own.index("--")
    return own[:at], own[at + 1 :]


def _deployment(options: dict[str, Any], launch: list[str]) -> Deployment:
    if not launch:
        raise UsageError("k8s render: expected -- and what to launch, such as -- train.py", _HINT)
    asked = parse(launch, {})
    if asked.fleet is not None:
        hosts = ",".join(host.name for host in asked.fleet.hosts)
        raise UsageError(f"--hosts={hosts}: expected without k8s render, whose pods are the hosts")
    for option in asked.of_one_node:
        raise UsageError(f"{option}: expected without k8s render, whose pods are a node each")
    config = asked.config
    if config.max_nodes > _MOST_NODES:
        raise UsageError(f"--nnodes={config.max_nodes}: expected at most {_MOST_NODES} pods")
    longest = _LONGEST_LABEL - len(f"-node-0-{config.max_nodes - 1}")  # names of hosts, at most
    name = _name("--name", options["name"], _SERVICE, longest)
    secret = options["secret"] or f"{name}-asyncrpc"
    namespace = options["namespace"]
    deployment = Deployment(
        name=name,
        image=_image(options["image"]),
        command=[_text(argument) for argument in launch],
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        secret=_name("--secret", secret, _SUBDOMAIN, _LONGEST_SUBDOMAIN),
        namespace=namespace and _name("--namespace", namespace, _LABEL, _LONGEST_LABEL),
        grace=_integer("--grace", options["grace"], _LEAST_GRACE),
        retries=_integer("--retries", options["retries"], 0),
        is_jobset=options["jobset"],
    )
    _check_notice(launch, deployment)
    return deployment


def _check_notice(launch: list[str], deployment: Deployment) -> None:
    """Refuse a launch that would prepare for longer than its pod lives."""
    there = parse(launch, {"PET_PREEMPT_NOTICE": str(deployment.notice)})
    notice = there.config.preempt_notice
    if notice > deployment.grace:
        raise UsageError(
            f"--preempt-notice={notice:g}: expected at most --grace={deployment.grace}, "
            "after which Kubernetes kills the pod"
        )


def _name(option: str, text: str, pattern: re.Pattern[str], longest: int) -> str:
    if pattern.fullmatch(text) and len(text) <= longest:
        return text
    first = ", a letter first" if pattern is _SERVICE else ""
    raise UsageError(
        f"{option}={text}: expected lower-case letters, digits and inner dashes{first}, "
        f"at most {longest} characters"
    )


def _image(text: str) -> str:
    if text and _text(text).isprintable() and " " not in text:
        return text
    raise UsageError(f"--image={text}: expected the name of an image")


def _integer(option: str, text: str, at_least: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= at_least:
        return int(text)
    raise UsageError(f"{option}={text}: expected an integer, at least {at_least}")


def _text(argument: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{argument!r}: expected text in UTF-8") from None
    return argument
