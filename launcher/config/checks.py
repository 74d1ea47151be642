"""What a profile must keep to beyond its schema: sizes, engine flags, environment, host.

Pure: each check returns what is wrong, or None; who calls knows file and line.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.config import cache
from launcher.config.size import parse_capability, parse_need
from launcher.errors import QlaunchError
from launcher.yaml_reader import did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from launcher.argv import FlagValue
    from launcher.config.profile import CheckpointNeed, HardwareNeed, Profile

FLAG_KEY = r"^[a-z0-9][a-z0-9-]*$"
RELEASE = r"^[a-z0-9][a-z0-9._-]{0,63}$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

OWNED_FLAGS = {
    "model-path": "set `model` instead",
    "model": "set `model` instead",
    "host": "set `host` instead",
    "port": "set `port` instead",
    "device": "set `hardware.device` instead",
    "dtype": "set `dtype` instead",
    "is-embedding": "leave it out: qlaunch always passes it",
    "served-model-name": "leave it out: the service carries the name of its model card",
    "config": "write the options under `flags` instead",
    "api-key": "keep the key in a file of mode 0600 and give `--api-key-file`",
    "admin-api-key": "keep keys out of profiles and command lines: others can read both",
}
"""Engine options that qlaunch sets itself, with what to write in a profile."""

QUANT_METHODS = frozenset(
    [
        "auto-round",
        "auto-round-int8",
        "awq",
        "awq_marlin",
        "bitsandbytes",
        "blockwise_int8",
        "compressed-tensors",
        "fp8",
        "gguf",
        "gptq",
        "gptq_marlin",
        "humming",
        "marlin",
        "minimax_m3_nvfp4",
        "mlx_q4",
        "mlx_q8",
        "modelopt",
        "modelopt_fp4",
        "modelopt_fp8",
        "modelopt_mixed",
        "modelslim",
        "moe_wna16",
        "mxfp4",
        "mxfp8",
        "mxfp_w4a8",
        "nvfp4_online",
        "petit_nvfp4",
        "qoq",
        "quark",
        "quark_int4fp8_moe",
        "quark_mxfp4",
        "unquant",
        "w4afp8",
        "w8a8_fp8",
        "w8a8_int8",
    ]
)
"""Formats of quantised weights that some release of the engine knows (a test holds them against
the tables of its options)."""
_USUAL = "awq, gptq, fp8 or compressed-tensors"
_FOR_CUDA, _DEVICE = "remove it, or write `device: cuda`", ("hardware", "device")
_DEEPSEEK_ONLY = frozenset(
    ("offload-group-size", "offload-num-in-group", "offload-prefetch-step", "offload-mode")
)
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSW(OR)?D|CREDENTIAL")
_HARMLESS = re.compile("TOKENIZERS?|TOKENS")
_FEWER_THREADS = frozenset({"OMP_DYNAMIC", "OMP_THREAD_LIMIT", "KMP_DEVICE_THREAD_LIMIT"})
"""Products are divided among a number of threads; OpenMP then starts fewer of them, and the shares
of the others stay what was in memory (oneDNN in bfloat16)."""
OPENMP_THREADS = "OMP_NUM_THREADS"
OWNED_VARIABLES = {
    "PYTHONHOME": "leave it out: the engine has a Python of its own",
    "SGLANG_PLUGINS": "leave it out, or write `plugin: false` for an engine without any",
    "SGLANG_USE_CPU_ENGINE": "set `hardware.device` instead",
    "SGLANG_EXTERNAL_MODEL_PACKAGE": "leave it out: the model decides it",
    "QLAUNCH_MODEL_PATH": "set `model` instead",
    "QLAUNCH_START_METHOD": "set `start_method` instead",
}
"""Variables with which the engine would not be what is planned: one without qlaunch's plugin, which
pools by another token and takes twice the memory that is predicted, or none that starts."""
LONGEST_VARIABLE = 128 * 1024 - 1
"""Bytes of `NAME=value`, its end not counted: Linux starts no program with more (execve(2))."""
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)


@dataclass(frozen=True)
class ProfileProblem:
    """One thing that is wrong, and what to write."""

    message: str
    fix: str | None = None
    because: tuple[str | int, ...] | None = None
    """Path of the other value with which this one does not go together."""


Located = tuple[tuple[str | int, ...], ProfileProblem]


def profile_problems(profile: Profile) -> Iterator[Located]:
    """Everything wrong with `profile` that its schema cannot say, with the path of each."""
    yield from _hardware_problems(profile.hardware)
    yield from _quantization_problems(profile.checkpoint)
    if not profile.model.strip():
        yield ("model",), ProfileProblem("`model` is empty", "name a model card or a source")
    yield from _address_problems(profile)
    key_file = path_problem(profile.api_key_file) if profile.api_key_file is not None else None
    if key_file:
        yield ("api_key_file",), key_file
    for found in cache.problems(profile.cache):
        yield ("cache", found.key), ProfileProblem(found.message, found.fix)
    yield from flags_problems(profile.flags)
    for release, flags in profile.flags_by_engine.items():
        if not re.fullmatch(RELEASE, release, re.ASCII):
            message = f"`flags_by_engine.{shown(release, 60)}` is not the name of an engine release"
            yield ("flags_by_engine", release), ProfileProblem(message, "see `qlaunch engine list`")
        for path, problem in flags_problems(flags):
            yield ("flags_by_engine", release, *path[1:]), problem
    for number, flags in enumerate(profile.fallback):
        for path, problem in flags_problems(flags):
            yield ("fallback", number, *path[1:]), problem
    unfit = {
        name: env_problem(name) or _too_long(name, value) or _bad_threads(name, value)
        for name, value in profile.env.items()
    }
    yield from ((("env", name), wrong) for name, wrong in unfit.items() if wrong)
    if profile.restart.backoff_initial_s > profile.restart.backoff_max_s:
        message = "`restart.backoff_initial_s` is longer than `restart.backoff_max_s`"
        yield ("restart", "backoff_initial_s"), ProfileProblem(message)


def _address_problems(profile: Profile) -> Iterator[Located]:
    for name in ("host", "metrics_host"):
        if host := host_problem(getattr(profile, name), name):
            yield (name,), host
    if profile.metrics_port and profile.metrics_port == profile.port:
        message = f"`metrics_port` is {profile.port}, and so is `port`"
        yield ("metrics_port",), ProfileProblem(message, "give one another number, or 0")


def _hardware_problems(need: HardwareNeed) -> Iterator[Located]:
    parsers: dict[str, Callable[[str], object]] = {
        "min_compute_capability": parse_capability,
        "max_compute_capability": parse_capability,
        "min_gpu_memory": parse_need,
        "min_ram": parse_need,
    }
    parsed: dict[str, object] = {}
    for name, parse in parsers.items():
        text = getattr(need, name)
        if text is None:
            continue
        if need.device == "cpu" and name != "min_ram":
            message = f"`hardware.{name}` is about a GPU, but `hardware.device` is cpu"
            yield ("hardware", name), ProfileProblem(message, _FOR_CUDA, _DEVICE)
            continue
        try:
            parsed[name] = parse(text)
        except QlaunchError as error:
            message = f"`hardware.{name}`: {error.message}"
            yield ("hardware", name), ProfileProblem(message, error.fix)
    if need.device == "cpu" and need.shared:
        message = "`hardware.shared` is about a GPU, but `hardware.device` is cpu"
        yield ("hardware", "shared"), ProfileProblem(message, _FOR_CUDA, _DEVICE)
    low, high = parsed.get("min_compute_capability"), parsed.get("max_compute_capability")
    if isinstance(low, tuple) and isinstance(high, tuple) and low > high:
        message = "`hardware.min_compute_capability` is above `max_compute_capability`"
        yield ("hardware", "min_compute_capability"), ProfileProblem(message)


def _quantization_problems(need: CheckpointNeed | None) -> Iterator[Located]:
    for number, name in enumerate(need.quantization if need is not None else ()):
        if name not in QUANT_METHODS:
            message = f"`checkpoint.quantization`: no engine knows the format `{shown(name, 60)}`"
            fix = f"write what the checkpoint's config.json has as quant_method, such as {_USUAL}"
            problem = ProfileProblem(message + did_you_mean(name, sorted(QUANT_METHODS)), fix)
            yield ("checkpoint", "quantization", number), problem


def flags_problems(flags: Mapping[str, FlagValue]) -> Iterator[Located]:
    """What is wrong with each engine option."""
    for key, value in flags.items():
        wrong = flag_problem(key, value)
        if wrong:
            yield ("flags", key), wrong


def flag_problem(key: str, value: FlagValue) -> ProfileProblem | None:
    """What is wrong with one engine option, from a profile or from the command line."""
    if not re.fullmatch(FLAG_KEY, key, re.ASCII):
        plain = re.sub("[^a-z0-9]+", "-", key[:100].lower()).strip("-")
        fix = f"write `{plain}`" if plain else "write the long name of an engine option"
        return ProfileProblem(
            f"`flags.{shown(key, 60)}` is not an option name without dashes in front", fix
        )
    if key in OWNED_FLAGS:
        return ProfileProblem(f"`flags.{key}` is set by qlaunch itself", OWNED_FLAGS[key])
    if key in _DEEPSEEK_ONLY:
        message = f"`flags.{key}` crashes the engine at start for every model but DeepSeek's"
        return ProfileProblem(
            message, "remove it; `cpu-offload-gb` is the option that other models have"
        )
    if key == "cpu-offload-gb" and (type(value) is not int or value < 0):
        message = (
            f"`flags.{key}` takes whole gibibytes (2^30 bytes) only, found {shown(str(value), 40)}"
        )
        return ProfileProblem(message, "write a whole number such as 1")
    if isinstance(value, list) and not value:
        message = f"`flags.{key}` is an empty list"
        return ProfileProblem(message, "give at least one value, or remove it")
    return None


def env_problem(name: str) -> ProfileProblem | None:
    """What is wrong with the name of an environment variable in a profile."""
    if not re.fullmatch(ENV_NAME, name, re.ASCII):
        message = f"`env.{shown(name, 60)}` is not a name an environment variable can have"
        return ProfileProblem(message, "use letters, digits and underscores, no digit first")
    # TOKENIZERS_PARALLELISM and MAX_TOKENS are no secrets.
    if _SECRET.search(_HARMLESS.sub("", name.upper())):
        advice = "for the endpoint's own key give `--api-key-file`; for a hub's, export it instead"
        return ProfileProblem(
            f"`env.{name}` looks like a secret; secrets do not belong in a profile", advice
        )
    if name in OWNED_VARIABLES:
        return ProfileProblem(f"`env.{name}` is set by qlaunch itself", OWNED_VARIABLES[name])
    if name in _FEWER_THREADS:
        message = f"`env.{name}` lets OpenMP leave shares of a product out: vectors would be wrong"
        return ProfileProblem(message, "remove it, and give a number of threads by `threads: N`")
    return None


def _too_long(name: str, value: str) -> ProfileProblem | None:
    """A variable of a size with which the kernel starts no program."""
    taken = len(f"{name}={value}".encode())
    if taken <= LONGEST_VARIABLE:
        return None
    message = f"`env.{name}` takes {taken} bytes, and Linux starts no program with that"
    return ProfileProblem(message, "write it into a file, and give the file's path")


def _bad_threads(name: str, value: str) -> ProfileProblem | None:
    """What is not one number of threads: a plan would name another than the engine is given."""
    if name != OPENMP_THREADS or re.fullmatch(r"[1-9][0-9]{0,4}", value, re.ASCII):
        return None
    message = f"`env.{name}` is {shown(value, 40)!r}, and not one number of threads"
    return ProfileProblem(message, "write a whole number, or give it by `threads: N`")


def host_problem(host: str, name: str = "host") -> ProfileProblem | None:
    """What is wrong with an address to listen on, the value of setting `name`."""
    fix = "write an IPv4 address, an IPv6 address without brackets, or a host name"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        # A name that ends in digits can only be a mistyped IPv4 address (RFC 1123, 2.1).
        named = all(_HOST_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
        if not named or len(host) > 253:
            return ProfileProblem(
                f"`{name}` {shown(host, 60)!r} is neither an address nor a name", fix
            )
    return None


def path_problem(path: str) -> ProfileProblem | None:
    """What is wrong with a path as text; whether it exists is not looked at."""
    if not path.strip():
        return ProfileProblem("the path is empty", "give a path, or leave it out")
    return ProfileProblem("the path contains a null character") if "\0" in path else None
