"""Tracebacks for the people who wrote the handler: with their own frames only."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import coprocess

_FOREIGN = tuple(
    str(Path(folder).resolve())
    for folder in {
        str(Path(coprocess.__file__).parent),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)


def own_traceback(error: BaseException) -> list[str]:
    """The lines of the traceback, without frames of this package, of Python's and of installed ones."""
    summary = traceback.TracebackException.from_exception(error, compact=True)
    _trim(summary)
    return "".join(summary.format()).splitlines()


def raised_at(error: BaseException) -> str:
    """`file:line` of the innermost frame of the user's; empty where there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _trim(summary: traceback.TracebackException | None) -> None:
    while summary is not None:
        own = [frame for frame in summary.stack if _is_own(frame)]
        summary.stack[:] = own
        if summary.__cause__ is not None:
            _trim(summary.__cause__)
        summary = summary.__context__


def _is_own(frame: traceback.FrameSummary) -> bool:
    if frame.filename.startswith("<"):
        return False
    return not str(Path(frame.filename).resolve()).startswith(_FOREIGN)
