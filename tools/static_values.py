"""Read constants out of a Python source tree without running any of it.

Enough of the language for the option declarations of SGLang: literals, names across modules,
class attributes, Enum members, `list(x.keys())`, sums of lists, and functions that only look such
things up. Whatever else is met raises `UnknownValueError`: the caller leaves that fact out.
"""

from __future__ import annotations

import ast
import re
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class UnknownValueError(Exception):
    """The interpreter met something whose value only running the code would tell."""


@dataclass
class Module:
    """One parsed module and the names its top level binds, without running it."""

    tree: Tree
    name: str
    names: dict[str, ast.AST] = field(default_factory=dict)
    package: bool = False
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)

    def bind(self, body: list[ast.stmt]) -> None:
        """Remember what each top-level statement binds; later bindings win, as when run."""
        self.classes = {n.name: n for n in body if isinstance(n, ast.ClassDef)}
        for node in body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.names[target.id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if node.value is not None:
                    self.names[node.target.id] = node.value
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.names[node.name] = node
            elif isinstance(node, ast.ImportFrom):
                self.names.update({a.asname or a.name: _From(node, a.name) for a in node.names})

    def lookup(self, name: str) -> Any:
        """Value of a top-level name; classes and functions come back as a `Bound`."""
        node = self.names.get(name)
        if node is None:
            raise UnknownValueError(name)
        if isinstance(node, _From):
            return self.tree.module(_absolute(self, node.statement)).lookup(node.attribute)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            return Bound(self, node)
        return evaluate(node, self, {})


@dataclass
class _From(ast.AST):
    """A name bound by `from module import attribute`."""

    statement: ast.ImportFrom
    attribute: str


@dataclass(frozen=True)
class Bound:
    """A class or function, with the module whose names it sees."""

    module: Module
    node: ast.ClassDef | ast.FunctionDef

    def members(self) -> dict[str, ast.expr]:
        """What the class body binds to plain values, in order."""
        found: dict[str, ast.expr] = {}
        for item in self.node.body:
            if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                found[item.targets[0].id] = item.value
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found |= {item.target.id: item.value} if item.value else {}
        return found

    def attribute(self, name: str) -> Any:
        """Value of a class attribute, which may name its neighbours."""
        members = self.members()
        if name not in members:
            raise UnknownValueError(name)
        neighbours = {
            key: value.value for key, value in members.items() if isinstance(value, ast.Constant)
        }
        return evaluate(members[name], self.module, neighbours)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + (1 if module.package else 0)]
    return ".".join([*base, node.module] if node.module else base)


