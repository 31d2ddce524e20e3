"""Names as a plugin's code spells them."""

from __future__ import annotations

import ast


def dotted(node: ast.AST) -> str | None:
    """`kong.request.get_header`, whatever the first name is; None: it is no name with a dot."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) and parts else None
