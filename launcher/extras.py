"""Large libraries that few need, installed only when asked for: `qlaunch[report]`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Final, Literal

from launcher.errors import QlaunchError

Extra = Literal["report", "modelscope", "embed", "ray", "redis", "memcached", "gateway", "otel"]

MODULES: Final[dict[Extra, str]] = {
    "report": "matplotlib",
    "modelscope": "modelscope",
    "embed": "pyarrow",
    "ray": "ray.data",
    "redis": "redis",
    "memcached": "pymemcache",
    "gateway": "tokenizers",
    "otel": "opentelemetry.exporter.otlp.proto.http",
}
"""What an extra of `pyproject.toml` brings, by the name that is imported."""
NEEDS_HOME: Final = "set HOME to a folder of your own"
_PURPOSES: Final[dict[Extra, str]] = {
    "report": "charts are drawn with matplotlib",
    "modelscope": "models from ModelScope are fetched with its client library, modelscope",
    "embed": "Parquet is read and written with pyarrow",
    "ray": "a corpus is embedded on a cluster by Ray Data",
    "redis": "the gateway's cache in Redis is asked with its client library, redis",
    "memcached": "the gateway's cache in Memcached is asked with its client library, pymemcache",
    "gateway": "texts are cut with the model's own tokenizer, which tokenizers reads",
    "otel": "spans are sent with opentelemetry-exporter-otlp-proto-http",
}


def require(extra: Extra) -> Any:
    """The module that an extra brings, imported.

    Raises:
        QlaunchError: `extra_missing` (exit 2) with the command that installs it.
    """
    name = MODULES[extra]
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: ModelScope's asks for a home
        homeless = os.path.expanduser("~") == "~"  # noqa: PTH111 - as there is none
        absent = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        why = "which is not installed" if absent else f"which cannot be imported ({error})"
        raise QlaunchError(
            f"{_PURPOSES[extra]}, {why}",
            code="extra_missing",
            fix=NEEDS_HOME if homeless else install_command(extra),
        ) from error


def lacking(extra: Extra) -> QlaunchError | None:
    """The error of `require`, not raised; None where the extra can be used."""
    try:
        require(extra)
    except QlaunchError as error:
        return error
    return None


def package(extra: Extra) -> str:
    """What an extra brings, as pip names it."""
    return "ray[data]" if extra == "ray" else MODULES[extra].replace(".", "-")


def install_command(extra: Extra) -> str:
    """How to add an extra to the environment that this program runs in."""
    wanted = f"'qlaunch[{extra}]'"
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx inject qlaunch {shlex.quote(package(extra))}"
    if (prefix / "uv-receipt.toml").exists():
        return f"uv tool install --with {shlex.quote(package(extra))} qlaunch"
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {sys.executable} {wanted}"
    return f"{sys.executable} -m pip install {wanted}"
