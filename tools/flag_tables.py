"""Derive the table of an SGLang release's server options from its own source.

    python tools/flag_tables.py write sglang-0.5.23-*.whl [MORE.whl ...]
    python tools/flag_tables.py compare 0.5.23 /path/to/engine/bin/python

`write` reads wheels (or unpacked trees) and writes `launcher/engine/options/tables/<version>.json`.
Fetch a wheel with `pip download --no-deps sglang==0.5.23`. Nothing of the wheel is executed: its
modules are parsed, and constants are evaluated by static_values.py. `compare` imports that
release in an environment where it is installed, builds its argparse parser and prints every
difference with the table; it ends with 1 if there is one. `qlaunch doctor` does the same for every
engine that qlaunch installed.

Releases up to 0.5.10 declare options by `add_argument` calls in `srt/server_args.py`; later ones
by annotated fields (`name: A[type, Arg(...)] = default`), in the same file until 0.5.15, in
`srt/arg_groups/fields/` after it, and keep `add_argument` for the deprecated rest.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from static_values import Bound, Module, Tree, UnknownValueError, evaluate, follow

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLES = Path(__file__).resolve().parent.parent / "launcher" / "engine" / "options" / "tables"
HELP_LIMIT = 140
"""Longer first sentences are left out: a table is read at every start."""
TYPES = {
    "int": "int",
    "float": "float",
    "human_readable_int": "size",
    "json.loads": "json",
    "loads": "json",
    "json_list_type": "json",
    "parse_cuda_graph_config_arg": "json",
}
"""argparse `type=` callables to the types of the table; any other accepts every string."""
SWITCHES = ("store_true", "store_false", "store_const", "DeprecatedStoreTrueAction")
SERVER_ARGS = "sglang.srt.server_args"
FIELDS = "sglang/srt/arg_groups/fields/"

Keywords = dict[str, ast.expr]
Scope = tuple[Module, dict[str, Any]]


def table(tree: Tree) -> dict[str, Any]:
    """The table of one release: its version, how it was made, and its options by name."""
    options: dict[str, dict[str, Any]] = {}
    for names, record in [*_from_fields(tree), *_from_calls(tree), *_from_command(tree)]:
        name = next(n for n in names if n.startswith("--"))
        aliases = sorted(n for n in names if n != name)
        options[name] = {"name": name, **({"aliases": aliases} if aliases else {}), **record}
    return {
        "version": tree.version(),
        "made_by": "python tools/flag_tables.py write WHEEL",
        "options": [options[name] for name in sorted(options)],
    }


def _from_fields(tree: Tree) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Options declared as annotated fields, as `add_cli_args_from_dataclass` registers them."""
    for name, item, module in _annotated(tree):
        declared = _field(name, item, module)
        if declared:
            yield declared


def _annotated(tree: Tree) -> Iterator[tuple[str, ast.AnnAssign, Module]]:
    """Every `name: annotation` in the classes of the modules that hold fields."""
    names = [SERVER_ARGS]
    names += [f[:-3].replace("/", ".") for f in tree.files() if f.startswith(FIELDS)]
    for module in (tree.module(n) for n in names if not n.endswith("__init__")):
        for item in (i for node in module.classes.values() for i in node.body):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                yield item.target.id, item, module


def _field(
    name: str, item: ast.AnnAssign, module: Module
) -> tuple[list[str], dict[str, Any]] | None:
    """One annotated field as option names and record; None where it has no command-line side."""
    match item.annotation:
        case ast.Subscript(
            value=ast.Name(id="A" | "Annotated"), slice=ast.Tuple(elts=[kind, *extras])
        ):
            pass
        case _:
            return None
    meta = _metadata(extras)
    if meta is None or _flag(meta, "no_cli"):
        return None
    scope: Scope = (module, {})
    names = [_value(meta.get("cli_name"), scope) or "--" + name.replace("_", "-")]
    names += _value(meta.get("aliases"), scope) or []
    keywords = {**meta, **_keywords_of_type(kind, meta, module)}
    if item.value is not None:
        keywords["default"] = item.value
    elif "action" not in keywords:
        keywords.setdefault("required", ast.Constant(True))
    return names, _record(keywords, scope)


