"""Whether what ended a worker was the end of another one: told by the text of its last exception.

Pure. Loaded by `errors`, only when a worker has failed; the words are asyncrpc's and Python's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ("tells_of_lost_peer",)

_TRACEBACK = "Traceback (most recent call last):"
# What `asyncrpc` raises at those who need a worker that is gone, below the frames that led there.
_LOST_PEER = re.compile(
    r"(?:\A|^[ \t].*\n)(?:(?:asyncrpc\.errors\.)?RemoteError: )?"
    r"(?:asyncrpc\.errors\.)?(?:PeerLostError|OwnerLostError)(?::|$)",
    re.MULTILINE,
)
# How Python shows a group: each of its exceptions below a numbered line, all with a bar.
_PLAIN = re.compile(rf"^{re.escape(_TRACEBACK)}", re.MULTILINE)
_GROUP = re.compile(r"^  \+ Exception Group Traceback", re.MULTILINE)
_GROUP_END = re.compile(r"^ +\+-+$", re.MULTILINE)
_PART = re.compile(r"^ +\+(?:-\+)?-+ (?:\d+|\.{3}) -+$", re.MULTILINE)
_BAR = re.compile(r"^ *\| ?", re.MULTILINE)
_HEAD = re.compile(r"\(\d+ sub-exceptions?\)\s*\Z|^and \d+ more exceptions?$", re.MULTILINE)


def tells_of_lost_peer(text: str) -> bool:
    """Return whether an exception is about a worker that is gone.

    It is asyncrpc's ``PeerLostError`` or ``OwnerLostError``, or a ``RemoteError`` about one, or a
    group of nothing else.

    Args:
        text: as Python shows it; what comes before it, and its own begin, may be cut off.
    """
    plain_at = max((found.start() for found in _PLAIN.finditer(text)), default=-1)
    group_ends_at = max((found.start() for found in _GROUP_END.finditer(text)), default=-1)
    if group_ends_at <= plain_at:
        return _is_lost_peer(text)
    begun_at = max((found.start() for found in _GROUP.finditer(text, 0, group_ends_at)), default=0)
    own = [_is_lost_peer(part) for part in _parts(text[begun_at:group_ends_at])]
    return bool(own) and all(own)


def _is_lost_peer(text: str) -> bool:
    return _LOST_PEER.search(text.rpartition(_TRACEBACK)[2]) is not None


def _parts(group: str) -> Iterator[str]:
    """Yield the exceptions of a group, and of groups in it, each without bars."""
    for part in _PART.split(group):
        text = _BAR.sub("", _GROUP_END.sub("", part)).strip("\n")
        if text.strip() and not _HEAD.search(text):
            yield text
