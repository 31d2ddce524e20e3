"""What a plugin's source asks for that is not here: Python 2, missing modules, unknown names."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from coprocess.desk.tyk.importer_servicer import find_servicers, is_of_server
from coprocess.desk.tyk.missing_modules import REMEDY
from coprocess.gateways.tyk.compat import ALIASES
from coprocess.gateways.tyk.compat.gateway import TykGateway
from coprocess.gateways.tyk.compat.request import TykCoProcessRequest
from coprocess.gateways.tyk.wire import MiniRequestObject
from coprocess.loading.manifest import is_of_tests
from coprocess.loading.scoped_imports import VENDOR, search_folders

#: What Python 2 called it → what it is called now.
_PYTHON_2_MODULES = {
    "ConfigParser": "configparser",
    "Cookie": "http.cookies",
    "HTMLParser": "html.parser",
    "Queue": "queue",
    "StringIO": "io.StringIO",
    "__builtin__": "builtins",
    "cPickle": "pickle",
    "cStringIO": "io.StringIO",
    "cookielib": "http.cookiejar",
    "httplib": "http.client",
    "thread": "_thread",
    "urllib2": "urllib.request",
    "urlparse": "urllib.parse",
}
_PYTHON_2_NAMES = {
    "basestring": "str",
    "execfile": "exec(open(…).read())",
    "long": "int",
    "raw_input": "input",
    "reduce": "functools.reduce",
    "unichr": "chr",
    "unicode": "str",
    "xrange": "range",
}
_PYTHON_2_METHODS = {
    "has_key": "`key in mapping`",
    "iteritems": "items()",
    "iterkeys": "keys()",
    "itervalues": "values()",
}
_PYTHON_2_LINES = (
    (re.compile(r"\s*print\s+[^(=\s]|\s*print\s*$"), "print is a function: print(…)"),
    (re.compile(r"\s*except\s+[\w.()\s,]+,\s*\w+\s*:"), "write `except Error as error:`"),
    (re.compile(r"\s*raise\s+[\w.]+\s*,"), "write `raise Error(…)`"),
    (re.compile(r"\s*exec\s+[\"'\w]"), "exec is a function: exec(…)"),
    (re.compile(r"[^\"'#]*(<>)"), "write != for <>"),
    (re.compile(r"[^\"'#]*\b0[0-7]+\b"), "write octal numbers as 0o17"),
)
_LIBRARIES = {VENDOR, "site-packages", "dist-packages"}
#: Gone from the standard library since, most of them in 3.12 and 3.13.
_GONE = {"asynchat", "asyncore", "cgi", "crypt", "distutils", "imp", "pipes", "smtpd", "telnetlib"}


@dataclass(frozen=True, slots=True)
class Concern:
    """Something in a plugin that needs a hand."""

    file: Path
    line: int
    problem: str
    remedy: str
    #: Modules whose absence is told by this: what loading says of them is no news.
    covers: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else f"{self.file}"
        return f"{place}: {self.problem}. {self.remedy}"


def not_installed(path: Path, line: int, module: str) -> Concern:
    return Concern(path, line, f"the module {module} is not installed", REMEDY, (module,))


def source_paths(folder: Path) -> list[Path]:
    """The plugin's own modules below `folder`. Libraries that it brings are none of its own."""
    return [
        path
        for path in sorted(folder.rglob("*.py"))
        if _LIBRARIES.isdisjoint(path.relative_to(folder).parts) and path.is_file()
    ]


def source_concerns(folder: Path, listed: Collection[str] = ()) -> list[Concern]:
    """Of the plugin's own modules below `folder`: those that are `listed`, or all but tests."""
    own = {folder / name.lstrip("/") for name in listed if name.endswith(".py")}
    return [
        concern
        for path in source_paths(folder)
        if (path in own if own else not is_of_tests(path.relative_to(folder)))
        for concern in _of_file(path, folder)
    ]