def _metadata(extras: list[ast.expr]) -> Keywords | None:
    """Keywords of the `Arg(...)` in an annotation, or its bare help string as one."""
    for extra in extras:
        if isinstance(extra, ast.Call) and ast.unparse(extra.func) == "Arg":
            return {k.arg: k.value for k in extra.keywords if k.arg}
        if isinstance(extra, ast.Constant | ast.JoinedStr | ast.BinOp):
            return {"help": extra}
    return None


def _keywords_of_type(kind: ast.expr, meta: Keywords, module: Module) -> Keywords:
    """argparse keywords that follow from a field's annotated type."""
    extra = _value_of_dict(meta.get("action_kwargs"))
    if "action" in meta:
        return extra
    kind = _unwrap(kind, module)
    parser = {"type": meta["type_parser"]} if "type_parser" in meta else {}
    head = ast.unparse(kind.value) if isinstance(kind, ast.Subscript) else ast.unparse(kind)
    if head == "Literal" and isinstance(kind, ast.Subscript):
        literals = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        inferred = type(_value(literals[0], (module, {}))).__name__
        choices = meta.get("choices", ast.List(list(literals)))
        return {"type": ast.Name(inferred), **parser, "choices": choices}
    if head in ("List", "list") and isinstance(kind, ast.Subscript) and not parser:
        return {"type": kind.slice, "nargs": meta.get("nargs", ast.Constant("+"))}
    if head == "bool":
        return {"action": ast.Constant("store_true")}
    return {"type": kind, **parser}


def _unwrap(kind: ast.expr, module: Module) -> ast.expr:
    """The type inside `Optional[X]` or `X | None`; aliases of the module are followed."""
    match kind:
        case ast.Subscript(value=ast.Name(id="Optional")):
            return _unwrap(kind.slice, module)
        case ast.BinOp(op=ast.BitOr(), left=left, right=ast.Constant(value=None)):
            return _unwrap(left, module)
        case ast.Name() if isinstance(module.names.get(kind.id), ast.Subscript):
            alias = module.names[kind.id]
            assert isinstance(alias, ast.Subscript)
            return _unwrap(alias, module)
    return kind


