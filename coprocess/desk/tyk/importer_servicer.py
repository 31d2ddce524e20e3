"""Hand-written gRPC servers of plugins: which hooks they serve, and how each becomes a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coprocess.api.moments import HookType

_TYPES = {hook_type.name: hook_type for hook_type in HookType if hook_type is not HookType.Event}
_SIGNATURES: dict[HookType | None, str] = {
    HookType.CustomKeyCheck: "(request, session, metadata, spec)",
    HookType.Response: "(request, response, session, metadata, spec)",
}
_USUAL_SIGNATURE = "(request, session, spec)"


@dataclass(frozen=True, slots=True)
class ServedHook:
    """A name that the server compares a call's hook_name with."""

    name: str
    line: int
    #: None where the code does not say.
    type: HookType | None

    def as_function(self, known: HookType | None = None) -> str:
        """The head of what to write in its place. `known`: the moment, where a manifest tells it."""
        hook_type = self.type or known
        decorator = hook_type.name if hook_type else "Pre (or Post, …: as the API definition names it)"
        signature = _SIGNATURES.get(hook_type, _USUAL_SIGNATURE)
        return f"@{decorator} def {self.name if self.name.isidentifier() else '…'}{signature}"


@dataclass(frozen=True, slots=True)
class Servicer:
    """A class that answers the gateway's calls."""

    name: str
    line: int
    hooks: tuple[ServedHook, ...]
    node: ast.ClassDef


def find_servicers(tree: ast.Module) -> list[Servicer]:
    """The classes of a module that have a Dispatch(self, object, context), sync or async."""
    return [
        Servicer(node.name, node.lineno, tuple(_served(tree, node)), node)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and _is_servicer(node)
    ]


def is_of_server(module: str) -> bool:
    """Whether a module is imported to be a gRPC server: grpc itself, or generated servicers."""
    return module.partition(".")[0] in ("grpc", "grpc_reflection", "grpc_health") or module.endswith(
        "_pb2_grpc"
    )


def servicer_texts(servicer: Servicer, path: Path) -> tuple[str, str]:
    """What is said of the class: problem and remedy."""
    names = ", ".join(f'"{hook.name}" ({path.name}:{hook.line})' for hook in servicer.hooks)
    compares = f"; it compares hook_name with {names}" if names else "; which hooks it serves cannot be seen"
    return (
        f"{servicer.name} is a gRPC server of its own, whose place this service takes{compares}",
        "Split its Dispatch: a decorated function for each hook (from tyk.decorators import *), where "
        "object.request is request.object, and session, metadata and spec are parameters. Take out what "
        "starts the server",
    )


def _is_servicer(node: ast.ClassDef) -> bool:
    bases = [getattr(base, "attr", getattr(base, "id", "")) for base in node.bases]
    for method in node.body:
        if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) and method.name == "Dispatch":
            return len(method.args.args) == 3 or any("Servicer" in base for base in bases)
    return False


def _served(tree: ast.Module, servicer: ast.ClassDef) -> Iterator[ServedHook]:
    # The whole module: Dispatch may hand the call to other functions.
    reader = _Reader(tree, servicer)
    seen: set[str] = set()
    for name, line, hook_type in sorted(reader.found(), key=lambda each: each[1]):
        if name not in seen:
            seen.add(name)
            yield ServedHook(name, line, hook_type)


