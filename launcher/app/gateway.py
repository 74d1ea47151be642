"""What the gateway is told of services: where they are, and what decides their vectors."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from pathlib import Path
from typing import Final

import msgspec

from launcher import __version__, paths
from launcher.app.running_service import api_key
from launcher.app.vector_cuts import cuts_of
from launcher.documents.plan import Expectation, Plan
from launcher.documents.service_state import FINAL, UP, ServiceState
from launcher.engine.command import INSIDE
from launcher.errors import QlaunchError
from launcher.gateway.identity import Identity
from launcher.gateway.inputs import Checkpoint
from launcher.gateway.pool import Limits
from launcher.gateway.replica import Seen
from launcher.gateway.run import ServiceGroup, UrlGroup
from launcher.model.tokenizer import is_read_alike
from launcher.network import address
from launcher.service import control, store

HOLD_S: Final = 30.0
"""For a request whose service is being started again: on a CPU it is back in about 5 s after a
death, by its template, and in 4 to 30 s after `restart`."""
_BETWEEN_S: Final = 5.0
"""Between the stop and the new start of a `restart`."""
_LOOK_S: Final = 1.0
"""Between two looks at whether a service's processes live."""
_FRESH_S: Final = 0.001
"""Between two looks at its files: a request looks ten times, and an engine that has just been named
there answers seconds later."""
_NO_VECTORS: Final = frozenset(
    {"--host", "--port", "--config", "--served-model-name", "--api-key", "--log-level"}
)
"""Options of the engine that change no vector."""
_NO_VECTOR_VARIABLES: Final = frozenset({"TMPDIR", "REQUEST_GUARD"})
"""The guard refuses requests; what it lets through it leaves as it is."""
_LOG: Final = logging.getLogger("qlaunch.gateway")
Stamp = tuple[tuple[int, int, int] | None, ...]


class ServiceSource:
    """A service of this installation, as its plan and state are now."""

    def __init__(self, service: str) -> None:
        """Read plan and state.

        Raises:
            QlaunchError: `no_such_service` (exit 3), `bad_service_name` (exit 2).
        """
        self.name = service
        self._folder = store.folder(service)
        self._stamp: Stamp | None = None
        self._next = self._fresh_until = 0.0
        self._told = False
        self._up_at = float("-inf")
        self._seen = Seen(url=None)
        control.status(service)
        self.plan = store.read_plan(self._folder)
        self.model = self.plan.model_name

    def look(self) -> Seen:
        """The service as its files say; whether its processes live, as of a second ago."""
        now = time.monotonic()
        if now < self._fresh_until:
            return self._seen
        stamp = (_stamp(self._folder.plan), _stamp(self._folder.state))
        if stamp != self._stamp or now >= self._next:
            self._stamp = stamp
            self._next = now + _LOOK_S
            self._seen = self._read()
        # From the time before: what is written while it is read is seen by the next look.
        self._fresh_until = now + _FRESH_S
        return self._seen

    def want(self) -> None:
        """Whoever stopped it starts it."""

    def suspect(self) -> None:
        """Look at the processes next time."""
        self._next = self._fresh_until = 0.0

    def _read(self) -> Seen:
        try:
            state = control.status(self.name)
            plan = store.read_plan(self._folder)
            key = api_key(plan)
        except QlaunchError:
            return Seen(url=None)
        self.plan, self.model = plan, plan.model_name
        now = time.monotonic()
        if state.state in UP:
            self._up_at = now
        stopped = state.state in ("stopping", "stopped")
        return msgspec.structs.replace(
            planned(plan, known=self._current()),
            url=state.endpoint if state.state in UP else None,
            coming=now - self._up_at < _BETWEEN_S if stopped else state.state not in FINAL,
            key=key,
            checkpoint=checkpoint_of(plan, state),
        )

    def _current(self) -> bool:
        """Whether the service was started with the plugin as it is now; if not, nothing is kept."""
        if plugin_is_current(self._folder):
            return True
        if not self._told:
            self._told = True
            _LOG.warning("%s runs with an older plugin: its vectors are not kept", self.name)
        return False


def planned(plan: Plan, *, known: bool) -> Seen:
    """What a plan says of its engine, wherever that is.

    Args:
        plan: of the service.
        known: whether its vectors are those of the plan; if not, nothing is kept.
    """
    guard = plan.guard
    return Seen(
        url=None,
        identity=identity_of(plan) if known else None,
        checkpoint=checkpoint_in_force(plan, plan.expectation),
        cuts=cuts_of(plan),
        guarded=guard is not None,
        whole=guard is not None and not guard.cut,
    )


