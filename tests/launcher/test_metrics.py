"""`launcher.metrics`: where values go, and what `prof` measures."""

from __future__ import annotations

import time

import pytest

from launcher import metrics
from launcher.metrics import (
    ConsoleMetricHandler,
    MetricData,
    MetricsConfig,
    configure,
    initialize_metrics,
    prof,
    put_metric,
)


class Kept:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[MetricData] = []

    def emit(self, metric_data: MetricData) -> None:
        """Keep one value."""
        self.values.append(metric_data)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Return a handler that all groups have, until the test is over."""
    monkeypatch.setattr(metrics, "_handlers", dict(metrics._handlers))
    handler = Kept()
    configure(handler)
    return handler


def names(kept: Kept) -> list[str]:
    """Return what values came of, in order."""
    return [data.name for data in kept.values]


def test_a_value_goes_to_the_handler_of_its_group(kept: Kept) -> None:
    """A group without one has the default one."""
    other = Kept()
    configure(other, "mine")

    put_metric("loss", 0.5, "mine")
    put_metric("steps", 3)

    assert [data[1:] for data in other.values] == [("mine", "loss", 0.5)]
    assert [data[1:] for data in kept.values] == [("torchelastic", "steps", 3)]
    assert abs(kept.values[0].timestamp - time.time()) < 5


def test_a_launch_hands_on_its_settings() -> None:
    """Torch's hook, which does nothing by itself."""
    initialize_metrics()
    initialize_metrics(MetricsConfig({"a": "b"}))

    assert (MetricsConfig().params, MetricsConfig({"a": "b"}).params) == ({}, {"a": "b"})


def test_nothing_is_shown_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The default handler drops everything."""
    put_metric("loss", 1)

    assert capsys.readouterr() == ("", "")


def test_the_console_shows_one_line_for_each_value(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    """In torch's form."""
    ConsoleMetricHandler().emit(MetricData(7, "g", "loss", 0.5))

    assert capsys.readouterr().out == "[7][g]: loss=0.5\n"


def test_prof_measures_calls_that_return(kept: Kept) -> None:
    """The value of the function is untouched, and so is its name."""

    @prof
    def double(x: int) -> int:
        return 2 * x

    assert (double(2), double.__name__) == (4, "double")
    assert names(kept) == ["double.success", "double.duration.ms"]
    assert kept.values[0].value == 1
    assert kept.values[1].value >= 0


def test_prof_measures_calls_that_raise(kept: Kept) -> None:
    """In the group that it was given."""

    @prof(group="mine")
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert names(kept) == ["fail.failure", "fail.duration.ms"]
    assert {data.group_name for data in kept.values} == {"mine"}


@pytest.mark.asyncio
async def test_prof_measures_coroutine_functions_to_their_end(kept: Kept) -> None:
    """Not the making of the coroutine alone."""

    @prof
    async def triple(x: int) -> int:
        return 3 * x

    coroutine = triple(2)

    assert names(kept) == []
    assert await coroutine == 6
    assert names(kept) == ["triple.success", "triple.duration.ms"]
