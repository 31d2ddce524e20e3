"""Handlers as source code: which function is one, what its arguments are, and what it edits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import coprocess
from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.doctor.rules import RULES
from coprocess.gateways.tyk.wire import MiniRequestObject
from coprocess.loading.hooks import Hook

Function = ast.FunctionDef | ast.AsyncFunctionDef
#: What a name stands for: `("request", "object", "headers")`.
Chain = tuple[str, ...]

_EMBEDDED_ARGUMENTS = {
    2: ("event", "spec"),
    3: ("request", "session", "spec"),
    4: ("request", "session", "metadata", "spec"),
    5: ("request", "response", "session", "metadata", "spec"),
}
_MESSAGE_FIELDS = {field.name for field in MiniRequestObject.DESCRIPTOR.fields}

_CHANGES = {
    *("update", "pop", "popitem", "clear", "setdefault", "append", "extend", "insert", "remove", "add"),
    *("discard", "MergeFrom", "CopyFrom", "Clear", "ClearField", "ParseFromString", "allow"),
    *("add_header", "delete_header", "add_param", "delete_param"),
}


@dataclass(frozen=True, slots=True)
class Edit:
    """One place that changes what the handler was passed."""

    node: ast.expr | ast.stmt
    #: What is changed: for `headers["x"] = …` the headers, for `request.url = …` the URL.
    target: Chain
    #: The item's key, or the method's first argument.
    key: ast.expr | None = None
    value: ast.expr | None = None
    #: Of a call.
    method: str = ""

    @property
    def key_text(self) -> str | None:
        return text_of(self.key)


def text_of(node: ast.expr | None) -> str | None:
    """A string that is written out."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def number_of(node: ast.expr | None) -> int | None:
    """A whole number that is written out."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return sign * node.value
    return None


@dataclass
class Handler:
    """A handler function, with all the moments at which it runs."""

    hook: Hook
    module: ast.Module
    node: Function
    types: set[HookType] = field(default_factory=set)

    @cached_property
    def names(self) -> dict[str, Chain]:
        """What its parameters, and variables that only stand for parts of them, mean."""
        arguments = [argument.arg for argument in (*self.node.args.posonlyargs, *self.node.args.args)]
        if arguments[:1] == ["self"]:
            arguments = arguments[1:]
        if self.hook.style == "native":
            names: dict[str, Chain] = {name: (name,) for name in arguments}
        else:
            required = arguments[: len(arguments) - len(self.node.args.defaults)]
            roles = _EMBEDDED_ARGUMENTS.get(len(required), ())
            names = {name: (role,) for name, role in zip(required, roles, strict=False)}
        # An alias may be of an alias.
        for _ in range(2):
            for node in ast.walk(self.node):
                if isinstance(node, ast.Assign) and len(node.targets) == 1:
                    target = node.targets[0]
                    chain = self._chain(node.value, names)
                    if isinstance(target, ast.Name) and chain and target.id not in names:
                        names[target.id] = chain
        return names

    def chain(self, node: ast.expr) -> Chain | None:
        """What an expression stands for, if it is a part of an argument."""
        return self._chain(node, self.names)

    def _chain(self, node: ast.expr, names: dict[str, Chain]) -> Chain | None:
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if not isinstance(node, ast.Attribute) or (parent := self._chain(node.value, names)) is None:
            return None
        if self.hook.style == "embedded" and parent == ("request",) and node.attr in _MESSAGE_FIELDS:
            # The wrapper's attributes are the message's.
            return (*parent, "object", node.attr)
        if parent == ("session",) and node.attr == "object":
            return parent
        return (*parent, node.attr)

    def edits(self) -> Iterator[Edit]:
        """All edits of arguments, in no particular order."""
        for node in ast.walk(self.node):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    yield from self._assigned(target, node.value)
            elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
                yield from self._assigned(node.target, node.value)
            elif isinstance(node, ast.Delete):
                for target in node.targets:
                    yield from self._assigned(target, None)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                chain = self.chain(node.func.value)
                if chain and node.func.attr in _CHANGES:
                    yield Edit(node, chain, node.args[0] if node.args else None, method=node.func.attr)

    def _assigned(self, target: ast.expr, value: ast.expr | None) -> Iterator[Edit]:
        if isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                yield from self._assigned(element, None)
        elif isinstance(target, ast.Subscript):
            if chain := self.chain(target.value):
                yield Edit(target, chain, key=target.slice, value=value)
        elif isinstance(target, ast.Attribute) and (chain := self.chain(target)):
            yield Edit(target, chain, value=value)

    @cached_property
    def imports(self) -> dict[str, str]:
        """What the module's imported names are called where they come from."""
        found: dict[str, str] = {}
        for node in ast.walk(self.module):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [(alias.asname or alias.name, alias.name) for alias in node.names]
                if names == [("*", "*")] and node.module == "coprocess":
                    names = [(name, name) for name in coprocess.__all__]
                found.update((name, f"{node.module}.{origin}") for name, origin in names)
        return found

    def origin(self, node: ast.expr) -> str:
        """The full name of something imported, as `time.sleep`; else empty."""
        if isinstance(node, ast.Name):
            return self.imports.get(node.id, "")
        if isinstance(node, ast.Attribute) and (parent := self.origin(node.value)):
            return f"{parent}.{node.attr}"
        return ""

    def with_helpers(self) -> list[Function]:
        """The function, and those of its module that it calls by name, and so on."""
        functions = {node.name: node for node in ast.walk(self.module) if isinstance(node, Function)}
        found = [self.node]
        for function in found:
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    helper = functions.get(name)
                    if helper is not None and helper not in found:
                        found.append(helper)
        return found

    def passes_on(self, roles: tuple[str, ...]) -> bool:
        """Whether it hands one of its arguments to code that is not in its module."""
        known = {node.name for node in ast.walk(self.module) if isinstance(node, Function)}
        harmless = {"print", "str", "repr", "bool", "len", "type", "log", "debug", "info", "warning", "error"}
        for node in ast.walk(self.node):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                given = [self.chain(each) for each in (*node.args, *(word.value for word in node.keywords))]
                if name not in known | harmless and any(chain and chain[0] in roles for chain in given):
                    return True
        return False

    def finding(
        self, severity: Severity, rule: str, node: ast.AST, problem: str, effect: str, remedy: str
    ) -> FileFinding:
        line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", -1) + 1
        return RULES.finding(severity, rule, self.hook.source.path, "", problem, effect, remedy, line, column)


def find_function(module: ast.Module, line: int) -> Function | None:
    """The function that begins, with its decorators, in that line."""
    for node in ast.walk(module):
        if isinstance(node, Function):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == line:
                return node
    return None
