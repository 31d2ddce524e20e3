"""Python runs this at its start where the folder is on its path: a plugin's file that is run may print first.

With `--dump`, Kong takes nothing but JSON on standard output. What the file prints while it is run, which is
before anything of ours is asked, goes to standard error; the command that prints the JSON takes this over.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_DUMPS = frozenset(("--dump", "-dump", "--dump-all-plugins", "-dump-all-plugins"))
#: Of Python's own flags, those whose value is a word of its own.
_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")

#: Standard output, as a descriptor; None: it is where it was.
coprocess_stdout: int | None = None


def plugin_that_is_dumped(words: list[str]) -> str | None:
    """The file, where `words` run one that asks for kong-pdk, and have it tell of itself."""
    rest = iter(words[1:])
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
            continue
        if word == "-m":
            files = _files_of(next(rest, ""))
        elif not word.startswith("-"):
            files = [word] if word.endswith(".py") else []
        elif word[1:2] in ("m", "c"):
            return None
        else:
            continue
        if _DUMPS.isdisjoint(rest):
            return None
        for file in files:
            with suppress(OSError):
                return file if b"kong_pdk" in Path(file).read_bytes() else None
        return None
    return None


def _files_of(module: str) -> list[str]:
    """Where the module, or the package, may be that is run: in the working folder, or on the path."""
    name = module.replace(".", "/")
    return [f"{folder}/{name}{end}" for folder in (".", *sys.path) for end in (".py", "/__main__.py")]


def _run_next() -> None:
    """Run the file of this name that would have been found without this one."""
    here = Path(__file__).parent
    spec = PathFinder.find_spec(__name__, [each for each in sys.path if Path(each) != here])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


if plugin_that_is_dumped(sys.orig_argv) is not None:
    coprocess_stdout = os.dup(1)
    os.dup2(2, 1)
if __name__ == "sitecustomize":
    _run_next()
