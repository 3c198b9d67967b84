"""Slurm's lists of hosts, such as ``node[01-04,7],login``, written out. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import product

__all__ = ("expand_hostlist",)

_MOST_HOSTS = 1 << 16  # Slurm's own limit
_NAME = re.compile(r"(?:[^,\[\]\s]|\[[^\[\]]*\])+(?=,|$)")
_PIECE = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


def expand_hostlist(text: str) -> list[str]:
    """Write out a list of hosts, as ``scontrol show hostnames`` does.

    Args:
        text: names separated by commas; brackets hold numbers and ranges, where the digits of a
            range's begin say how many digits the numbers have at least.

    Returns:
        The names in their order, repeated ones too.

    Raises:
        ValueError: the list is malformed, or has more than 65536 hosts.
    """
    hosts: list[str] = []
    for name in _split(text):
        choices = [_choices(piece, text) for piece in _PIECE.finditer(name)]
        if len(hosts) + math.prod(map(len, choices)) > _MOST_HOSTS:
            raise ValueError(_refusal(text, f"at most {_MOST_HOSTS} hosts"))
        hosts += map("".join, product(*choices))
    return hosts


def _split(text: str) -> Iterator[str]:
    """Yield the names, brackets included."""
    rest = text
    while rest := rest.lstrip(","):  # Slurm passes over empty names
        match = _NAME.match(rest)
        if match is None:
            raise ValueError(_refusal(text, "names such as node[01-04,7]"))
        yield match.group()
        rest = rest[match.end() :]


def _choices(piece: re.Match[str], text: str) -> list[str]:
    inside, plain = piece.groups()
    if plain is not None:
        return [plain]
    numbers: list[str] = []
    for part in inside.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        size = int(last) - int(first) + 1
        if not 0 < size <= _MOST_HOSTS:
            raise ValueError(_refusal(text, "ranges such as 01-04 in brackets"))
        numbers += (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    return numbers


def _refusal(text: str, rule: str) -> str:
    return f"host list {text!r:.100}: expected {rule}"