class _Reader:
    def __init__(self, tree: ast.Module, servicer: ast.ClassDef) -> None:
        self._tree = tree
        self._servicer = servicer
        self._parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        #: What names and attributes stand for: `HOOKS`, and `hooks` of `self.hooks`.
        self._values: dict[str, ast.expr] = {}
        self._aliases: dict[str, str] = {}
        for node in ast.walk(tree):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
                targets = [node.target]
            for target in targets:
                self._assigned(target, node.value)  # type: ignore[attr-defined]  # each of the three has one

    def _assigned(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=False):
                self._assigned(one, other)
            return
        name = getattr(target, "id", getattr(target, "attr", ""))
        self._values.setdefault(name, value)
        if isinstance(value, ast.Attribute) and value.attr in ("hook_name", "hook_type"):
            self._aliases[name] = value.attr

    def _is(self, node: ast.expr, what: str) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr == what
        if isinstance(node, ast.NamedExpr):
            return self._is(node.value, what)
        return isinstance(node, ast.Name) and (self._aliases.get(node.id) == what or node.id == what)

    def found(self) -> Iterator[tuple[str, int, HookType | None]]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Compare):
                yield from self._compared(node)
            elif isinstance(node, ast.Match) and self._is(node.subject, "hook_name"):
                for case in node.cases:
                    for part in ast.walk(case.pattern):
                        if isinstance(part, ast.MatchValue):
                            yield from self._texts(part.value, part.lineno, self._type_around(part))
            elif isinstance(node, ast.Match) and isinstance(node.subject, ast.Tuple):
                yield from self._matched_together(node)
            elif isinstance(node, ast.Subscript) and self._is(node.slice, "hook_name"):
                yield from self._texts(node.value, node.lineno, self._type_around(node))
            elif isinstance(node, ast.Call):
                yield from self._called(node)

    def _compared(self, node: ast.Compare) -> Iterator[tuple[str, int, HookType | None]]:
        sides = [node.left, *node.comparators]
        if any(self._is(side, "hook_name") for side in sides):
            for side in sides:
                if not self._is(side, "hook_name"):
                    yield from self._texts(side, node.lineno, self._type_around(node))

    def _matched_together(self, node: ast.Match) -> Iterator[tuple[str, int, HookType | None]]:
        subjects = node.subject.elts if isinstance(node.subject, ast.Tuple) else []
        names = [self._is(subject, "hook_name") for subject in subjects]
        if True not in names:
            return
        for case in node.cases:
            if isinstance(case.pattern, ast.MatchSequence) and len(case.pattern.patterns) == len(subjects):
                values = [
                    part.value
                    for pattern in case.pattern.patterns
                    for part in ast.walk(pattern)
                    if isinstance(part, ast.MatchValue)
                ]
                types = [found for value in values if (found := _hook_type(value))]
                for part in ast.walk(case.pattern.patterns[names.index(True)]):
                    if isinstance(part, ast.MatchValue):
                        yield from self._texts(part.value, part.lineno, types[0] if types else None)

    def _called(self, node: ast.Call) -> Iterator[tuple[str, int, HookType | None]]:
        if not any(self._is(argument, "hook_name") for argument in node.args):
            return
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop", "__getitem__"):
            yield from self._texts(node.func.value, node.lineno, self._type_around(node))
        elif isinstance(node.func, ast.Name) and node.func.id == "getattr":
            for method in self._servicer.body:
                if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) and not (
                    method.name.startswith(("_", "Dispatch"))
                ):
                    yield method.name, method.lineno, None

    def _texts(
        self, node: ast.expr, line: int, hook_type: HookType | None, depth: int = 0
    ) -> Iterator[tuple[str, int, HookType | None]]:
        """The strings that an expression is or holds; of a dict, its keys."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, line, hook_type
        elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            for element in node.elts:
                yield from self._texts(element, getattr(element, "lineno", line), hook_type, depth)
        elif isinstance(node, ast.Dict):
            for key in node.keys:
                if key is not None:
                    yield from self._texts(key, key.lineno, hook_type, depth)
        elif isinstance(node, ast.Call):  # frozenset((…)), dict(a=…)
            for argument in node.args:
                yield from self._texts(argument, line, hook_type, depth)
            if isinstance(node.func, ast.Name) and node.func.id == "dict":
                yield from ((word.arg, word.lineno, hook_type) for word in node.keywords if word.arg)
        elif isinstance(node, (ast.Name, ast.Attribute)) and depth < _DEEPEST_NAME:
            value = self._values.get(getattr(node, "id", getattr(node, "attr", "")))
            if value is not None and value is not node:
                yield from self._texts(value, line, hook_type, depth + 1)

    def _type_around(self, node: ast.AST) -> HookType | None:
        """The moment that a condition around asks for, as `object.hook_type == Pre and …`."""
        child = node
        while (parent := self._parents.get(child)) is not None:
            tests: list[ast.AST] = []
            if isinstance(parent, ast.BoolOp):
                tests = list(parent.values)
            elif isinstance(parent, ast.If) and child is not parent.test and child not in parent.orelse:
                tests = [parent.test]
            for test in tests:
                if (found := self._type_in(test)) is not None:
                    return found
            if isinstance(parent, ast.match_case):
                match = self._parents.get(parent)
                if isinstance(match, ast.Match) and self._is(match.subject, "hook_type"):
                    for part in ast.walk(parent.pattern):
                        if isinstance(part, ast.MatchValue) and (found := _hook_type(part.value)):
                            return found
            child = parent
        return None

    def _type_in(self, test: ast.AST) -> HookType | None:
        for node in ast.walk(test):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                if any(self._is(side, "hook_type") for side in sides):
                    return next((found for side in sides if (found := _hook_type(side))), None)
        return None


_DEEPEST_NAME = 3


def _hook_type(node: ast.expr) -> HookType | None:
    """`coprocess_common_pb2.Pre`, `HookType.Pre`, `Pre`, 1 or "Pre"."""
    if isinstance(node, ast.Constant):
        if type(node.value) is int:
            return next((each for each in _TYPES.values() if each == node.value), None)
        return _TYPES.get(node.value) if isinstance(node.value, str) else None
    return _TYPES.get(getattr(node, "attr", getattr(node, "id", "")))
