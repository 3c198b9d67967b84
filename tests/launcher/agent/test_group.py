"""`launcher.agent.group`: what an agent looks after, in torch's terms, and what it refuses."""

from __future__ import annotations

from typing import Any, cast

import pytest

from asyncrpc.store import MemoryStore
from launcher.agent import RunResult, WorkerGroup, WorkerSpec, WorkerState
from launcher.agent.ranks import NodeRanks
from launcher.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

HANDLER = cast("RendezvousHandler", object())


def spec(**fields: Any) -> WorkerSpec:
    """Return a spec of two workers."""
    given = {"role": "r", "local_world_size": 2, "entrypoint": "/bin/true", **fields}
    return WorkerSpec(rdzv_handler=HANDLER, **given)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("role", "", "a name"),
        ("local_world_size", 0, "at least 1"),
        ("entrypoint", "", "a program or a function"),
        ("entrypoint", None, "a program or a function"),
        ("max_restarts", -1, "at least 0"),
        ("monitor_interval", 0.0, "seconds above 0"),
        ("restart_window", 0.0, "seconds above 0"),
        ("restart_backoff", -1.0, "seconds from 0"),
    ],
)
def test_a_spec_refuses_what_makes_no_sense(field: str, value: object, rule: str) -> None:
    """Naming field, value and rule."""
    with pytest.raises(ValueError, match=rf"^{field}=.*: expected {rule}$"):
        spec(**{field: value})


def test_a_specs_fields_are_torchs() -> None:
    """In torch's order, the older name of the entrypoint included."""
    given: Any = (
        "r",
        1,
        HANDLER,
        print,
        "",
        ("x",),
        2,
        0.5,
        29500,
        "h",
        "me",
        "console",
    )  # by position
    some = WorkerSpec(*(*given, None, [], [], True))

    assert (some.fn, some.entrypoint, some.args) == (print, print, ("x",))
    assert (some.max_restarts, some.monitor_interval) == (2, 0.5)
    assert (some.master_port, some.master_addr, some.local_addr) == (29500, "h", "me")
    assert (some.event_log_handler, some.virtual_local_rank) == ("console", True)


def test_a_spec_may_say_where_rank_0_listens() -> None:
    """Host and port each, else what the rendezvous found."""
    found = RendezvousStoreInfo("found", 1)

    assert spec().master(found) == found
    assert spec(master_addr="h").master(found) == ("h", 1)
    assert spec(master_port=2).master(found) == ("found", 2)


def test_a_spec_is_named_after_what_runs() -> None:
    """A program without its folder, a function with its class."""
    assert spec().get_entrypoint_name() == "true"
    assert spec(entrypoint=WorkerGroup.assign).get_entrypoint_name() == "WorkerGroup.assign"


def test_a_spec_spaces_and_counts_restarts() -> None:
    """The wait doubles up to a minute; what is left is told, within a window too."""
    some = spec(restart_backoff=0.5, max_restarts=3)

    assert [some.backoff(restarts) for restarts in (0, 1, 2, 6, 7, 10_000)] == [
        0.5,
        1.0,
        2.0,
        32.0,
        60.0,
        60.0,
    ]
    assert spec().backoff(10_000) == 0.0
    assert some.budget(2) == "restart 2 of 3 (1 left)"
    assert spec(restart_window=9.5).budget(7) == "restart 7 (at most 3 within 9.5 s)"


def test_a_group_has_the_workers_of_its_round() -> None:
    """Ranks begin where the node's do; before the first round nobody has one."""
    group = WorkerGroup(spec())
    before = (group.state, group.group_rank, group.store)
    unranked = [(w.local_rank, w.global_rank, w.id) for w in group.workers]
    info = RendezvousInfo(MemoryStore, 1, 2, RendezvousStoreInfo("h", 9))
    ranks = NodeRanks(
        group_rank=1,
        group_world_size=2,
        local_world_size=2,
        first_rank=3,
        world_size=5,
        first_role_rank=1,
        role_world_size=3,
    )
    group.assign(info, ranks)

    assert before == (WorkerState.INIT, -1, None)
    assert unranked == [(0, -1, None), (1, -1, None)]
    assert (group.group_rank, group.group_world_size) == (1, 2)
    assert (group.master_addr, group.master_port) == ("h", 9)
    assert [(w.local_rank, w.global_rank, w.role_rank) for w in group.workers] == [
        (0, 3, 1),
        (1, 4, 2),
    ]
    assert {(w.world_size, w.role_world_size, w.id) for w in group.workers} == {(5, 3, None)}


def test_states_say_whether_workers_run() -> None:
    """Whatever state they are in, as long as they run."""
    running = [state for state in WorkerState if WorkerState.is_running(state)]

    assert running == [WorkerState.HEALTHY, WorkerState.UNHEALTHY]
    assert all(state == state.name for state in WorkerState)  # as torch's, which are texts


def test_a_result_is_made_like_torchs() -> None:
    """By state alone, or with values and failures; only FAILED has failed."""
    results = [RunResult(state) for state in WorkerState]

    assert [result.state for result in results if result.is_failed()] == [WorkerState.FAILED]
    assert RunResult(WorkerState.SUCCEEDED, {0: "x"}).return_values == {0: "x"}
