"""`qlaunch model`: cards, fetching, inspection."""

from __future__ import annotations

import json
from typing import Any, Final

import click
import msgspec
from msgspec.structs import asdict

from launcher.app import usage
from launcher.app.known_model import absent, not_here
from launcher.app.prepare import profiles_dir
from launcher.cli import quantize, screen, service_text
from launcher.cli.base import all_option, group
from launcher.cli.base import command as declare
from launcher.cli.progress import Progress
from launcher.cli.result import Result, table
from launcher.documents.plan_report import ClientPrompts
from launcher.engine import support
from launcher.model import remove as removing
from launcher.model.cards import list_cards, resolve_model
from launcher.model.checkpoint import ModelCard
from launcher.model.fetch import locate, obtain
from launcher.model.inspect import inspect as inspect_checkpoint
from launcher.paths import Dirs, dirs
from launcher.quantize import cards
from launcher.units import size

command = group("model", "List, fetch, inspect, quantise and remove models.")


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """One card of `model list`."""

    name: str
    title: str
    sources: tuple[str, ...]
    parameters: int
    dimensions: int
    pooling: str
    context_length: int
    licence: str | None
    path: str | None
    """Its folder, where it is on this machine."""


@declare("model list")
@all_option()
def list_(everything: bool) -> Result:
    """List the model cards, and which models are on this machine."""
    where = dirs()
    found = [_known(card, where) for card in list_cards(_cards(where))]
    rows = [
        (
            m.name, f"{m.parameters / 1e6:.0f}M", m.dimensions, m.pooling,
            m.context_length, "yes" if m.path else "no", m.sources[0],
        )
        for m in found
    ]  # fmt: skip
    headings = ("MODEL", "SIZE", "DIM", "POOLING", "CONTEXT", "HERE", "SOURCE")
    lines = screen.shorten(table(headings, rows), everything=everything)
    return Result(data={"models": found}, lines=lines)


def _known(card: ModelCard, where: Dirs) -> KnownModel:
    here = locate(card.sources, models_dir=where.models)
    return KnownModel(
        name=card.name,
        title=card.title,
        sources=tuple(map(str, card.sources)),
        parameters=card.parameters,
        dimensions=card.dimensions,
        pooling=card.pooling,
        context_length=card.context_length,
        licence=card.licence,
        path=str(here) if here else None,
    )


@declare("model pull")
@click.argument("model")
@click.option("--offline", is_flag=True, help="Use only what is on this machine.")
def pull(model: str, offline: bool) -> Result:
    """Fetch MODEL (a card's name or a source) and check it."""
    where = dirs()
    card, sources = resolve_model(model, _cards(where))
    progress = Progress()
    try:
        path = obtain(
            sources,
            models_dir=where.models,
            card=card,
            offline=offline,
            check=True,
            progress=progress.line,
        ).path
    finally:
        progress.done()
    return Result(data={"model": model, "path": str(path)}, lines=[str(path)])


_FIRST: Final = (
    *("path", "served_as", "parameters", "weight_bytes", "stored_dtype", "quantization"),
    *("num_layers", "hidden_size", "context_length", "max_seq_length", "sliding_window"),
    *("pooling", "pooling_source", "normalize", "normalize_source", "dense_dims", "dimensions"),
    *("similarity", "fingerprint"),
)
"""What is shown without --all, where the checkpoint says it."""


@declare("model inspect")
@click.argument("model")
@all_option("Also what is empty, and the sizes that only a plan needs.")
def inspect(model: str, everything: bool) -> Result:
    """Show what the checkpoint of MODEL says of itself; reads headers, needs no torch."""
    where = dirs()
    _card, sources = resolve_model(model, _cards(where))
    path = locate(sources, models_dir=where.models)
    if path is None and sources[0].kind == "path":
        path = obtain(sources, models_dir=where.models).path  # says what is wrong with the folder
    if path is None:
        raise absent(model, sources)
    found = inspect_checkpoint(path)
    support.require_any(found)
    data = msgspec.to_builtins(found, enc_hook=str)
    data["kv_bytes_per_token"] = found.kv_bytes_per_token
    data["similarity"] = found.prompts.similarity if found.prompts else None
    data |= asdict(ClientPrompts.of(found.prompts))
    shown = data | {"weight_bytes": size(found.weight_bytes)}
    if not everything:
        shown = {key: shown[key] for key in _FIRST if shown[key] not in (None, (), [], "")}
    width = max(len(key) for key in shown)
    lines = [f"{key:<{width}}  {_one_line(value)}".rstrip() for key, value in shown.items()]
    lines += service_text.prompts(found.prompts)
    return Result(data=data, lines=screen.shorten(lines, everything=everything))


@declare("model remove")
@click.argument("model")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def remove(model: str, dry_run: bool) -> Result:
    """Remove MODEL (a card's name or a source) from this machine, where it was fetched.

    One that a running service serves is refused; a folder of your own is never touched.
    """
    where = dirs()
    card, sources = resolve_model(model, _cards(where))
    models = removing.stored(sources, models_dir=where.models)
    if not models:
        raise not_here(model, "qlaunch model list shows what is")
    for one in models:
        usage.refuse(one.path, f"model {model}")
    if not dry_run:
        for one in models:
            removing.remove(one)
        cards.remove(card)
    verb = "would be removed" if dry_run else "removed"
    removed = [{"source": str(m.source), "path": str(m.path), "bytes": m.bytes} for m in models]
    lines = [f"{m.source}: {verb}, {size(m.bytes)} in {m.path}" for m in models]
    return Result(data={"model": model, "dry_run": dry_run, "removed": removed}, lines=lines)


def _one_line(value: Any) -> str:
    """A field as a person reads it: lists with commas, texts on one line, `-` for nothing."""
    if value is None or value == "" or value == () or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text.isprintable() else text


def _cards(where: Dirs) -> Any:
    return profiles_dir(where) / "models"


for _command, _name in (
    (list_, "list"),
    (pull, "pull"),
    (inspect, "inspect"),
    (quantize.command, "quantize"),
    (remove, "remove"),
):
    command.add_command(_command, _name)
