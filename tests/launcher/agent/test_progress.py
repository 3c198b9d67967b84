"""`launcher.agent.progress`: a line that changes on terminals, lines elsewhere."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest

from launcher.agent.progress import telling_progress
from launcher.errors import RendezvousConnectionError

pytestmark = pytest.mark.asyncio


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


class Wait:
    """Something that is waited for, with what is known of it at each look."""

    def __init__(self, *texts: str | Exception) -> None:
        self._texts = list(texts)
        self.is_over = asyncio.Event()
        self.spans: list[float] = []

    async def ask(self) -> str:
        """Return what is known now."""
        text = self._texts.pop(0)
        if isinstance(text, Exception):
            raise text
        return text

    async def sleep(self, span: float) -> None:
        """Wait no time, but for ever once all has been told."""
        self.spans.append(span)
        await asyncio.sleep(0)
        if not self._texts:
            self.is_over.set()
            await asyncio.Event().wait()


async def test_a_terminal_has_one_line_that_changes_and_goes() -> None:
    """Nothing is written twice."""
    terminal = Terminal()
    wait = Wait("1/2", "1/2", "2/2")
    async with telling_progress(wait.ask, terminal, wait.sleep):
        await wait.is_over.wait()

    assert terminal.getvalue() == "\r\x1b[K1/2\r\x1b[K2/2\r\x1b[K"
    assert set(wait.spans) == {1.0}


async def test_elsewhere_there_is_a_line_for_each_change(caplog: pytest.LogCaptureFixture) -> None:
    """By the log, and not as often; a look that fails is passed over."""
    stream = io.StringIO()
    wait = Wait("1/2", RendezvousConnectionError("x"), "1/2", "", "2/2")
    with caplog.at_level(logging.WARNING, "launcher.agent"):
        async with telling_progress(wait.ask, stream, wait.sleep):
            await wait.is_over.wait()

    assert caplog.messages == ["1/2", "2/2"]
    assert stream.getvalue() == ""
    assert set(wait.spans) == {5.0}


async def test_a_short_wait_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Neither is anything left of it."""
    terminal = Terminal()
    async with telling_progress(Wait("1/2").ask, terminal):
        await asyncio.sleep(0)

    assert (terminal.getvalue(), caplog.messages) == ("", [])
