"""Settings from five places: command line, environment, profile, user config, default.

The first that gives a value decides, and `Resolved.sources` says which one it was.
"""

from __future__ import annotations

import functools
import math
import os.path
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from launcher.argv import FlagValue
from launcher.config.cache import service_cache
from launcher.config.checks import (
    ProfileProblem,
    flag_problem,
    flags_problems,
    host_problem,
    path_problem,
)
from launcher.config.profile import (
    Dtype,
    Name,
    Port,
    Replicas,
    Seconds,
    StartMethod,
    Threads,
)
from launcher.config.service_cache import ServiceCache
from launcher.errors import QlaunchError
from launcher.yaml_reader import load_typed, shown, wanted_words

if TYPE_CHECKING:
    from launcher.config.loading import LoadedProfile

Lines = Mapping[tuple[str | int, ...], int]


class ConfigValues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user's `config.yaml`: values for every profile that does not say otherwise.

    Which model and which engine are a profile's own business, and cannot be set here.
    """

    engine_python: str | None = None
    host: str | None = None
    port: Port | None = None
    metrics_port: Port | None = None
    metrics_host: str | None = None
    dtype: Dtype | None = None
    threads: Threads | None = None
    replicas: Replicas | None = None
    start_timeout_s: Seconds | None = None
    plugin: bool | None = None
    start_method: StartMethod | None = None
    api_key_file: str | None = None
    allow_unauthenticated: bool | None = None
    offline: bool | None = None
    flags: dict[str, FlagValue] | None = None


@dataclass(frozen=True)
class UserConfig:
    """The user's config, with the file it was read from (None where there is none)."""

    values: ConfigValues = field(default_factory=ConfigValues)
    path: Path | None = None
    lines: Lines = field(default_factory=dict)


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, decided."""

    name: str
    """Name of the service; the profile's unless given."""
    model: str
    engine: str
    engine_python: str | None
    """Python of the user's own engine environment, absolute; None: qlaunch's."""
    host: str
    port: int
    metrics_port: int | None = None
    """Of the supervisor's `/metrics`; None: none."""
    metrics_host: str = "127.0.0.1"
    """Where that port is."""
    dtype: Dtype
    threads: Threads
    replicas: int = 1
    """Engines of their own behind the one address."""
    start_timeout_s: float
    plugin: bool
    start_method: StartMethod
    api_key_file: str | None
    """Absolute path; None: no key."""
    allow_unauthenticated: bool
    """Listen beyond loopback without a key."""
    offline: bool
    """Fetch nothing."""
    cache: ServiceCache | None = None
    """Of vectors, before the engine; None: none. A profile alone says so."""
    flags: dict[str, FlagValue]
    """Merged key by key: user config, then profile, then command line."""
    sources: dict[str, str]
    """Where each came from: `port` → `environment QLAUNCH_PORT`, `flags.context-length` →
    `profile /path/file.yaml:12`."""


@dataclass(frozen=True)
class _Setting:
    """One setting: its type, where it may stand, and its default where no profile has one."""

    name: str
    type: Any
    default: object = None
    in_profile: bool = False
    check: Callable[[str], ProfileProblem | None] | None = None
    is_path: bool = False

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"QLAUNCH_{self.name.upper()}"


def _model_problem(text: str) -> ProfileProblem | None:
    return None if text.strip() else ProfileProblem("model is empty")


def _seconds_problem(text: str) -> ProfileProblem | None:
    return None if math.isfinite(float(text)) else ProfileProblem(f"{text} is not a finite time")


SETTINGS = (
    _Setting("name", Name),
    _Setting("model", str, in_profile=True, check=_model_problem),
    _Setting("engine", Name, in_profile=True),
    _Setting("engine_python", str, check=path_problem, is_path=True),
    _Setting("host", str, in_profile=True, check=host_problem),
    _Setting("port", Port, in_profile=True),
    _Setting("metrics_port", Port, in_profile=True),
    _Setting(
        "metrics_host",
        str,
        in_profile=True,
        check=functools.partial(host_problem, name="metrics_host"),
    ),
    _Setting("dtype", Dtype, in_profile=True),
    _Setting("threads", Threads, in_profile=True),
    _Setting("replicas", Replicas, in_profile=True),
    _Setting("start_timeout_s", Seconds, in_profile=True, check=_seconds_problem),
    _Setting("plugin", bool, in_profile=True),
    _Setting("start_method", StartMethod, in_profile=True),
    _Setting("api_key_file", str, in_profile=True, check=path_problem, is_path=True),
    _Setting("allow_unauthenticated", bool, default=False),
    _Setting("offline", bool, default=False),
)
"""Everything but `flags`, which are merged instead of chosen."""


