"""`launcher.options`: each option's names and rule."""

from __future__ import annotations

import os

import pytest

from launcher.options import OPTIONS, Option


def option(name: str) -> Option:
    """Return the option of that name."""
    return next(option for option in OPTIONS if option.name == name)


def test_an_option_has_both_spellings_and_torchruns_variable() -> None:
    """Flag and variable follow from the one name that is declared."""
    nproc = option("nproc-per-node")

    assert nproc.flags == ("--nproc-per-node", "--nproc_per_node")
    assert nproc.variable == "PET_NPROC_PER_NODE"


def test_short_forms_are_torchruns() -> None:
    """-m, -r and -t mean what they mean to torchrun."""
    shorts = {flag: o.name for o in OPTIONS for flag in o.flags if not flag.startswith("--")}

    assert shorts == {"-m": "module", "-r": "redirects", "-t": "tee"}


def test_names_of_options_are_unique() -> None:
    """No flag belongs to two options."""
    flags = [flag for option in OPTIONS for flag in option.flags]

    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_defaults_keep_their_own_rule(option: Option) -> None:
    """What is written as default can be parsed."""
    if option.default is not None:
        option.read(option.default)

    assert option.help[0].islower()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("nproc-per-node", "3", 3),
        ("nproc-per-node", "auto", len(os.sched_getaffinity(0))),
        ("nproc-per-node", "cpu", len(os.sched_getaffinity(0))),
        ("nnodes", "1:1", (1, 1)),
        ("nnodes", "3", (3, 3)),
        ("nnodes", "1:4", (1, 4)),
        ("rdzv-conf", "", {}),
        ("rdzv-conf", "join_timeout=60, rank=1,", {"join_timeout": "60", "rank": "1"}),
        ("node-rank", "0", 0),
        ("expect-nodes", "2", 2),
        ("master-port", "29500", 29500),
        ("restart-window", "0.5", 0.5),
        ("max-restarts", "0", 0),
        ("shutdown-timeout", "0", 0.0),
        ("shutdown-timeout", "1.5", 1.5),
        ("local-ranks-filter", "2,0", frozenset({0, 2})),
        ("local-ranks-filter", "", frozenset()),
        ("signals-to-handle", "sigterm, INT", "SIGTERM,SIGINT"),
        ("signals-to-handle", "x, INT", "SIGINT,x"),
        ("standalone", "1", True),
        ("standalone", "true", True),
        ("standalone", "0", False),
    ],
)
def test_an_option_reads_what_its_rule_allows(name: str, text: str, expected: object) -> None:
    """Text becomes a value."""
    assert option(name).read(text) == expected


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("nproc-per-node", "0", "an integer, at least 1, or auto or cpu"),
        ("nproc-per-node", "-1", "an integer, at least 1"),
        ("nproc-per-node", "two", "an integer"),
        ("nproc-per-node", "1_0", "an integer"),
        ("nproc-per-node", "", "an integer"),
        ("nproc-per-node", "gpu", "auto or cpu"),
        ("nproc-per-node", "9" * 5000, "an integer"),
        ("nnodes", "0", "expected N or MIN:MAX"),
        ("nnodes", "2:1", "expected N or MIN:MAX"),
        ("nnodes", "1:", "expected N or MIN:MAX"),
        ("nnodes", "1:2:3", "expected N or MIN:MAX"),
        ("rdzv-conf", "join_timeout", "expected settings such as"),
        ("rdzv-conf", "=1", "expected settings such as"),
        ("rdzv-conf", "rank=", "expected settings such as"),
        ("master-port", "65536", "expected a port, from 1 to 65535"),
        ("restart-window", "0", "expected seconds, above 0"),
        ("max-restarts", "-1", "an integer, at least 0"),
        ("shutdown-timeout", "-1", "seconds, at least 0"),
        ("shutdown-timeout", "nan", "seconds, at least 0"),
        ("shutdown-timeout", "inf", "seconds, at least 0"),
        ("shutdown-timeout", "soon", "seconds, at least 0"),
        ("local-ranks-filter", "0,x", "local ranks"),
        ("forward-signals", "SIGBOGUS", "'SIGBOGUS' is none"),
        ("signals-to-handle", "SIGKILL", "SIGKILL cannot"),
        ("standalone", "maybe", "expected 1 or 0"),
        ("role", "", "a name"),
        ("role", "\udcff", "text in UTF-8"),
        ("rdzv-id", "\udcff", "text in UTF-8"),
        ("stdin", "-1", "an integer, at least 0"),
    ],
)
def test_an_option_says_what_it_expected(name: str, text: str, rule: str) -> None:
    """A text that breaks the rule is refused with the rule."""
    with pytest.raises(ValueError, match="expected") as caught:
        option(name).read(text)

    assert rule in str(caught.value)
