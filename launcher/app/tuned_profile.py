"""The profile that `tune` writes: the old one with what was found, and the evidence beside it."""

from __future__ import annotations

import io
import re
import shlex
import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from launcher.bench.trial import label
from launcher.bench.tune import Overlay, Tuning
from launcher.config.loading import (
    SUFFIXES,
    LoadedProfile,
    load_draft,
    load_profile,
    shipped_dir,
)
from launcher.config.profile import Profile
from launcher.documents.comparison import Mode
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import write_named
from launcher.paths import at_home
from launcher.units import counted

WIDTH = 98
_WITHOUT: Final = re.compile(
    r"^# yaml-language-server:.*\n|(?:^#.*\n)*^measured:.*\n?", re.MULTILINE
)
"""What is not taken over: where the schema is, and `measured` with the comment right above it, for
the new profile has been measured."""


def write(
    path: Path, base: LoadedProfile, found: Tuning, folder: Path, *, word: str | None = None
) -> None:
    """Write the profile to `path`: whole or not at all, and only where it is a valid one.

    Args:
        path: where it goes.
        base: the profile that was tuned.
        found: what came of it.
        folder: the user's folder of profiles, where parents are looked for.
        word: what was tuned, as it was typed; None is the profile's name.

    Raises:
        QlaunchError: `profile_invalid` (exit 2); `not_written` (exit 1).
    """
    pick = found.pick if found.confirmed else None
    text = document(base, pick, found, _inherited(base, folder), word=word)
    with tempfile.TemporaryDirectory(prefix="qlaunch-tune-") as trials:
        trial = Path(trials, path.name)
        trial.write_text(text, encoding="utf-8")
        load_draft(path.stem, trial, path, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_named(path, text.encode("utf-8"))
    except OSError as error:
        raise QlaunchError(
            f"{path} cannot be written: {error.strerror or error}",
            code="not_written",
            exit_code=ExitCode.UNEXPECTED,
            fix="give another file with --output",
        ) from error


def _inherited(base: LoadedProfile, folder: Path) -> Profile | None:
    """What the tuned profile has from its parent."""
    return load_profile(str(base.parents[0]), folder).profile if base.parents else None


def document(
    base: LoadedProfile,
    pick: Overlay | None,
    found: Tuning,
    parent: Profile | None = None,
    *,
    word: str | None = None,
) -> str:
    """The text of the profile: the old one's with its comments, the pick in it, the evidence above.

    Args:
        base: the profile that was tuned; its file is read.
        pick: what is to be changed; None changes nothing.
        found: the evidence.
        parent: what `base` extends, merged.
        word: what was tuned, as it was typed; None is the profile's name.
    """
    text = base.path.read_text("utf-8-sig")
    schema = f"# yaml-language-server: $schema={shipped_dir() / 'schema.json'}"
    head = [schema, *(f"# {line}".rstrip() for line in _evidence(base, found, word or base.name))]
    body = edited(_WITHOUT.sub("", text), base, pick or Overlay(), parent)
    return "\n".join(head) + "\n" + body.lstrip("\n")


def edited(text: str, base: LoadedProfile, pick: Overlay, parent: Profile | None) -> str:
    """`text`, a profile as it is written, with the pick in it; every comment stays where it is.

    Relative paths are made absolute: the new file may lie elsewhere.
    """
    yaml = _round_trip()
    tree = yaml.load(text)  # a mapping: the profile was read
    for name in ("model", "api_key_file", "extends"):
        value = tree.get(name)
        if isinstance(value, str) and _is_relative(name, value):
            path = base.path.parent / at_home(value)
            tree[name] = str(path.absolute())
    title = f"{base.profile.title} (tuned)"
    if "title" in tree:
        tree["title"] = title
    else:
        tree.insert(0, "title", title)
    if parent is not None:
        tree["measured"] = True  # it has been now, and its parent's word is not inherited
    for name, value in pick.settings.items():
        _set(tree, name, value, getattr(base.profile, name))
    if pick.flags:
        _set_flags(tree, base.profile, pick, parent)
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def _set_flags(tree: Any, profile: Profile, pick: Overlay, parent: Profile | None) -> None:
    if tree.get("flags") is None:
        from ruamel.yaml.comments import CommentedMap

        tree["flags"] = CommentedMap()
    for name, value in pick.flags.items():
        _set(tree["flags"], name, value, profile.flags.get(name))
    # An older value for one engine alone would win over the pick.
    for release, flags in profile.flags_by_engine.items():
        inherited = parent.flags_by_engine.get(release, {}) if parent is not None else {}
        for name in pick.flags.keys() & flags.keys():
            written = (tree.get("flags_by_engine") or {}).get(release) or {}
            written.pop(name, None)
            if name in inherited:
                tree.setdefault("flags_by_engine", {}).setdefault(release, {})[name] = None


def _set(mapping: Any, name: str, value: Any, before: object) -> None:
    """Set a value, and say beside it what it was: the comment above it speaks of the old one."""
    if mapping.fa.flow_style():  # on one line: no room for comments
        mapping[name] = value
        return
    below = "" if name in mapping else _cut_below(mapping)
    mapping[name] = value
    was = "not there before" if before is None else f"was {str(before).lower()}"
    _say_beside(mapping, name, f"tuned; {was}", below)


def _say_beside(mapping: Any, name: str, words: str, below: str) -> None:
    """Put a comment at the end of a key's line, before the one there is; the comment lines that
    follow (ruamel.yaml keeps both in one token) stay, and `below` follows them."""
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    places = mapping.ca.items.setdefault(name, [None, None, None, None])
    beside, _, following = (places[2].value if places[2] else "").partition("\n")
    own = beside.lstrip("# ").rstrip()
    text = f"# {words}; {own}" if own else f"# {words}"
    places[2] = CommentToken(f"{text}\n{following}{below}", CommentMark(0), None)


def _cut_below(mapping: Any) -> str:
    """Take away the comment lines below a mapping's last value: they speak of what follows the
    mapping, and a new key would come to stand after them."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.tokens import CommentToken

    node, key = mapping, None
    while isinstance(node, CommentedMap | CommentedSeq) and node and not node.fa.flow_style():
        key = len(node) - 1 if isinstance(node, CommentedSeq) else next(reversed(node))
        holder, node = node, node[key]
    if key is None:
        return ""
    places, at = holder.ca.items.get(key), 0 if isinstance(holder, CommentedSeq) else 2
    if not places or not places[at]:
        return ""
    beside, _, below = places[at].value.partition("\n")
    mark = places[at].start_mark
    places[at] = CommentToken(f"{beside}\n", mark, None) if beside else None
    return str(below)


def _is_relative(name: str, value: str) -> bool:
    """Whether a value is a path that starts from the profile's own folder."""
    if name == "extends":
        return value.endswith(SUFFIXES)
    return name == "api_key_file" or value.startswith((".", "~"))


def _round_trip() -> Any:
    """A YAML reader and writer that keeps comments, quotes, order and the writer's own layout."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Writes null as a word: an empty value looks like a forgotten one."""

    Representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.width = 4096  # lines are the writer's own
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _evidence(base: LoadedProfile, found: Tuning, word: str) -> Iterable[str]:
    """Comment lines: what was measured, on what, when, and where the records are."""
    yield f"Written by `qlaunch tune {shlex.quote(word)}` on {found.made}."
    if found.confirmed and found.pick is not None:
        yield from _wrapped(f"Changed: {found.pick.words}.")
    else:
        yield f"Nothing was changed: nothing beat {base.name} beyond the noise."
    limit = f", p95 at most {found.max_p95_ms:g} ms" if found.max_p95_ms else ""
    yield f"Measured at: {label(found.level)}{limit}."
    for mode in found.comparison.modes if found.comparison else ():
        yield from _wrapped(_mode(mode, found))
    machine = found.machine
    gpus = f"; {', '.join(machine.gpus)}" if machine.gpus else ""
    threads = "? threads" if machine.threads is None else counted(machine.threads, "thread")
    yield from _wrapped(f"Machine: {machine.cpu}, {threads}{gpus}.")
    versions = {**found.versions, **_engines(found)}
    yield from _wrapped(
        "Versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()) + "."
    )
    for sentence in found.verdict:
        yield from _wrapped(sentence)
    yield f"All trials: {found.id}."


def _mode(mode: Mode, found: Tuning) -> str:
    cell = mode.cell(found.level)
    if cell is None or cell.embeddings_per_s is None or cell.p95_ms is None:
        return f"{mode.name}: {mode.reason or 'not measured'}."
    rate, p95 = cell.embeddings_per_s, cell.p95_ms
    return (
        f"{mode.name}: {rate.median:.1f} texts/s ({rate.least:.1f} to {rate.most:.1f} in"
        f" {rate.count} lives), p95 {p95.median:.1f} ms; runs {', '.join(mode.runs)}."
    )


def _engines(found: Tuning) -> dict[str, str]:
    modes = found.comparison.modes if found.comparison else ()
    return {f"SGLang ({m.release})": str(m.version) for m in modes if m.release and m.version}


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
