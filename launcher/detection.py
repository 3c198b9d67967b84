"""Options that nothing else sets, set to what a scheduler says; see `launcher.environment`.

Pure. Called by `commandline`, where a scheduler's variables are there or one is asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from launcher.environment import Environment, detect
from launcher.errors import UsageError
from launcher.options import OPTIONS
from launcher.settings import Setting

__all__ = ("Detected", "detect_settings")

_RUN_VARIABLE = "TORCHELASTIC_RUN_ID"  # of workers: what they launch is no task of a scheduler
_MEETING = ("rdzv_endpoint", "master_addr", "master_port")  # options that say where nodes meet
_OWN_BACKENDS = (None, "tcp", "c10d", "static")  # those that meet at a node


class Detected(NamedTuple):
    """What a scheduler has to say about a launch."""

    settings: dict[str, Setting]
    """All settings by field, some of them the scheduler's."""
    notes: tuple[str, ...] = ()
    """Lines that tell people what was detected and what looks wrong."""
    requeue: str = ""
    """The command that has the scheduler start the job again; empty: there is none."""


def detect_settings(
    settings: Mapping[str, Setting],
    environ: Mapping[str, str],
    complete: Callable[[Mapping[str, str]], Mapping[str, str]],
) -> Detected:
    """Set options that nothing else sets to what a scheduler says.

    Args:
        settings: by field, as `resolve_settings` returns them.
        environ: the variables, also the scheduler's.
        complete: adds to them what a scheduler says in another way; not called if none is asked.

    Returns:
        The settings, with what a scheduler says of them and of itself.

    Raises:
        UsageError: the scheduler's variables make no sense, or there is no such scheduler.
    """
    unchanged = Detected(dict(settings))
    if _is_set(settings, "no_detect") or _is_set(settings, "standalone"):
        return unchanged
    name = settings["environment"]
    if _RUN_VARIABLE in environ and name.text is None:
        return unchanged
    try:
        found = detect(complete(environ), name.text)
    except ValueError as error:
        text = str(error).replace("environment=", f"{name.name}=", 1)
        raise UsageError(text, "--no-detect asks no scheduler") from None
    if found is None:
        return unchanged
    texts = _detected(settings, found, environ)
    detected = {
        field: Setting(text, f"{found.source}: --{field.replace('_', '-')}", found.source)
        for field, text in texts.items()
    }
    return Detected({**settings, **detected}, _notes(found, texts, environ), found.requeue)


def _detected(
    settings: Mapping[str, Setting], found: Environment, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return what is taken of a scheduler's word, by field."""
    texts = {"preempt_signals": _free_signals(settings, found)}
    texts = {field: text for field, text in texts.items() if text}
    if settings["nproc_per_node"].text == "auto" and found.nproc_hint is not None:
        texts["nproc_per_node"] = str(found.nproc_hint)
    nodes = settings["nnodes"].text
    if settings["nnodes"].is_default and found.node_count is not None:
        nodes = texts["nnodes"] = str(found.node_count)
    if nodes in ("1", "1:1"):
        return {field: text for field, text in texts.items() if field != "nnodes"}
    own = {"rdzv_id": found.run_id, "node_rank": str(found.node_rank)}
    own |= {"local_addr": found.local_addr}
    texts |= {field: text for field, text in own.items() if text and settings[field].is_default}
    meets = not all(settings[field].is_default for field in _MEETING)
    if meets or settings["rdzv_backend"].text not in _OWN_BACKENDS:
        return texts
    return {**texts, **_meeting(settings, found, environ)}


def _free_signals(settings: Mapping[str, Setting], found: Environment) -> str:
    """Return the signals of a scheduler that the user has not given another meaning."""
    if not settings["preempt_signals"].is_default:
        return ""
    own = [settings[field] for field in ("signals_to_handle", "forward_signals")]
    texts = [setting.text or "" for setting in own if not setting.is_default]
    taken = {name.strip().upper().removeprefix("SIG") for name in ",".join(texts).split(",")}
    return ",".join(name for name in found.preempt_signals.split(",") if name not in taken)


def _meeting(
    settings: Mapping[str, Setting], found: Environment, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return where the nodes meet, which scripts also say by torch's variables."""
    host = environ.get("MASTER_ADDR") or found.host
    port = environ.get("MASTER_PORT") or found.port
    if not host:
        return {}
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    texts = {"rdzv_endpoint": f"{shown}:{port}" if port else shown}
    conf = settings["rdzv_conf"].text or ""
    if found.is_host is not None and host == found.host and "is_host" not in conf:
        texts["rdzv_conf"] = ",".join(filter(None, (conf, f"is_host={int(found.is_host)}")))
    return texts


def _notes(
    found: Environment, texts: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[str, ...]:
    notes = [found.warning] if found.warning else []
    if texts:
        shown = " ".join(f"--{field.replace('_', '-')}={text}" for field, text in texts.items())
        notes.insert(0, f"detected {found.source}: {shown} (--no-detect turns this off)")
    master = environ.get("MASTER_ADDR", "")
    is_far = found.host and not found.host.startswith("127.")
    if "rdzv_endpoint" in texts and is_far and (master.startswith("127.") or master == "localhost"):
        notes.append(f"MASTER_ADDR={master} is another machine on each node")
    return tuple(notes)


def _is_set(settings: Mapping[str, Setting], field: str) -> bool:
    option = next(option for option in OPTIONS if option.field == field)
    text = settings[field].text
    try:
        return text is not None and bool(option.read(text))
    except ValueError:
        return True  # which is refused when it is read for good
