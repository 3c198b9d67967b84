"""`launcher.environment.hostlist`: Slurm's lists of hosts, written out as Slurm does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.environment.hostlist import expand_hostlist

NAMES = st.text("abcxyz-", min_size=1, max_size=4).map(lambda text: f"n{text}")


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return a range as it stands in brackets, and its numbers."""
    first = draw(st.integers(0, 120))
    size = draw(st.integers(1, 5))
    width = draw(st.integers(1, 4))
    numbers = [f"{number:0{max(width, len(str(first)))}}" for number in range(first, first + size)]
    return (numbers[0] if size == 1 else f"{numbers[0]}-{numbers[-1]}"), numbers


@st.composite
def hosts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return one entry of a list, with at most two brackets, and its names."""
    text, names = draw(NAMES), [""]
    names = [text]
    for _ in range(draw(st.integers(0, 2))):
        parts = draw(st.lists(ranges(), min_size=1, max_size=3))
        numbers = [number for _, found in parts for number in found]
        text += f"[{','.join(shown for shown, _ in parts)}]"
        names = [name + number for name in names for number in numbers]
        if draw(st.booleans()):
            middle = draw(NAMES)
            text += middle
            names = [name + middle for name in names]
    return text, names


@given(st.lists(hosts(), max_size=5))
def test_every_list_is_written_out(entries: list[tuple[str, list[str]]]) -> None:
    """Entries in their order; the last bracket changes first; widths are those of the begins."""
    text = ",".join(shown for shown, _ in entries)

    assert expand_hostlist(text) == [name for _, names in entries for name in names]


@settings(deadline=None)
@given(st.text("n0123456789[]-, x", max_size=20))
def test_no_text_is_too_much(text: str) -> None:
    """It is a list or is refused; never too long, never another error."""
    try:
        names = expand_hostlist(text)
    except ValueError as error:
        assert "host list " in str(error)  # noqa: PT017 -- texts of both kinds come
    else:
        assert len(names) <= 1 << 16
        assert not any(set(name) & set("[], ") for name in names)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("n[3-1]", "ranges such as 01-04"),
        ("n[]", "ranges such as 01-04"),
        ("n[1,]", "ranges such as 01-04"),
        ("n[1-2-3]", "ranges such as 01-04"),
        ("n[a-b]", "ranges such as 01-04"),
        ("n[٣]", "ranges such as 01-04"),
        ("n[1", "names such as node[01-04,7]"),
        ("n1]", "names such as node[01-04,7]"),
        ("n[[1]]", "names such as node[01-04,7]"),
        ("a b", "names such as node[01-04,7]"),
        ("n[0-70000]", "ranges such as 01-04"),
        ("n[0-999][0-999]", "at most 65536 hosts"),
        ("n[1-40000],m[1-40000]", "at most 65536 hosts"),
        (f"n[0-{'9' * 30}]", "ranges such as 01-04"),
    ],
)
def test_a_malformed_list_is_refused(text: str, rule: str) -> None:
    """The message shows the list and the rule."""
    with pytest.raises(ValueError) as caught:
        expand_hostlist(text)

    assert text[:100] in str(caught.value)
    assert rule in str(caught.value)


@pytest.mark.skipif(
    shutil.which("scontrol") is None, reason="needs the program scontrol, of slurm-client"
)
def test_slurm_writes_the_same(tmp_path: Path) -> None:
    """What scontrol prints for lists of each kind is what comes out here."""
    path = tmp_path / "slurm.conf"
    path.write_text(
        "ClusterName=c\nSlurmctldHost=localhost\nNodeName=n1\nPartitionName=p Nodes=n1\n"
    )
    lists = [
        "n[1-2]",
        "n[08-11]",
        "n[9-11]",
        "n[98-102]",
        "n[001-3]",
        "n[8-010]",
        "n[00-2]",
        "n1,,n2,",
        "a,b[1,03],c",
        "a[1-2]b[1-2]",
        "n[0-1]-[0-1]",
        "n[1-3,5,7-8]",
        "n[1-2],n[1-2]",
        "n[1,1]",
        "[1-2]",
        "rack3-gpu[0007-0012,0040],login.example.org",
    ]
    for text in lists:
        shown = subprocess.run(
            ["scontrol", "show", "hostnames", text],
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
            env={"SLURM_CONF": str(path), "PATH": "/usr/bin:/bin"},
        )

        assert expand_hostlist(text) == shown.stdout.split(), text
