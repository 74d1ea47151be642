"""`qlaunch prune`: what could go, with sizes; removed only with --yes."""

from __future__ import annotations

from typing import cast

import click

from launcher.app import prune
from launcher.cli.base import command as declare
from launcher.cli.result import Problem, Result, table
from launcher.errors import ExitCode, QlaunchError
from launcher.paths import dirs
from launcher.units import size

_KEEP = 20


@declare("prune")
@click.argument("kinds", nargs=-1, type=click.Choice(prune.KINDS), metavar="[KIND]...")
@click.option("--yes", "-y", is_flag=True, help="Remove it; without, it is only listed.")
@click.option("--dry-run", is_flag=True, help="List it and remove nothing, --yes or not.")
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=_KEEP,
    show_default=True,
    metavar="N",
    help="Newest run records that stay.",
)
def command(kinds: tuple[str, ...], yes: bool, dry_run: bool, keep: int) -> Result:
    """List what could be removed, with sizes; with --yes, remove it.

    KIND is any of runs (records beyond the newest), logs (of engines, in records that stay),
    engines (that no service was started with), caches, and leftovers (of interrupted installs,
    downloads and removals); without, all of them. What is in use stays.
    """
    chosen = cast("tuple[prune.Kind, ...]", kinds) or prune.KINDS
    items = prune.find(dirs(), keep=keep, kinds=chosen)
    in_use = [item for item in items if item.used_by]
    if kinds and in_use and len(in_use) == len(items):
        raise _in_use(in_use[0])
    doing = yes and not dry_run
    done = list(prune.remove(items)) if doing else [(i, None) for i in items if not i.used_by]
    gone = [item for item, error in done if error is None]
    problems = [Problem(e.code, e.message, e.fix) for _item, e in done if e is not None]
    data = {
        "dry_run": not doing,
        "items": gone,
        "kept": in_use,
        "bytes": sum(item.bytes for item in gone),
    }
    return Result(
        data=data,
        lines=_lines(gone, in_use, doing=doing),
        exit_code=ExitCode.PARTIAL if problems else ExitCode.OK,
        status="partial" if problems else "ok",
        problems=problems,
    )


def _in_use(item: prune.Item) -> QlaunchError:
    return QlaunchError(
        f"{item.path} is in use by {', '.join(item.used_by)}",
        code="in_use",
        exit_code=ExitCode.CONFLICT,
        fix="stop what uses it first: qlaunch ps",
        data={"used_by": list(item.used_by)},
    )


def _lines(gone: list[prune.Item], in_use: list[prune.Item], *, doing: bool) -> list[str]:
    """One row a kind; engines and caches, which cost most to have again, by name."""
    rows: list[tuple[str, str, str]] = []
    for kind in prune.KINDS:
        ours = [item for item in gone if item.kind == kind]
        if ours and kind in ("runs", "logs"):
            word = "run record" if kind == "runs" else "log file"
            word += "s" if len(ours) > 1 else ""
            total = size(sum(item.bytes for item in ours))
            rows.append((kind, total, f"{len(ours)} {word}, {ours[0].reason}"))
        else:
            rows += [(kind, size(item.bytes), f"{item.path}: {item.reason}") for item in ours]
    total = size(sum(item.bytes for item in gone))
    end = f"{total} removed" if doing else f"{total} can be removed: give --yes to do it"
    return [
        *(table(("WHAT", "SIZE", ""), rows) if rows else []),
        *(f"stays: {item.path}, used by {', '.join(item.used_by)}" for item in in_use),
        end if rows else "nothing to remove",
    ]