def load_user_config(config_dir: Path) -> UserConfig:
    """`config.yaml` in `config_dir`; everything unset where there is no such file.

    Raises:
        QlaunchError: `config_invalid` (exit 2), with file and line.
    """
    path = config_dir / "config.yaml"
    if not os.path.lexists(path):
        return UserConfig()
    loaded = load_typed(path, ConfigValues, what="user config", code="config_invalid", empty=True)
    problems = list(flags_problems(loaded.value.flags or {}))
    for setting in SETTINGS:
        value = getattr(loaded.value, setting.name, None)
        wrong = setting.check(str(value)) if setting.check and value is not None else None
        if wrong:
            problems.append(((setting.name,), wrong))
    for at, problem in problems:
        place = f"user config {shown(str(path), 400)}:{loaded.line(at)}"
        raise _invalid(place, problem, code="config_invalid")
    return UserConfig(loaded.value, path, loaded.lines)


def resolve(
    loaded: LoadedProfile,
    given: Mapping[str, object | None],
    environ: Mapping[str, str],
    user_config: UserConfig,
    *,
    name: str | None = None,
) -> Resolved:
    """Decide every setting.

    Args:
        given: what the command line gave, by setting name; None (or absent) is not given.
            `flags` is a mapping of engine options.
        environ: the environment; an empty `QLAUNCH_*` variable counts as unset.
        name: the service's name where nobody gives one; None: the profile's.

    Raises:
        QlaunchError: `setting_invalid` (exit 2), naming the option or the variable.
    """
    unknown = set(given) - {setting.name for setting in SETTINGS} - {"flags"}
    if unknown:
        raise TypeError(f"no such settings: {sorted(unknown)}")
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in SETTINGS:
        candidates = _candidates(setting, loaded, given, environ, user_config)
        values[setting.name], sources[setting.name] = next(candidates)
    if name is not None and sources["name"] == "default":
        values["name"] = name
    flags = _merge_flags(loaded, given.get("flags"), user_config, sources)
    for variable in loaded.profile.env:
        at = ("env", variable)
        sources[f"env.{variable}"] = place("profile", loaded.file(at), loaded.lines, at)
    cache = service_cache(loaded.profile.cache, lambda key: loaded.file(("cache", key)).parent)
    if cache is not None:
        sources["cache"] = place("profile", loaded.file(("cache",)), loaded.lines, ("cache",))
    return Resolved(**values, cache=cache, flags=flags, sources=sources)


def is_offline(
    given: Mapping[str, object | None], environ: Mapping[str, str], user_config: UserConfig
) -> bool:
    """Whether nothing may be fetched: known before there is a profile, which cannot say it.

    Raises:
        QlaunchError: `setting_invalid` (exit 2).
    """
    setting = next(each for each in SETTINGS if each.name == "offline")
    sources = (
        (given.get("offline"), "command line"),
        (environ.get(setting.variable), "environment"),
    )
    for value, source in sources:
        if value:
            return bool(_checked(setting, value, f"{source} {setting.variable}"))
    return bool(user_config.values.offline)


def for_release(settings: Resolved, loaded: LoadedProfile, release: str) -> Resolved:
    """The settings on an engine release: its name in place of auto, and the profile's own options
    for that release, which only the command line's go before."""
    flags, sources = dict(settings.flags), dict(settings.sources)
    for key, value in loaded.profile.flags_by_engine.get(release, {}).items():
        if sources.get(f"flags.{key}") == "command line":
            continue
        at = ("flags_by_engine", release, key)
        flags[key] = value
        sources[f"flags.{key}"] = place("profile", loaded.file(at), loaded.lines, at)
    if settings.engine != release:
        sources["engine"] = f"{release}, chosen by the hardware"
    return msgspec.structs.replace(settings, engine=release, flags=flags, sources=sources)


def _candidates(
    setting: _Setting,
    loaded: LoadedProfile,
    given: Mapping[str, object | None],
    environ: Mapping[str, str],
    user_config: UserConfig,
) -> Iterator[tuple[object, str]]:
    """Values of one setting with their sources, strongest first; the default always ends it."""
    name = setting.name
    if given.get(name) is not None:
        yield _checked(setting, given[name], "command line"), "command line"
    if environ.get(setting.variable):
        source = f"environment {setting.variable}"
        yield _checked(setting, environ[setting.variable], source), source
    written = setting.in_profile and ((name,) in loaded.lines)
    if written and getattr(loaded.profile, name) is not None:
        file = loaded.file((name,))
        value = _anchored(setting, getattr(loaded.profile, name), file.parent)
        yield value, place("profile", file, loaded.lines, (name,))
    configured = getattr(user_config.values, name, None)
    if configured is not None:
        folder = user_config.path.parent if user_config.path else Path()
        value = _anchored(setting, configured, folder)
        yield value, place("user config", user_config.path, user_config.lines, (name,))
    if name == "name":
        yield loaded.name, "default"
    yield getattr(loaded.profile, name, setting.default), "default"


