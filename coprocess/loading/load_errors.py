"""What is told of a module that could not be loaded: where in the handler code, what, and what helps."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from coprocess.error_text import format_error, is_not_ours, name_of, text_of
from coprocess.errors import HandlerError
from coprocess.loading.loaded import Problem
from coprocess.loading.scoped_imports import has_run


def problem_of_look(path: Path, error: BaseException) -> Problem:
    """Of a module that has run: what looking at what is in it raised."""
    if isinstance(error, HandlerError):
        return Problem(path, str(error))
    text = f"{path}: it raised {name_of(error)} when it was looked at: {text_of(error)}"
    return Problem(path, text, traceback=format_error(error, _is_of_handlers) + "\n")


def problem_of(path: Path, error: BaseException) -> Problem:
    """Of the module, or package, `path`: what `error`, which running it raised, comes to."""
    if isinstance(error, HandlerError):
        return Problem(path, str(error))
    if isinstance(error, SyntaxError) and error.filename:
        return Problem(path, f"{error.filename}:{error.lineno or 0}: SyntaxError: {error.msg}")
    if not _is_raised_in(path, error):
        if isinstance(error, OSError) and error.filename in (str(path), str(path / "__init__.py")):
            return Problem(path, f"{error.filename}: cannot be read: {error.strerror}")
        # It cannot be compiled: no code of the user's has run.
        return Problem(path, f"{path}: {type(error).__name__}: {text_of(error)}")
    return Problem(
        path,
        f"{_where(path, error)}: {type(error).__name__}: {text_of(error)}{_once_only(path, error)}",
        traceback=format_error(error, _is_of_handlers) + "\n",
    )


def _is_of_handlers(filename: str) -> bool:
    """Whether a frame says something to those who wrote the module: how it is imported does not."""
    shows_all = logging.getLogger("coprocess").isEnabledFor(logging.DEBUG)
    return shows_all or (is_not_ours(filename) and not filename.startswith("<frozen importlib"))


def _is_raised_in(path: Path, error: BaseException) -> bool:
    return any(
        Path(frame.filename).is_relative_to(path) for frame in traceback.extract_tb(error.__traceback__)
    )


def _once_only(path: Path, error: BaseException) -> str:
    """What helps where code fails that could be loaded before: it may do what a process can do once."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(path.parent):
            ran_before = has_run(frame.filename)
            break
    else:
        return ""
    if (hint := _ONCE_ONLY.get(text_of(error))) is not None:
        return f". {hint}"
    if not ran_before or (isinstance(error, ImportError) and error.name is not None):
        return ""
    return (
        ". This code has been loaded before in this process, as it is now. If what it does is for the whole "
        "process, it can be done once only: restart the service, or let the code ask first whether it is done"
    )


#: By the text of the error.
_ONCE_ONLY = {
    "context has already been set": (
        "The start method is one for the whole process, and was set before, as by the load before. "
        'Restart the service, or have the code use multiprocessing.get_context("…"), which sets nothing'
    ),
}


def _where(path: Path, error: BaseException) -> str:
    """The place in `path`, a file or a package, from which `error` came."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(path):
            return f"{frame.filename}:{frame.lineno}"
    return str(path)
