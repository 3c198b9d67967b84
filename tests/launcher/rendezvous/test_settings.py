"""`launcher.rendezvous.settings`: what `--rdzv-conf` may say."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.config import LaunchConfig
from launcher.rendezvous import RendezvousParameters
from launcher.rendezvous.settings import Settings, read_settings


def read(**config: Any) -> Settings:
    """Read the settings of a run on two to four nodes."""
    return read_settings(RendezvousParameters("tcp", "a:1", "run", 2, 4, **config))


def test_defaults_are_torchruns() -> None:
    """A silent node is lost after three signs of life."""
    settings = read()

    assert settings[:7] == (600.0, 30.0, 30.0, 5.0, 5.0, 3, 60.0)
    assert (settings.ttl, settings.join_debounce) == (15.0, 0.3)
    assert (settings.expect_nodes, settings.rank, settings.is_host) == (None, None, None)


def test_settings_are_read_from_texts_and_values() -> None:
    """As a command line and a program write them."""
    settings = read(
        join_timeout="9",
        last_call_timeout=0.5,
        is_host="true",
        rank="3",
        expect_nodes=2,
        store_type="tcp",
    )

    assert (settings.join_timeout, settings.last_call_timeout) == (9.0, 0.5)
    assert (settings.is_host, settings.rank, settings.expect_nodes) == (True, 3, 2)
    assert read(join_debounce=0).join_debounce == 0.0


def test_timeout_is_another_name_of_join_timeout() -> None:
    """The proper name counts if both are given."""
    assert read(timeout=7).join_timeout == 7.0
    assert read(timeout=7, join_timeout=8).join_timeout == 8.0


@pytest.mark.parametrize(("backend", "expected"), [("static", 900.0), ("tcp", 600.0)])
def test_the_timeout_of_every_config_is_the_static_backends(backend: str, expected: float) -> None:
    """A `LaunchConfig` has torch's 900 s where nothing was chosen; the others have their own."""
    config: Any = LaunchConfig(2, 4, 1).rdzv_configs
    parameters = RendezvousParameters(backend, "a:1", "run", 2, 4, **config)

    assert read_settings(parameters).join_timeout == expected


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"join_timout": 1}, "rdzv_conf join_timout: .* did you mean join_timeout"),
        ({"Last-Call-Timeout": 1}, "did you mean last_call_timeout"),
        ({"qqqqqq": 1}, "there is no such setting, expected one of close_timeout, expect_nodes"),
        ({"join_timeout": "0"}, "rdzv_conf join_timeout=0: expected seconds, above 0"),
        ({"join_timeout": "nan"}, "rdzv_conf join_timeout=nan: expected seconds, above 0"),
        ({"join_debounce": "-1"}, "rdzv_conf join_debounce=-1: expected seconds, at least 0"),
        ({"keep_alive_max_attempt": "0"}, "keep_alive_max_attempt=0: expected an integer, at"),
        ({"keep_alive_max_attempt": True}, "keep_alive_max_attempt=True: expected an integer"),
        ({"store_type": "file"}, "rdzv_conf store_type=file: expected tcp, there are no others"),
        ({"is_host": "perhaps"}, "rdzv_conf is_host=perhaps: expected 1 or 0"),
        ({"rank": "4"}, "node_rank=4: expected below --nnodes \\(max_nodes\\), 4"),
        ({"rank": "-1"}, "rdzv_conf rank=-1: expected an integer, at least 0"),
        ({"expect_nodes": "1"}, "expect_nodes=1: expected within --nnodes .*, 2 to 4"),
        ({"expect_nodes": "5"}, "expect_nodes=5: expected within --nnodes .*, 2 to 4"),
    ],
)
def test_a_setting_names_what_it_refuses(config: dict[str, object], text: str) -> None:
    """Name, value and rule; the nearest name for one that does not exist."""
    with pytest.raises(ValueError, match=text):
        read(**config)