def _checked(setting: _Setting, value: object, source: str) -> object:
    """A value from the command line or the environment, as the setting's type."""
    converted = _converted(setting.type, value)
    if converted is None:
        found = f"found {shown(repr(value), 60)}"
        message = f"{setting.name} must be {wanted_words(setting.type)}, {found}"
        raise _invalid(source, ProfileProblem(message))
    wrong = setting.check(str(converted)) if setting.check else None
    if wrong:
        raise _invalid(source, wrong)
    return _anchored(setting, converted, Path())


_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _converted(type_: Any, value: object) -> object | None:
    """`value` as `type_`, text read as a number or a boolean where the type wants one."""
    readings: list[object] = [value]
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII):
            readings.append(int(text))
        if re.fullmatch(r"[+-]?[0-9]{1,18}\.[0-9]{1,18}", text, re.ASCII):
            readings.append(float(text))
        if text.lower() in _WORDS:
            readings.append(_WORDS[text.lower()])
    for reading in readings:
        try:
            converted: object = msgspec.convert(reading, type_, strict=True)
            msgspec.json.encode(converted)
        except (msgspec.ValidationError, UnicodeEncodeError):  # a plan holds no bytes beside UTF-8
            continue
        return converted
    return None


def _anchored(setting: _Setting, value: object, folder: Path) -> object:
    """Paths become absolute: a relative one is meant from where it is written."""
    if not setting.is_path or not isinstance(value, str):
        return value
    # Not resolve(): a virtual environment's python is a symbolic link that must stay itself.
    return os.path.abspath(folder / os.path.expanduser(value))  # noqa: PTH100, PTH111


def _merge_flags(
    loaded: LoadedProfile, given: object, user_config: UserConfig, sources: dict[str, str]
) -> dict[str, FlagValue]:
    """Engine options merged key by key; `sources` gains `flags.KEY` for each."""
    merged: dict[str, FlagValue] = {}
    for key, value in (user_config.values.flags or {}).items():
        merged[key] = value
        where = place("user config", user_config.path, user_config.lines, ("flags", key))
        sources[f"flags.{key}"] = where
    for key, value in loaded.profile.flags.items():
        merged[key] = value
        file = loaded.file(("flags", key))
        sources[f"flags.{key}"] = place("profile", file, loaded.lines, ("flags", key))
    for number, step in enumerate(loaded.profile.fallback):
        for key in step:
            at = ("fallback", number, key)
            sources[f"fallback.{number}.{key}"] = place(
                "profile", loaded.file(at), loaded.lines, at
            )
    for key, value in _given_flags(given).items():
        merged[key] = value
        sources[f"flags.{key}"] = "command line"
    return merged


def _given_flags(given: object) -> dict[str, FlagValue]:
    if given is None:
        return {}
    flags = msgspec.convert(given, dict[str, FlagValue], strict=True)
    for key, value in flags.items():
        wrong = flag_problem(key, value)
        if wrong:
            raise _invalid("command line", wrong)
    return flags


def place(what: str, path: Path | None, lines: Lines, at: tuple[str | int, ...]) -> str:
    """Where a value stands, for a message: what it is of, file and line."""
    line = f":{lines[at]}" if at in lines else ""
    return f"{what} {path}{line}" if path else what


def written_at(settings: Resolved, key: str) -> str:
    """`profile FILE:LINE: ` before a message about a setting that a file or the environment says;
    else nothing: the command line is in front of whoever reads it."""
    source = settings.sources.get(key, "")
    return f"{source}: " if source.startswith(("profile ", "user config ", "environment ")) else ""


def at_its_place(error: QlaunchError, settings: Resolved, key: str) -> QlaunchError:
    """`error`, which is about the setting `key`, with the file and the line that say it."""
    return error.saying(f"{written_at(settings, key)}{error.message}")


def _invalid(source: str, problem: ProfileProblem, code: str = "setting_invalid") -> QlaunchError:
    return QlaunchError(f"{source}: {problem.message}", code=code, fix=problem.fix)
