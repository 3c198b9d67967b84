"""Fixtures of the reference's tests."""

from __future__ import annotations

import pytest

from tests.agent import targets
from tests.rref import workers


@pytest.fixture(autouse=True)
def _clean_workers() -> None:
    workers.kept.clear()
    workers.gates.clear()
    targets.log.clear()
