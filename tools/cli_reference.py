"""docs/cli.md, written from the commands themselves: `python -m tools.cli_reference`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from launcher.cli import completing, manpage
from launcher.cli.main import cli
from launcher.cli.manpage import EXIT_CODES
from launcher.config.settings import SETTINGS, ConfigValues
from launcher.errors import ExitCode
from launcher.linux.files import write_atomic
from tools import completion_table

DOCUMENT: Final = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
MANUAL: Final = DOCUMENT.with_name("qlaunch.1")

_SERVICE: Final = (
    "`service`, `profile`, `state`, `endpoint` (`http://host:port/v1`), `pid` (the engine's "
    "leader), `supervisor_pid`, `template_pid` (where one is kept), `run`, "
    "`engine_endpoint`, `gateway.{pid,inputs,hits,shared,hit_rate,restarts,bypassed,problem}` "
    "(with a cache or replicas), "
    "`replicas[].{service,state,serving,endpoint,pid,supervisor_pid,run,starts,restarts,detail}`, "
    "`serving`, `rollout.{id,kind,replicas,done,failure,detail}` (with replicas; `pid` is null "
    "then), `part_of` (of a replica), "
    "`engine.{release,version,argv,env}`, "
    "`memory.predicted.{ram_bytes,gpu_bytes,terms}`, "
    "`memory.measured.{ram_peak_bytes,gpu_peak_bytes,method}`, `memory.error.{ram,gpu}`, "
    "`timings.{ready_s,verified_s}`, "
    "`smoke.checks[].{name,ok,detail}`, `failure`, `restarts`, `phases[]`, `since`, `detail`, "
    "`last_check.{latency_ms,cosine,at}`, `metrics.{url,problem}`, "
    "`fallbacks[].{step,of,flags,after,message}`, `start_limit.{budget_s,limit_s,source}`"
)
_PLAN: Final = (
    "`service`, `profile`, `model`, `model_path`, `fingerprint`, "
    "`engine.{release,version,argv,env}`, "
    "`memory.predicted.{ram_bytes,gpu_bytes,terms[].{name,device,bytes,basis,source}}`, `fits`, "
    "`reasons[]`; with replicas `replicas`, `replica.{memory.predicted,env[]}` (of one)"
)
_EVIDENCE: Final = (
    "`evidence.{measured,text,run,engine_version,age_s,ready_s,ram_peak_bytes,gpu_peak_bytes}`, "
    "`evidence.runs[].{run,age_s,stale,differs[],engine_version,ready_s,verified_s,"
    "ram_peak_bytes,gpu_peak_bytes,bench[]}`, "
    "`evidence.comparisons[].{comparison,mode,age_s,complete,stale,differs[],winner,gain,runs[],"
    "levels[]}`"
)
_ROW: Final = (
    "{mode,batch,clients,mean_ms,p50_ms,p95_ms,p99_ms,embeddings_per_s,tokens_per_s,"
    "ram_peak_bytes,gpu_peak_bytes,…}"
)
_PROMPTS: Final = "`query_prompt`, `document_prompt`, `default_prompt`, `prompts`"
KEYS: Final = {
    "up": f"{_SERVICE}, {_PROMPTS}, `fingerprint`; with `--dry-run` as `plan`",
    "down": "`services[].{service,was_running,state,seconds,forced,left}`",
    "restart": "as `status`, and `reread`, `profile_changed`, `rolling`",
    "scale": "as `status`",
    "forget": "`services[].{service,bytes,runs[]}`",
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
        "`at`, `services[].{service,profile,state,detail,endpoint,run,uptime_s,restarts,"
        "cpu_percent,ram,gpu,rate,queue,latency}`: `ram` and `gpu` are "
        "`{bytes,method,by_process,reason}`, `rate.{texts_per_s,tokens_per_s,window_s,reason}`, "
        "`queue.{requests,reason}`, `latency.{ms,source,age_s,reason}`; with replicas "
        "`replicas[]`, each the same; without `--once` one "
        "such object a line instead of a document"
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
        "`service`, `endpoint`, `verify.{ok,checks[].{name,ok,detail},suspect,explanation,"
        "worst_cosine,mean_cosine,worst_text,groups[].{group,texts,cosine_min,cosine_mean},texts,"
        "tokens,tokens_per_s,longest_tokens,left_out[],seconds,reference}`; with `--quality` also "
        "`quality.{recall_at_10,reference_recall_at_10,recall_difference,cosine_mean,cosine_min,"
        "documents,queries,instructed,seconds,reference,reason}`"
    ),
    "bench": (
        "`service`, `profile`, `model`, `fingerprint`, `device`, `dtype`, `release`, `engine`, "
        "`endpoint`, `run`, `started`, `encoding`, `keep_alive`, `idle_before`, "
        "`rows[].{mode,batch,clients,mean_ms,p50_ms,p95_ms,p99_ms,embeddings_per_s,tokens_per_s,ram_peak_bytes,"
        "gpu_peak_bytes,loop,tokens,rate,requests,errors,error,seconds,tokens_counted,"
        "client_cpu_percent,saturated,late_ms,memory_method,reason}`, `notes[]`"
    ),
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
        "`id`, `path`, `complete`, `interrupted`, `repeats`, `objective`, `levels[]`, "
        "`modes[].{name,kind,outcome,reason,profile,model,device,dtype,version,argv,runs[],"
        "ready_s,verified_s,predicted,verified_ram_bytes,ram_peak_bytes,gpu_peak_bytes,quality,"
        f"cells[],rows[]}}`, `modes[].rows[].{_ROW}`, `winner`, `verdict[]`, "
        "`remeasured.{mode,level,first,again,figure}`, `machine`, `versions`, `notes[]`; with "
        "`--seed-table` also `seed_table.rows[].{mode,article,ours[],reason}`; `outcome` is "
        "`measured`, `partial`, `failed`, `cannot_run` or `not_reached`"
    ),
    "tune": (
        "`id`, `path`, `output`, `profile`, `level`, `max_p95_ms`, `complete`, `interrupted`, "
        "`ended`, `trials[].{overlay.{settings,flags},outcome,reason,row,run}`, "
        "`pick.{settings,flags}`, `confirmed`, `comparison` (as `compare`), `verdict[]`, "
        "`machine`, `versions`; `outcome` is `measured`, `refused` or `failed`"
    ),
    "plan": (
        f"{_PLAN}, `notes[]`, `absent[].{{kind,name,message}}`; of this machine also {_EVIDENCE}"
    ),
    "recommend": (
        "`profile`, `bucket`, `kind`, `change`, `needs`, `engine.{release,version,argv,env}`, "
        "`dtype`, `memory.predicted.{ram_bytes,gpu_bytes}`, `reasons[]`, "
        f"{_EVIDENCE}, "
        "`alternatives[].{profile,bucket,kind,change,needs}`, "
        "`hardware.{gpus,gpu_status,driver_version,assumed}`, "
        "`profiles[].{name,bucket,reason,change,saves_bytes,release}`"
    ),
    "profiles list": (
        "`profiles[].{name,path,shipped,title,model,engine,measured,runs_here,reason,bucket,change,"
        "saves_bytes,release}`; `bucket` is `runs`, `one_change` or `cannot`, best first"
    ),
    "profiles show": (
        "`name`, `path`, `shipped`, `extends`, `profile`; with `--resolved` also `resolved`, "
        "`sources`"
    ),
    "profiles new": "`name`, `path`, `extends`, `model`",
    "profiles edit": "`name`, `path`, `changed`",
    "profiles path": "`path`, `exists`",
    "profiles validate": "`profiles[].{name,path,valid}`",
    "engine list": (
        "`engines[].{name,version,title,device,start,installed,path,bytes,disk_bytes,installable,"
        "reason,notes}`"
    ),
    "engine install": "as one of `engine list`, and `python`, `torch`",
    "engine remove": "`name`, `removed`",
    "model list": (
        "`models[].{name,title,sources,parameters,dimensions,pooling,context_length,licence,path}`"
    ),
    "model pull": "`model`, `path`",
    "model quantize": (
        "`name`, `path`, `card`, `new`, `made`, `to`, `source`, `fingerprint`, `source_bytes`, "
        "`weight_bytes`, `matrices`, `profile`, `engines`, `seconds`, `versions`, "
        "`measured.{texts,cosine_worst,cosine_mean,worst_text,recall_at_10,"
        "recall_at_10_float32}`; refused for its quality (exit 7): `measured`"
    ),
    "prove": (
        "`id`, `device`, `machine`, `began`, `ended`, `page`, `bundle`, "
        "`chapters[].{name,title,outcome,why,seconds,steps[]}`, "
        "`chapters[].steps[].{name,command,outcome,exit_code,seconds,why,data}`, "
        "`claims[].{profile,release,ok,worst_cosine,recall_difference,ram_predicted_bytes,"
        "ram_measured_bytes,gpu_predicted_bytes,gpu_measured_bytes,gpu_method,ready_s}`; `outcome` "
        "is `ok`, `failed`, `timed_out`, `skipped` or `interrupted`"
    ),
    "model remove": "`model`, `dry_run`, `removed[].{source,path,bytes}`",
    "model inspect": (
        f"what the checkpoint says of itself, field by field; {_PROMPTS}, `similarity`"
    ),
    "doctor": (
        "`checks[].{name,status,message,fix,seconds}`, `counts.{ok,warning,problem,unavailable}`; "
        "its exit code is 0, 1 after warnings or 2 after problems"
    ),
    "runs list": (
        "`runs[].{run,service,profile,began,ended,outcome,ram_peak_bytes,gpu_peak_bytes,problem,"
        "failure_class}`"
    ),
    "runs show": "the run record's own fields, `path`, and `bench[]`: what `bench` measured of it",
    "runs report": (
        "`files.{html,markdown,csv}` (paths), `report`: of a run its own fields and `checks[]`, "
        "`peak_by_role`, `samples` (their number), `events[]`, `bench[]`; of a comparison its "
        "document"
    ),
    "runs diff": (
        "`a`, `b` (`run`, `service`, `profile`, `outcome`, `began`), `argv[].{change,a,b}`, "
        "`env[]`, `settings[]`, `versions[]` (`name`, `a`, `b`), "
        "`vectors.{same,reason,sample_distance}`, "
        "`figures[].{name,a,b,ratio}`, `checks[].{name,a,b}`, "
        "`bench[].{level,figures[].{name,a,b,ratio}}`; ratios are B / A"
    ),
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
