"""`qlaunch gateway`: one endpoint before embedding servers, with a cache of their vectors."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.cli.base import command as declare
from launcher.cli.base import wants_json
from launcher.cli.cache_options import cache_options, cache_settings
from launcher.cli.finite import FiniteRange
from launcher.cli.result import Result, stream, stream_document
from launcher.config.cache import LONGEST_TTL_S
from launcher.errors import QlaunchError
from launcher.linux.files import why_unreadable

if TYPE_CHECKING:
    from launcher.gateway.entry import Dtype
    from launcher.gateway.inputs import EmptyTexts, IdsOf, InputRules
    from launcher.gateway.request import Truncation
    from launcher.gateway.run import GatewaySettings, ServiceGroup, UrlGroup
    from launcher.gateway.server import ServerSettings

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to answer; the command line's options by their names."""

    host: str
    port: int
    cache_url: str | None
    cache_password_file: Path | None
    cache_sentinel_password_file: Path | None
    cache_key_file: Path | None
    cache_ttl: int | None
    cache_max_bytes: str | None
    cache_memory: str
    cache_dtype: Dtype
    cache_wait_ms: float
    api_key_file: Path | None
    allow_unauthenticated: bool
    allow_host: tuple[str, ...]
    allow_origin: tuple[str, ...]
    upstream_key_file: Path | None
    aliases: tuple[str, ...]
    checkpoints: tuple[str, ...]
    truncate: Truncation
    empty_texts: EmptyTexts
    token_ids: IdsOf
    openai_vocabulary: Path | None
    texts_per_minute: int | None
    tokens_per_minute: int | None
    revision: str
    timeout: float
    hold: float
    tls_cert: Path | None
    tls_key: Path | None
    otlp: str | None
    log_requests: bool


@declare("gateway", json_help="Print the endpoint as a JSON document on one line.")
@click.argument("targets", nargs=-1, required=True, metavar="[NAME=]SERVICE|URL[,…]…")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=30100,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@cache_options
@click.option(
    "--cache-ttl", type=click.IntRange(1, LONGEST_TTL_S), help="Seconds a vector is kept, at most."
)
@click.option(
    "--cache-max-bytes", metavar="SIZE", help="Bound of the cache on disk (default 1GiB)."
)
@click.option(
    "--cache-memory",
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    help="Of vectors used last that are kept in memory too, for a minute at most; 0 for none.",
)
@click.option(
    "--cache-dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="What vectors are kept as; float16 takes half, and rounds all answers to it.",
)
@click.option(
    "--cache-wait-ms",
    type=FiniteRange(0.1, 1000),
    default=5.0,
    show_default=True,
    help="Longest that a request waits for the cache before it goes on without.",
)
@click.option(
    "--api-key-file", type=_PATH, metavar="FILE", help="Keys that clients may send, one a line."
)
@click.option(
    "--allow-unauthenticated", is_flag=True, help="Listen beyond this machine without a key."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another name for Host.")
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Whose pages browsers may let ask: https://app.example, or * for all; without it, none.",
)
@click.option("--upstream-key-file", type=_PATH, metavar="FILE", help="The key that URLs ask for.")
@click.option(
    "--alias", "aliases", multiple=True, metavar="NAME=MODEL", help="Another name for a model."
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=MODEL",
    help="What the model called NAME behind a URL is: a folder or an installed model, for its "
    "tokenizer, its longest text and its prompts.",
)
@click.option(
    "--truncate",
    type=click.Choice(["none", "end"]),
    default="none",
    show_default=True,
    help="What happens to texts that are too long, where a request does not say: refused, or cut.",
)
@click.option(
    "--empty-texts",
    type=click.Choice(["server", "refuse"]),
    default="server",
    show_default=True,
    help="Whether the server decides about texts of nothing but white space, or all are refused.",
)
@click.option(
    "--token-ids",
    type=click.Choice(["model", "any"]),
    default="model",
    show_default=True,
    help="Token ids that are taken: those that the model's own tokenizer makes, or any.",
)
@click.option(
    "--openai-vocabulary",
    type=_PATH,
    metavar="FILE",
    help="cl100k_base.tiktoken: token ids in requests are OpenAI's, and embedded as their text.",
)
@click.option(
    "--texts-per-minute", type=click.IntRange(1), help="Of each API key, or of all without keys."
)
@click.option("--tokens-per-minute", type=click.IntRange(1), help="The same for what servers read.")
@click.option("--revision", default="", help="Of the models behind URLs: another one, other keys.")
@click.option(
    "--timeout",
    type=FiniteRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds for a server's answer.",
)
@click.option(
    "--hold",
    type=FiniteRange(0, 600),
    default=30.0,
    show_default=True,
    help="Seconds that a request waits for a service that is being started again.",
)
@click.option("--tls-cert", type=_PATH, metavar="FILE", help="Certificate, PEM.")
@click.option("--tls-key", type=_PATH, metavar="FILE", help="Its key, PEM.")
@click.option(
    "--otlp", metavar="URL", help="OpenTelemetry's collector that spans go to, http://host:4318."
)
@click.option("--log-requests", is_flag=True, help="A line for each request, without its texts.")
def command(targets: tuple[str, ...], **given: Any) -> Result:
    """Answer /v1/embeddings for TARGETS, from the cache what is in it.

    A target is a service of this machine or the URL of any server with OpenAI's interface,
    http://host:port/v1. Several are several models; replicas of one model are NAME=A,B. Runs until
    SIGTERM or Ctrl-C, and finishes the requests under way. docs/gateway.md has the rest.
    """
    from launcher.gateway.run import serve

    _log_to_stderr()
    serve(_settings(targets, Options(**given)), _announce)
    return Result(data={}, streamed=True)