def _from_calls(tree: Tree) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Options registered by `parser.add_argument(...)` in `ServerArgs.add_cli_args`."""
    module = tree.module(SERVER_ARGS)
    methods = [n for n in module.classes["ServerArgs"].body if isinstance(n, ast.FunctionDef)]
    function = next(n for n in methods if n.name == "add_cli_args")
    local: dict[str, Any] = {}
    for statement in function.body:
        match statement:
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr="add_argument")) as call):
                names = [str(_value(a, (module, local))) for a in call.args]
                keywords = {k.arg: k.value for k in call.keywords if k.arg}
                keywords |= _declared_default(keywords.get("default"), tree)
                yield names, _record(keywords, (module, local))
            case _:
                follow(statement, module, local)


def _declared_default(node: ast.expr | None, tree: Tree) -> Keywords:
    """What `default=_declared_default("field")` stands for: the default of that field."""
    match node:
        case ast.Call(func=ast.Name(id="_declared_default"), args=[ast.Constant(value=field)]):
            defaults = {name: item.value for name, item, _ in _annotated(tree) if item.value}
            return {"default": defaults.get(str(field), ast.Constant(None))}
    return {}


def _from_command(tree: Tree) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """`--model-type`, which `sglang serve` takes out of its arguments before argparse sees them."""
    if '"--model-type"' in (tree.text("sglang/cli/serve.py") or ""):
        yield ["--model-type"], {"type": "str", "help": "Backend selector of `sglang serve`."}


def _record(keywords: Keywords, scope: Scope) -> dict[str, Any]:
    """What the table says of one option, without facts that only running the code would tell."""
    action = _name(keywords.get("action"))
    record: dict[str, Any] = {"type": TYPES.get(_name(keywords.get("type")), "str")}
    nargs = _value(keywords.get("nargs"), scope)
    if action == "BooleanOptionalAction":
        record |= {"type": "switch", "negatable": True}
    elif action in SWITCHES or _takes_nothing(action, keywords):
        record["type"] = "switch"
    elif nargs is not None:
        record["nargs"] = str(nargs)
    choices = _value(keywords.get("choices"), scope)
    if choices:
        record["choices"] = list(choices)
    default = _value(keywords.get("default"), scope)
    if default is not None and record["type"] != "switch":
        record["default"] = default
    if _flag(keywords, "required"):
        record["required"] = True
    return record | _described(action, keywords, scope)


def _takes_nothing(action: str, keywords: Keywords) -> bool:
    """Whether a `Deprecated…Action` is a switch: its own `nargs` is 0 unless the call says else."""
    return action in ("DeprecatedAction", "DeprecatedStoreConstAction") and "nargs" not in keywords


def _described(action: str, keywords: Keywords, scope: Scope) -> dict[str, Any]:
    """Help, deprecation and successor of an option."""
    text = " ".join(str(_value(keywords.get("help"), scope) or "").split())
    found: dict[str, Any] = {}
    refusal = _value(keywords.get("error_message"), scope)
    if refusal:
        found["refused"] = refusal
    if action.startswith("Deprecated") or re.match(r"\W*deprecated\b", text, re.IGNORECASE):
        found["deprecated"] = True
        named = re.search(r"(?:[Uu]se|alias for:?) ['`]?(--[a-z][a-z0-9-]*[a-z0-9])", text)
        successor = _value(keywords.get("new_flag"), scope) or (named and named.group(1))
        if successor:
            found["successor"] = successor
    sentence = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    if sentence and len(sentence) <= HELP_LIMIT and "…" not in sentence:
        found["help"] = sentence
    return found


def _value(node: ast.expr | None, scope: Scope) -> Any:
    """Value of an expression, None where it has none or it is not constant."""
    if node is None:
        return None
    try:
        value = evaluate(node, *scope)
    except UnknownValueError:
        return None
    return None if isinstance(value, Bound) else value


def _value_of_dict(node: ast.expr | None) -> Keywords:
    if not isinstance(node, ast.Dict):
        return {}
    pairs = zip(node.keys, node.values, strict=True)
    return {str(k.value): v for k, v in pairs if isinstance(k, ast.Constant)}


def _flag(keywords: Keywords, name: str) -> bool:
    node = keywords.get(name)
    return isinstance(node, ast.Constant) and node.value is True


def _name(node: ast.expr | None) -> str:
    """Last part of a dotted name, or a string constant: `store_true`, `BooleanOptionalAction`."""
    if node is None:
        return ""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return ast.unparse(node).rsplit(".", 1)[-1]


def dumped(made: dict[str, Any]) -> str:
    """The table as JSON, one option a line, so that a new release reads as a short diff."""
    head = {key: value for key, value in made.items() if key != "options"}
    lines = ",\n".join(json.dumps(option, ensure_ascii=False) for option in made["options"])
    return json.dumps(head)[:-1] + ', "options": [\n' + lines + "\n]}\n"


def compare(version: str, python: str) -> list[str]:
    """Differences between the table of `version` and the parser of the release installed there."""
    from launcher.engine import releases as catalogue
    from launcher.engine.options import flags, own_options

    shipped = flags.table(version)
    releases = [r for r in catalogue.releases().values() if r.version == version]
    if shipped is None or not releases:
        raise SystemExit(f"there is no table or no catalogue entry of {version}")
    # The CPU entry, where there is one: its stand-ins let any machine import the release.
    release = min(releases, key=lambda found: found.device != "cpu")
    return own_options.differences(shipped, own_options.read_parser(release, Path(python)))


def main(arguments: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write").add_argument("source", nargs="+", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("version")
    comparing.add_argument("python")
    asked = parser.parse_args(arguments)
    if asked.command == "write":
        for source in asked.source:
            made = table(Tree(source))
            (TABLES / f"{made['version']}.json").write_text(dumped(made), encoding="utf-8")
            sys.stdout.write(f"{made['version']}: {len(made['options'])} options\n")
        return 0
    differences = compare(asked.version, asked.python)
    sys.stdout.write("".join(f"{line}\n" for line in differences) or "no difference\n")
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