class Tree:
    """The source files of one release: a wheel, or a folder that holds `sglang/`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path) if path.is_file() else None
        self._modules: dict[str, Module] = {}

    def files(self) -> list[str]:
        """Paths of all Python files, relative, sorted."""
        if self._zip:
            return sorted(n for n in self._zip.namelist() if n.endswith(".py"))
        return sorted(
            p.relative_to(self._path).as_posix() for p in self._path.glob("sglang/**/*.py")
        )

    def text(self, relative: str) -> str | None:
        """Content of a file, or None where the release has none of that name."""
        try:
            data = self._zip.read(relative) if self._zip else (self._path / relative).read_bytes()
        except (KeyError, OSError):
            return None
        return data.decode("utf-8")

    def module(self, name: str) -> Module:
        """Parse a module by dotted name."""
        if name not in self._modules:
            base = name.replace(".", "/")
            for relative, package in ((f"{base}.py", False), (f"{base}/__init__.py", True)):
                text = self.text(relative)
                if text is not None:
                    module = Module(self, name, package=package)
                    module.bind(ast.parse(text).body)
                    self._modules[name] = module
                    break
            else:
                raise UnknownValueError(name)
        return self._modules[name]

    def version(self) -> str:
        """The release's version, from the wheel's name or `sglang/_version.py`."""
        if self._zip:
            return self._path.name.split("-")[1]
        for relative in ("sglang/_version.py", "sglang/version.py"):
            found = re.search(
                r"__version__ = (?:version = )?['\"]([^'\"]+)", self.text(relative) or ""
            )
            if found:
                return found.group(1)
        raise SystemExit(f"{self._path}: no version found; give the wheel instead")


def evaluate(node: ast.AST, module: Module, local: dict[str, Any]) -> Any:
    """Value of a constant expression.

    Raises:
        UnknownValueError: the expression needs the code to run.
    """
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return local[node.id] if node.id in local else module.lookup(node.id)
        case ast.List() | ast.Tuple() | ast.Set():
            return [v for e in node.elts for v in _element(e, module, local)]
        case ast.Dict():  # only its keys are ever asked for
            return {evaluate(k, module, local): None for k in node.keys if k}
        case ast.UnaryOp(op=ast.USub()):
            return -evaluate(node.operand, module, local)
        case ast.BinOp():
            return _arithmetic(node, module, local)
        case ast.JoinedStr():
            return "".join(_piece(part, module, local) for part in node.values)
        case ast.Subscript(slice=ast.Constant(value=int() as index)):
            return list(evaluate(node.value, module, local))[index]
        case ast.Attribute():
            return _attribute(node, module, local)
        case ast.ListComp() | ast.GeneratorExp():
            return _comprehension(node, module, local)
        case ast.Call():
            return _call(node, module, local)
    raise UnknownValueError(ast.unparse(node))


def _element(node: ast.expr, module: Module, local: dict[str, Any]) -> list[Any]:
    if isinstance(node, ast.Starred):
        return list(evaluate(node.value, module, local))
    return [evaluate(node, module, local)]


def _piece(node: ast.expr, module: Module, local: dict[str, Any]) -> str:
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    try:
        return str(evaluate(inner, module, local))
    except UnknownValueError:
        return "…"


def _arithmetic(node: ast.BinOp, module: Module, local: dict[str, Any]) -> Any:
    left, right = evaluate(node.left, module, local), evaluate(node.right, module, local)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow() if abs(right) < 64:
            return left**right
        case ast.LShift() if right < 64:
            return left << right
    raise UnknownValueError(ast.unparse(node))


def _attribute(node: ast.Attribute, module: Module, local: dict[str, Any]) -> Any:
    if ast.unparse(node) == "sys.maxsize":
        return 2**63 - 1
    owner = evaluate(node.value, module, local)
    if isinstance(owner, Bound) and isinstance(owner.node, ast.ClassDef):
        return owner.attribute(node.attr)
    if isinstance(owner, dict) and node.attr in owner:
        return owner[node.attr]
    raise UnknownValueError(node.attr)


def _comprehension(
    node: ast.ListComp | ast.GeneratorExp, module: Module, local: dict[str, Any]
) -> list[Any]:
    loop = node.generators[0]
    if len(node.generators) != 1 or loop.ifs or not isinstance(loop.target, ast.Name):
        raise UnknownValueError(ast.unparse(node))
    values = _iterable(evaluate(loop.iter, module, local))
    return [evaluate(node.elt, module, {**local, loop.target.id: value}) for value in values]


def _iterable(value: Any) -> list[Any]:
    """Elements of a value; an Enum's members are dicts of `name` and `value`."""
    if isinstance(value, Bound) and isinstance(value.node, ast.ClassDef):
        return [{"name": n, "value": value.attribute(n)} for n in value.members()]
    if isinstance(value, list | dict):
        return list(value)
    raise UnknownValueError(repr(value))


def _call(node: ast.Call, module: Module, local: dict[str, Any]) -> Any:
    match node.func:
        case ast.Name(id="list" | "tuple" | "set" | "frozenset") if len(node.args) == 1:
            return _iterable(evaluate(node.args[0], module, local))
        case ast.Name(id="sorted") if len(node.args) == 1:
            return sorted(_iterable(evaluate(node.args[0], module, local)))
        case ast.Name(id="field") | ast.Attribute(attr="field"):
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Lambda):
                    return evaluate(keyword.value.body, module, local)
                if ast.unparse(keyword) == "default_factory=list":
                    return []
        case ast.Name():
            function = module.lookup(node.func.id)
            if isinstance(function, Bound) and isinstance(function.node, ast.FunctionDef):
                return _run(function.node, function.module, {})
        case ast.Attribute(attr="keys"):
            return _iterable(evaluate(node.func.value, module, local))
        case ast.Attribute(attr="lower"):
            return str(evaluate(node.func.value, module, local)).lower()
    raise UnknownValueError(ast.unparse(node))


def _run(function: ast.FunctionDef, module: Module, local: dict[str, Any]) -> Any:
    """What a function without arguments returns; a branch on the machine's state is not taken."""
    for statement in function.body:
        if isinstance(statement, ast.Return) and statement.value is not None:
            return evaluate(statement.value, module, local)
        follow(statement, module, local)
    raise UnknownValueError(function.name)


def follow(statement: ast.stmt, module: Module, local: dict[str, Any]) -> None:
    """Take over what a statement inside a function binds, as far as it is constant."""
    if isinstance(statement, ast.ImportFrom):
        source = module.tree.module(_absolute(module, statement))
        for alias in statement.names:
            local[alias.asname or alias.name] = source.lookup(alias.name)
    elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        try:
            local[statement.targets[0].id] = evaluate(statement.value, module, local)
        except UnknownValueError:
            local.pop(statement.targets[0].id, None)
