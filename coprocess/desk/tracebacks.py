"""Tracebacks for the people who wrote the handler: with their own frames only."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import coprocess
from coprocess.error_text import format_error

_FOREIGN = tuple(
    str(Path(folder).resolve())
    for folder in {
        str(Path(coprocess.__file__).parent),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)


def own_traceback(error: BaseException) -> list[str]:
    """The lines of the traceback, without frames of this package, of Python's and of installed ones."""
    return format_error(error, _is_own_file).splitlines()


def raised_at(error: BaseException) -> str:
    """`file:line` of the innermost frame of the user's; empty where there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def how_it_failed(hook_type: str, name: str, raised: BaseException | None, error: str | None) -> str:
    """A sentence on a handler: what it `raised`, and where, else the service's words on the `error`."""
    if raised is None:
        own = f'{hook_type} hook "{name}" '
        told = error or "failed"
        return sentence(f"It {told.removeprefix(own)}" if told.startswith(own) else told)
    where = raised_at(raised)
    text = f": {raised}" if str(raised) else ""
    return f"It raised {type(raised).__name__}{text}{f' (at {where})' if where else ''}."


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _is_own(frame: traceback.FrameSummary) -> bool:
    return _is_own_file(frame.filename)


def _is_own_file(name: str) -> bool:
    return not name.startswith("<") and not str(Path(name).resolve()).startswith(_FOREIGN)
