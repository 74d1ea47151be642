"""The schema of a profile: the YAML a user writes, one Struct a section.

The text under each field is also its description in the published schema (`profiles/schema.json`,
written by `python -m launcher.config.schema`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from launcher.argv import FlagValue

# `(?!\n)`: Python's `$` also matches before a final line break.
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)",
        extra={"words": "a name (lower-case letters, digits, `.`, `_`, `-`; 64 at most)"},
    ),
]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
StartMethod = Literal["auto", "fork", "spawn"]
Threads = Positive | Literal["auto"]
Replicas = Annotated[int, msgspec.Meta(ge=1, le=32)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
CacheBackend = Literal["embedded", "redis", "memcached"]
Origin = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/?#@\s\x00-\x1f]+)$(?!\n)",
        extra={"words": "an origin (`https://app.example`, without a path), or `*`"},
    ),
]
Host = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$(?!\n)",
        extra={"words": "a host name in lower-case letters, without a port"},
    ),
]
Alias = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$(?!\n)",
        extra={"words": "a model's name (letters, digits, `.`, `_`, `-`, `/`; 128 at most)"},
    ),
]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Size = Annotated[
    Positive | str,
    msgspec.Meta(
        extra={
            "words": "a size (a whole number of bytes, or text such as 4GiB)",
            "fix": "write a whole number of bytes, or a size such as 4GiB",
        }
    ),
]
Time = Annotated[
    Positive | str,
    msgspec.Meta(
        extra={
            "words": "a time (a whole number of seconds, or text such as 12h)",
            "fix": "write a whole number of seconds, or such as 30m, 12h, 7d",
        }
    ),
]


class HardwareNeed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the profile needs to run at all."""

    device: Literal["cpu", "cuda"]
    """Where the engine computes."""
    gpus: list[str] = []
    """Names of cards it is written for, as people say them (T4, A10G); for humans and `list`."""
    min_compute_capability: str | None = None
    """Oldest NVIDIA architecture it runs on, quoted, such as "7.5"."""
    max_compute_capability: str | None = None
    """Newest NVIDIA architecture it runs on, quoted, such as "9.0"."""
    min_gpu_memory: Size | None = None
    """Memory of the whole card without which nothing of it works, such as `4GiB`; whether the
    plan's own sizes fit is predicted."""
    shared: bool = False
    """Written for a card that others use too, or for a slice of one."""
    min_ram: Size | None = None
    """RAM this machine may use (its cgroup limit, if there is one), such as `2GiB`."""


class CheckpointNeed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model's own files must be."""

    quantization: Annotated[list[str], msgspec.Meta(min_length=1)]
    """The checkpoint's config.json must name one of these as `quantization_config.quant_method`."""


