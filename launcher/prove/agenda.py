"""What is to be proved on a machine, in the order of its worth. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["command", "engine_killed", "supervisor_killed"]

SERVICE: Final = "prove"
"""Beginning of the names of all services that are started here."""
_UP_S: Final = 900.0
_ASK_S: Final = 240.0
_VECTORS_S: Final = 480.0
"""The float32 reference of two sets of texts is computed on the CPU first."""
_SHORT_S: Final = 60.0
QUANTISED: Final = {"int8": "gpu-2gb-int8", "int4": "gpu-2gb-int4"}
"""`--to` → the profile that serves it."""


WHOLE_TEXTS: Final = (
    *("--", "--attention-backend", "torch_native"),
    *("--disable-radix-cache", "--chunked-prefill-size", "-1"),
)
"""Options under which the plugin attends over whole texts (`qlaunch_sglang/attention.py`)."""


PORTABLE: Final = "cuda13-portable"


@dataclass(frozen=True)
class Step:
    """One call of the program, or one drill on a service."""

    name: str
    words: tuple[str, ...]
    """Arguments of `qlaunch`; of a drill, the service's name."""
    limit_s: float
    kind: Kind = "command"
    accepts: tuple[int, ...] = (0,)
    """Exit codes that are no failure: doctor's warnings are findings like any other."""
    always: bool = False
    """Done even where a step before it failed: what takes down."""


@dataclass(frozen=True)
class Chapter:
    """Steps in order; the first that fails ends it, but for those that are always done."""

    name: str
    title: str
    steps: tuple[Step, ...] = ()
    absent: str | None = None
    """Why it cannot be done here; it is written down as skipped."""
    services: tuple[str, ...] = ()
    """What it starts, to be taken down where an earlier run was cut short."""


@dataclass(frozen=True)
class Runnable:
    """A profile that runs on this machine."""

    name: str
    model: str
    cuda: bool
    offloads: bool = False
    """Weights in RAM, layer by layer."""
    quantised: bool = False
    """Asks for a checkpoint that is quantised already."""
    release: str | None = None
    """Engine release that serves it."""
    here: bool = True
    """Its model is on this machine."""


@dataclass(frozen=True)
class Machine:
    """What the agenda is made for."""

    device: Literal["cuda", "cpu"]
    runnable: tuple[Runnable, ...]
    """Best first."""
    only: tuple[str, ...] = ()
    """Profiles that the user named; empty: all."""
    offline: bool = False
    why_not_portable: str | None = None
    """Why the release without compiled kernels cannot run on the card; None where it can."""


def agenda(machine: Machine) -> tuple[Chapter, ...]:
    """Every chapter, most worth first: what a cut leaves out is the least of it."""
    wanted = [r for r in machine.runnable if not machine.only or r.name in machine.only]
    plain = [r for r in wanted if not r.quantised and _suits(r, machine)]
    chapters = [_machine()]
    if plain:
        chapters += [_profile(plain[0], machine, drills=True), _table(plain, machine)]
    if machine.device == "cuda":
        chapters += [*_whole_texts(plain, machine), *_quantised(wanted, machine)]
        chapters += _shared(plain, machine)
    chapters += [_profile(each, machine, drills=False) for each in plain[1:]]
    if machine.device == "cuda":
        chapters += _newest(plain, machine)
    return tuple(chapters)


def _suits(runnable: Runnable, machine: Machine) -> bool:
    """With a card, profiles for the CPU are in the table alone; those asked for by name count."""
    return runnable.cuda or machine.device == "cpu" or runnable.name in machine.only


def _machine() -> Chapter:
    steps = (
        Step(
            "host, card and folders", ("doctor", "--offline"), _SHORT_S, accepts=(0, 1), always=True
        ),
        Step("releases", ("engine", "list"), _SHORT_S, always=True),
        Step("profiles", ("profiles", "list"), _SHORT_S, always=True),
        Step("recommendation", ("recommend",), _SHORT_S, always=True),
    )
    return Chapter("machine", "The machine", steps)


def _absent(runnable: Runnable, machine: Machine) -> str | None:
    if machine.offline and not runnable.here:
        return f"model {runnable.model} is not on this machine, and --offline fetches nothing"
    return None


def _up(profile: str, service: str, machine: Machine, *more: str) -> Step:
    offline = ("--offline",) if machine.offline else ()
    return Step("up", ("up", profile, "--name", service, "--port", "0", *offline, *more), _UP_S)


def _down(service: str) -> Step:
    return Step("down", ("down", service), _SHORT_S, always=True)