def parsed(path: Path) -> ast.Module | None:
    """None where it is no Python 3."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _of_file(path: Path, folder: Path) -> Iterator[Concern]:
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield _syntax(path, source, error)
        return
    defined = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and _is_store(node)}
    defined |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    gateways: set[str] = set()
    requests = set(_request_names(tree))
    has_server = bool(find_servicers(tree))
    # Plugins leave attributes of their own on a request.
    defined |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _is_store(n)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # What a server of its own stands on goes with it.
                if not (has_server and is_of_server(alias.name)):
                    yield from _module(path, node, alias.name, folder)
        elif isinstance(node, ast.ImportFrom):
            if not node.level and node.module and not (has_server and is_of_server(node.module)):
                concerns = list(_module(path, node, node.module, folder))
                yield from concerns
                if not concerns:
                    yield from _members(path, node)
            for alias in node.names:
                defined.add(alias.asname or alias.name)
                if alias.name == "TykGateway":
                    gateways.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        yield from _name(path, node, defined, gateways, requests)


def _is_store(node: ast.Name | ast.Attribute) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _syntax(path: Path, source: bytes, error: Exception) -> Concern:
    line = getattr(error, "lineno", 0) or 0
    lines = source.decode("utf-8", "replace").splitlines()
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    for pattern, remedy in _PYTHON_2_LINES:
        if pattern.match(text):
            return Concern(path, line, f"Python 2 syntax: {text.strip()}", f"Mend it: {remedy}")
    return Concern(path, line, f"not Python 3: {getattr(error, 'msg', error)}", "Mend the syntax")


def _module(path: Path, node: ast.stmt, name: str, folder: Path) -> Iterator[Concern]:
    top = name.partition(".")[0]
    if name in ALIASES or _is_own(top, path, folder):
        return
    if top in ("tyk", "gateway") or name.startswith("coprocess_"):
        known = ", ".join(sorted(alias for alias in ALIASES if "." in alias))
        yield Concern(path, node.lineno, f"there is no module {name} here", f"Known are: {known}", (top,))
    elif top in _PYTHON_2_MODULES:
        remedy = f"Import {_PYTHON_2_MODULES[top]} instead"
        yield Concern(path, node.lineno, f"{name} is Python 2's name", remedy, (top,))
    elif top in sys.stdlib_module_names:
        return
    elif top in _GONE:
        yield Concern(path, node.lineno, f"{name} has gone from Python", "Replace what uses it", (top,))
    elif not _is_installed(top):
        yield not_installed(path, node.lineno, top)


def _is_own(top: str, path: Path, folder: Path) -> bool:
    places = {path.parent, *search_folders(folder)}
    if any((place / f"{top}.py").is_file() or (place / top).is_dir() for place in places):
        return True
    # Which folders the code puts there, is only known when it runs: that tells what is missing then.
    return _adds_to_path(folder) and (
        any(
            found.suffix == ".py" or found.is_dir()
            for name in (f"{top}.py", top)
            for found in folder.rglob(name)
        )
        or any(_is_in_zip(top, found) for found in folder.rglob("*") if found.suffix in _ZIPS)
    )


_ZIPS = (".zip", ".egg", ".whl")


def _is_in_zip(top: str, path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as found:
            names = found.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return f"{top}.py" in names or any(name.startswith(f"{top}/") for name in names)


def _adds_to_path(folder: Path) -> bool:
    return any(
        b"sys.path" in source or b"addsitedir" in source
        for source in (path.read_bytes() for path in folder.rglob("*.py"))
    )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _members(path: Path, node: ast.ImportFrom) -> Iterator[Concern]:
    module: ModuleType | None = ALIASES.get(node.module or "")
    if module is None:
        return
    for alias in node.names:
        full_name = f"{node.module}.{alias.name}"
        if alias.name != "*" and not hasattr(module, alias.name) and full_name not in ALIASES:
            known = ", ".join(getattr(module, "__all__", ())) or "other names"
            yield Concern(path, node.lineno, f"{node.module} has no {alias.name} here", f"It has: {known}")


def _request_names(tree: ast.Module) -> Iterator[str]:
    """The names under which handlers get their request."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.decorator_list and len(node.args.args) in (3, 4, 5):
            yield node.args.args[0].arg


def _name(
    path: Path, node: ast.AST, defined: set[str], gateways: set[str], requests: set[str]
) -> Iterator[Concern]:
    if isinstance(node, ast.Name) and node.id in _PYTHON_2_NAMES and node.id not in defined:
        yield Concern(path, node.lineno, f"{node.id} is Python 2's name", f"Write {_PYTHON_2_NAMES[node.id]}")
    if not isinstance(node, ast.Attribute):
        return
    if node.attr in _PYTHON_2_METHODS:
        yield Concern(
            path, node.lineno, f"{node.attr} is Python 2's name", f"Write {_PYTHON_2_METHODS[node.attr]}"
        )
    if not isinstance(node.value, ast.Name):
        return
    if node.value.id in gateways and not hasattr(TykGateway, node.attr):
        yield Concern(
            path,
            node.lineno,
            f"TykGateway has no {node.attr} here",
            f"It has: {', '.join(name for name in vars(TykGateway) if not name.startswith('_'))}",
        )
    elif node.value.id in requests and node.attr not in defined and not _has_attribute(node.attr):
        known = ["object", *(name for name in vars(TykCoProcessRequest) if not name.startswith("_"))]
        yield Concern(path, node.lineno, f"the request has no {node.attr}", f"It has: {', '.join(known)}")


def _has_attribute(name: str) -> bool:
    # Of an instance: the message's fields are attributes of that only.
    return hasattr(TykCoProcessRequest(MiniRequestObject()), name)
