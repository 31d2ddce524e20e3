"""State that several hooks of a plugin share: on module level, in a sibling module, or on `self`."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
#: A module's file and a name in it.
Key = tuple[Path, str]

_CHANGES = {
    *(
        "update",
        "pop",
        "popitem",
        "clear",
        "setdefault",
        "append",
        "appendleft",
        "extend",
        "insert",
        "remove",
    ),
    *("add", "discard", "popleft", "put"),
}


@dataclass(slots=True)
class Shared:
    """One piece of state."""

    file: Path
    name: str
    line: int
    #: Who changes it, and who uses it: the hooks' names.
    writers: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Module:
    path: Path
    functions: dict[str, Function]
    #: Names that are bound at its top.
    state: set[str]
    #: What names stand for in other modules of the plugin: a module, or a name in it.
    modules: dict[str, Path]
    imported: dict[str, Key]


def shared_between_hooks(
    trees: dict[Path, ast.Module], hooks: Iterable[tuple[Path, int, str]]
) -> list[Shared]:
    """What one hook changes while another uses it. `hooks`: file, line of the function, name."""
    modules = {path: _read_module(path, tree, trees) for path, tree in trees.items()}
    found: dict[Key, Shared] = {}
    for path, line, name in sorted(set(hooks)):
        module = modules.get(path)
        function = _function_at(trees[path], line) if module else None
        if module is None or function is None:
            continue
        for each, place in _with_helpers(function, module, modules):
            for key, where, is_change in _uses(each, place, modules):
                shared = found.setdefault(key, Shared(path, key[1], where))
                shared.users.add(name)
                if is_change:
                    if not shared.writers:
                        shared.file, shared.line = place.path, where
                    shared.writers.add(name)
    return [each for each in found.values() if each.writers and len(each.users) > 1]


def shared_on_self(node: ast.ClassDef) -> Iterator[tuple[str, int, int]]:
    """Attributes of `self` that calls change and read: name, the line that changes it, one that reads it."""
    writes: dict[str, int] = {}
    reads: dict[str, int] = {}
    for method in node.body:
        if not isinstance(method, Function) or method.name == "__init__":
            continue
        for part in ast.walk(method):
            if _is_self(part) and isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load):
                reads.setdefault(part.attr, part.lineno)
            for changed in _changed(part):
                if _is_self(changed) and isinstance(changed, ast.Attribute):
                    writes.setdefault(changed.attr, changed.lineno)
    for name, line in writes.items():
        if name in reads:
            yield name, line, reads[name]


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _changed(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement or call changes: `x`, `x[…]`, `x.y` and `x.append(…)` all change x."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    elif isinstance(node, ast.Delete):
        targets = node.targets
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGES:
        yield node.func.value
    for target in targets:
        for part in ast.walk(target) if isinstance(target, (ast.Tuple, ast.List)) else [target]:
            if isinstance(part, ast.Subscript):
                yield part.value
            elif isinstance(part, (ast.Name, ast.Attribute)):
                yield part


def _read_module(path: Path, tree: ast.Module, trees: dict[Path, ast.Module]) -> _Module:
    functions = {node.name: node for node in tree.body if isinstance(node, Function)}
    state = {
        part.id
        for statement in tree.body
        if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign))
        for part in ast.walk(statement)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }
    module = _Module(path, functions, state, {}, {})
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            state.update(node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (other := path.parent / f"{alias.name}.py") in trees:
                    module.modules[alias.asname or alias.name] = other
        elif isinstance(node, ast.ImportFrom):
            other = path.parent / f"{(node.module or '').lstrip('.')}.py"
            for alias in node.names:
                name = alias.asname or alias.name
                if other in trees:
                    module.imported[name] = (other, alias.name)
                elif (path.parent / f"{alias.name}.py") in trees and not node.module:
                    module.modules[name] = path.parent / f"{alias.name}.py"
    return module


def _function_at(tree: ast.Module, line: int) -> Function | None:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first <= line <= node.lineno:
                return node
    return None


def _with_helpers(
    function: Function, module: _Module, modules: dict[Path, _Module]
) -> list[tuple[Function, _Module]]:
    """The function, and those of the plugin that it calls by name, and so on."""
    found = [(function, module)]
    for each, place in found:
        for node in ast.walk(each):
            if not isinstance(node, ast.Call):
                continue
            target: Key | None = None
            if isinstance(node.func, ast.Name):
                target = place.imported.get(node.func.id, (place.path, node.func.id))
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                other = place.modules.get(node.func.value.id)
                target = (other, node.func.attr) if other else None
            if target is not None and target[0] in modules:
                helper = modules[target[0]].functions.get(target[1])
                if helper is not None and all(helper is not seen for seen, _ in found):
                    found.append((helper, modules[target[0]]))
    return found


def _uses(
    function: Function, module: _Module, modules: dict[Path, _Module]
) -> Iterator[tuple[Key, int, bool]]:
    """The state that a function names: which, in which line, and whether it is changed there."""
    declared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
    own = {argument.arg for argument in (*function.args.posonlyargs, *function.args.args)}
    own |= {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in declared
    }

    def key_of(node: ast.AST) -> Key | None:
        if isinstance(node, ast.Name) and node.id not in own:
            if node.id in module.imported:
                other, name = module.imported[node.id]
                return (other, name) if name in modules[other].state else None
            return (module.path, node.id) if node.id in module.state else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            other_path = module.modules.get(node.value.id) if node.value.id not in own else None
            return (other_path, node.attr) if other_path else None
        return None

    for node in ast.walk(function):
        for changed in _changed(node):
            # An attribute of an object is a part of it: `STATE.user = …`.
            key = key_of(changed) or (key_of(changed.value) if isinstance(changed, ast.Attribute) else None)
            if key is not None:
                yield key, getattr(node, "lineno", 0), True
        if (key := key_of(node)) is not None and (
            not isinstance(node, ast.Attribute) or key[1] not in modules[key[0]].functions
        ):
            yield key, getattr(node, "lineno", 0), False
