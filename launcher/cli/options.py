"""Options that several commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from launcher.app.prepare import Request
from launcher.engine.environments import environment_probe

Decorated = Callable[..., Any]

_OPTIONS = (
    click.option("--name", help="Name of the service (default: the profile's name)."),
    click.option("--model", help="Model card, folder, hf:ORG/NAME, modelscope:… or package:…."),
    click.option("--engine", help="Engine release (qlaunch engine list)."),
    click.option(
        "--engine-python",
        metavar="PATH",
        help="Python of an environment with your own SGLang; `path` takes the sglang on PATH.",
    ),
    click.option("--host", help="Address to listen on (default 127.0.0.1)."),
    click.option("--port", help="Port to listen on; 0 takes a free one."),
    click.option(
        "--metrics-port",
        help="Have the supervisor answer Prometheus on this port; 0 takes a free one.",
    ),
    click.option("--metrics-host", help="Address of that port (default 127.0.0.1)."),
    click.option("--dtype", help="auto, float32, bfloat16, float16, or int8 (on an x86-64 CPU)."),
    click.option("--threads", help="Compute threads on a CPU: a number or auto."),
    click.option("--start-timeout", "start_timeout_s", help="Seconds until verified, at most."),
    click.option(
        "--plugin/--no-plugin",
        default=None,
        help="Run qlaunch's plugin inside the engine: pooling as the checkpoint says, one import.",
    ),
    click.option(
        "--start-method",
        help="How the engine starts its processes on a CPU: auto (fork where safe), fork or spawn.",
    ),
    click.option(
        "--api-key-file", metavar="FILE", help="File (mode 0600) with the key clients must send."
    ),
    click.option(
        "--allow-unauthenticated",
        is_flag=True,
        default=None,
        help="Listen beyond this machine without a key.",
    ),
    click.option("--offline", is_flag=True, default=None, help="Fetch nothing."),
    click.option(
        "--expect-fingerprint",
        metavar="HEX",
        help="Refuse a checkpoint with another fingerprint (plan --json): its files changed.",
    ),
)

_REPLICAS = click.option(
    "--replicas", help="Engines of their own behind the one address, on this machine (1)."
)


def plan_options(body: Decorated) -> Decorated:
    """Everything that shapes a plan: profile, settings, and the engine's own options after `--`."""
    return plan_options_of_a_pod(_REPLICAS(body))


def plan_options_of_a_pod(body: Decorated) -> Decorated:
    """The same where `--replicas` means pods or machines, each with a service of the plan."""
    for option in reversed(_OPTIONS):
        body = option(body)
    arguments = click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar=_METAVAR)
    return arguments(body)


_MACHINE = (
    click.option(
        "--gpu", metavar="NAME", help="For a machine with this card (T4, RTX 3060, A100 80GB)."
    ),
    click.option("--vram", metavar="SIZE", help="Memory of that card as it is sold, such as 4GB."),
    click.option("--driver", metavar="VERSION", help="NVIDIA driver of that machine, such as 535."),
)


def machine_options(body: Decorated) -> Decorated:
    """`--gpu`, `--vram` and `--driver`: a machine one does not sit at."""
    for option in reversed(_MACHINE):
        body = option(body)
    return body


_METAVAR = "[PROFILE|MODEL] [-- ENGINE OPTIONS]"


def split(words: tuple[str, ...], typed: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """Profile and engine options, from click's words and what was really typed.

    Click drops the `--` itself, so where it stood is read from the command line.

    Raises:
        click.UsageError: more than one profile.
    """
    after = typed[typed.index("--") + 1 :] if "--" in typed else []
    before = words[: len(words) - len(after)] if after else words
    if len(before) > 1:
        raise click.UsageError(
            f"one profile at a time, got {', '.join(before)}; engine options go after `--`"
        )
    return (before[0] if before else None), tuple(after)


def start_options(given: dict[str, object], extra: tuple[str, ...]) -> str:
    """The options among those given that shape a start, for a sentence; empty without any."""
    named = sorted(option for option, value in given.items() if value is not None)
    shown = [f"--{option.replace('_', '-')}" for option in named]
    return ", ".join([*shown, *(["--"] if extra else [])])


def request(
    words: tuple[str, ...], given: dict[str, object], *, fetch: bool = True, foresee: bool = False
) -> Request:
    """The request that a command line states."""
    context = click.get_current_context()
    profile, extra = split(words, context.find_root().obj or [])
    if given.get("engine_python") == "path":
        given = given | {"engine_python": str(environment_probe.python_on_path())}
    beside = ("gpu", "vram", "driver", "expect_fingerprint")
    gpu, vram, driver, fingerprint = (text(given.get(name)) for name in beside)
    return Request(
        profile=profile,
        given={name: value for name, value in given.items() if name not in beside},
        extra=extra,
        fetch=fetch,
        foresee=foresee,
        gpu=gpu,
        vram=vram,
        driver=driver,
        expect_fingerprint=fingerprint,
    )


def text(value: object) -> str | None:
    """An option's value as it was typed."""
    return None if value is None else str(value)
