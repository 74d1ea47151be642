"""What a plan was made from, kept with it: for exports, and for starting again from the profile.

Settings are kept as they were decided, wherever they came from (command line, environment, user
config), because none of these need be there when the plan is made again.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from launcher.argv import options
from launcher.config.settings import SETTINGS, Resolved
from launcher.documents.plan import Origin
from launcher.engine import command
from launcher.errors import QlaunchError
from launcher.paths import at_home, require_utf8
from launcher.service.supervisor.engine_environment import allowed, is_secret

if TYPE_CHECKING:
    from launcher.config.loading import LoadedProfile
    from launcher.model.checkpoint import Checkpoint, ModelCard

FOLDERS: Final = (
    "QLAUNCH_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
)
"""Variables that say where profiles, engines, models and state are."""
_HUBS: Final = ("HF_", "HUGGINGFACE_", "MODELSCOPE_")
"""How variables begin that say where hubs' clients keep and find models."""
_ALWAYS: Final = frozenset({"name", "model", "host", "port"})
_OF_PROFILE: Final = ("profile", "default")
_WITHOUT: Final[Mapping[str, str]] = {
    "tmpdir": "a temporary folder of that session",
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "no_proxy"), "nothing is fetched"),
}
"""Variables that reach an engine and mean nothing to another start, in lower case."""
_SESSION: Final = frozenset({"PATH", "HOME", "USER", "LOGNAME"})
"""Whoever starts it has its own."""
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12,64}")


def of(
    profile: LoadedProfile,
    asked: Resolved,
    settings: Resolved,
    checkpoint: Checkpoint,
    card: ModelCard | None,
    extra: tuple[str, ...],
    *,
    by_path: bool,
) -> Origin:
    """The origin of a plan that was made on this machine, in this environment.

    Args:
        profile: as it was read.
        asked: settings before the hardware chose an engine.
        settings: the same with the engine's own name, and its flags.
        checkpoint: what the model turned out to be.
        card: its card, where it has one.
        extra: the engine's options after `--`.
        by_path: whether the profile was given as a file.
    """
    of_profile = {
        setting.name
        for setting in SETTINGS
        if asked.sources.get(setting.name, "default").startswith(_OF_PROFILE)
    }
    kept = {
        setting.name: value
        for setting in SETTINGS
        if (value := getattr(asked, setting.name)) is not None
        and (setting.name in _ALWAYS or setting.name not in of_profile)
    }
    kept["model"] = _model(asked.model, checkpoint, card)
    if asked.engine_python is None:
        kept["engine"] = settings.engine
    again = options(extra)
    flags = {
        name: value
        for name, value in settings.flags.items()
        if name not in again
        and not settings.sources.get(f"flags.{name}", "profile").startswith(_OF_PROFILE)
    }
    environ, withheld = environment(os.environ)
    named = {
        "the profile's path": str(profile.path.absolute()),
        "the model's path": str(checkpoint.path.absolute()),
        "what stands after --": " ".join(extra),
    }
    for what, value in {**named, **environ, **kept}.items():
        require_utf8(str(value), what)
    return Origin(
        profile=str(profile.path.absolute()) if by_path else profile.name,
        profile_path=str(profile.path.absolute()),
        profile_digest=digest(profile),
        settings=kept,
        of_profile=tuple(name for name in kept if name in of_profile - {"name"}),
        extra=(*command.render(flags), *extra),
        environ=environ,
        withheld=withheld,
    )


def digest(profile: LoadedProfile) -> str:
    """SHA-256 of what a profile says: comments and order of lines do not count."""
    return hashlib.sha256(msgspec.json.encode(profile.profile, order="sorted")).hexdigest()


def _model(text: str, checkpoint: Checkpoint, card: ModelCard | None) -> str:
    """The model so that it is the same one from every folder."""
    if card is not None:
        return card.name
    if text.startswith(("hf:", "modelscope:", "package:")):
        return text
    return str(checkpoint.path.absolute())


def environment(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Variables that choose folders or reach the engine; and those that do not go along, and why.

    No secret is kept, and no word of the session that happens to have made the plan.
    """
    kept: dict[str, str] = {}
    withheld: dict[str, str] = {}
    for name, value in sorted(environ.items()):
        if not value:
            continue
        if name in FOLDERS:
            kept[name] = str(at_home(value).absolute())
        elif name == "HOME":
            if value != _home():
                kept[name] = value
        elif name in _SESSION or name.startswith("XDG_"):
            continue
        elif name.startswith(_HUBS) and is_secret(name):
            withheld[name] = "a secret, and nothing is fetched"
        elif not allowed(name) and not name.startswith(_HUBS):
            continue
        elif (why := _WITHOUT.get(name.lower())) is not None:
            withheld[name] = why
        elif not value.isprintable():
            withheld[name] = "it holds control characters"
        else:
            kept[name] = value
    return kept, withheld


def _home() -> str | None:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None


def require_fingerprint(
    checkpoint: Checkpoint,
    expected: str | None,
    fix: str = "put the old files back; or check the new ones (qlaunch smoke) and export again",
) -> None:
    """Refuse a checkpoint that is not the one that was meant.

    Raises:
        QlaunchError: `checkpoint_changed`, or `usage` for no fingerprint at all (exit 2).
    """
    if expected is None:
        return
    if not _FINGERPRINT.fullmatch(expected):
        raise QlaunchError(
            f"{expected[:80]!r} is not a fingerprint, which has 12 to 64 hexadecimal digits",
            code="usage",
            fix="take `fingerprint` from qlaunch plan --json, or qlaunch model inspect",
        )
    if checkpoint.fingerprint.startswith(expected):
        return
    raise QlaunchError(
        f"the checkpoint in {checkpoint.path} changed: its fingerprint is "
        f"{checkpoint.fingerprint[:16]}, expected was {expected[:16]}",
        code="checkpoint_changed",
        fix=fix,
    )