def _life(
    profile: str, machine: Machine, *more: str, name: str = "", drills: bool = False
) -> Iterator[Step]:
    """One profile from its start to its stop."""
    service = f"{SERVICE}-{name or profile}"
    yield _up(profile, service, machine, *more)
    yield Step("vectors", ("verify", service, "--quality", "--seconds", "45"), _VECTORS_S)
    load = ("bench", service, "--batch", "1,4", "--tokens", "128", "--requests", "100")
    yield Step("load", (*load, "--seconds", "20"), _ASK_S)
    yield Step("memory", ("status", service), _SHORT_S)
    if drills:
        yield Step("its engine is killed", (service,), _ASK_S, kind="engine_killed")
        yield Step("vectors after it", ("smoke", service), _ASK_S)
        yield Step("its supervisor is killed", (service,), _SHORT_S, kind="supervisor_killed")
    yield _down(service)


def _profile(runnable: Runnable, machine: Machine, *, drills: bool) -> Chapter:
    return Chapter(
        f"profile {runnable.name}",
        f"{runnable.name}: start, vectors, load, memory{', kill drills' if drills else ''}",
        tuple(_life(runnable.name, machine, drills=drills)),
        _absent(runnable, machine),
        (f"{SERVICE}-{runnable.name}",),
    )


def _table(plain: Sequence[Runnable], machine: Machine) -> Chapter:
    """The article's table: directly, with layers in RAM, on the CPU."""
    model = plain[0].model
    same = [r for r in machine.runnable if r.model == model and not r.quantised]
    modes = [plain[0].name]
    modes += [r.name for r in same if r.cuda and r.offloads][:1]
    modes += [r.name for r in same if not r.cuda][:1]
    if machine.device == "cpu":
        here = (r for r in plain if _absent(r, machine) is None)
        modes = [r.name for r in here][:2] or modes
    modes = list(dict.fromkeys(modes))
    # One mode alone is compared with the plain command of the tutorials.
    alone = () if len(modes) > 1 else ("--baseline",)
    words = ("compare", *modes, *alone, "--clients", "1", "--batch", "1,4", "--tokens", "128")
    words += ("--requests", "100", "--seconds", "45", "--repeats", "1", "--no-quality")
    title = f"The table: {', '.join(modes)}; 128 tokens, batches of 1 and 4, 100 requests"
    return Chapter("table", title, (Step("compare", words, _UP_S),), _absent(plain[0], machine))


def _whole_texts(plain: Sequence[Runnable], machine: Machine) -> Iterator[Chapter]:
    """Turing's profile again, with the attention that has tensor cores there.

    Its chapter beside the profile's own says whether the profile should take it: Triton, which it
    takes, compiles products in float16 to FMA on Turing.
    """
    if not plain or plain[0].release != "turing":
        return
    service = f"{SERVICE}-whole-texts"
    steps = tuple(_life(plain[0].name, machine, *WHOLE_TEXTS, name="whole-texts"))
    title = f"{plain[0].name} with attention by PyTorch's kernels, over whole texts"
    yield Chapter("whole texts", title, steps, _absent(plain[0], machine), (service,))


def _newest(plain: Sequence[Runnable], machine: Machine) -> Iterator[Chapter]:
    """Turing's profile on the newest engine: its chapter would make that release one for `auto`."""
    if not plain or plain[0].release != "turing":
        return
    why = _absent(plain[0], machine) or machine.why_not_portable
    if machine.offline and why is None:
        why = f"--offline fetches nothing, and {PORTABLE} takes a fetch of gigabytes"
    steps = tuple(_life(plain[0].name, machine, "--engine", PORTABLE, name=PORTABLE))
    title = f"{plain[0].name} on {PORTABLE}, the newest engine without compiled kernels"
    yield Chapter("newest engine", title, steps, why, (f"{SERVICE}-{PORTABLE}",))


def _quantised(wanted: Sequence[Runnable], machine: Machine) -> Iterator[Chapter]:
    """int8 and int4, from the making to the stop; fp8 is a profile like any other."""
    for to, profile in QUANTISED.items():
        runnable = next((r for r in wanted if r.name == profile), None)
        if runnable is None:
            continue
        copy = f"{runnable.model}-{to}"
        make = Step("make", ("model", "quantize", runnable.model, "--to", to), _UP_S)
        steps = (make, *_life(profile, machine, "--model", copy))
        title = f"{to}: the checkpoint made here, then {profile} with it"
        services = (f"{SERVICE}-{profile}",)
        yield Chapter(f"quantised {to}", title, steps, _absent(runnable, machine), services)


def _shared(plain: Sequence[Runnable], machine: Machine) -> Iterator[Chapter]:
    """Two services on one card, at once."""
    if not plain:
        return
    names = tuple(f"{SERVICE}-{n}-of-2" for n in (1, 2))
    ups = [_up(plain[0].name, name, machine) for name in names]
    load = ("--batch", "4", "--tokens", "128", "--requests", "50", "--seconds", "20")
    steps = (
        *ups,
        *(Step("load", ("bench", name, *load), _ASK_S) for name in names),
        *(Step("memory", ("status", name), _SHORT_S) for name in names),
        *(_down(name) for name in names),
    )
    title = f"Two services of {plain[0].name} on one card"
    yield Chapter("two on one card", title, steps, _absent(plain[0], machine), names)
