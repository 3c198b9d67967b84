"""What each option is set to, and by what: flag, variable, file, scheduler or default.

Reads the one file that ``--config`` names, nothing else. Called by `cli`, which turns the texts
into values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from launcher.errors import UsageError
from launcher.options import OPTIONS, Option

__all__ = ("Setting", "resolve_settings", "show_settings")

_CONFIG = "config"  # the option that names the file, and cannot stand in it
_TABLE = ("tool", "launcher")  # where in the file the settings are
_DEFAULT = "default"


class Setting(NamedTuple):
    """What one option is set to."""

    text: str | None
    """As the user wrote it; ``None``: it is not set."""
    name: str
    """What messages about it call it: ``--nnodes``, ``PET_NNODES``, ``run.toml: nnodes``."""
    origin: str
    """What set it: a flag, a variable, a file, a scheduler's job or "default"."""

    @property
    def is_default(self) -> bool:
        """Whether nothing set it."""
        return self.origin == _DEFAULT


def resolve_settings(
    arguments: Mapping[str, str | None], environ: Mapping[str, str]
) -> dict[str, Setting]:
    """Find what each option is set to: by its flag, else its variable, the file, its default.

    Args:
        arguments: texts of the flags by field; ``None`` where a flag is not given.
        environ: the variables.

    Returns:
        The settings by field, in the order of the options.

    Raises:
        UsageError: the file cannot be read, or has a key that is no option.
    """
    options = {option.field: option for option in OPTIONS}
    config = _resolve(options[_CONFIG], arguments, environ, {}, "")
    path = config.text or ""
    try:
        filed = _read(path) if path else {}
    except UsageError as error:
        raise UsageError(f"{config.name}={path}: {error}") from None
    return {
        field: _resolve(option, arguments, environ, filed, path)
        for field, option in options.items()
    }


def show_settings(settings: Mapping[str, Setting]) -> str:
    """Return settings and their origins, in the form of a configuration file.

    Args:
        settings: by field.
    """
    return "\n".join((f"[{'.'.join(_TABLE)}]", *_lines(settings)))


def _lines(settings: Mapping[str, Setting]) -> Iterator[str]:
    import json  # noqa: PLC0415 -- slow, and a launch shows nothing

    for field, (text, _, origin) in settings.items():
        if field == _CONFIG:
            continue
        if text is None:
            yield f"# {field} is not set"
        else:
            yield f"{field} = {json.dumps(text, ensure_ascii=False)}  # {origin}"


def _resolve(
    option: Option,
    arguments: Mapping[str, str | None],
    environ: Mapping[str, str],
    filed: Mapping[str, str],
    path: str,
) -> Setting:
    flag = f"--{option.name}"
    if (text := arguments[option.field]) is not None:
        return Setting(text, flag, flag)
    if (text := environ.get(option.variable)) is not None:
        return Setting(text, option.variable, option.variable)
    if (text := filed.get(option.field)) is not None:
        return Setting(text, f"{path}: {option.field}", path)
    return Setting(option.default, flag, _DEFAULT)


def _read(path: str) -> dict[str, str]:
    """Return the texts in a file by field."""
    import tomllib  # noqa: PLC0415 -- only where there is a file

    try:
        with open(path, "rb") as file:
            content: object = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"expected a file that can be read: {error.strerror}") from None
    except ValueError as error:  # of TOML, of UTF-8, and of a path with a zero byte
        raise UsageError(f"expected TOML: {error}") from None
    for key in _TABLE:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise UsageError(f"expected a table [{'.'.join(_TABLE)}]")
    return {key: _text(key, value) for key, value in content.items()}


def _text(key: str, value: object) -> str:
    """Return a value of the file as it would be written on the command line."""
    known = [option.field for option in OPTIONS if option.field != _CONFIG]
    if key not in known:
        import difflib  # noqa: PLC0415 -- only for mistakes

        near = difflib.get_close_matches(key.replace("-", "_"), known, 1)
        meant = f", did you mean {near[0]}?" if near else ""
        raise UsageError(f"{key}: expected the name of an option with underscores{meant}")
    match value:
        case bool():
            return str(int(value))
        case str() | int() | float():
            return str(value)
        case list() if all(isinstance(item, str | int) for item in value):
            return ",".join(map(str, value))
        case dict() if all(isinstance(item, str | int | float) for item in value.values()):
            return ",".join(f"{name}={_text(key, item)}" for name, item in value.items())
    raise UsageError(f"{key}={value!r:.100}: expected a text, a number, a truth value or a list")
