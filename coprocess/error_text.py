"""What exceptions say, as a text and as a traceback, at a bounded cost.

Python's own ways have no limit: a message of 16 MiB, a group of 100,000 exceptions or a chain of as many is
written out, and whatever reads it next (redaction, the log) has to go through all of it.
"""

from __future__ import annotations

import builtins
import functools
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from opcode import opmap
from pathlib import Path
from types import TracebackType
from typing import Any

from coprocess.bounded import cut, cut_middle, repr_of

LONGEST_TEXT = 4096
LONGEST_TRACEBACK = 16_384

_OURS = str(Path(__file__).parent)
_RAISE = opmap["RAISE_VARARGS"]
#: What is compiled calls its files so, wherever it lies.
_OURS_COMPILED = "coprocess/"
_FIRST_FRAMES, _LAST_FRAMES = 12, 24
_LONGEST_LINE = 300
# Of a chain of exceptions: the last ones raised, and those that it began with.
_MOST_LINKS = 5
_LONGEST_CHAIN = 1000
_MOST_MEMBERS = 3
_DEEPEST_GROUP = 3
_MOST_NOTES = 5
_LONGEST_NAME = 200


def text_of(error: BaseException, longest: int = LONGEST_TEXT) -> str:
    """`str(error)`, cut; also where it cannot be had."""
    kind = type(error)
    arguments: tuple[Any, ...] = BaseException.args.__get__(error)  # type: ignore[attr-defined]  # a descriptor in C
    try:
        if kind.__str__ is BaseException.__str__:
            if not arguments:
                return ""
            only = arguments[0] if len(arguments) == 1 else arguments
            return cut(only, longest) if isinstance(only, str) else repr_of(only, longest)
        if kind.__str__ is KeyError.__str__ and len(arguments) == 1:
            return repr_of(arguments[0], longest)
        return cut(str(error), longest)
    except BaseException:  # noqa: BLE001 - a class of a handler's own may raise anything
        return "(its text cannot be had)"


def name_of(error: BaseException) -> str:
    """The name of its class, cut."""
    return cut(type(error).__name__, _LONGEST_NAME)


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C has raised `error`. A service takes it otherwise: there, code alone does."""
    return (
        isinstance(error, KeyboardInterrupt)
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and not _is_raised_by_code(error)
    )


def _is_raised_by_code(error: BaseException) -> bool:
    """Whether it came of a `raise`: a signal's comes between two instructions that are none."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not is_not_ours(last.tb_frame.f_code.co_filename):
        return False  # No code of this package raises it, and what is compiled has no instructions.
    return last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE


def is_not_ours(filename: str) -> bool:
    """Whether a file is none of this package's."""
    return not (filename.startswith(_OURS) or (filename.startswith(_OURS_COMPILED) and _is_there(filename)))


@functools.lru_cache(maxsize=256)
def _is_there(filename: str) -> bool:
    return Path(_OURS).parent.joinpath(filename).exists()


def format_error(error: BaseException, shows: Callable[[str], bool] = lambda filename: True) -> str:
    """The traceback, as Python writes it, without what is too much; `shows` takes the files of its frames."""
    return cut_middle("\n".join(_chain(error, shows, 0)), LONGEST_TRACEBACK)


_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


def _chain(error: BaseException, shows: Callable[[str], bool], depth: int) -> Iterator[str]:
    newest: list[tuple[BaseException, str]] = []
    oldest: deque[tuple[BaseException, str]] = deque(maxlen=_MOST_LINKS)
    left_out = 0
    seen: set[int] = set()
    following: BaseException | None = error
    link = ""
    while following is not None and id(following) not in seen and len(seen) < _LONGEST_CHAIN:
        seen.add(id(following))
        if len(newest) < _MOST_LINKS:
            newest.append((following, link))
        else:
            left_out += len(oldest) == _MOST_LINKS
            oldest.append((following, link))
        if following.__cause__ is not None:
            following, link = following.__cause__, _CAUSE
        elif not following.__suppress_context__:
            following, link = following.__context__, _CONTEXT
        else:
            following = None
    is_alone = len(seen) == 1
    for index, (each, leads_to) in enumerate(reversed([*newest, *oldest])):
        if left_out and index == len(oldest):
            yield from ("", f"… {left_out} exceptions more …", "")
        yield from _one(each, shows, depth, is_alone=is_alone)
        if leads_to:
            yield from ("", leads_to, "")


