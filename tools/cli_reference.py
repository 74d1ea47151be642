"""docs/cli.md, written from the commands themselves: `python -m tools.cli_reference`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec

from launcher.bench.tune import Tuning
from launcher.cli import completing, manpage
from launcher.cli.down import Stopped
from launcher.cli.engine import KnownRelease
from launcher.cli.forget import Forgotten
from launcher.cli.main import cli
from launcher.cli.manpage import EXIT_CODES
from launcher.cli.model import KnownModel
from launcher.cli.profiles import CheckedProfile, ProfileRow, ShownProfile
from launcher.cli.recommend import JudgedProfile
from launcher.config.settings import SETTINGS, ConfigValues
from launcher.documents.comparison import Comparison
from launcher.documents.look import Look
from launcher.documents.measurement import BenchResult
from launcher.documents.plan_report import ClientPrompts, PlanReport
from launcher.documents.proof import Proof
from launcher.documents.run import RunSummary
from launcher.documents.run_diff import RunDiff
from launcher.documents.smoke import QualityReport, SuiteReport
from launcher.documents.status import ServiceStatus, StartedStatus
from launcher.errors import ExitCode
from launcher.linux.files import write_atomic
from launcher.report.seed_table import SeedRow
from tools import completion_table
from tools.document_keys import keys, under

DOCUMENT: Final = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
MANUAL: Final = DOCUMENT.with_name("qlaunch.1")

_OWN_SCHEMA: Final = frozenset(
    {"cells", "failure", "guard", "level", "machine", "profile", "quality", "terms"}
)
"""Parts whose own keys only the schemas tell."""


def _keys(document: type[msgspec.Struct], *more: str) -> str:
    return keys(document, skip=_OWN_SCHEMA | set(more))


def _each(name: str, document: type[msgspec.Struct]) -> str:
    return under(f"{name}[]", document, skip=_OWN_SCHEMA)


_SERVICE: Final = (
    f"{_keys(ServiceStatus)}; `endpoint` is `http://host:port/v1`, `pid` the engine's leader (null "
    "with replicas)"
)
_PROMPTS: Final = keys(ClientPrompts)
KEYS: Final = {
    "up": f"{_keys(StartedStatus)}; with `--dry-run` as `plan`",
    "down": _each("services", Stopped),
    "restart": "as `status`, and `reread`, `profile_changed`, `rolling`",
    "scale": "as `status`",
    "forget": _each("services", Forgotten),
    "ps": "`services[]`, each as `status`",
    "status": _SERVICE,
    "export systemd": (
        "`service`, `fingerprint`, `notes[]`, `file`, `scope`, `unit`, `linger`; with `--output` "
        "also `path`"
    ),
    "export compose": (
        "`service`, `fingerprint`, `notes[]`, `file`, `image`, `compose`; with `--output` also "
        "`path`"
    ),
    "export k8s": (
        "`service`, `fingerprint`, `notes[]`, `file`, `image`, `manifests`; with `--output` also "
        "`path`"
    ),
    "export skypilot": (
        "`service`, `fingerprint`, `notes[]`, `file`, `task`; with `--output` also `path`"
    ),
    "prune": (
        "`dry_run`, `items[].{kind,path,bytes,reason,used_by[]}` (what goes), `kept[]` (the same, "
        "in use), `bytes`"
    ),
    "upgrade": "`dry_run`, `engines[].{name,from,to}`, `launcher.{version,how,command}`",
    "top": (
        f"{_keys(Look)}; with replicas `replicas[]`, each as a service; without `--once` one such "
        "object a line instead of a document"
    ),
    "logs": (
        "`run`, `lines[]`; with `--crash` also `file`; with `--follow` one "
        '`{"line": …}` a line instead of a document'
    ),
    "smoke": (
        "`service`, `endpoint`, `smoke`; of replicas `replicas.{NAME: ok}`, and the smoke of the "
        "first that fails, if any; with `--up` as `status`"
    ),
    "verify": (
        f"`service`, `endpoint`, {under('verify', SuiteReport)}; with `--quality` also "
        + under("quality", QualityReport)
    ),
    "bench": _keys(BenchResult),
    "client": (
        f"`service`, `endpoint`, `model`, `dimensions`, `instruction`, {_PROMPTS}, "
        "`api_key_variable`, `language`, `snippet`"
    ),
    "embed": (
        "`output`, `format`, `model`, `dimensions`, `endpoints[]`, `rows`, `bad`, "
        "`reasons.{REASON: count}`, `bad_file`, `resumed_rows`, `seconds`, `rows_per_s`, "
        "`interrupted`; `rows` and `bad` count earlier runs that were gone on with, `seconds` and "
        "`rows_per_s` this one alone"
    ),
    "compare": (
        f"{_keys(Comparison, 'ready_s', 'verified_s')}, `path`; with `--seed-table` also "
        f"{_each('seed_table.rows', SeedRow)}; `outcome` is `measured`, `partial`, `failed`, "
        "`cannot_run` or `not_reached`"
    ),
    "tune": (
        f"{_keys(Tuning, 'comparison', 'row')}, `path`, `output`; `comparison` is as of `compare`; "
        "`outcome` is `measured`, `refused` or `failed`"
    ),
    "plan": f"{_keys(PlanReport)}; `evidence` of this machine only",
    "recommend": (
        "`profile`, `bucket`, `kind`, `change`, `needs`, `engine.{release,version,argv[],env}`, "
        "`dtype`, `memory.predicted.{ram_bytes,gpu_bytes}`, `reasons[]`, `evidence` (as `plan`), "
        "`alternatives[].{profile,bucket,kind,change,needs}`, "
        "`hardware.{gpus,gpu_status,driver_version,assumed}`, " + _each("profiles", JudgedProfile)
    ),
    "profiles list": (
        f"{_each('profiles', ProfileRow)}; `bucket` is `runs`, `one_change` or `cannot`, best first"
    ),
    "profiles show": _keys(ShownProfile),
    "profiles new": "`name`, `path`, `extends`, `model`",
    "profiles edit": "`name`, `path`, `changed`",
    "profiles path": "`path`, `exists`",
    "profiles validate": _each("profiles", CheckedProfile),
    "engine list": _each("engines", KnownRelease),
    "engine install": "as one of `engine list`, and `python`, `torch`",
    "engine remove": "`name`, `removed`",
    "model list": _each("models", KnownModel),
    "model pull": "`model`, `path`",
    "model quantize": (
        "`name`, `path`, `card`, `new`, `made`, `to`, `source`, `fingerprint`, `source_bytes`, "
        "`weight_bytes`, `matrices`, `profile`, `engines`, `seconds`, `versions`, "
        "`measured.{texts,cosine_worst,cosine_mean,worst_text,recall_at_10,"
        "recall_at_10_float32}`; refused for its quality (exit 7): `measured`"
    ),
    "prove": (
        f"{_keys(Proof)}, `page`, `bundle`; `outcome` is `ok`, `failed`, `timed_out`, `skipped` "
        "or `interrupted`"
    ),
    "model remove": "`model`, `dry_run`, `removed[].{source,path,bytes}`",
    "model inspect": (
        f"what the checkpoint says of itself, field by field; {_PROMPTS}, `similarity`"
    ),
    "doctor": (
        "`checks[].{name,status,message,fix,seconds}`, `counts.{ok,warning,problem,unavailable}`; "
        "its exit code is 0, 1 after warnings or 2 after problems"
    ),
    "runs list": _each("runs", RunSummary),
    "runs show": "the run record's own fields, `path`, and `bench[]`: what `bench` measured of it",
    "runs report": (
        "`files.{html,markdown,csv}` (paths), `report`: of a run its own fields and `checks[]`, "
        "`peak_by_role`, `samples` (their number), `events[]`, `bench[]`; of a comparison its "
        "document"
    ),
    "runs diff": f"{_keys(RunDiff)}; ratios are B / A",
    "gateway": "one line, `{endpoint}`, when it listens; errors as one document",
    "bundle make": (
        "`file`, `bytes` (null with `--dry-run`), `profile`, `python`, `machine`, "
        "`launcher.{version,packages[]}`, `engine.{release,version,packages[]}` (null with "
        "`--no-engine`), `model.{name,fingerprint,bytes}`, `parts[].{what,bytes,at_most}`"
    ),
    "bundle install": "`profile`, `engine`, `model.{path,fingerprint}`, `profiles[]`, `files`",
    "cache stats": "`cache`, `entries`, `bytes`, `max_bytes`; null where the store does not tell",
    "cache purge": "`cache`, `removed` (null where the store does not tell)",
    "cache warm": "`texts`, `hits`, `made`",
    "runs prune": "`removed[]`, `dry_run`",
    "completion": "`shell`, `script`",
    "help": "`command`, `text`",
}
"""Keys of `data`, by command."""

_HEAD: Final = """\
<!-- Written by `python -m tools.cli_reference` (make docs): change the commands instead. -->