def _announce(endpoint: str) -> None:
    if wants_json():
        stream_document({"endpoint": endpoint})
    else:
        stream(f"gateway  {endpoint}", as_json=False)
    sys.stdout.flush()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("qlaunch.gateway")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _settings(targets: tuple[str, ...], asked: Options) -> GatewaySettings:
    from launcher.app.caching import cache_secret
    from launcher.app.gateway import parse_checkpoints, parse_targets
    from launcher.config.size import parse_size
    from launcher.gateway.pool import Limits
    from launcher.gateway.run import GatewaySettings
    from launcher.network.listening import require_guarded

    require_guarded(
        asked.host,
        keyed=asked.api_key_file is not None,
        allowed=asked.allow_unauthenticated,
    )
    key = _upstream_key(asked.upstream_key_file)
    services, urls = parse_targets(
        targets, key=key, revision=asked.revision, timeout_s=asked.timeout, hold_s=asked.hold
    )
    return GatewaySettings(
        host=asked.host,
        port=asked.port,
        services=services,
        urls=urls,
        cache=cache_settings(
            asked.cache_url,
            asked.cache_password_file,
            sentinel_password_file=asked.cache_sentinel_password_file,
            ttl_s=asked.cache_ttl,
            size=asked.cache_max_bytes,
        ),
        dtype=asked.cache_dtype,
        budget_s=asked.cache_wait_ms / 1000,
        memory_bytes=parse_size(asked.cache_memory),
        secret=cache_secret(asked.cache_key_file),
        keys_file=asked.api_key_file,
        tls=_tls(asked.tls_cert, asked.tls_key),
        limits=Limits(timeout_s=asked.timeout),
        checkpoints=parse_checkpoints(asked.checkpoints, urls),
        inputs=_rules(asked),
        otlp=_collector(asked.otlp),
        server=_server(asked, services, urls),
    )


def _server(
    asked: Options, services: tuple[ServiceGroup, ...], urls: tuple[UrlGroup, ...]
) -> ServerSettings:
    from launcher.app.gateway import parse_aliases
    from launcher.gateway.rates import Allowance
    from launcher.gateway.server import ServerSettings
    from launcher.network.listening import is_loopback

    names = frozenset(name.lower() for name in asked.allow_host)
    return ServerSettings(
        host_names=names if is_loopback(asked.host) else None,
        origins=_origins(asked.allow_origin),
        origins_named_by="--allow-origin of qlaunch gateway",
        log_requests=asked.log_requests,
        aliases=parse_aliases(asked.aliases, services, urls),
        allowance=Allowance(texts=asked.texts_per_minute, tokens=asked.tokens_per_minute),
    )


def _origins(words: tuple[str, ...]) -> frozenset[str]:
    import msgspec

    from launcher.config.profile import Origin

    for word in words:
        try:
            msgspec.convert(word, Origin)
        except msgspec.ValidationError:
            raise click.UsageError(
                f"--allow-origin {word!r} is not an origin: give https://app.example, without a"
                " path, or * for all"
            ) from None
    return frozenset(words)


def _rules(asked: Options) -> InputRules:
    from launcher import extras
    from launcher.gateway.inputs import InputRules
    from launcher.gateway.openai_vocabulary import OpenAIVocabulary

    if asked.truncate == "end" or asked.checkpoints:
        extras.require("gateway")
    file = asked.openai_vocabulary
    return InputRules(
        truncate=asked.truncate,
        empty=asked.empty_texts,
        ids_of=asked.token_ids,
        openai=None if file is None else OpenAIVocabulary(file),
    )


def _tls(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    return None if certificate is None or key is None else (certificate, key)


def _collector(url: str | None) -> str | None:
    from launcher.network import address

    try:
        return None if url is None else address.server_url(url)
    except address.WrongAddressError as error:
        raise click.UsageError(f"the address{address.told(url or '')} of --otlp {error}") from None


def _upstream_key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        key = file.read_text("utf-8-sig").strip()
        # It becomes one header of each call.
        why = "" if key.isascii() and key.isprintable() else "it holds more than one key"
        why = why if key else "it is empty"
    except (OSError, ValueError) as error:
        key, why = "", why_unreadable(error)
    if not why:
        return key
    raise QlaunchError(
        f"cannot use the key in {file}: {why}",
        code="bad_api_key_file",
        fix="give a file with the one key",
    )