def _one(error: BaseException, shows: Callable[[str], bool], depth: int, *, is_alone: bool) -> Iterator[str]:
    frames = list(_frames(error.__traceback__, shows))
    if frames:
        yield "Traceback (most recent call last):"
        yield from frames
    yield from _last_lines(error, is_alone=is_alone)
    yield from _notes(error)
    if isinstance(error, BaseExceptionGroup):
        members: tuple[BaseException, ...] = error.exceptions
        shown = _MOST_MEMBERS if depth < _DEEPEST_GROUP else 0
        for number, member in enumerate(islice(members, shown), 1):
            yield f"  +---------------- {number} of {len(members)} ----------------"
            for line in _chain(member, shows, depth + 1):
                yield f"  | {line}"
        if len(members) > shown:
            yield f"  +---------------- and {len(members) - shown} more ----------------"


def _frames(trace: TracebackType | None, shows: Callable[[str], bool]) -> Iterator[str]:
    first: list[TracebackType] = []
    last: deque[TracebackType] = deque(maxlen=_LAST_FRAMES)
    left_out = 0
    while trace is not None:
        if shows(trace.tb_frame.f_code.co_filename):
            if len(first) < _FIRST_FRAMES:
                first.append(trace)
            else:
                left_out += len(last) == _LAST_FRAMES
                last.append(trace)
        trace = trace.tb_next
    for each in first:
        yield from _frame(each)
    if left_out:
        yield f"  … {left_out} frames more …"
    for each in last:
        yield from _frame(each)


def _frame(trace: TracebackType) -> list[str]:
    # One at a time: `limit` counts from this one on.
    summary = traceback.extract_tb(trace, limit=1)
    (frame,) = summary
    if len(frame.line or "") > _LONGEST_LINE:
        # Python would read through all of it, for the mark below.
        line = cut(frame.line or "", _LONGEST_LINE)
        summary = traceback.StackSummary.from_list([(frame.filename, frame.lineno or 0, frame.name, line)])
    lines = "".join(summary.format()).splitlines()
    return [cut(each, 2 * _LONGEST_LINE) for each in lines]


def _last_lines(error: BaseException, *, is_alone: bool) -> list[str]:
    kind = type(error)
    if is_alone and kind in _EXPLAINED and _is_small(error):
        # With Python's own advice: "Did you mean".
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        explained = traceback.TracebackException(kind, error, trace, limit=0)
        return "".join(explained.format_exception_only()).splitlines()
    module = kind.__module__ if isinstance(kind.__module__, str) else "?"
    name = cut(kind.__qualname__, _LONGEST_NAME)
    if module not in ("builtins", "__main__"):
        name = f"{cut(module, _LONGEST_NAME)}.{name}"
    text = text_of(error)
    return (f"{name}: {text}" if text else name).split("\n")


_EXPLAINED = {NameError, UnboundLocalError, AttributeError, ImportError, ModuleNotFoundError} | {
    each for each in vars(builtins).values() if isinstance(each, type) and issubclass(each, SyntaxError)
}


def _is_small(error: BaseException) -> bool:
    if isinstance(error, SyntaxError):
        parts = (error.msg, error.text, error.filename)
        return all(each is None or len(str(each)) <= _LONGEST_LINE for each in parts) and not _has_notes(
            error
        )
    return len(text_of(error)) <= _LONGEST_LINE and not _has_notes(error)


def _has_notes(error: BaseException) -> bool:
    return bool(vars(error).get("__notes__"))


def _notes(error: BaseException) -> Iterator[str]:
    notes = vars(error).get("__notes__") if hasattr(error, "__dict__") else None
    if not isinstance(notes, list | tuple) or not notes:
        return
    for note in islice(notes, _MOST_NOTES):
        text = cut(note, _LONGEST_LINE) if isinstance(note, str) else repr_of(note, _LONGEST_LINE)
        yield from text.splitlines()
    if len(notes) > _MOST_NOTES:
        yield f"… {len(notes) - _MOST_NOTES} notes more"