# The command line

Results go to stdout, everything for people (progress, hints) to stderr. Every command takes
`--json` and then prints one document:

```json
{
  "version": 1,
  "command": "engine list",
  "status": "ok",
  "exit_code": 0,
  "data": {},
  "errors": [{"code": "port_taken", "message": "…", "fix": "…"}]
}
```

Every command also takes `--color auto|always|never`, `--verbose` (`-v`: say why) and `--debug` (an
error's traceback goes to a file, which is named).

`status` is `ok`, `partial` or `error`; `exit_code` is the process's own; `errors[].code` is stable,
`errors[].fix` may be null. Errors that come before a command's body (an unknown option, say) have
the same form. A figure that was not measured is null, with the reason beside it, never 0.

Below, a `?` after a key says that it is there only where it applies. Whole documents have a schema
in `docs/schemas/`.
"""


def generated() -> dict[Path, str]:
    """Every file that is made of the commands, with what it should hold."""
    return {
        DOCUMENT: reference(),
        completing.TABLE: completion_table.text(),
        MANUAL: manpage.page(cli),
    }


def reference() -> str:
    """The whole document."""
    parts = [_HEAD, _exit_codes(), _settings(), "## Commands\n"]
    parts += [_command(name, command, keys) for name, command, keys in commands()]
    return "\n".join(parts)


def commands() -> Iterator[tuple[str, click.Command, str]]:
    """Every command by its full name, with the keys of its `data`."""
    context = click.Context(cli, info_name="qlaunch")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None  # it is in the table
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                yield f"{name} {inner.name}", inner, KEYS.get(f"{name} {inner.name}", "")
        else:
            yield name, command, KEYS.get(name, "")


def _exit_codes() -> str:
    rows = [f"| {int(code)} | {EXIT_CODES[code]} |" for code in ExitCode]
    return "\n".join(["## Exit codes\n", "| code | meaning |", "|---|---|", *rows, ""])


def _settings() -> str:
    rows = []
    for setting in SETTINGS:
        in_config = setting.name in ConfigValues.__struct_fields__
        marks = ("yes" if setting.in_profile else "–", "yes" if in_config else "–")
        rows.append(f"| `{setting.name}` | `{setting.variable}` | {marks[0]} | {marks[1]} |")
    return "\n".join(
        [
            "## Settings\n",
            "What shapes a service can stand in five places, and the first that gives a value",
            "decides: the command line, the environment, the profile, the user's `config.yaml`,",
            "the default. `qlaunch profiles show NAME --resolved` says where each value comes",
            "from. Engine options (`flags`) are merged key by key; those after `--` win.\n",
            "| setting | variable | in a profile | in config.yaml |",
            "|---|---|---|---|",
            *rows,
            "",
            "`QLAUNCH_HOME` puts configuration, engines, models, state and cache under one folder.",
            "",
        ]
    )


def _command(name: str, command: click.Command, keys: str) -> str:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    words = " ".join(["[OPTIONS]", *map(_argument, arguments)])
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    return "\n".join(
        [
            f"### qlaunch {name}\n",
            f"`qlaunch {name} {words}`\n",
            _text(command.help or ""),
            "",
            "| option | meaning |",
            "|---|---|",
            *map(_option, options),
            "",
            f"`data`: {keys}.",
            "",
        ]
    )


def _argument(argument: click.Argument) -> str:
    if argument.metavar:
        return argument.metavar
    name = (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _option(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper().split()[0]}"
    text = (option.help or "").replace("|", "\\|")
    notes = []
    if option.required:
        notes.append("Required.")
    if option.show_default:
        notes.append(f"Default: {option.default}.")
    return f"| `{names}{value}` | {' '.join([text, *notes])} |"


def _text(text: str) -> str:
    """A command's help as Markdown: what click is told not to rewrap is code."""
    out = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            out.append(f"```console\n{inspect.cleandoc(paragraph[2:])}\n```")
        else:
            out.append(paragraph)
    return "\n\n".join(out)


def main() -> int:
    """Write the reference, the table for shells' completion, and the manual page."""
    for path, text in generated().items():
        write_atomic(path, text.encode(), mode=0o644)
        sys.stderr.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
