"""Which headers a handler reads and edits, as far as its code shows."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_READS = frozenset({"get", "getall"})
_EDITS = frozenset({"add", "pop", "setdefault", "update"})
#: What Envoy knows these as.
_ATTRIBUTES = {"path": ":path", "url": ":path", "query": ":path", "method": ":method", "status": ":status"}


@dataclass(frozen=True, slots=True)
class HeaderUse:
    """Names in lower case; `:path`, `:method` and `:status` for what is an attribute here."""

    reads: frozenset[str] = frozenset()
    edits: frozenset[str] = frozenset()


def header_use(function: Callable[..., Any]) -> HeaderUse:
    """Of `request.headers["X-A"]` and the like. What another function does is not seen."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return HeaderUse()
    reads: set[str] = set()
    edits: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            (reads if isinstance(node.ctx, ast.Load) else edits).update(_of_item(node))
        elif isinstance(node, ast.Compare) and len(node.comparators) == 1:
            if _is_headers(node.comparators[0]) and isinstance(node.ops[0], ast.In | ast.NotIn):
                reads.update(_texts(node.left))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            _take_call(node, node.func, reads, edits)
        elif (
            isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and _is_message(node.value)
        ):
            edits.update(_pseudo(node.attr))
    return HeaderUse(frozenset(reads), frozenset(edits))


def _of_item(node: ast.Subscript) -> Iterator[str]:
    if _is_headers(node.value):
        yield from _texts(node.slice)
    elif not isinstance(node.ctx, ast.Load) and _is_query(node.value):
        yield ":path"


def _take_call(node: ast.Call, function: ast.Attribute, reads: set[str], edits: set[str]) -> None:
    of, name = function.value, function.attr
    if _is_query(of) and name in _EDITS:
        edits.add(":path")
    if not _is_headers(of) or not node.args:
        return
    first = node.args[0]
    names = set(_texts(first))
    if isinstance(first, ast.Dict):
        names = {text for key in first.keys if key is not None for text in _texts(key)}
    if name in _READS:
        reads |= names
    elif name in _EDITS:
        edits |= names


def _is_headers(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "headers" and _is_message(node.value)


def _is_query(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "query" and _is_message(node.value)


def _is_message(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("request", "response")


def _pseudo(attribute: str) -> Iterator[str]:
    if attribute in _ATTRIBUTES:
        yield _ATTRIBUTES[attribute]


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value.lower()