class Restart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the supervisor starts the engine again. Seconds."""

    max_attempts: Annotated[int, msgspec.Meta(ge=0, le=100)] = 5
    """Starts after failures before the service is given up; 0 never starts it again."""
    backoff_initial_s: Seconds = 0.5
    """Pause before the first new start; doubled each time."""
    backoff_max_s: Seconds = 60.0
    """Longest pause."""
    stable_after_s: Seconds = 300.0
    """A service ready for so long starts counting from zero."""
    template: bool = True
    """Keep an imported, idle copy of the engine's first process, from which a new start is forked:
    2 s instead of a whole start. On a CPU, where children are forked; elsewhere there is none."""


class Cache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cache of vectors before the engine: the gateway, supervised with the service."""

    backend: CacheBackend = "embedded"
    """Where vectors are kept: a file of this machine, a Redis or Valkey, a Memcached."""
    url: str | None = None
    """A path for `embedded`, `redis://host:port/0` (`rediss://` for TLS),
    `redis+sentinel://host:port,host:port/master`, `redis+cluster://host:port,host:port`,
    `memcached://host:port`; left out: a file in qlaunch's cache folder, or the server on this
    machine. Never with a password."""
    ttl: Time | None = None
    """How long a vector is kept at most: seconds, or `30m`, `12h`, `7d`. A vector does not age:
    left out, it is kept until its place is needed."""
    max_bytes: Size | None = None
    """Bound of the file, such as `4GiB` (`1GiB`); servers have bounds of their own."""
    dtype: Literal["float32", "float16"] = "float32"
    """What vectors are kept as; float16 takes half, and rounds all answers to it."""
    memory: Annotated[
        NotNegative | str | None,
        msgspec.Meta(extra={"fix": "write a whole number of bytes, or a size such as 64MiB"}),
    ] = None
    """Of the vectors used last that the gateway keeps in memory too, such as `256MiB` (`64MiB`)."""
    wait_ms: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 5.0
    """Longest that a request waits for the cache before it goes on without, milliseconds."""
    idle_stop_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Stop the engine after so many seconds without a request that needs it (hits do not); the
    next one that does starts it again, and waits. Left out: it is never stopped. Replicas
    (`replicas` of 2 and more) are not stopped: `plan` says so."""
    password_file: str | None = None
    """File with the password of Redis; relative to the profile's folder."""
    sentinel_password_file: str | None = None
    """File with the password of the sentinels themselves, where they want one; relative to the
    profile's folder."""
    key_file: str | None = None
    """The secret that keys are made with, mode 0600; left out: this installation's own. Services
    on several machines share a cache by sharing it. Relative to the profile's folder."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A deployment: which hardware, which engine release, which model, which knobs."""

    extends: str | None = None
    """A profile's name, or a path to a .yaml file from this one's folder: what stands there holds
    wherever this file does not say otherwise. Mappings are merged key by key, lists are replaced,
    and null takes a key out. Not inherited: title, description, measured."""
    title: str = ""
    """One line for lists; left out: the model and where it runs."""
    description: str = ""
    """What it is for, what was measured with it, what to watch."""
    hardware: HardwareNeed
    """What the profile needs to run at all."""
    engine: Name
    """Name of an engine release (`qlaunch engine list`), or auto: by the card, its driver and the
    platform."""
    model: str
    """Name of a model card, or a source (`hf:…`, `package:…`, `modelscope:…`, a folder)."""
    aliases: list[Alias] = []
    """Further names that clients may give the model (`text-embedding-3-small`, say): listed by
    `/v1/models`, and taken in calls. Left out: its own name alone."""
    checkpoint: CheckpointNeed | None = None
    """What the model's own files must be; left out where any checkpoint of the model will do."""
    dtype: Dtype = "auto"
    """Number format of weights and arithmetic; auto on a CPU: bfloat16 where the CPU computes it,
    else float32; on a GPU: bfloat16, or float16 on cards older than compute capability 8.0. int8:
    on an x86-64 CPU with AVX2; faster with VNNI or AMX."""
    threads: Threads = "auto"
    """Compute threads on a CPU, of each replica; auto: what affinity and the cgroup quota leave,
    shared out. At most 16 for each processor of the machine."""
    replicas: Replicas = 1
    """Engines of their own behind the one address, on this machine: each with its part of the
    processors or of the GPU's memory, and a gateway before them that hands requests out."""
    host: str = "127.0.0.1"
    """Address to listen on: an IPv4 or IPv6 address or a host name."""
    port: Port = 30000
    """Port to listen on; 0 takes a free one."""
    cors_origins: list[Origin] = []
    """Origins (such as `https://app.example`) whose pages browsers may let ask the service; `"*"`
    is every one. Left out: none."""
    allowed_hosts: list[Host] = []
    """Names that a proxy on this machine passes on as `Host`; loopback's own need none."""
    metrics_port: Port | None = None
    """Port where the supervisor answers Prometheus (`/metrics`); 0 takes a free one; left out:
    none."""
    metrics_host: str = "127.0.0.1"
    """Address of that port, one of this machine. There is no key to it: beyond loopback, whoever
    reaches it may read."""
    cache: bool | CacheBackend | Cache = False
    """A cache of vectors before the engine, at the service's own address: true, the name of a
    backend, or its settings. Left out: none."""
    flags: dict[str, FlagValue] = {}
    """Engine options by their own long names without dashes; true passes a bare switch, false
    leaves it out."""
    flags_by_engine: dict[str, dict[str, FlagValue]] = {}
    """Engine options by engine release: added to `flags`, and before them, on that release only."""
    env: dict[str, str] = {}
    """Environment variables for the engine, never secrets."""
    start_timeout_s: Seconds = 600.0
    """Seconds from start to verified before the start has failed."""
    restart: Restart = Restart()
    """When the supervisor starts the engine again."""
    fallback: Annotated[
        list[Annotated[dict[str, FlagValue], msgspec.Meta(min_length=1)]],
        msgspec.Meta(max_length=8),
    ] = []
    """Engine options to try, step by step, when memory does not suffice; each step is added to
    those before it, and leaves alone what the command line set."""
    plugin: bool = True
    """Whether qlaunch's plugin runs inside the engine (right pooling, one import)."""
    start_method: StartMethod = "auto"
    """How the engine starts its scheduler and detokenizer; auto: fork where that is safe."""
    api_key_file: str | None = None
    """File with the API key that clients must send; relative to the profile's folder."""
    measured: bool = True
    """False until a run record proves it: shown by `profiles show` and in the docs; left out beside
    `extends`: false."""
