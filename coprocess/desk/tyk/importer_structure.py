"""What of a plugin's structure does not fit: a gRPC server of its own, and state that hooks share."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

from coprocess.api.moments import HookType
from coprocess.desk.tyk.importer_servicer import ServedHook, find_servicers, is_of_server, servicer_texts
from coprocess.desk.tyk.importer_source import Concern, parsed, source_paths
from coprocess.desk.tyk.importer_state import shared_between_hooks, shared_on_self

_REMEDY = (
    "Calls run in several threads at once, and with --workers in several processes: keep it in the store "
    "(store_data and get_data), pass it on in a request header, or hold a lock around each use"
)


def server_concerns(folder: Path, types: Mapping[str, HookType]) -> tuple[list[Concern], set[str]]:
    """Servers below `folder`, and the names of the hooks that they serve. `types`: a manifest's, by name."""
    concerns: list[Concern] = []
    names: set[str] = set()
    for path, tree in _trees(folder).items():
        for servicer in find_servicers(tree):
            covers = tuple(module for module in _imports(tree) if is_of_server(module))
            concerns.append(Concern(path, servicer.line, *servicer_texts(servicer, path), covers))
            for line in dict.fromkeys(hook.line for hook in servicer.hooks):
                served = [hook for hook in servicer.hooks if hook.line == line]
                names |= {hook.name for hook in served}
                functions = "; ".join(hook.as_function(types.get(hook.name)) for hook in served)
                problem = f"it serves {_quoted(served)} here"
                concerns.append(Concern(path, line, problem, f"Write each as a function: {functions}"))
            for name, line, other in shared_on_self(servicer.node):
                problem = f"calls change self.{name} and read it (line {other})"
                concerns.append(Concern(path, line, problem, _REMEDY))
    return concerns, names


def state_concerns(folder: Path, hooks: Iterable[tuple[Path, int, str]]) -> list[Concern]:
    """State that hooks share. `hooks`: file, line and name of each."""
    trees = _trees(folder)
    concerns = []
    for shared in shared_between_hooks(trees, hooks):
        writers, users = sorted(shared.writers), sorted(shared.users)
        problem = f"{shared.name} is changed by {', '.join(writers)} and shared by {', '.join(users)}"
        concerns.append(Concern(shared.file, shared.line, problem, _REMEDY))
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and _has_call(node):
                for name, line, other in shared_on_self(node):
                    problem = f"calls of {node.name} change self.{name} and read it (line {other})"
                    concerns.append(Concern(path, line, problem, _REMEDY))
    return concerns


def _quoted(hooks: list[ServedHook]) -> str:
    return " and ".join(f'"{hook.name}"' for hook in hooks)


def _has_call(node: ast.ClassDef) -> bool:
    """Whether its instances can be handlers."""
    return any(
        isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (method.name == "__call__" or (method.decorator_list and len(method.args.args) in (4, 5, 6)))
        for method in node.body
    )


def _trees(folder: Path) -> dict[Path, ast.Module]:
    return {path: tree for path in source_paths(folder) if (tree := parsed(path)) is not None}


def _imports(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names