def plugin_is_current(folder: store.Folder) -> bool:
    """Whether a service was started with the plugin as it is now: only then is it in the keys."""
    started = _stamp(folder.plan)
    return started is not None and started[0] >= _plugin()[1]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def identity_of(plan: Plan) -> Identity:
    """Everything in a plan that decides vectors, and what may: a change too many costs a cache."""
    expectation = plan.expectation
    card = expectation.card
    return Identity(
        model=plan.model_name,
        fingerprint=plan.fingerprint,
        pooling=expectation.pooling,
        normalize=expectation.normalize,
        dtype=expectation.dtype,
        dimensions=expectation.dimensions,
        engine=f"{plan.engine.release} {plan.engine.version}",
        plugin=f"{_plugin()[0]} {plan.engine.plugin}",
        instruction=(card.instruction or "") if card else "",
        settings=(*_settings(plan.engine.argv), *sorted(_variables(plan.engine.env))),
    )


def checkpoint_of(plan: Plan, state: ServiceState) -> Checkpoint:
    """What clients' inputs are prepared by; after a memory failure the engine takes shorter ones.

    The engine refuses a text that fills its context.
    """
    expectation = plan.expectation
    if state.fallbacks:
        taken = min(len(state.fallbacks), len(plan.fallbacks))
        expectation = plan.fallbacks[taken - 1].expectation if taken else expectation
    return checkpoint_in_force(plan, expectation)


def checkpoint_in_force(plan: Plan, expectation: Expectation) -> Checkpoint:
    """The same of a service whose engine is held to `expectation`."""
    longest = expectation.context_length - 1
    if plan.guard is not None and plan.guard.text_tokens is not None:
        longest = min(longest, plan.guard.text_tokens)
    return Checkpoint(
        folder=plan.model_path,
        longest=longest,
        prompts=expectation.prompts.named if expectation.prompts is not None else {},
        of_service=True,
        other_tokens=not is_read_alike(Path(plan.model_path)),
    )


def _settings(argv: tuple[str, ...]) -> list[str]:
    words: list[str] = []
    skip = False
    for word in argv:
        if word.startswith("--"):
            skip = word.partition("=")[0] in _NO_VECTORS
        if not skip:
            words.append(word)
    return words


def _variables(env: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env.items() if name not in _NO_VECTOR_VARIABLES]


@functools.cache
def _plugin() -> tuple[str, int]:
    """The content of what runs inside engines, as a digest, and when it last changed (ns)."""
    total = hashlib.blake2b(__version__.encode(), digest_size=16)
    newest = 0
    for path in sorted(INSIDE.rglob("*.py")):
        content = path.read_bytes()
        newest = max(newest, path.stat().st_mtime_ns)
        total.update(f"{path.relative_to(INSIDE)}\0{len(content)}\0".encode() + content)
    return total.hexdigest(), newest


def service_limits(plan: Plan, timeout_s: float, *, hold_s: float = 0.0) -> Limits:
    """What the service takes in one call, and how long a call waits for its restart."""
    guard = plan.guard
    inputs = min(plan.expectation.max_running_requests, guard.inputs if guard else 64)
    return Limits(
        most_open=32,
        call_inputs=max(1, min(64, inputs)),
        call_bytes=max(1 << 10, min(1 << 20, guard.call_bytes if guard else 1 << 20)),
        timeout_s=timeout_s,
        hold_s=hold_s,
    )


def parse_targets(
    words: tuple[str, ...],
    *,
    key: str | None,
    revision: str,
    timeout_s: float,
    hold_s: float = HOLD_S,
) -> tuple[tuple[ServiceGroup, ...], tuple[UrlGroup, ...]]:
    """Servers of `[NAME=]TARGET[,TARGET…]`, where each target is a service or a URL.

    Raises:
        QlaunchError: `bad_target` (exit 2): two groups of one name, or services and URLs mixed;
            `no_such_service` (exit 3), `bad_service_name` (exit 2).
    """
    services: list[ServiceGroup] = []
    urls: list[UrlGroup] = []
    for word in words:
        name, _, rest = word.partition("=") if _is_named(word) else ("", "", word)
        if not rest or (rest != word and not name):
            raise _bad_target("a target with `=` is NAME=TARGET or NAME=TARGET,TARGET")
        targets = tuple(_target(target) for target in rest.split(",") if target)
        kinds = {"://" in target for target in targets}
        if len(set(targets)) < len(targets):
            raise _bad_target(f"{name or 'a target'} names a server twice")
        if len(kinds) != 1:
            raise _bad_target(f"{word!r} names no server, or mixes services and URLs")
        if kinds == {True}:
            urls.append(UrlGroup(name=name or None, urls=targets, key=key, revision=revision))
        else:
            sources = tuple(ServiceSource(target) for target in targets)
            services.append(_service_group(name, sources, timeout_s, hold_s))
    names = [one.name for one in services] + [one.name for one in urls if one.name]
    for name in names:
        if names.count(name) > 1:
            raise _bad_target(f"two servers are called {name!r}: replicas are NAME=A,B")
    return tuple(services), tuple(urls)


