"""Async phases that take what a PDK call gives for (value, err): there, each gives its value alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from coprocess.gateways.kong.pdk import METHODS
from coprocess.gateways.kong.phases import PHASE_NAMES

#: What they give may be a list, to be unpacked.
_GIVE_LISTS: Final = frozenset(
    (
        "kong.cache.get",
        "kong.client.get_consumer_groups",
        "kong.ctx.shared.get",
        "kong.nginx.get_ctx",
        "kong.nginx.shared.get",
        "kong.request.get_body",
        "kong.request.get_uri_captures",
        "kong.service.response.get_body",
    )
)


def unpacked_calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The name and the line of each PDK call of an async phase whose value is unpacked.

    Of a text of two letters, Python would do so and say nothing.
    """
    for phase in ast.walk(tree):
        if not isinstance(phase, ast.AsyncFunctionDef) or phase.name not in PHASE_NAMES:
            continue
        names = {each.arg for each in phase.args.args} - {"self"}
        for node in ast.walk(phase):
            if (
                isinstance(node, ast.Assign)
                and any(isinstance(target, ast.Tuple | ast.List) for target in node.targets)
                and isinstance(node.value, ast.Await)
                and isinstance(node.value.value, ast.Call)
            ):
                name = _method(node.value.value.func, names)
                if name in METHODS - _GIVE_LISTS:
                    yield name, node.lineno


def _method(function: ast.expr, names: set[str]) -> str:
    """`kong.request.get_header`, where it is called on one of `names`; else empty."""
    first, _, rest = ast.unparse(function).partition(".")
    return f"kong.{rest.removeprefix('aio.')}" if first in names else ""
