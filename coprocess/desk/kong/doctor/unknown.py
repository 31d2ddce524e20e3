"""Calls of what Kong's PDK does not have, in a plugin's code that is not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from coprocess.desk.kong.doctor.names import dotted
from coprocess.gateways.kong.pdk import FUNCTIONS, METHODS, PYTHONS_LEVELS, unknown_name
from coprocess.gateways.kong.phases import PHASE_NAMES

_KNOWN = METHODS | {f"kong.log.{name}" for name in PYTHONS_LEVELS} | {"kong.call"}
Parents = Mapping[ast.AST, ast.AST]


def unknown_calls(tree: ast.AST, parents: Parents) -> Iterator[tuple[str, int]]:
    """What is said of each, with its line.

    Only of what a phase is called with, and of parameters named `kong`: helpers are passed it on. Not of what
    the plugin itself puts there.
    """
    of_its_own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or (called := dotted(node.func)) is None:
            continue
        first, *rest = called.split(".")
        if rest[:1] == ["aio"]:
            rest = rest[1:]
        name = ".".join(["kong", *rest])
        if (
            name in _KNOWN
            or not rest
            or not of_its_own.isdisjoint(rest)
            or not _is_kong(first, node, parents)
        ):
            continue
        yield _told(name), node.lineno


def _told(name: str) -> str:
    above, _, last = name.rpartition(".")
    while above not in FUNCTIONS:
        above, _, last = above.rpartition(".")
    return unknown_name(above, last)


def _is_kong(name: str, node: ast.AST, parents: Parents) -> bool:
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
            if name in names:
                return name == "kong" or (node.name in PHASE_NAMES and names[1:2] == [name])
    return False