def _target(text: str) -> str:
    """A service's name as it is, a URL as calls need it."""
    if "://" not in text:
        return text
    try:
        return address.api_url(text)
    except address.WrongAddressError as error:
        raise _bad_target(f"the address{address.told(text)} {error}") from None


def _service_group(
    name: str, sources: tuple[ServiceSource, ...], timeout_s: float, hold_s: float = HOLD_S
) -> ServiceGroup:
    """Services under a name of their own, or under all the names that their model has."""
    plan = sources[0].plan
    aliases = plan.guard.aliases if plan.guard is not None and not name else ()
    return ServiceGroup(
        name=name or plan.model_name,
        sources=sources,
        limits=service_limits(plan, timeout_s, hold_s=hold_s),
        aliases=aliases,
    )


def parse_checkpoints(
    words: tuple[str, ...], groups: tuple[UrlGroup, ...]
) -> dict[str, Checkpoint]:
    """What models behind URLs are, from `NAME=MODEL`.

    Raises:
        QlaunchError: `bad_target` (exit 2): no such name, or one named twice; `model_not_found` and
            what else is wrong with a model (exit 2).
    """
    checkpoints: dict[str, Checkpoint] = {}
    for word in words:
        name, model = _pair(word, "--checkpoint")
        if name in checkpoints:
            raise _bad_target(f"--checkpoint names {name!r} twice")
        if not any(group.name in (None, name) for group in groups):
            raise _bad_target(f"--checkpoint {word!r}: no URL is called {name!r}")
        checkpoints[name] = _checkpoint(model)
    return checkpoints


def _checkpoint(model: str) -> Checkpoint:
    from launcher.app.known_model import Fetching, known_model
    from launcher.gateway.model_tokenizer import ModelTokenizer, NoTokenizerError

    how = Fetching(fetch=False, foresee=False, offline=True, progress=lambda _text: None)
    known = known_model(model, paths.dirs(), how).checkpoint
    folder = Path(known.path)
    try:
        ModelTokenizer(folder / "tokenizer.json")
    except NoTokenizerError as error:
        raise _bad_target(f"--checkpoint {model}: {error}") from error
    prompts = known.prompts.named if known.prompts is not None else {}
    return Checkpoint(folder=str(folder), longest=known.context_length, prompts=prompts)


def parse_aliases(
    words: tuple[str, ...], services: tuple[ServiceGroup, ...], urls: tuple[UrlGroup, ...]
) -> dict[str, str]:
    """Further names of models, from `NAME=MODEL`.

    Raises:
        QlaunchError: `bad_target` (exit 2): a name that a model has, or no such model.
    """
    taken = {name for one in services for name in (one.name, *one.aliases)}
    taken |= {one.name for one in urls if one.name}
    open_ended = any(one.name is None for one in urls)
    aliases: dict[str, str] = {}
    for word in words:
        alias, model = _pair(word, "--alias")
        if alias in taken or alias in aliases:
            raise _bad_target(f"--alias {word!r}: {alias!r} is another model's name")
        if model not in taken and not open_ended:
            raise _bad_target(f"--alias {word!r}: there is no model {model!r}")
        aliases[alias] = model
    return aliases


def _pair(word: str, option: str) -> tuple[str, str]:
    name, equals, rest = word.partition("=")
    if not (name and equals and rest):
        raise _bad_target(f"{option} {word!r} is not NAME=MODEL")
    return name, rest


def _is_named(word: str) -> bool:
    """Whether `=` stands before the target, and not within a URL."""
    return "=" in word and "://" not in word.partition("=")[0]


def _bad_target(message: str) -> QlaunchError:
    return QlaunchError(
        message,
        code="bad_target",
        fix="give services (qlaunch ps), URLs such as http://host:port/v1, or NAME=TARGET,TARGET",
    )
