"""`launcher.hosts`: what --hosts means, and the command line of each of them."""

from __future__ import annotations

import pytest

from launcher.commandline import parse
from launcher.errors import UsageError
from launcher.hosts import Fleet, Host, to_hosts


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a:4,b:2", (Host("a", 4), Host("b", 2))),
        ("a, me@b:1", (Host("a", None), Host("me@b", 1))),
        ("[fd00::1]:2,[fd00::2]", (Host("fd00::1", 2), Host("fd00::2", None))),
    ],
)
def test_hosts_are_read(text: str, hosts: tuple[Host, ...]) -> None:
    """With workers or without, by name or by address."""
    assert to_hosts(text) == hosts


@pytest.mark.parametrize(
    "text", ["", " ", "a:0", "a:x", ",", "a,", ":4", "-oProxyCommand=x:1", "a b:1", "a,a:2"]
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """Above all what ssh would take for an option."""
    with pytest.raises(ValueError, match="expected"):
        to_hosts(text)


def fleet(*argv: str, **environ: str) -> Fleet:
    """Return what a command line asks for."""
    found = parse(argv, environ).fleet
    assert found is not None
    return found


def test_each_host_gets_what_the_user_set() -> None:
    """By whatever it was set, but the options that are for this host alone."""
    asked = fleet(
        *(
            "--hosts=a:4,b:2",
            "--ssh=ssh -p 22",
            "--max_restarts",
            "3",
            "-m",
            "--",
            "train",
            "--x",
            "--",
        ),
        PET_ROLE="trainer",
    )

    assert asked.ssh == ("ssh", "-p", "22")
    arguments = asked.arguments(1, "h:1", "r")
    assert arguments[:4] == [
        "--rdzv-id=r",
        "--nnodes=2",
        "--rdzv-endpoint=h:1",
        "--nproc-per-node=2",
    ]
    assert sorted(arguments[4:7]) == ["--max-restarts=3", "--module", "--role=trainer"]
    assert arguments[7:] == ["--node-rank=1", "--no-detect", "train", "--x", "--"]


def test_what_the_user_says_of_the_nodes_counts() -> None:
    """How few are enough, and where they meet; one host alone meets nobody."""
    asked = fleet(
        "--hosts=a,b", "--nnodes=1:2", "--rdzv-endpoint=x:1", "--nproc-per-node=3", "t.py"
    )
    alone = fleet("--hosts=a:1", "t.py")

    assert asked.min_nodes == 1
    arguments = asked.arguments(0, "h:1", "r")
    assert arguments[:2] == ["--rdzv-id=r", "--nnodes=2"], "the last of several counts"
    assert sorted(arguments[2:5]) == [
        "--nnodes=1:2",
        "--nproc-per-node=3",
        "--rdzv-endpoint=x:1",
    ]
    assert arguments[5:] == ["--node-rank=0", "--no-detect", "t.py"]
    assert "--rdzv-endpoint=h:1" not in asked.arguments(0, "h:1", "r")
    assert not [option for option in alone.arguments(0, "h:1", "r") if "endpoint" in option]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--hosts=a:x"], "--hosts=a:x: expected hosts such as a:4,b:4"),
        (["--hosts=a", "--node-rank=0"], "--node-rank: expected without --hosts=a"),
        (["--hosts=a", "--standalone"], "--standalone: expected without --hosts=a"),
        (["--hosts=a:1", "--nproc-per-node=2"], "--nproc-per-node: expected without --hosts=a:1"),
        (["--hosts=a,b", "--nnodes=3"], "--nnodes=3: expected at most 2, as --hosts=a,b"),
        (["--hosts=a", "--ssh= "], "--ssh= : expected a program"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: list[str], text: str) -> None:
    """Named as the user wrote them."""
    with pytest.raises(UsageError) as caught:
        parse([*options, "t.py"], {})

    assert str(caught.value).startswith(text)
