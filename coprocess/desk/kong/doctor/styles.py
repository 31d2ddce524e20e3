"""How a plugin's code takes the results of PDK calls: as (value, err), or as values."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coprocess.desk.kong.doctor.names import dotted
from coprocess.desk.kong.doctor.unknown import unknown_calls
from coprocess.desk.kong.simulator.pdk import METHODS
from coprocess.errors import ConfigError
from coprocess.gateways.kong.methods import TERMINAL
from coprocess.gateways.kong.phases import PHASE_NAMES
from coprocess.gateways.kong.unpacked import unpacked_calls

#: How alike a name is that is taken for a phase's.
_ALIKE = 0.8
#: Calls whose result is of no interest: but where they unpack it, what plugins do with it tells nothing.
_COMMANDS = (".set_", ".add_", ".clear_", ".log.", ".exit", ".error", ".enable_", ".disable_")


#: Behind what names a call is one of a log.
_LOGS = frozenset(("log", "logger", "logging"))


@dataclass(frozen=True, slots=True)
class Use:
    """One call whose result is used."""

    method: str
    line: int
    #: Whether it is taken for a pair.
    is_pair: bool


@dataclass(slots=True)
class PluginCode:
    """What a plugin's file says, without running it."""

    path: Path
    phases: list[str]
    uses: list[Use]
    #: Whether a phase is `async def`: its calls are awaited, and give values.
    is_async: bool = False
    #: Calls of async phases that are taken for pairs, each with its line.
    unpacked: list[tuple[str, int]] = field(default_factory=list)
    #: What is said of calls that Kong's PDK does not have, each with its line.
    unknown: list[tuple[str, int]] = field(default_factory=list)
    #: Phases that yield, each with its line.
    yielding: list[tuple[str, int]] = field(default_factory=list)
    #: Methods whose names are nearly those of phases: name, line, and the phase.
    misspelt: list[tuple[str, int, str]] = field(default_factory=list)
    #: What is written as `version = …`, each with its line.
    versions: list[tuple[object, int]] = field(default_factory=list)

    @property
    def pairs(self) -> list[Use]:
        return [use for use in self.uses if use.is_pair]

    @property
    def values(self) -> list[Use]:
        return [use for use in self.uses if not use.is_pair]


def read_code(path: Path) -> PluginCode:
    """Raises ConfigError where the file is no Python."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        line = f"{error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        raise ConfigError(f"{path}:{line}{error.args[0] if error.args else error}") from None
    except (RecursionError, MemoryError):  # What the parser raises for it.
        raise ConfigError(f"{path}: it is nested too deep") from None
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    code = PluginCode(path, [], [], unpacked=list(unpacked_calls(tree)))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in PHASE_NAMES:
            if isinstance(parents.get(node), ast.ClassDef):
                code.phases.append(node.name)
                if _yields(node):
                    code.yielding.append((node.name, node.lineno))
                code.is_async = code.is_async or isinstance(node, ast.AsyncFunctionDef)
        elif isinstance(node, ast.Call):
            code.uses += _use(node, parents)
        elif isinstance(node, ast.ClassDef) and (
            node.name == "Plugin" or _methods(node).keys() & PHASE_NAMES
        ):
            code.misspelt += _misspelt(_methods(node))
    code.versions += _versions(tree)
    if code.phases:
        code.unknown += unknown_calls(tree, parents)
    return code


def _yields(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a call of it runs none of its code. Functions within it are others."""
    nodes: list[ast.AST] = list(function.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            nodes += ast.iter_child_nodes(node)
    return False


def _versions(tree: ast.Module) -> Iterator[tuple[object, int]]:
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        if any(isinstance(target, ast.Name) and target.id == "version" for target in node.targets):
            yield node.value.value, node.lineno


def _methods(plugin: ast.ClassDef) -> dict[str, int]:
    """With their lines."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name: node.lineno for node in plugin.body if isinstance(node, functions)}


def _misspelt(methods: dict[str, int]) -> Iterator[tuple[str, int, str]]:
    left = PHASE_NAMES - methods.keys()
    for name, line in methods.items():
        if name.startswith("_") or name in PHASE_NAMES:
            continue
        if near := difflib.get_close_matches(name.lower(), left, 1, _ALIKE):
            yield name, line, near[0]


def _use(call: ast.Call, parents: dict[ast.AST, ast.AST]) -> Iterator[Use]:
    name = dotted(call.func)
    if name is None:
        return
    method = f"kong.{name.partition('.')[2]}"
    if method.encode() not in METHODS:
        return
    parent = parents.get(call)
    if isinstance(parent, ast.Expr):
        return
    if isinstance(parent, ast.Await):
        return
    if any(part in method for part in _COMMANDS):
        if _is_unpacked(parent) and method not in TERMINAL:
            yield Use(method, call.lineno, is_pair=True)
        return
    is_pair = _is_pair(call, parent, parents)
    if is_pair is not None:
        yield Use(method, call.lineno, is_pair)


def _is_unpacked(parent: ast.AST | None) -> bool:
    return isinstance(parent, ast.Assign) and any(
        isinstance(target, (ast.Tuple, ast.List)) for target in parent.targets
    )


def _is_pair(call: ast.Call, parent: ast.AST | None, parents: dict[ast.AST, ast.AST]) -> bool | None:
    """None: the plugin takes both, or does nothing with it that would tell, as to log it."""
    if isinstance(parent, ast.Assign):
        names = [target.id for target in parent.targets if isinstance(target, ast.Name)]
        if _is_unpacked(parent) or (len(names) == len(parent.targets) and set(names) <= {"result", "pair"}):
            return True
        return _is_kept_as_pair(parent, names[0], parents) if names else False
    if isinstance(parent, ast.Subscript) and parent.value is call:
        return _is_half(parent)
    if isinstance(parent, ast.FormattedValue) and _is_logged(parent, parents):
        return None
    return isinstance(parent, ast.Starred)


def _is_kept_as_pair(made: ast.Assign, name: str, parents: dict[ast.AST, ast.AST]) -> bool | None:
    """Whether what has been kept under `name` is taken apart, or asked for its type, in the same function."""
    above: ast.AST = made
    while above in parents and not isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
        above = parents[above]
    names = (node for node in ast.walk(above) if isinstance(node, ast.Name) and node.id == name)
    uses = [(node, parents[node]) for node in names if isinstance(node.ctx, ast.Load)]
    for node, use in uses:
        if isinstance(use, ast.Call) and _dotted_or_name(use.func) in ("isinstance", "type"):
            return None
        if (isinstance(use, ast.Subscript) and use.value is node and _is_half(use)) or _is_unpacked(use):
            return True
    return False if uses else None


def _is_half(subscript: ast.Subscript) -> bool:
    """Whether it is the value, or the error, of a pair: of what is a list or text `[0]` would be odd."""
    return isinstance(subscript.slice, ast.Constant) and subscript.slice.value in (0, 1)


def _is_logged(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while isinstance(node, ast.FormattedValue | ast.JoinedStr):
        node = parents[node]
    name = _dotted_or_name(node.func) if isinstance(node, ast.Call) else None
    return name is not None and (name == "print" or any(part in _LOGS for part in name.split(".")[:-1]))


def _dotted_or_name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else dotted(node)
