"""What a plugin's file says of itself, read as text: but for `started_with`, none of its code is run."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from coprocess.error_text import is_interrupt

_START: Final = "start_dedicated_server"
_PARAMETERS: Final = ("name", "plugin", "version", "priority", "schema")
_KEYWORDS: Final = {"_version": "version", "_priority": "priority", "_schema": "schema"}


def parsed(path: Path) -> ast.Module | None:
    """The code of a file; None: it is none, or nested too deep to be read, as loading tells."""
    try:
        return ast.parse(path.read_bytes()) if path.is_file() else None
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def name_in(path: Path, *, of_folder: bool = False) -> str:
    """The name of the plugin in a file: the file's own where that cannot be read.

    `of_folder`: as `PluginOptions` has it.
    """
    return known_name(path, of_folder=of_folder) or path.stem


def known_name(path: Path, *, of_folder: bool = False) -> str | None:
    """As `name_in`; None where the file computes its plugin's name."""
    if (tree := parsed(path)) is None or (of_folder and _sets_plugin(tree)):
        return path.stem
    given = _passed(tree).get("name")
    return path.stem if given is None else _text(given, _texts(tree)) or None


def has_plugin(path: Path) -> bool:
    """Whether there is a plugin in a file.

    True also where it cannot be read: loading tells why.
    """
    if (tree := parsed(path)) is None:
        return True
    return _sets_plugin(tree) or any(
        isinstance(node, ast.Call) and _called(node) == _START for node in ast.walk(tree)
    )


def started_with(path: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    """What the file passes to start_dedicated_server, which is not run when it is loaded.

    `names` are those of its module: the expressions that it passes are run.
    """
    if (tree := parsed(path)) is None:
        return {}
    found = {}
    for name, expression in _passed(tree).items():
        try:
            code = compile(ast.Expression(expression), str(path), "eval")
            found[name] = eval(code, dict(names))  # noqa: S307 - an expression of the plugin's own
        except BaseException as error:
            # Some need what only runs where the file is run itself.
            if is_interrupt(error):
                raise
    return found


def _sets_plugin(tree: ast.Module) -> bool:
    return any(
        (isinstance(node, ast.ClassDef) and node.name == "Plugin")
        or (isinstance(node, ast.alias) and (node.asname or node.name) in ("Plugin", "*"))
        or (isinstance(node, ast.Name) and node.id == "Plugin" and isinstance(node.ctx, ast.Store))
        for node in ast.walk(tree)
    )


def _passed(tree: ast.Module) -> dict[str, ast.expr]:
    """By parameter, what is passed to start_dedicated_server."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == _START:
            given = dict(zip(_PARAMETERS, node.args, strict=False))
            return given | {
                _KEYWORDS.get(each.arg, each.arg): each.value for each in node.keywords if each.arg
            }
    return {}


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _texts(tree: ast.Module) -> dict[str, str | None]:
    """What the module's names are that are set once, and to text; None: to something else."""
    times = Counter(
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    texts: dict[str, str | None] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and times[target.id] == 1:
                    texts[target.id] = _text(node.value, texts)
    return texts


def _statements(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Those of the module, and of its `if __name__ == "__main__":`."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements(node.body)


def _text(node: ast.expr, texts: Mapping[str, str | None]) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return texts.get(node.id)
    parts: list[str | None]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_text(node.left, texts), _text(node.right, texts)]
    elif isinstance(node, ast.JoinedStr):
        parts = [_text(each, texts) for each in node.values]
    elif isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None:
        parts = [_text(node.value, texts)]
    else:
        return None
    known = [part for part in parts if part is not None]
    return "".join(known) if len(known) == len(parts) else None
